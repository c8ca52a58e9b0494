"""Tables of cases that lie beside the images of a set: workbooks, lists of classes, ``labels.csv``."""

from __future__ import annotations

import functools
import re
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from busutils.io import DatasetError

MAX_TABLE_BYTES = 50_000_000


def name_some(items: Iterable[object], most: int = 6) -> str:
    """The first of some names, and how many more there are."""
    names = [str(item) for item in items]
    return ", ".join(names[:most]) + (f" … and {len(names) - most} more" if len(names) > most else "")


def number_key(name: str) -> tuple:
    """Sort key that puts 2 before 10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def read_xlsx(path: Path) -> list[list[str]]:
    """Read the first sheet of a workbook as text.

    Two sets have one table each as a workbook; that does not justify a dependency.

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
            if sum(info.file_size for info in book.infolist()) > MAX_TABLE_BYTES:
                raise DatasetError(f"{path} is too large for a table of cases; it is not read.")
            shared = []
            if "xl/sharedStrings.xml" in names:
                items = ElementTree.fromstring(book.read("xl/sharedStrings.xml")).iter(f"{main}si")
                shared = ["".join(text.text or "" for text in item.iter(f"{main}t")) for item in items]
            sheets = sorted((n for n in names if re.fullmatch(r"xl/worksheets/[^/]+\.xml", n)), key=number_key)
            sheet = ElementTree.fromstring(book.read(sheets[0]))
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, IndexError, OSError) as err:
        raise DatasetError(f"{path} is not a workbook that can be read ({err}); fetch it again.") from None
    rows = []
    for line in sheet.iter(f"{main}row"):
        row: list[str] = []
        for cell in line.iter(f"{main}c"):
            letters = re.sub(r"[^A-Z].*", "", cell.get("r", ""))
            column = functools.reduce(lambda n, letter: 26 * n + ord(letter) - 64, letters, 0) or len(row) + 1
            row.extend([""] * (column - len(row)))
            value = cell.find(f"{main}v")
            if cell.get("t") == "inlineStr":
                row[column - 1] = "".join(text.text or "" for text in cell.iter(f"{main}t"))
            elif value is not None and value.text is not None:
                row[column - 1] = shared[int(value.text)] if cell.get("t") == "s" else value.text
        rows.append(row)
    return rows


def find_labels(places: list[Path], ids: set[str]) -> dict[str, str]:
    """Labels by id from a workbook, csv or text that names images and classes in its rows, in whatever columns."""
    for place in dict.fromkeys(places):
        for file in sorted(file for file in place.iterdir() if file.suffix in (".xlsx", ".csv", ".txt")):
            if file.stat().st_size > MAX_TABLE_BYTES:
                continue
            if file.suffix == ".xlsx":
                rows = read_xlsx(file)
            else:
                rows = [re.split(r"[,;\t ]+", line) for line in file.read_text("utf-8-sig", "replace").splitlines()]
            found = {}
            for row in rows:
                cells = [cell.strip() for cell in row]
                kinds = [cell.lower() for cell in cells if cell.lower() in ("benign", "malignant")]
                names = [Path(cell).stem for cell in cells] + [cell.zfill(6) for cell in cells if cell.isdigit()]
                name = next((name for name in names if name in ids), None)
                if kinds and name:
                    found[name] = kinds[0]
            if found:
                return found
    return {}


def read_labels(file: Path, ids: Collection[str]) -> dict[str, dict[str, str]]:
    """Read ``labels.csv``: columns id, label and group, one row an image.

    Parameters
    ----------
    file : Path
    ids : collection of str
        Images of the set. A row's id is one of them, or the file name of one.

    Returns
    -------
    dict of str to dict of str
        Row by id; empty where there is no such file.

    Raises
    ------
    DatasetError
        If the file is no such table, or a row belongs to no image or to one that has a row already.
    """
    if not file.is_file():
        return {}
    try:
        table = pd.read_csv(file, dtype=str, encoding="utf-8-sig", keep_default_na=False)
    except ValueError as err:  # of pandas, or a wrong encoding
        raise DatasetError(f"{file} is not a CSV table in UTF-8 with columns id, label and group ({err}).") from None
    table.columns = [str(name).strip().lower() for name in table.columns]
    if "id" not in table.columns:
        raise DatasetError(f"{file} has no column 'id'; it takes columns id, label and group.")
    if unknown := set(table.columns) - {"id", "label", "group"}:
        raise DatasetError(f"{file} has a column {min(unknown)!r}; it takes id, label and group: rename or remove it.")
    rows: dict[str, dict[str, str]] = {}
    unmatched = []
    for row in table.to_dict("records"):
        name = row["id"].strip()
        id_ = next((id_ for id_ in (row["id"], name, re.sub(r"\.[A-Za-z]{3,4}$", "", name)) if id_ in ids), None)
        if id_ is None:
            unmatched.append(row["id"])
        elif id_ in rows:
            raise DatasetError(f"{file} has two rows for {id_}: remove one.")
        else:
            rows[id_] = {column: value.strip() for column, value in row.items()}
    if unmatched:
        raise DatasetError(
            f"{file} lists {len(unmatched)} images that are not there ({name_some(unmatched)}): an id is the name of an image "
            "file, letter by letter, with or without its suffix."
        )
    return rows
