"""One small function per folder layout: files in, records out. Nothing is decoded here but headers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from busutils.datasets import splits
from busutils.datasets.catalogue import Card
from busutils.datasets.lesions import Record
from busutils.datasets.pixels import DatasetError

_NAMED = 6  # this many file names are spelt out in a message


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


def _name(items: Iterable) -> str:
    items = [str(item) for item in items]
    return ", ".join(items[:_NAMED]) + (f" … and {len(items) - _NAMED} more" if len(items) > _NAMED else "")


def _number(path: Path) -> tuple:
    """Sort key that puts 2 before 10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name))


def _pictures(folder: Path, endings: tuple[str, ...] = (".png",)) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        (
            file
            for file in folder.iterdir()
            if file.suffix.lower() in endings and not file.name.startswith(".")
        ),
        key=_number,
    )


def _grouped(records: list[Record], key: str) -> list[Record]:
    """Give records the groups of the shipped folds, where they are listed."""
    shipped = splits.shipped_folds(key)
    if shipped is None:
        return records
    groups = shipped["group"].to_dict()
    return [replace(record, group=groups.get(record.id, record.group)) for record in records]


def _count(records: list[Record], card: Card, report: Report, missing: Iterable[str] = ()) -> None:
    """Compare counts with the card and say what is missing."""
    found = Counter(record.label for record in records)
    off = [f"{found[label]} of {n} {label}" for label, n in card.counts.items() if found[label] != n]
    if off:
        missing = list(missing)
        names = f"; missing: {_name(missing)}" if missing else ""
        more = any(found[label] > n for label, n in card.counts.items())
        what = "has more images than were published" if more and not missing else "is a partial copy"
        report.warn(
            "partial copy", card.folder, f"{card.title}: this folder {what} ({', '.join(off)}){names}."
        )


def read_busi(root: Path, card: Card, report: Report) -> list[Record]:
    """Read BUSI: one folder a class, masks beside the images.

    Parameters
    ----------
    root : Path
        ``Dataset_BUSI_with_GT``.
    card : Card
    report : Report

    Returns
    -------
    list of Record

    Raises
    ------
    DatasetError
        If the folder is not BUSI, or a lesion image has no mask.
    """
    form = re.compile(r"^(benign|malignant|normal) \((\d+)\)(_mask(?:_\d+)?)?\.png$", re.IGNORECASE)
    images: dict[str, Path] = {}
    masks: dict[str, list[Path]] = {}
    for label in ("benign", "malignant", "normal"):
        for file in _pictures(root / label):
            match = form.match(file.name)
            if match is None:
                report.warn("unknown file", file, f"{file} does not follow BUSI's naming and is left out.")
            elif match[3]:
                masks.setdefault(f"{match[1].lower()} ({match[2]})", []).append(file)
            else:
                images[f"{match[1].lower()} ({match[2]})"] = file
    if not images:
        raise DatasetError(
            f"{root} is not a BUSI folder: it should hold benign/, malignant/ and normal/ with files like "
            "'benign (1).png' and 'benign (1)_mask.png'."
        )
    records = []
    for id_, file in images.items():
        label = id_.split()[0]
        if id_ not in masks:
            if label != "normal":
                report.fail(
                    "missing mask",
                    file,
                    f"{file} has no mask: '{id_}_mask.png' should lie beside it; fetch the set again or "
                    f"take the image out.",
                )
                continue
            report.warn("missing mask", file, f"{file} has no mask; as a normal image it counts as empty.")
        notes = []
        if len(masks.get(id_, ())) > 1:
            notes.append(f"{len(masks[id_])} masks joined")
        if id_ in ("benign (433)", "malignant (145)"):
            notes.append("benign (433) and malignant (145) are the same pixels under two labels")
        records.append(Record(id_, file, tuple(masks.get(id_, ())), label, id_, card.key, notes=tuple(notes)))
    for id_ in masks.keys() - images.keys():
        report.warn(
            "missing image", masks[id_][0], f"{masks[id_][0]} is a mask without its image and is left out."
        )
    missing = [
        f"{label} ({number})"
        for label, n in card.counts.items()
        for number in range(1, n + 1)
        if f"{label} ({number})" not in images
    ]
    _count(records, card, report, missing)
    return _grouped(records, card.key)


def read_bus_bra(root: Path, card: Card, report: Report) -> list[Record]:
    """Read BUS-BRA: images and masks in two folders, a table of cases.

    Parameters
    ----------
    root : Path
        ``BUSBRA``.
    card : Card
    report : Report

    Returns
    -------
    list of Record

    Raises
    ------
    DatasetError
        If the folder is not BUS-BRA, or an image has no mask.
    """
    table = root / "bus_data.csv"
    if not table.is_file() or not (root / "Images").is_dir():
        raise DatasetError(
            f"{root} is not a BUS-BRA folder: it should hold bus_data.csv, Images/ and Masks/."
        )
    about = pd.read_csv(table, dtype=str).set_index("ID")
    files = {file.stem: file for file in _pictures(root / "Images")}
    if not files:
        raise DatasetError(f"{root / 'Images'} holds no PNG image; fetch BUS-BRA again.")
    records = []
    for id_, file in files.items():
        if id_ not in about.index:
            report.warn("unknown file", file, f"{file} is not listed in bus_data.csv and is left out.")
            continue
        mask = root / "Masks" / f"{id_.replace('bus_', 'mask_', 1)}.png"
        if not mask.is_file():
            report.fail(
                "missing mask", file, f"{file} has no mask: {mask} should be there; fetch the set again."
            )
            continue
        row = about.loc[id_]
        extras = {
            name.lower(): row[name]
            for name in ("Histology", "BIRADS", "Device", "Side")
            if name in about.columns
        }
        records.append(Record(id_, file, (mask,), row["Pathology"], row["Case"], card.key, extras=extras))
    _count(records, card, report, [id_ for id_ in about.index if id_ not in files])
    return records


def read_stu(root: Path, card: Card, report: Report) -> list[Record]:
    """Read STU-Hospital: ``Test_Image_1.png`` and ``mask_1.png`` in one folder.

    Parameters
    ----------
    root : Path
        ``Hospital``.
    card : Card
    report : Report

    Returns
    -------
    list of Record

    Raises
    ------
    DatasetError
        If the folder is not STU-Hospital, or an image has no mask.
    """
    records = []
    images = [file for file in _pictures(root) if re.fullmatch(r"Test_Image_\d+", file.stem)]
    if not images:
        raise DatasetError(
            f"{root} is not an STU-Hospital folder: it should hold Test_Image_1.png and mask_1.png."
        )
    for file in images:
        mask = root / file.name.replace("Test_Image_", "mask_")
        if not mask.is_file():
            report.fail(
                "missing mask",
                file,
                f"{file} has no mask: {mask.name} should lie beside it; fetch the set again.",
            )
            continue
        records.append(Record(file.stem, file, (mask,), "unknown", file.stem, card.key))
    ids = {record.id for record in records}
    _count(
        records,
        card,
        report,
        [f"Test_Image_{i}" for i in range(1, card.n_images + 1) if f"Test_Image_{i}" not in ids],
    )
    return _grouped(records, card.key)


READERS: dict[str, Callable[..., list[Record]]] = {
    "busi": read_busi,
    "bus-bra": read_bus_bra,
    "stu": read_stu,
}
