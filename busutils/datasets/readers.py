"""Readers of folder layouts: they list files and make records, and decode nothing but headers.

A set of images and mask files needs no function of its own: its card declares the layout (`Pairs`), and
:func:`read_pairs` reads it. A set with a table of cases adds a function that reads the table.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from busutils.datasets import splits
from busutils.datasets.catalogue import Card
from busutils.datasets.lesions import LABELS, Record
from busutils.datasets.oasbud import read_oasbud
from busutils.datasets.reports import Report, count_images, not_this_set
from busutils.datasets.tables import find_labels, name_some, number_key, read_labels, read_xlsx
from busutils.io import DatasetError, picture_size

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

_DEPTH = 3  # folders below the root that are searched for the set


def pictures(folder: Path) -> list[Path]:
    """Pictures of a folder, 2 before 10; none where there is no such folder."""
    if not folder.is_dir():
        return []
    found = (file for file in folder.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith("."))
    return sorted(found, key=lambda file: number_key(file.name))


def _matching(folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """Pictures of a folder whose name matches, each after the first group of the match."""
    for file in pictures(folder):
        if match := re.fullmatch(pattern, file.stem):
            yield match[1], file


def _folders(root: Path) -> Iterator[Path]:
    """The root and the folders below it, nearest first."""
    level = [root]
    for _ in range(_DEPTH + 1):
        yield from level
        level = sorted(child for folder in level for child in folder.iterdir() if child.is_dir())


def _find_pairs(root: Path, card: Card, report: Report) -> tuple[Path, list[Record]]:
    """Find the folder where a declared layout begins, and a record of every image, with the masks that it has."""
    layout = card.pairs
    assert layout is not None
    classes = layout.classes or {"": "unknown"}
    for home in _folders(root):
        images = {folder: dict(_matching(home / folder / layout.images, layout.image)) for folder in classes}
        if any(images.values()):
            break
    else:
        raise not_this_set(root, card)
    records, others = [], []
    for folder, label in classes.items():
        masks: dict[str, list[Path]] = {}
        for key, mask in _matching(home / folder / layout.masks, layout.mask):
            masks.setdefault(key, []).append(mask)
        for key, file in images[folder].items():
            # Files of two class folders may have one name: the class goes in front of names that do not begin with it.
            id_ = file.stem if len(classes) == 1 or file.stem.startswith(label) else f"{label}-{file.stem}"
            records.append(Record(id_, file, tuple(masks.get(key, ())), label, id_, card.key))
        used = {file for record in records for file in (record.image, *record.masks)}
        places = dict.fromkeys((home / folder / layout.images, home / folder / layout.masks))
        others += [file.name for place in places for file in pictures(place) if file not in used]
    if others:
        report.warn(
            f"{home}: {len(others)} pictures are neither an image of this set nor the mask of one and are left out "
            f"({name_some(others)})."
        )
    return home, records


def _with_masks(records: list[Record], report: Report) -> list[Record]:
    """Records that have a mask, or are normal and need none."""
    for record in records:
        if not record.masks and record.label != "normal":
            report.fail(f"{record.image} has no mask: fetch the set again, or take the image out.")
    return [record for record in records if record.masks or record.label == "normal"]


def _join_doubles(records: list[Record], report: Report) -> list[Record]:
    """Join the groups of records whose image files are equal byte for byte."""
    sizes = [Path(str(record.image)).stat().st_size for record in records]
    shared = {size for size, count in Counter(sizes).items() if count > 1}
    first: dict[bytes, int] = {}
    pairs = []
    for place, (record, size) in enumerate(zip(records, sizes, strict=True)):
        if size in shared:
            digest = hashlib.sha256(Path(str(record.image)).read_bytes()).digest()
            pairs.append((first.setdefault(digest, place), place))
    doubled = [f"{records[a].id} = {records[b].id}" for a, b in pairs if a != b]
    if doubled:
        report.warn(f"{len(doubled)} images occur twice ({name_some(doubled)}); their groups are joined.")
    groups = splits.join_groups([record.group for record in records], pairs)
    return [replace(record, group=group) for record, group in zip(records, groups, strict=True)]


def read_pairs(root: Path, card: Card, report: Report) -> list[Record]:
    """Read a set by the layout that its card declares.

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
        Labels come from the class folder or from a list beside the images. Groups are the shipped ones; in other sets
        every image is its own group, and images whose files are equal share one.

    Raises
    ------
    DatasetError
        If the folder is another set, or an image has no mask.
    """
    home, records = _find_pairs(root, card, report)
    if card.pairs is not None and card.pairs.listed:
        labels = find_labels([home, root, home.parent], {record.id for record in records})
        records = [replace(record, label=labels.get(record.id, record.label)) for record in records]
        if not labels:
            report.warn(
                f"{home}: no list of classes (a workbook, or a csv with name and class) lies beside the images; labels are "
                "unknown."
            )
    records = _with_masks(records, report)
    count_images(records, card, report)
    shipped = splits.shipped_folds(card.key)
    if shipped is None:
        return _join_doubles(records, report)
    groups = shipped["group"].to_dict()
    return [replace(record, group=groups.get(record.id, record.group)) for record in records]


def _rows_of(
    records: list[Record], rows: list[dict[str, str]], image: str, label: str, table: Path, report: Report
) -> list[tuple[Record, dict[str, str]]]:
    """Records, labelled, with their rows of a table of cases; images that it does not list are left out.

    `image` and `label` are the columns that name the file and its class.
    """
    names = [Path(row.get(image, "").strip()).stem for row in rows]
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise DatasetError(f"{table} has several rows for {name_some(twice)}: keep one of each.")
    by_id = dict(zip(names, rows, strict=True))
    unlisted = [record.id for record in records if record.id not in by_id]
    if unlisted:
        report.warn(f"{len(unlisted)} images are not listed in {table} and are left out: {name_some(unlisted)}.")
    labels = {record.id: by_id[record.id].get(label, "").strip().lower() for record in records if record.id in by_id}
    odd = [id_ for id_, value in labels.items() if value not in LABELS]
    if odd:
        report.warn(f"{table}: {label} of {len(odd)} images is no known label, so theirs is unknown: {name_some(odd)}.")
        labels.update(dict.fromkeys(odd, "unknown"))
    return [(replace(record, label=labels[record.id]), by_id[record.id]) for record in records if record.id in labels]


def _read_cases(table: Path, columns: tuple[str, ...], *, sep: str = ",") -> list[dict[str, str]]:
    """Rows of a table of cases that must have these columns."""
    try:
        rows = pd.read_csv(table, sep=sep, encoding="utf-8-sig", dtype=str, keep_default_na=False)
        rows = rows.rename(columns=str.strip).apply(lambda column: column.str.strip())
        return rows[[*columns, *rows.columns.difference(columns)]].to_dict("records")  # all columns must be there
    except (OSError, ValueError, KeyError) as err:
        raise DatasetError(f"{table} is missing or no table of cases ({err}): fetch the set again.") from None


def read_bus_bra(root: Path, card: Card, report: Report) -> list[Record]:
    """Read BUS-BRA: pairs, and a table of cases.

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
        If the folder is not BUS-BRA, the table is missing, or an image has no mask.
    """
    home, pairs = _find_pairs(root, card, report)
    table = home / "bus_data.csv"
    rows = _read_cases(table, ("ID", "Pathology", "Case"))
    records = []
    for record, row in _rows_of(pairs, rows, "ID", "Pathology", table, report):
        extras = {name.lower(): row[name] for name in ("Histology", "BIRADS", "Device", "Side") if name in row}
        records.append(replace(record, group=row["Case"], extras=extras))
    records = _with_masks(records, report)
    count_images(records, card, report)
    return records


def read_bus_uclm(root: Path, card: Card, report: Report) -> list[Record]:
    """Read BUS-UCLM: pairs with colour-coded masks, and a table of images.

    Parameters
    ----------
    root : Path
        ``BUS-UCLM``, or a folder that holds it.
    card : Card
    report : Report

    Returns
    -------
    list of Record
        Images whose mask has another size (HESN_*: crops whose position is unknown) are left out.

    Raises
    ------
    DatasetError
        If the folder is not BUS-UCLM, the table is missing, or an image has no mask.
    """
    home, pairs = _find_pairs(root, card, report)
    table = home / "INFO.csv"
    rows = _read_cases(table, ("Image", "Label"), sep=";")
    records, left_out = [], {}
    for record, row in _rows_of(_with_masks(pairs, report), rows, "Image", "Label", table, report):
        try:
            sizes = [picture_size(Path(str(source))) for source in (record.image, *record.masks)]
        except DatasetError as error:
            report.fail(str(error))
            continue
        if np.ptp(sizes, axis=0).max() > 2:
            left_out[record.id] = record.label
            continue
        extras = {name.lower(): row[name] for name in ("Doppler", "Marks") if name in row}
        # The published patients CHCO and CHVI share images: one group.
        patient = record.id.split("_")[0]
        group = "CHCO+CHVI" if patient in ("CHCO", "CHVI") else patient
        masks = () if record.label == "normal" else record.masks
        records.append(replace(record, masks=masks, group=group, extras=extras))
    if left_out:
        report.warn(f"{len(left_out)} images differ in size from their mask and are left out: {name_some(left_out)}.")
    count_images(records, card, report, left_out.values())
    return _join_doubles(records, report)


def read_breast(root: Path, card: Card, report: Report) -> list[Record]:
    """Read BrEaST: images with masks of the tumour and of other lesions, and a workbook of cases.

    Parameters
    ----------
    root : Path
        ``BrEaST-Lesions_USG-images_and_masks``, or the folder that holds it; the workbook lies in either.
    card : Card
    report : Report

    Returns
    -------
    list of Record

    Raises
    ------
    DatasetError
        If the folder is not BrEaST, the workbook is missing, or a lesion image has no mask.
    """
    home, pairs = _find_pairs(root, card, report)
    books = [book for place in (home, root, home.parent) for book in sorted(place.glob("[!~]*.xlsx"))]
    if not books:
        raise DatasetError(
            f"{home} has no workbook of cases beside it ({card.downloads[1].name}): fetch the set again."
        )
    header, *lines = read_xlsx(books[0])
    rows = [dict(zip(header, line, strict=False)) for line in lines]  # empty cells at the end of a line are not stored
    records = []
    for record, row in _rows_of(pairs, rows, "Image_filename", "Classification", books[0], report):
        try:
            side = float(row["Pixel_size"].replace(",", ".")) * 10  # published in centimetres
        except (KeyError, ValueError):
            side = None
        spacing = (side, side) if side else None
        extras = {name.lower(): value for name, value in row.items() if value and not name.endswith("filename")}
        records.append(replace(record, spacing=spacing, extras=extras))
    records = _with_masks(records, report)
    count_images(records, card, report)
    return records


_MASK_FORMS = ("{}_mask", "{}_seg", "{}_gt", "{}_anno", "{}_tumor", "mask_{}", "{}-mask", "{} mask")
_MASK_NAME = re.compile(r"mask_.+|.+[_ -](mask|seg|gt|anno|tumor)(_\d)?")


def read_folder(
    root: Path, card: Card, report: Report, *, images: str = "images", masks: str = "masks", labels: str = "labels.csv"
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
    own = pair_files(home, drawn, report)
    if not own:
        raise DatasetError(
            f"{root} holds no picture (folders below {images}/ are not read): put images into {images}/ and masks of the same "
            f"name into {masks}/, or name other folders with images= and masks=."
        )
    rows = rows_of_folder(root / labels, list(own), report)
    records = []
    for stem, (file, found) in own.items():
        row = rows.get(stem, {})
        label = row.get("label", "").lower() or "unknown"
        if label not in LABELS:
            raise DatasetError(f"{root / labels}: label {label!r} of {stem} is none of {', '.join(LABELS)}.")
        if found or label == "normal":
            records.append(Record(stem, file, found, label, row.get("group") or stem, card.key))
        else:
            where = f"put one of the same name into {masks}/, or {stem}_mask.png beside it."
            report.fail(f"{file} has no mask: {where}")
    return records


def pair_files(home: Path, drawn: Path, report: Report) -> dict[str, tuple[Path, tuple[Path, ...]]]:
    """Images of a folder by name, each with its masks in another folder or beside it.

    Parameters
    ----------
    home, drawn : Path
        Folders of the images and of the masks; they may be the same.
    report : Report
        Gets masks without an image, and pictures of subfolders: they are left out.

    Returns
    -------
    dict of str to (Path, tuple of Path)
        Empty where there is no picture.

    Raises
    ------
    DatasetError
        If two files have one name.
    """
    files, pool = _by_stem(home), _by_stem(drawn)
    if not files:
        return {}
    for folder in sorted({*home.iterdir(), *drawn.iterdir()} - {home, drawn}):
        if n := len(pictures(folder)):
            report.warn(f"{folder}: {n} pictures of a subfolder are left out.")
    own = {}
    for stem in files:
        names = [] if drawn == home else [stem, stem.removesuffix("_0000")]  # nnU-Net numbers the channels of an image
        for form in _MASK_FORMS:
            names += [form.format(stem), *(f"{form.format(stem)}_{number}" for number in range(1, 10))]
        own[stem] = tuple(pool[name] for name in dict.fromkeys(names) if name in pool)
    taken = {mask for found in own.values() for mask in found}
    alone = [
        file
        for stem, file in pool.items()
        if file not in taken and (drawn != home or (not own[stem] and _MASK_NAME.fullmatch(stem)))
    ]
    if alone:
        report.warn(f"{len(alone)} masks without their image are left out: {name_some(file.name for file in alone)}.")
    return {stem: (file, own[stem]) for stem, file in files.items() if file not in taken and file not in alone}


def rows_of_folder(table: Path, ids: list[str], report: Report) -> dict[str, dict[str, str]]:
    """Rows of ``labels.csv`` by id; a table with groups must give every image its group."""
    rows = read_labels(table, ids)
    if any("group" in row for row in rows.values()):
        if unlisted := [id_ for id_ in ids if not rows.get(id_, {}).get("group")]:
            raise DatasetError(
                f"{table} gives no group to {len(unlisted)} images ({name_some(unlisted)}): name the patient of each, so that "
                "no split can part them."
            )
        return rows
    unlisted = [id_ for id_ in ids if id_ not in rows]
    if rows and unlisted:
        report.warn(f"{table} does not list {name_some(unlisted)}: their label is unknown.")
    report.warn(
        f"{table.parent}: no groups are known, so every image is its own group and images of one patient may stand on both "
        f"sides of a split; a column 'group' in {table.name} names the patient."
    )
    return rows


def _by_stem(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in pictures(folder):
        other = files.setdefault(file.stem, file)
        if other is not file:
            raise DatasetError(f"{folder}: {other.name} and {file.name} have one name: move or rename one of them.")
    return files


READERS: dict[str, Callable[..., list[Record]]] = {
    "bus-bra": read_bus_bra,
    "bus-uclm": read_bus_uclm,
    "breast": read_breast,
    "oasbud": read_oasbud,
    "folder": read_folder,
}
