"""One small function per folder layout: files in, records out. Nothing is decoded here but headers."""

from __future__ import annotations

import functools
import hashlib
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from scipy import fft, io, signal

from busutils.datasets import splits
from busutils.datasets.catalogue import Card
from busutils.datasets.lesions import LABELS, Record
from busutils.io import DatasetError, open_picture, picture_size

_NAMED = 6  # this many file names are spelt out in a message
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_MAX_TABLE_BYTES = 50_000_000
_RF_RANGE_DB = 50.0
_LOSSY = (".jpg", ".jpeg", ".webp")


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


def _name(items: Iterable) -> str:
    items = [str(item) for item in items]
    return ", ".join(items[:_NAMED]) + (f" … and {len(items) - _NAMED} more" if len(items) > _NAMED else "")


def _number(path: Path) -> tuple:
    """Sort key that puts 2 before 10."""
    return _digits(path.name)


def _pictures(folder: Path, endings: tuple[str, ...] = PICTURES) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        (file for file in folder.iterdir() if file.suffix.lower() in endings and not file.name.startswith(".")),
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
    if not card.counts:
        return
    found = Counter(record.label for record in records)
    if found and set(found) == {"unknown"} and "unknown" not in card.counts:
        if len(records) != card.n_images:
            report.warn(
                "partial copy",
                card.folder,
                f"{card.title}: this folder holds {len(records)} of {card.n_images} images.",
            )
        return
    off = [f"{found[label]} of {n} {label}" for label, n in card.counts.items() if found[label] != n]
    if off:
        missing = list(missing)
        names = f"; missing: {_name(missing)}" if missing else ""
        kind, what = "partial copy", "is a partial copy"
        if not missing and len(records) == card.n_images:
            kind, what = "other labels", "is complete, but labels some images otherwise than was published"
        elif not missing and len(records) > card.n_images:
            kind, what = "more images", "has more images than were published"
        report.warn(kind, card.folder, f"{card.title}: this folder {what} ({', '.join(off)}){names}.")


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
                report.no_mask(file, f"'{id_}_mask.png' should lie beside it")
                continue
            report.warn("missing mask", file, f"{file} has no mask; as a normal image it counts as empty.")
        notes = []
        if len(masks.get(id_, ())) > 1:
            notes.append(f"{len(masks[id_])} masks joined")
        if id_ in ("benign (433)", "malignant (145)"):
            notes.append("benign (433) and malignant (145) are the same pixels under two labels")
        records.append(Record(id_, file, tuple(masks.get(id_, ())), label, id_, card.key, notes=tuple(notes)))
    for id_ in masks.keys() - images.keys():
        report.warn("missing image", masks[id_][0], f"{masks[id_][0]} is a mask without its image and is left out.")
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

    Where ``bus_data.csv`` is missing, labels and cases come from the folds that are shipped with the package.

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
    files = {file.stem: file for file in _pictures(root / "Images") if file.stem.startswith("bus_")}
    if not files or not (root / "Masks").is_dir():
        raise DatasetError(
            f"{root} is not a BUS-BRA folder: it should hold Images/bus_0001-l.png, Masks/mask_0001-l.png "
            "and bus_data.csv."
        )
    table = root / "bus_data.csv"
    if table.is_file():
        about = pd.read_csv(table, dtype=str).set_index("ID")
    else:
        report.warn("missing table", table, f"{table} is missing; labels and cases come from the shipped folds.")
        about = splits.shipped_folds(card.key).rename(columns={"label": "Pathology", "group": "Case"})
    masks = {file.stem: file for file in _pictures(root / "Masks")}
    records = []
    for id_, file in files.items():
        if id_ not in about.index:
            report.warn("unknown file", file, f"{file} is not listed in {table.name} and is left out.")
            continue
        mask = masks.get(id_.replace("bus_", "mask_", 1))
        if mask is None:
            report.no_mask(file, f"Masks/{id_.replace('bus_', 'mask_', 1)}.png should be there")
            continue
        row = about.loc[id_]
        extras = {
            name.lower(): row[name] for name in ("Histology", "BIRADS", "Device", "Side") if name in about.columns
        }
        records.append(Record(id_, file, (mask,), row["Pathology"], row["Case"], card.key, extras=extras))
    lossy = sum(file.suffix.lower() in _LOSSY for file in files.values())
    if lossy:
        report.warn("lossy copy", root, f"{root}: {lossy} images are lossy copies; report scores on PNG images.")
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
        raise DatasetError(f"{root} is not an STU-Hospital folder: it should hold Test_Image_1.png and mask_1.png.")
    for file in images:
        mask = root / file.name.replace("Test_Image_", "mask_")
        if not mask.is_file():
            report.no_mask(file, f"{mask.name} should lie beside it")
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


def _inside(root: Path, *names: str, depth: int = 3) -> Path | None:
    """Find the nearest folder at or below ``root`` that holds all of ``names``."""
    level = [root]
    for _ in range(depth + 1):
        for folder in level:
            if all((folder / name).exists() for name in names):
                return folder
        level = sorted(child for folder in level if folder.is_dir() for child in folder.iterdir() if child.is_dir())
    return None


def read_xlsx(path: Path) -> list[list[str]]:
    """Read the first sheet of a workbook as text.

    One table of two sets comes as a workbook; that is not worth a dependency.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of rows, each a list of str
        Empty cells are ``""``.

    Raises
    ------
    DatasetError
        If the file is no workbook.
    """
    main = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    try:
        with zipfile.ZipFile(path) as book:
            names = book.namelist()
            if sum(info.file_size for info in book.infolist()) > _MAX_TABLE_BYTES:
                raise DatasetError(f"{path} is too large for a table of cases; it is not read.")
            shared = []
            if "xl/sharedStrings.xml" in names:
                for item in ElementTree.fromstring(book.read("xl/sharedStrings.xml")).iter(f"{main}si"):
                    shared.append("".join(text.text or "" for text in item.iter(f"{main}t")))
            sheets = sorted((n for n in names if re.fullmatch(r"xl/worksheets/[^/]+\.xml", n)), key=_digits)
            sheet = ElementTree.fromstring(book.read(sheets[0]))
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, IndexError, OSError) as err:
        raise DatasetError(f"{path} is not a workbook that can be read ({err}); fetch it again.") from None
    rows = []
    for line in sheet.iter(f"{main}row"):
        row: list[str] = []
        for cell in line.iter(f"{main}c"):
            letters = re.match(r"[A-Z]*", cell.get("r", ""))[0]
            column = functools.reduce(lambda n, letter: 26 * n + ord(letter) - 64, letters, 0) or len(row) + 1
            row.extend([""] * (column - len(row)))
            value = cell.find(f"{main}v")
            if cell.get("t") == "inlineStr":
                row[column - 1] = "".join(text.text or "" for text in cell.iter(f"{main}t"))
            elif value is not None and value.text is not None:
                row[column - 1] = shared[int(value.text)] if cell.get("t") == "s" else value.text
        rows.append(row)
    return rows


def _digits(name: str) -> tuple:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def _join_doubles(records: list[Record], report: Report) -> list[Record]:
    """Join the groups of records whose image files are the same byte for byte."""
    by_size: dict[int, list[Record]] = {}
    for record in records:
        by_size.setdefault(record.image.stat().st_size, []).append(record)
    first: dict[bytes, Record] = {}
    renamed: dict[str, str] = {}

    def final(group: str) -> str:
        while group in renamed:
            group = renamed[group]
        return group

    doubled = []
    for alike in by_size.values():
        if len(alike) < 2:
            continue
        for record in alike:
            digest = hashlib.sha256(record.image.read_bytes()).digest()
            other = first.setdefault(digest, record)
            if other is not record:
                doubled.append(f"{other.id} = {record.id}")
                if final(other.group) != final(record.group):
                    renamed[final(record.group)] = final(other.group)
    if doubled:
        report.warn(
            "doubled image",
            doubled[0],
            f"{len(doubled)} images occur twice ({_name(doubled)}); their groups are joined, so that no "
            "split can part them.",
        )
    return [replace(record, group=final(record.group)) for record in records]


def read_bus_uclm(root: Path, card: Card, report: Report) -> list[Record]:
    """Read BUS-UCLM: colour-coded masks (green benign, red malignant), a table with ``;``.

    Parameters
    ----------
    root : Path
        ``BUS-UCLM``, or a folder that holds it.
    card : Card
    report : Report

    Returns
    -------
    list of Record
        Images whose mask has another size (HESN_*: crops whose place is unknown) are left out.

    Raises
    ------
    DatasetError
        If the folder is not BUS-UCLM, or an image has no mask.
    """
    home = _inside(root, "images", "masks")
    files = _pictures(home / "images") if home else []
    files = [file for file in files if re.fullmatch(r"[A-Za-z]{4}_\d+", file.stem)]
    if not files:
        raise DatasetError(
            f"{root} is not a BUS-UCLM folder: it should hold images/ALWI_000.png, masks/ALWI_000.png and INFO.csv."
        )
    about: dict[str, dict[str, str]] = {}
    if (home / "INFO.csv").is_file():
        table = pd.read_csv(home / "INFO.csv", sep=";", encoding="utf-8-sig", dtype=str).fillna("")
        table.columns = [str(name).strip() for name in table.columns]
        if {"Image", "Label"} <= set(table.columns):
            about = {Path(row["Image"].strip()).stem: row for row in table.to_dict("records")}
        else:
            report.warn("missing table", home / "INFO.csv", f"{home / 'INFO.csv'} has no columns Image and Label.")
    else:
        report.warn(
            "missing table",
            home / "INFO.csv",
            f"{home / 'INFO.csv'} is missing; labels come from mask colours.",
        )
    records, left_out = [], []
    for file in files:
        mask = home / "masks" / file.name
        if not mask.is_file():
            report.no_mask(file, f"{mask} should be there")
            continue
        try:
            high, wide = (a - b for a, b in zip(picture_size(file), picture_size(mask), strict=True))
        except DatasetError as err:
            report.fail("broken file", file, str(err))
            continue
        if max(abs(high), abs(wide)) > 2:
            left_out.append(file.stem)
            continue
        row = about.get(file.stem, {})
        label = row.get("Label", "").strip().lower()
        notes = []
        if label not in ("benign", "malignant", "normal"):
            label = _label_by_colour(mask)
            notes.append("label from the colour of the mask")
        for column in ("Doppler", "Marks"):
            if row.get(column, "").strip().lower() in ("yes", "1", "true", "y", "si", "sí"):
                notes.append(column.lower())
        extras = {name.lower(): value for name, value in row.items() if name in ("Doppler", "Marks")}
        # The published patients CHCO and CHVI share images: one group.
        patient = file.stem.split("_")[0]
        group = "CHCO+CHVI" if patient in ("CHCO", "CHVI") else patient
        masks = () if label == "normal" else (mask,)
        records.append(Record(file.stem, file, masks, label, group, card.key, notes=tuple(notes), extras=extras))
    if left_out:
        report.warn(
            "left out",
            left_out[0],
            f"{len(left_out)} images have another size than their mask and are left out: {_name(left_out)}.",
        )
    _count(records, card, report)
    return _join_doubles(records, report)


def _label_by_colour(mask: Path) -> str:
    """Tell the class from a colour-coded mask: red wins over green, black is normal."""
    with open_picture(mask) as picture:
        red, green, _ = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0) > 127
    return "malignant" if (red & ~green).any() else "benign" if green.any() else "normal"


def read_breast(root: Path, card: Card, report: Report, *, other: bool = True) -> list[Record]:
    """Read BrEaST: ``case001.png`` with ``case001_tumor.png`` and ``case001_other1.png``, and a workbook of
    cases.

    Parameters
    ----------
    root : Path
        ``BrEaST-Lesions_USG-images_and_masks``, or the folder that holds it; the workbook lies in either.
    card : Card
    report : Report
    other : bool
        Whether the masks of further lesions (``_other``) are joined with that of the tumour.

    Returns
    -------
    list of Record

    Raises
    ------
    DatasetError
        If the folder is not BrEaST, or a lesion image has no mask.
    """
    homes = [root, *sorted(root.glob("BrEaST-Lesions*USG*")), *sorted(root.glob("*/BrEaST-Lesions*USG*"))]
    form = re.compile(r"case(\d+)(?:_(tumor|other)(\d*))?", re.IGNORECASE)
    images: dict[str, Path] = {}
    masks: dict[str, list[tuple[str, Path]]] = {}
    for home in (folder for folder in homes if folder.is_dir()):
        for file in _pictures(home):
            match = form.fullmatch(file.stem)
            if match and match[2]:
                masks.setdefault(f"case{match[1]}", []).append((match[2].lower(), file))
            elif match:
                images[f"case{match[1]}"] = file
        if images:
            break
    if not images:
        raise DatasetError(f"{root} is not a BrEaST folder: it should hold case001.png and case001_tumor.png.")
    books = [
        book
        for place in (home, root, home.parent)
        for book in sorted(place.glob("*.xlsx"))
        if not book.name.startswith("~")
    ]
    about: dict[str, dict[str, str]] = {}
    if books:
        header, *lines = read_xlsx(books[0])
        rows = [dict(zip(header, line + [""] * (len(header) - len(line)), strict=False)) for line in lines]
        about = {Path(row.get("Image_filename", "").strip()).stem: row for row in rows}
    else:
        report.warn(
            "missing table",
            home,
            f"{home} has no workbook of cases beside it (BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx); "
            "labels are unknown.",
        )
    records = []
    for id_, file in images.items():
        row = about.get(id_, {})
        label = row.get("Classification", "").strip().lower()
        label = label if label in ("benign", "malignant", "normal") else "unknown"
        own = [mask for kind, mask in masks.get(id_, ()) if other or kind == "tumor"]
        if not own and label != "normal":
            report.no_mask(file, f"{id_}_tumor.png should lie beside it")
            continue
        try:
            spacing = float(row.get("Pixel_size", "").replace(",", ".")) * 10  # published in centimetres
        except ValueError:
            spacing = None
        notes = () if len(own) < 2 else (f"{len(own)} masks joined",)
        extras = {
            name.lower(): row[name]
            for name in (
                "BIRADS",
                "Shape",
                "Margin",
                "Echogenicity",
                "Posterior_features",
                "Halo",
                "Diagnosis",
                "Calcifications",
                "Tissue_composition",
                "Age",
                "Verification",
            )
            if row.get(name)
        }
        records.append(
            Record(
                id_,
                file,
                tuple(own),
                label,
                id_,
                card.key,
                spacing=(spacing, spacing) if spacing else None,
                notes=notes,
                extras=extras,
            )
        )
    for id_ in masks.keys() - images.keys():
        report.warn(
            "missing image",
            masks[id_][0][1],
            f"{masks[id_][0][1]} is a mask without its image and is left out.",
        )
    _count(records, card, report)
    return records


def read_udiat(root: Path, card: Card, report: Report) -> list[Record]:
    """Read UDIAT, dataset B: ``original/000001.png`` and ``GT/000001.png``; classes in an accompanying list.

    Parameters
    ----------
    root : Path
        ``BUS``, or a folder that holds it.
    card : Card
    report : Report

    Returns
    -------
    list of Record

    Raises
    ------
    DatasetError
        If the folder is not UDIAT, or an image has no mask.
    """
    home = _inside(root, "original", "GT")
    files = _pictures(home / "original") if home else []
    if not files:
        raise DatasetError(f"{root} is not a UDIAT folder: it should hold original/000001.png and GT/000001.png.")
    masks = {file.stem: file for file in _pictures(home / "GT")}
    label_of = _listed_labels([home, root, home.parent], {file.stem for file in files})
    if not label_of:
        report.warn(
            "missing table",
            home,
            f"{home}: no list of classes (DatasetB.xlsx, or a csv with name and class) lies beside the "
            "images; labels are unknown.",
        )
    records = []
    for file in files:
        if file.stem not in masks:
            report.no_mask(file, f"GT/{file.name} should be there")
            continue
        label = label_of.get(file.stem, "unknown")
        records.append(Record(file.stem, file, (masks[file.stem],), label, file.stem, card.key))
    _count(records, card, report)
    return records


def _listed_labels(places: list[Path], ids: set[str]) -> dict[str, str]:
    """Find a workbook, csv or text that names images and classes in its rows, in whatever columns."""
    for place in dict.fromkeys(places):
        for file in sorted([*place.glob("*.xlsx"), *place.glob("*.csv"), *place.glob("*.txt")]):
            if file.stat().st_size > _MAX_TABLE_BYTES:
                continue
            if file.suffix == ".xlsx":
                rows = read_xlsx(file)
            else:
                rows = [re.split(r"[,;\t ]+", line) for line in file.read_text("utf-8-sig", "replace").splitlines()]
            found = {}
            for row in rows:
                cells = [str(cell).strip() for cell in row]
                kinds = [label for cell in cells for label in ("benign", "malignant") if cell.lower() == label]
                names = [Path(cell).stem for cell in cells] + [cell.zfill(6) for cell in cells if cell.isdigit()]
                name = next((name for name in names if name in ids), None)
                if kinds and name:
                    found[name] = kinds[0]
            if found:
                return found
    return {}


@dataclass(frozen=True)
class RFView:
    """One view of one OASBUD lesion, made from raw radio-frequency lines when read.

    Parameters
    ----------
    file : Path
        ``OASBUD.mat``.
    index : int
        Place of the lesion in the file.
    view : {1, 2}
    what : {'rf', 'roi'}
        Image or mask.
    """

    file: Path
    index: int
    view: int
    what: str

    @property
    def key(self) -> str:
        """Content key: file, size and date, place, and how the image is made."""
        stat = self.file.stat()
        file = f"{self.file} {stat.st_size} {stat.st_mtime_ns}"
        return f"{file} {self.index} {self.view} {self.what} {_RF_RANGE_DB}"

    def read(self) -> np.ndarray:
        """Return the B-mode image (H, W) uint8, or the mask (H, W) bool."""
        lesion = _oasbud(self.file, self.file.stat().st_mtime_ns)[self.index]
        if self.what == "roi":
            return np.asarray(lesion[f"roi{self.view}"]) > 0
        return b_mode(np.asarray(lesion[f"rf{self.view}"]))


def b_mode(rf: np.ndarray, *, range_db: float = _RF_RANGE_DB) -> np.ndarray:
    """Make a B-mode image from radio-frequency lines: envelope, log compression.

    Parameters
    ----------
    rf : (H, W) ndarray
        Samples in depth by lines.
    range_db : float
        Dynamic range below the brightest point, in decibels.

    Returns
    -------
    (H, W) uint8 ndarray
    """
    # A fast length keeps the Hilbert transform quick; the padding lies below the deepest sample.
    length = fft.next_fast_len(rf.shape[0])
    envelope = np.abs(signal.hilbert(rf.astype(np.float32), N=length, axis=0)[: rf.shape[0]])
    level = 20 * np.log10(np.maximum(envelope, 1e-6) / max(envelope.max(), 1e-6))
    return np.rint(np.clip(level / range_db + 1, 0, 1) * 255).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _oasbud(file: Path, mtime_ns: int) -> list:
    try:
        return list(io.loadmat(file, variable_names=["data"])["data"].ravel())
    except (KeyError, ValueError, TypeError, NotImplementedError, OSError, EOFError, zlib.error) as err:
        raise DatasetError(f"{file} is not OASBUD.mat, or is cut short ({err}); fetch it again.") from None


def read_oasbud(root: Path, card: Card, report: Report) -> list[Record]:
    """Read OASBUD: two views of each lesion as raw radio-frequency lines in one ``.mat`` file.

    Parameters
    ----------
    root : Path
        Folder that holds ``OASBUD.mat``.
    card : Card
    report : Report

    Returns
    -------
    list of Record
        B-mode images are made when read: envelope by Hilbert transform, 50 dB below the brightest point.

    Raises
    ------
    DatasetError
        If there is no such file, or it is broken.
    """
    file = root / "OASBUD.mat"
    if not file.is_file():
        raise DatasetError(f"{root} is not an OASBUD folder: it should hold OASBUD.mat.")
    lesions = _oasbud(file, file.stat().st_mtime_ns)
    fields = {"id", "rf1", "rf2", "roi1", "roi2", "class"}
    if not lesions or not fields <= set(lesions[0].dtype.names or ()):
        raise DatasetError(f"{file} is not OASBUD: each lesion should have {', '.join(sorted(fields))}.")
    names = [_text(lesion["id"]) or str(place) for place, lesion in enumerate(lesions, 1)]
    twice = {name for name, count in Counter(names).items() if count > 1}
    records = []
    for place, (name, lesion) in enumerate(zip(names, lesions, strict=True)):
        label = {"0": "benign", "1": "malignant"}.get(_text(lesion["class"]), "unknown")
        unique = f"{name}-{place + 1}" if name in twice else name
        extras = {"birads": _text(lesion["birads"])} if "birads" in lesion.dtype.names else {}
        for view in (1, 2):
            if np.asarray(lesion[f"rf{view}"]).shape != np.asarray(lesion[f"roi{view}"]).shape:
                report.warn("left out", unique, f"{unique}, view {view}: image and mask differ in size; left out.")
                continue
            source, mask = (RFView(file, place, view, what) for what in ("rf", "roi"))
            records.append(Record(f"{unique}_{view}", source, (mask,), label, name, card.key, extras=extras))
    _count(records, card, report)
    return records


def _text(value: object) -> str:
    """Text of a MATLAB cell: a string, or a number in brackets."""
    flat = np.asarray(value).ravel()
    return str(flat[0]).strip() if flat.size else ""


def read_bus_uc(root: Path, card: Card, report: Report) -> list[Record]:
    """Read BUS-UC: ``{Benign,Malignant}/{images,masks}/001.png``; doubles in ``All/`` are not read.

    Parameters
    ----------
    root : Path
        ``BUS_UC``, or a folder that holds it.
    card : Card
    report : Report

    Returns
    -------
    list of Record

    Raises
    ------
    DatasetError
        If the folder is not BUS-UC, or an image has no mask.
    """
    home = _inside(root, "Benign", "Malignant")
    parts = [(label, home / label.capitalize()) for label in ("benign", "malignant")] if home else []
    if not parts:
        home = _inside(root, "All")
        parts = [("unknown", home / "All")] if home else []
        if home:
            report.warn(
                "missing folder",
                home,
                f"{home} holds All/ but not Benign/ and Malignant/; labels are unknown.",
            )
    found = [(label, folder, file) for label, folder in parts for file in _pictures(folder / "images")]
    if not found:
        raise DatasetError(
            f"{root} is not a BUS-UC folder: it should hold Benign/images, Benign/masks, Malignant/images "
            "and Malignant/masks."
        )
    twice = {name for name, n in Counter(file.stem for *_, file in found).items() if n > 1}
    records = []
    for label, folder, file in found:
        mask = folder / "masks" / file.name
        if not mask.is_file():
            report.no_mask(file, f"{mask} should be there")
            continue
        id_ = f"{label}-{file.stem}" if twice else file.stem
        records.append(Record(id_, file, (mask,), label, id_, card.key))
    _count(records, card, report)
    return _join_doubles(records, report)


_MASK_FORMS = ("{}", "{}_mask", "{}_seg", "{}_gt", "{}_anno", "{}_tumor", "mask_{}", "{}-mask", "{} mask")


def read_folder(
    root: Path,
    card: Card,
    report: Report,
    *,
    images: str = "images",
    masks: str = "masks",
    labels: str = "labels.csv",
) -> list[Record]:
    """Read a plain folder of images and masks.

    Either two folders with files of the same name, or one folder where ``x.png`` has a mask ``x_mask.png``
    (also ``_seg``, ``_gt``, ``_anno``, ``mask_x``; further masks ``x_mask_1.png`` … are joined).

    Parameters
    ----------
    root : Path
    card : Card
    report : Report
    images, masks : str
        Folders below ``root``; where ``images`` does not exist, ``root`` itself is read.
    labels : str
        Table below ``root`` with columns id, label and group, if there is one.

    Returns
    -------
    list of Record
        Without a table every label is ``unknown`` and each image its own group.

    Raises
    ------
    DatasetError
        If there is no image, an image has no mask, or the table has no column id.
    """
    home = root / images if (root / images).is_dir() else root
    drawn = root / masks if (root / masks).is_dir() else home
    files = {file.stem: file for file in _pictures(home)}
    pool = {file.stem: file for file in _pictures(drawn)}
    if not files:
        raise DatasetError(
            f"{root} holds no picture: put images into {images}/ and masks of the same name into {masks}/, "
            "or name other folders with images= and masks=."
        )
    about: dict[str, dict[str, str]] = {}
    if (root / labels).is_file():
        table = pd.read_csv(root / labels, dtype=str, encoding="utf-8-sig").fillna("")
        if "id" not in table.columns:
            raise DatasetError(f"{root / labels} has no column 'id'; it takes columns id, label and group.")
        about = {Path(row["id"]).stem: row for row in table.to_dict("records")}
    apart = drawn != home
    own: dict[str, list[Path]] = {}
    for stem in files:
        names = [form.format(stem) for form in _MASK_FORMS if apart or form != "{}"]
        own[stem] = [pool[name] for name in names if name in pool]
        own[stem] += [
            pool[name]
            for form in _MASK_FORMS[1:]
            for number in range(1, 10)
            if (name := f"{form.format(stem)}_{number}") in pool
        ]
    taken = {mask.stem for found in own.values() for mask in found} if not apart else set()
    records = []
    for stem, file in files.items():
        if stem in taken:
            continue
        row = about.get(stem, {})
        label = row.get("label", "").strip().lower() or "unknown"
        if label not in LABELS:
            raise DatasetError(f"{root / labels}: label {label!r} of {stem} is none of {', '.join(LABELS)}.")
        if not own[stem] and label != "normal":
            report.fail(
                "missing mask",
                file,
                f"{file} has no mask: put one of the same name into {masks}/, or {stem}_mask.png beside it.",
            )
            continue
        records.append(Record(stem, file, tuple(own[stem]), label, row.get("group") or stem, card.key))
    return records


READERS: dict[str, Callable[..., list[Record]]] = {
    "busi": read_busi,
    "bus-bra": read_bus_bra,
    "bus-uclm": read_bus_uclm,
    "breast": read_breast,
    "udiat": read_udiat,
    "stu": read_stu,
    "oasbud": read_oasbud,
    "bus-uc": read_bus_uc,
    "folder": read_folder,
}
