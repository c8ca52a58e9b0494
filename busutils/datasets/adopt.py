"""Adopt a folder of one's own: find its layout, join near-duplicates, make folds, and keep all that under one name.

Nothing in the folder is changed or copied. What was found stands in a table of the data folder, one row an image.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from sklearn.model_selection import StratifiedGroupKFold

from busutils.datasets.audit import audit
from busutils.datasets.catalogue import CARDS, adopted_table
from busutils.datasets.lesions import LABELS, LesionDataset, Record
from busutils.datasets.nnunet import SPLITS
from busutils.datasets.readers import PICTURES, pair_files, pictures, rows_of_folder
from busutils.datasets.reports import Report
from busutils.datasets.tables import name_some, read_labels
from busutils.io import DatasetError, DatasetWarning, picture_size
from busutils.jobs import atomic_path

log = logging.getLogger(__name__)

_IMAGES = ("images", "image", "imgs", "img", "imagestr")
_MASKS = ("masks", "mask", "labels", "label", "labelstr", "gt", "groundtruth", "ground_truth", "annotations")


class _Found(NamedTuple):
    """An image of a folder, its masks, and what its class is called there."""

    name: str
    file: Path
    masks: tuple[Path, ...]
    kind: str = ""


def adopt(
    folder: str | os.PathLike,
    name: str,
    *,
    root: str | os.PathLike | None = None,
    images: str | None = None,
    masks: str | None = None,
    labels: str | os.PathLike | None = None,
    group: str | None = None,
    classes: Mapping[str, str] | None = None,
    without_mask: str | None = None,
    search: bool = True,
    progress: bool = False,
) -> LesionDataset:
    """Make a set of a folder of images and masks; :func:`busutils.datasets.load` then takes its name.

    These layouts are known: masks beside their images (``x.png``, ``x_mask.png``); a folder of images and one of masks of
    the same names, such as nnU-Net's ``imagesTr`` and ``labelsTr``; class folders of either; polygons of COCO in a
    JSON file. nnU-Net's folds are kept; other sets get five, of whole groups and with the classes spread evenly.

    Parameters
    ----------
    folder : path
    name : str
        Small letters, digits and ``-``.
    root : path, optional
        Data folder that keeps the table; by default the one of all sets.
    images, masks : str, optional
        Names of the folders of images and masks, where they have unusual ones.
    labels : path, optional
        Table with columns id, label and group; by default ``labels.csv`` in the folder, if there is one.
    group : str, optional
        Regular expression that is searched in the folder and name of an image, such as ``images/p01_3``; its first group
        is the patient.
    classes : mapping of str to str, optional
        Label by class as the folder calls it, ``*`` for all others; ``benign``, ``malignant``, ``normal`` and ``unknown``
        are known.
    without_mask : {"normal", "skip"}, optional
        Images without a mask are normal, or left out.
    search : bool
        Whether to look for near-duplicates and join their groups.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    LesionDataset
        What was found and joined is logged.

    Raises
    ------
    DatasetError
        If the name is taken, the folder has no known layout or several, something is not known that a parameter can say, a
        file is broken, there are fewer than five groups, or nnU-Net's folds separate a group.
    """
    folder, table = Path(folder).expanduser().resolve(), adopted_table(name, root)
    if not re.fullmatch("[a-z0-9][a-z0-9-]*", name) or name in CARDS:
        raise DatasetError(f"no set of yours can be {name!r}: take small letters, digits and -, no published set.")
    if table.exists():
        raise DatasetError(f"there is a set {name} already, whose folds stay: take another name, or remove {table}.")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: check the path.")
    try:
        layout, found, report = _find(folder, images, masks, table.with_suffix(""))
        records = _records(found, folder, name, report, labels, group, classes or {}, without_mask)
        dataset = LesionDataset(records, name=name)
        dataset.load_arrays(32, use_cache=False)  # refuses broken files and masks of other pictures
        audited = audit(dataset if search else dataset.subset([]), progress=progress)
        joined = [replace(record, group=audited.groups.get(record.id, record.group)) for record in records]
        dataset = LesionDataset(joined, name=name)
        folds = _folds(dataset, folder / SPLITS)
    except re.error as error:
        raise DatasetError(f"--group {group} is no regular expression ({error}).") from None
    except DatasetError:
        shutil.rmtree(table.with_suffix(""), ignore_errors=True)  # masks that were drawn
        raise
    files = [(record.image, "|".join(map(str, record.masks))) for record in joined]
    kept = dataset.table()[["id", "label", "group"]].assign(fold=folds)
    with atomic_path(table) as temporary:
        kept.join(pd.DataFrame(files, columns=["image", "masks"])).to_csv(temporary, index=False)
    for problem in report.problems:
        warnings.warn(problem.message, DatasetWarning, stacklevel=2)
    pairs = (f"{a} = {b}" for a, b in zip(audited.pairs["id_a"], audited.pairs["id_b"], strict=True))
    log.info("%s: %s", folder, layout)
    log.info("pairs of near-duplicates, joined: %d (%s)", len(audited.pairs), name_some(pairs) or "none")
    log.info("the set %s is kept in %s", name, table)
    return load_adopted(table)


def load_adopted(table: Path, name: str | None = None) -> LesionDataset:
    """Load a set that was adopted.

    Parameters
    ----------
    table : Path
        With columns id, label, group, fold, image and masks (joined by ``|``); paths are absolute, or begin at its folder.
    name : str, optional
        What tables and figures call the set; by default the name of the file.

    Returns
    -------
    LesionDataset

    Raises
    ------
    DatasetError
        If the file is no such table.
    """
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
        folds = rows["fold"].astype(int).to_numpy()
        records = []
        for row in rows.to_dict("records"):
            masks = tuple(table.parent / mask for mask in row["masks"].split("|") if mask)
            image = table.parent / row["image"]
            records.append(Record(row["id"], image, masks, row["label"], row["group"], table.stem))
    except (ValueError, KeyError) as error:
        raise DatasetError(f"{table} is no table of a set ({error}): remove it and adopt again.") from None
    return LesionDataset(records, name=name or table.stem, key=table.stem, folds=folds)


# -- layouts -------------------------------------------------------------------------------------------------


def _find(folder: Path, images: str | None, masks: str | None, target: Path) -> tuple[str, list[_Found], Report]:
    """The one layout in which images of the folder have masks; masks that are drawn go to `target`."""
    inner = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    homes = [folder / images] if images else [child for child in inner if child.name.lower() in _IMAGES]
    drawn = [folder / masks] if masks else [child for child in inner if child.name.lower() in _MASKS]
    ways: dict[str, list[tuple[Path, Path, str]]] = {}
    for home in homes:
        for other in [*drawn, home]:
            kinds = [child.name for child in sorted(home.glob("*/")) if not pictures(home)] or [""]
            ways[f"images in {home.name}/, masks in {other.name}/"] = [(home / k, other / k, k) for k in kinds]
    if not images:
        ways["masks beside their images"] = [(folder, folder, "")]
        classes = [child for child in inner if child not in homes + drawn]
        ways[f"class folders {', '.join(child.name for child in classes)}"] = [_inner(child) for child in classes]
    usable: dict[str, tuple[list[_Found], Report]] = {}
    for layout, places in ways.items():
        report = Report()
        found = [image for place in places for image in _pairs(*place, report)]
        if any(image.masks for image in found):
            usable[layout] = found, report
    for file in () if images else sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        if found := _outlines(file, folder, target):
            usable[f"polygons of {file.name}"] = found, Report()
    if len(usable) > 1:
        raise DatasetError(f"{folder} can be read as {', or as '.join(usable)}: choose with --images and --masks.")
    for layout, (found, report) in usable.items():
        return layout, found, report
    raise DatasetError(
        f"{folder} holds no image with a mask: put x_mask.png beside x.png, or images and masks of equal names into images/ and "
        "masks/, or either into class folders, or polygons of COCO into a JSON file."
    )


def _inner(folder: Path) -> tuple[Path, Path, str]:
    """Images, masks and name of a class folder."""
    inner = {child.name.lower(): child for child in folder.iterdir() if child.is_dir()}
    home = next((inner[name] for name in _IMAGES if name in inner), folder)
    return home, next((inner[name] for name in _MASKS if name in inner), home), folder.name


def _pairs(home: Path, drawn: Path, kind: str, report: Report) -> list[_Found]:
    pairs = pair_files(home, drawn if drawn.is_dir() else home, report) if home.is_dir() else {}
    for stem, (file, masks) in pairs.items():
        if len({re.sub(r"_\d$", "", mask.stem.removeprefix(stem)) for mask in masks}) > 1:
            names = name_some(mask.name for mask in masks)
            raise DatasetError(f"{file} has masks of several kinds ({names}): leave one kind in the folder.")
    channel = "_0000" if home.name == "imagesTr" else ""
    return [_Found(stem.removesuffix(channel), file, masks, kind) for stem, (file, masks) in pairs.items()]


def _outlines(file: Path, folder: Path, target: Path) -> list[_Found]:
    """Images of an export in COCO's format, with masks drawn from its polygons; none from another file."""
    places = defaultdict(list)
    for path in folder.rglob("*"):
        if path.suffix.lower() in PICTURES:
            places[path.name].append(path)
    found: list[_Found] = []
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
            return []
        kinds = {kind["id"]: str(kind["name"]) for kind in content.get("categories", ())}
        for image in content["images"]:
            name = PurePosixPath(image["file_name"].replace("\\", "/")).name
            # Label Studio puts eight digits in front of the names that it was given.
            paths = places.get(name) or places.get(re.sub(r"^[0-9a-f]{8}-", "", name), [])
            if len(paths) != 1:
                raise ValueError(f"{len(paths)} pictures are called {name}")
            path = paths[0]
            height, width = picture_size(path)
            if (image["height"], image["width"]) != (height, width):
                raise ValueError(f"{path.name} is {width} x {height} pixels large")
            shapes = [shape for shape in content["annotations"] if shape["image_id"] == image["id"]]
            mask = Image.new("1", (width, height))
            if any(not isinstance(shape["segmentation"], list) for shape in shapes):
                raise ValueError(f"{path.name} has a run-length encoded mask")
            for points in (points for shape in shapes for points in shape["segmentation"]):
                ImageDraw.Draw(mask).polygon(list(map(float, points)), fill=1)
            drawn = target / f"{path.stem}_{len(found)}.png"
            with atomic_path(drawn) as temporary:
                mask.save(temporary)
            kind = " + ".join(sorted({kinds.get(shape.get("category_id"), "") for shape in shapes}))
            found.append(_Found(path.stem, path, (drawn,) if shapes else (), kind))
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{file} does not fit the pictures as COCO's polygons ({error}): export it again.") from None
    return found


# -- labels, groups, folds -----------------------------------------------------------------------------------


def _records(
    found: list[_Found],
    folder: Path,
    source: str,
    report: Report,
    labels: str | os.PathLike | None,
    group: str | None,
    classes: Mapping[str, str],
    without_mask: str | None,
) -> list[Record]:
    """Records of the images, if everything about them is known."""
    counts = Counter(image.name for image in found)
    ids = [image.name if counts[image.name] == 1 else f"{image.kind.lower()}-{image.name}" for image in found]
    lists = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in (".csv", ".tsv", ".xlsx")]
    table = Path(labels) if labels else next((file for file in lists if file.name.lower() == "labels.csv"), None)
    if labels and not Path(labels).is_file():
        raise DatasetError(f"there is no table {labels}: check the path.")
    if lists and not table and not group:
        raise DatasetError(
            f"{folder} holds {name_some(file.name for file in lists)}: if that names patients or classes, give it as --labels with "
            'columns id, label and group; if not, make every image a patient of its own with --group "(.+)".'
        )
    table = table or folder / "labels.csv"
    rows = read_labels(table, ids) if group else rows_of_folder(table, ids, report)
    known = {**{label: label for label in LABELS}, "": "unknown", **classes}
    records, bare, strange, alone = [], [], set(), []
    for id_, image in zip(ids, found, strict=True):
        row = rows.get(id_, {})
        kind = row.get("label") or image.kind
        label = known.get(kind, known.get(kind.lower(), known.get("*", "")))
        match = re.search(group, f"{image.file.parent.name}/{image.file.stem}") if group else None
        if label not in LABELS:
            strange.add(kind)
        elif group and not (match and match.groups()):
            alone.append(f"{image.file.parent.name}/{image.file.stem}")
        else:
            if not image.masks and label != "normal":
                bare.append(image.file.name)
                if without_mask == "skip":
                    continue
                label = "normal"
            patient = row.get("group") or (match[1] if match else id_)
            records.append(Record(id_, image.file, image.masks, label, patient, source))
    if strange:
        raise DatasetError(
            f"{folder}: what the classes {name_some(sorted(strange))} are is not known: say so for each, as in "
            f'--label "{min(strange)}=benign" (or malignant, normal, unknown).'
        )
    if alone:
        raise DatasetError(f"--group {group} finds no (patient) in {len(alone)} names: {name_some(alone)}.")
    if bare and without_mask is None:
        raise DatasetError(
            f"{folder}: {len(bare)} of {len(found)} images have no mask ({name_some(bare)}): say whether they are normal or left out, "
            "with --without-mask normal or --without-mask skip."
        )
    return records


def _folds(dataset: LesionDataset, file: Path) -> np.ndarray:
    """nnU-Net's folds if there are any, else five of whole groups in which the classes are spread evenly."""
    ids, groups, folds = dataset.ids.tolist(), dataset.groups, np.zeros(len(dataset), int)
    if not file.is_file():
        if (n := len(set(groups))) < 5:
            raise DatasetError(f"{dataset.name} has {n} groups of images; five folds need at least five.")
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # a class may have fewer images than folds
            # scikit-learn asks for a class of five.
            kinds = dataset.labels if max(Counter(dataset.labels).values()) >= 5 else folds
            splits = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(ids, kinds, groups)
            for fold, (_, test) in enumerate(splits, 1):
                folds[test] = fold
        return folds
    parts = [part["val"] for part in json.loads(file.read_text(encoding="utf-8"))]
    if sorted(case for part in parts for case in part) != sorted(ids):
        raise DatasetError(f"{file} does not hold each image once as 'val': remove it to have folds made.")
    for fold, part in enumerate(parts, 1):
        folds[np.isin(ids, part)] = fold
    if split := [group for group in dict.fromkeys(groups.tolist()) if np.ptp(folds[groups == group])]:
        raise DatasetError(
            f"{file} separates images of one patient or scene ({name_some(split)}): remove it to have folds made; if these are only "
            "taken for near-duplicates, add --no-search."
        )
    return folds
