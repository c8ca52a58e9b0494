"""Information about a set, and a check that a folder of it is complete and readable."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from busutils.datasets import splits
from busutils.datasets.catalogue import CARDS, adopted_table, card
from busutils.datasets.lesions import LABELS, Record, looks_inverted, read_record
from busutils.datasets.loading import open_set
from busutils.datasets.reports import Problem, Report
from busutils.io import DatasetError


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Parameters
    ----------
    key, title : str
    folder : Path
    table : DataFrame
        One row a label: label, found, published; a last row ``all``.
    problems : list of Problem
        Fatal ones first.
    n_images, n_masks, n_groups : int
    """

    key: str
    title: str
    folder: Path
    table: pd.DataFrame
    problems: list[Problem]
    n_images: int
    n_masks: int
    n_groups: int

    @property
    def ok(self) -> bool:
        """Whether the set can be used as it is."""
        return not any(problem.fatal for problem in self.problems)


def info(key: str) -> dict[str, Any]:
    """What is known about a set: its card, and the folds that are shipped for it.

    Parameters
    ----------
    key : str

    Returns
    -------
    dict
        Plain values, for JSON.
    """
    about = card(key)
    shipped = splits.shipped_folds(about.key)
    folds = None
    if shipped is not None:
        per_fold = {str(fold): int(n) for fold, n in shipped["fold"].value_counts().sort_index().items()}
        folds = {"images": len(shipped), "groups": int(shipped["group"].nunique()), "per fold": per_fold}
    return {**dataclasses.asdict(about), "images": about.n_images, "folds": folds}


def catalogue_table() -> pd.DataFrame:
    """List all sets: key, title, images, licence (its beginning; :func:`info` has all of it), how to get it.

    Returns
    -------
    DataFrame
    """
    rows = []
    own = sorted(adopted_table("").parent.glob("*.csv"))
    for about in [*CARDS.values(), *(card(table.stem) for table in own)]:
        how = "fetch" if about.downloads else "by hand" if about.manual else "built in" if not about.counts else ""
        rows.append(
            {
                "key": about.key,
                "title": about.title,
                "images": about.n_images or None,
                "licence": textwrap.shorten(about.licence, 50, placeholder=" …"),
                "get": how,
                "folds shipped": splits.shipped_folds(about.key) is not None,
            }
        )
    return pd.DataFrame(rows).astype({"images": "Int64"})


def check(key: str, root: str | os.PathLike | None = None, **options: Any) -> CheckReport:
    """Read every image and mask of a set, and report what is missing, broken or contradictory.

    Parameters
    ----------
    key : str
    root : path, optional
        As for :func:`busutils.datasets.load`.
    **options
        Options of the set.

    Returns
    -------
    CheckReport
        Broken files and missing masks are listed, not raised. Also listed: masks that do not fit the label of their
        image, and images of identical pixels under several labels or in several groups.

    Raises
    ------
    DatasetError
        If there is no such set or folder, or the folder is not this set.
    """
    report = Report(strict=False)
    dataset, folder = open_set(key, report, root=root, **options)
    records, about = dataset.records, card(key.partition("?")[0], root)

    same: dict[str, list[Record]] = {}
    n_lesions = 0
    for record in records:
        try:
            image, mask = read_record(record)
        except DatasetError as error:
            report.fail(str(error))
            continue
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        same.setdefault(digest, []).append(record)
        has_lesion, is_normal = bool(mask.any()), record.label == "normal"
        n_lesions += has_lesion and not is_normal
        if has_lesion == is_normal:
            report.warn(f"{record.id} is {record.label} but its mask {'shows a lesion' if has_lesion else 'is empty'}.")
        if looks_inverted(mask[None])[0]:
            report.warn(f"the mask of {record.id} covers nearly all of its image or all of its edge: is it inverted?")
    for twins in same.values():
        if len({(record.label, record.group) for record in twins}) > 1:
            named = " and ".join(f"{record.id} ({record.label}, group {record.group})" for record in twins)
            report.warn(f"{named} have identical pixels but different labels or groups.")
    n_masks = sum(len(record.masks) for record in records)
    if same and not n_lesions and any(record.masks and record.label != "normal" for record in records):
        report.fail(f"{folder}: no mask shows a lesion: are they the right files?")
    if about.n_masks and n_masks < about.n_masks and len(records) >= about.n_images:
        report.fail(f"{about.title}: {n_masks} of {about.n_masks} published masks are there; fetch the set again.")
    found = Counter(record.label for record in records)
    shown = [label for label in LABELS if found[label] or about.counts.get(label)]
    rows = [{"label": label, "found": found[label], "published": about.counts.get(label)} for label in shown]
    rows.append({"label": "all", "found": len(records), "published": about.n_images or None})
    table = pd.DataFrame(rows).astype({"published": "Int64"})
    problems = sorted(report.problems, key=lambda problem: not problem.fatal)
    n_groups = len(set(dataset.groups))
    return CheckReport(about.key, about.title, folder, table, problems, len(records), n_masks, n_groups)
