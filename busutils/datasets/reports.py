"""What a reader found in a folder: problems, and counts against the published ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from busutils.datasets import splits
from busutils.datasets.catalogue import Card
from busutils.datasets.lesions import Record
from busutils.datasets.tables import name_some, number_key
from busutils.io import DatasetError


@dataclass(frozen=True)
class Problem:
    """Something found in a folder.

    Parameters
    ----------
    kind : str
        ``missing image``, ``missing mask``, ``partial copy``, ``left out`` …
    where : str
        File or image it is about.
    message : str
        One sentence.
    fatal : bool
        Whether the set cannot be used before it is put right.
    """

    kind: str
    where: str
    message: str
    fatal: bool = False


@dataclass
class Report:
    """What a reader has to say. A strict one raises at the first fatal problem."""

    strict: bool = True
    problems: list[Problem] = field(default_factory=list)

    def warn(self, kind: str, where: object, message: str) -> None:
        """Note something the user should know."""
        self.problems.append(Problem(kind, str(where), message))

    def fail(self, kind: str, where: object, message: str) -> None:
        """Note a fatal problem, or raise it.

        Raises
        ------
        DatasetError
            If the report is strict.
        """
        if self.strict:
            raise DatasetError(message)
        self.problems.append(Problem(kind, str(where), message, fatal=True))

    def no_mask(self, file: Path, where: str) -> None:
        """Note an image without its mask; ``where`` says where the mask should be.

        Raises
        ------
        DatasetError
            If the report is strict.
        """
        self.fail("missing mask", file, f"{file} has no mask: {where}; fetch the set again or take the image out.")


def not_this_set(root: Path, card: Card) -> DatasetError:
    """The error of a folder that is not the set it should be."""
    return DatasetError(f"{root} is not a {card.title.split(',')[0]} folder: it should hold {card.layout}.")


def count_images(records: list[Record], card: Card, report: Report, left_out: Iterable[str] = ()) -> None:
    """Compare counts with the card and name what is missing; `left_out` has the labels of images there but not read."""
    found = Counter(record.label for record in records) + Counter(left_out)
    total = sum(found.values())
    unlabelled = set(found) == {"unknown"} and "unknown" not in card.counts
    if unlabelled:
        off = [] if total == card.n_images else [f"{total} of {card.n_images} images"]
    else:
        off = [f"{found[label]} of {n} {label}" for label, n in card.counts.items() if found[label] != n]
    if not off:
        if card.n_masks and (n_masks := sum(len(record.masks) for record in records)) < card.n_masks:
            report.warn("missing mask", card.folder, f"{card.title}: {n_masks} of {card.n_masks} mask files are there.")
        return
    shipped = splits.shipped_folds(card.key)
    ids = {record.id for record in records}
    missing = [] if shipped is None else sorted((id_ for id_ in shipped.index if id_ not in ids), key=number_key)
    names = f"; missing: {name_some(missing)}" if missing else ""
    kind, what = "partial copy", "is a partial copy"
    if not missing and total == card.n_images:
        kind, what = "other labels", "is complete, but labels some images otherwise than was published"
    elif not missing and total > card.n_images:
        kind, what = "more images", "has more images than were published"
    report.warn(kind, card.folder, f"{card.title}: this folder {what} ({', '.join(off)}){names}.")
