"""Readers of folder layouts: files in, records out. Nothing is decoded here but headers.

A set that only pairs images with masks needs no function of its own: its card declares the layout (`Pairs`), and
:func:`read_pairs` reads it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from busutils.datasets import splits
from busutils.datasets.catalogue import Card
from busutils.datasets.lesions import LABELS, Record
from busutils.datasets.oasbud import read_oasbud
from busutils.datasets.reports import Report, count_images, not_this_set
from busutils.datasets.tables import find_labels, name_some, number_key, read_labels, read_xlsx
from busutils.io import DatasetError, open_picture, picture_size

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_LOSSY = (".jpg", ".jpeg", ".webp")


def pictures(folder: Path) -> list[Path]:
    """Pictures of a folder, 2 before 10; none where there is no such folder."""
    if not folder.is_dir():
        return []
    found = (file for file in folder.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith("."))
    return sorted(found, key=lambda file: number_key(file.name))


def _with_shipped_groups(records: list[Record], key: str) -> list[Record]:
    shipped = splits.shipped_folds(key)
    groups = {} if shipped is None else shipped["group"].to_dict()
    return [replace(record, group=groups.get(record.id, record.group)) for record in records]


def _inside(root: Path, *names: str, depth: int = 3) -> Path | None:
    """Find the nearest folder at or below ``root`` that holds all of ``names``."""
    level = [root]
    for _ in range(depth + 1):
        for folder in level:
            if all((folder / name).exists() for name in names):
                return folder
        level = sorted(child for folder in level if folder.is_dir() for child in folder.iterdir() if child.is_dir())
    return None


def _join_doubles(records: list[Record], report: Report) -> list[Record]:
    """Join the groups of records whose image files are the same byte for byte."""
    by_size: dict[int, list[Record]] = {}
    for record in records:
        by_size.setdefault(Path(str(record.image)).stat().st_size, []).append(record)
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
            digest = hashlib.sha256(Path(str(record.image)).read_bytes()).digest()
            other = first.setdefault(digest, record)
            if other is not record:
                doubled.append(f"{other.id} = {record.id}")
                if final(other.group) != final(record.group):
                    renamed[final(record.group)] = final(other.group)
    if doubled:
        report.warn(
            "doubled image",
            doubled[0],
            f"{len(doubled)} images occur twice ({name_some(doubled)}); their groups are joined, so that no "
            "split can part them.",
        )
    return [replace(record, group=final(record.group)) for record in records]


class _Pair(NamedTuple):
    id: str
    image: Path
    mask: Path
    label: str


def _find_pairs(root: Path, card: Card, report: Report) -> tuple[Path, list[_Pair]]:
    """The folder that a declared layout begins in, and its pairs of image and mask."""
    layout = card.pairs
    assert layout is not None
    classes = layout.classes or {"": "unknown"}
    home = _inside(root, *(filter(None, (layout.images, layout.masks)) if not layout.classes else classes))
    if home is None and layout.unlabelled and (home := _inside(root, layout.unlabelled)):
        classes = {layout.unlabelled: "unknown"}
        wanted = ", ".join(layout.classes)
        report.warn("missing folder", home, f"{home} holds {layout.unlabelled} but not {wanted}; labels are unknown.")
    files = [
        (file, match, home / folder / layout.masks, label)
        for folder, label in classes.items()
        if home
        for file in pictures(home / folder / layout.images)
        if (match := re.fullmatch(layout.image, file.stem))
    ]
    if home is None or not files:
        raise not_this_set(root, card)
    masks = {place: {file.stem: file for file in pictures(place)} for place in {place for *_, place, _ in files}}
    twice = len({file.stem for file, *_ in files}) < len(files)
    pairs = []
    for file, match, place, label in files:
        mask = masks[place].get(match.expand(layout.mask))
        if mask is None:
            report.no_mask(file, f"{place / match.expand(layout.mask)}.png should be there")
        else:
            pairs.append(_Pair(f"{label}-{file.stem}" if twice else file.stem, file, mask, label))
    return home, pairs


def read_pairs(root: Path, card: Card, report: Report) -> list[Record]:
    """Read a set by the layout that its card declares: one mask an image.

    Parameters
    ----------
    root : Path
        Published folder, or one that holds it.
    card : Card
        With ``pairs``.
    report : Report

    Returns
    -------
    list of Record
        Labels by class folder, or from a list beside the images. Groups as shipped; elsewhere every image is its own, and
        images whose files are equal share one.

    Raises
    ------
    DatasetError
        If the folder is another set, or an image has no mask.
    """
    home, pairs = _find_pairs(root, card, report)
    listed = card.pairs is not None and card.pairs.listed
    labels = find_labels([home, root, home.parent], {pair.id for pair in pairs}) if listed else {}
    if listed and not labels:
        report.warn(
            "missing table",
            home,
            f"{home}: no list of classes (a workbook, or a csv with name and class) lies beside the images; labels are "
            "unknown.",
        )
    records = [
        Record(pair.id, pair.image, (pair.mask,), labels.get(pair.id, pair.label), pair.id, card.key) for pair in pairs
    ]
    count_images(records, card, report)
    if splits.shipped_folds(card.key) is not None:
        return _with_shipped_groups(records, card.key)
    return _join_doubles(records, report)


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
        for file in pictures(root / label):
            match = form.match(file.name)
            if match is None:
                report.warn("unknown file", file, f"{file} does not follow BUSI's naming and is left out.")
            elif match[3]:
                masks.setdefault(f"{match[1].lower()} ({match[2]})", []).append(file)
            else:
                images[f"{match[1].lower()} ({match[2]})"] = file
    if not images:
        raise not_this_set(root, card)
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
    count_images(records, card, report)
    return _with_shipped_groups(records, card.key)


def read_bus_bra(root: Path, card: Card, report: Report) -> list[Record]:
    """Read BUS-BRA: pairs, and a table of cases.

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
    home, pairs = _find_pairs(root, card, report)
    table = home / "bus_data.csv"
    if table.is_file():
        about = pd.read_csv(table, dtype=str).set_index("ID")
    else:
        report.warn("missing table", table, f"{table} is missing; labels and cases come from the shipped folds.")
        shipped = splits.shipped_folds(card.key)
        assert shipped is not None
        about = shipped.rename(columns={"label": "Pathology", "group": "Case"})
    columns = [name for name in ("Histology", "BIRADS", "Device", "Side") if name in about.columns]
    records = []
    for pair in pairs:
        if pair.id not in about.index:
            report.warn("unknown file", pair.image, f"{pair.image} is not listed in {table.name} and is left out.")
            continue
        row = about.loc[pair.id]
        extras = {name.lower(): row[name] for name in columns}
        records.append(
            Record(pair.id, pair.image, (pair.mask,), row["Pathology"], row["Case"], card.key, extras=extras)
        )
    lossy = sum(pair.image.suffix.lower() in _LOSSY for pair in pairs)
    if lossy:
        report.warn("lossy copy", root, f"{root}: {lossy} images are lossy copies; report scores on PNG images.")
    count_images(records, card, report)
    return records


def read_bus_uclm(root: Path, card: Card, report: Report) -> list[Record]:
    """Read BUS-UCLM: pairs with colour-coded masks (green benign, red malignant), a table with ``;``.

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
    home, pairs = _find_pairs(root, card, report)
    about, table = {}, home / "INFO.csv"
    if not table.is_file():
        report.warn("missing table", table, f"{table} is missing; labels come from mask colours.")
    else:
        rows = pd.read_csv(table, sep=";", encoding="utf-8-sig", dtype=str).fillna("").rename(columns=str.strip)
        if {"Image", "Label"} <= set(rows.columns):
            about = {Path(row["Image"].strip()).stem: row for row in rows.to_dict("records")}
        else:
            report.warn(
                "missing table", table, f"{table} has no columns Image and Label; labels come from mask colours."
            )
    records, left_out = [], {}
    for id_, file, mask, _ in pairs:
        row = {name: value.strip() for name, value in about.get(id_, {}).items()}
        label = row.get("Label", "").lower()
        notes = [
            name.lower()
            for name in ("Doppler", "Marks")
            if row.get(name, "").lower() in ("yes", "1", "true", "y", "si", "sí")
        ]
        try:
            if label not in ("benign", "malignant", "normal"):
                label, notes = _label_by_colour(mask), ["label from the colour of the mask", *notes]
            sizes = picture_size(file), picture_size(mask)
        except DatasetError as error:
            report.fail("broken file", file, str(error))
            continue
        if np.abs(np.subtract(*sizes)).max() > 2:
            left_out[id_] = label
            continue
        extras = {name.lower(): row[name] for name in ("Doppler", "Marks") if name in row}
        # The published patients CHCO and CHVI share images: one group.
        patient = id_.split("_")[0]
        group = "CHCO+CHVI" if patient in ("CHCO", "CHVI") else patient
        masks = () if label == "normal" else (mask,)
        records.append(Record(id_, file, masks, label, group, card.key, notes=tuple(notes), extras=extras))
    if left_out:
        report.warn(
            "left out",
            next(iter(left_out)),
            f"{len(left_out)} images have another size than their mask and are left out: {name_some(left_out)}.",
        )
    count_images(records, card, report, left_out.values())
    return _join_doubles(records, report)


def _label_by_colour(mask: Path) -> str:
    """Label of a colour-coded mask: red wins over green, black is normal."""
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
        for file in pictures(home):
            match = form.fullmatch(file.stem)
            if match and match[2]:
                masks.setdefault(f"case{match[1]}", []).append((match[2].lower(), file))
            elif match:
                images[f"case{match[1]}"] = file
        if images:
            break
    if not images:
        raise not_this_set(root, card)
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
    count_images(records, card, report)
    return records


_MASK_FORMS = ("{}_mask", "{}_seg", "{}_gt", "{}_anno", "{}_tumor", "mask_{}", "{}-mask", "{} mask")
_MASK_NAME = re.compile(r"mask_.+|.+[_ -](mask|seg|gt|anno|tumor)(_\d)?")


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
        If there is no image, an image has no mask, two files have one name, or the table does not fit the images.
    """
    home = root / images if (root / images).is_dir() else root
    drawn = root / masks if (root / masks).is_dir() else home
    apart = drawn != home
    files, pool = _by_stem(home), _by_stem(drawn)
    if not files:
        raise DatasetError(
            f"{root} holds no picture (folders below {images}/ are not read): put images into {images}/ and masks of the same "
            f"name into {masks}/, or name other folders with images= and masks=."
        )
    for place in dict.fromkeys((home, drawn)):
        for folder in (child for child in place.iterdir() if child.is_dir() and child not in (home, drawn)):
            if n := len(pictures(folder)):
                report.warn("left out", folder, f"{folder}: {n} pictures of a subfolder are left out.")
    own: dict[str, list[Path]] = {}
    for stem in files:
        names = [stem] * apart + [form.format(stem) for form in _MASK_FORMS]
        names += [f"{form.format(stem)}_{number}" for form in _MASK_FORMS for number in range(1, 10)]
        own[stem] = [pool[name] for name in names if name in pool]
    taken = {mask for found in own.values() for mask in found}
    alone = [file for file in pool.values() if file not in taken] if apart else []
    if not apart:
        alone = [
            file for stem, file in files.items() if not own[stem] and file not in taken and _MASK_NAME.fullmatch(stem)
        ]
    if alone:
        report.warn(
            "missing image",
            alone[0],
            f"{len(alone)} masks without their image are left out: {name_some(file.name for file in alone)}.",
        )
    files = {stem: file for stem, file in files.items() if file not in taken and file not in alone}
    about = read_labels(root / labels, files)
    grouped = any("group" in row for row in about.values())
    unlisted = [stem for stem in files if not about.get(stem, {}).get("group")] if grouped else []
    if unlisted:
        raise DatasetError(
            f"{root / labels} gives no group to {len(unlisted)} images ({name_some(unlisted)}): name the patient of each, so "
            "that no split can part them."
        )
    if about and (unlisted := [stem for stem in files if stem not in about]):
        report.warn(
            "no label", unlisted[0], f"{root / labels} does not list {name_some(unlisted)}: their label is unknown."
        )
    if not grouped:
        report.warn(
            "no groups",
            root,
            f"{root}: no groups are known, so every image is its own group and images of one patient may stand on both sides "
            f"of a split; a column 'group' in {labels} names the patient.",
        )
    records = []
    for stem, file in files.items():
        row = about.get(stem, {})
        label = row.get("label", "").lower() or "unknown"
        if label not in LABELS:
            raise DatasetError(f"{root / labels}: label {label!r} of {stem} is none of {', '.join(LABELS)}.")
        if own[stem] or label == "normal":
            records.append(Record(stem, file, tuple(own[stem]), label, row.get("group") or stem, card.key))
        else:
            where = f"put one of the same name into {masks}/, or {stem}_mask.png beside it."
            report.fail("missing mask", file, f"{file} has no mask: {where}")
    return records


def _by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in pictures(folder):
        other = files.setdefault(file.stem, file)
        if other is not file:
            raise DatasetError(f"{folder}: {other.name} and {file.name} have one name: move or rename one of them.")
    return files


READERS: dict[str, Callable[..., list[Record]]] = {
    "busi": read_busi,
    "bus-bra": read_bus_bra,
    "bus-uclm": read_bus_uclm,
    "breast": read_breast,
    "oasbud": read_oasbud,
    "folder": read_folder,
}
