"""What a reader found in a folder: problems, and counts compared with the published ones."""

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
    message : str
        One sentence.
    fatal : bool
        Whether the set cannot be used before it is put right.
    """

    message: str
    fatal: bool = False


@dataclass
class Report:
    """Problems that a reader finds. A strict report raises at the first fatal one."""

    strict: bool = True
    problems: list[Problem] = field(default_factory=list)

    def warn(self, message: str) -> None:
        """Note something the user should know."""
        self.problems.append(Problem(message))

    def fail(self, message: str) -> None:
        """Note a fatal problem, or raise it.

        Raises
        ------
        DatasetError
            If the report is strict.
        """
        if self.strict:
            raise DatasetError(message)
        self.problems.append(Problem(message, fatal=True))


def not_this_set(root: Path, card: Card) -> DatasetError:
    """The error of a folder that is not the set it should be."""
    return DatasetError(f"{root} is not a {card.title.split(',')[0]} folder: it should hold {card.layout}.")


def count_images(records: list[Record], card: Card, report: Report, left_out: Iterable[str] = ()) -> None:
    """Compare counts with the card and name missing images; `left_out` has the labels of images that are not read."""
    found = Counter(record.label for record in records) + Counter(left_out)
    total = found.total()
    if set(found) == {"unknown"}:
        off = [f"{total} of {card.n_images} images"] * (total != card.n_images)
    else:
        off = [f"{found[label]} of {n} {label}" for label, n in card.counts.items() if found[label] != n]
    if not off:
        n_masks = sum(len(record.masks) for record in records)
        if card.n_masks and n_masks < card.n_masks:
            report.warn(f"{card.title}: {n_masks} of {card.n_masks} mask files are there; fetch the set again.")
        return
    shipped = splits.shipped_folds(card.key)
    listed = () if shipped is None else shipped.index.difference([record.id for record in records])
    missing = sorted(listed, key=number_key)
    names = f"; missing: {name_some(missing)}" if missing else ""
    report.warn(f"{card.title}: this folder differs from the published set ({', '.join(off)}){names}.")
