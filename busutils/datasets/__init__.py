"""Breast-ultrasound image sets: fetched, checked, audited, split without leaks.

>>> from busutils import datasets
>>> len(datasets.load("phantom", n=4, size=64))
4
"""

from __future__ import annotations

import inspect
import os
import urllib.parse
import warnings
from pathlib import Path

from busutils.datasets import readers
from busutils.datasets.audit import AuditReport, audit
from busutils.datasets.cache import cache_dir, cache_info, clear_cache
from busutils.datasets.catalogue import CARDS, Card, card
from busutils.datasets.fetch import data_dir, fetch
from busutils.datasets.inspection import CheckReport, catalogue_table, check, info
from busutils.datasets.lesions import LABELS, LesionDataset, Record, concatenate, read_record
from busutils.datasets.phantoms import load_phantoms, write_phantoms
from busutils.datasets.splits import LeakError, check_no_leak, grouped_folds, shipped_folds
from busutils.io import (
    DatasetError,
    DatasetWarning,
    PixelSource,
    read_image,
    read_mask,
    resize_image,
    resize_map,
    resize_mask,
)

__all__ = [
    "CARDS",
    "LABELS",
    "AuditReport",
    "Card",
    "CheckReport",
    "DatasetError",
    "DatasetWarning",
    "LeakError",
    "LesionDataset",
    "PixelSource",
    "Record",
    "audit",
    "cache_dir",
    "cache_info",
    "card",
    "catalogue_table",
    "check",
    "check_no_leak",
    "clear_cache",
    "concatenate",
    "data_dir",
    "fetch",
    "find_folder",
    "grouped_folds",
    "info",
    "keys",
    "load",
    "load_phantoms",
    "parse_spec",
    "read_image",
    "read_mask",
    "read_record",
    "read_records",
    "resize_image",
    "resize_map",
    "resize_mask",
    "shipped_folds",
    "write_phantoms",
]


def keys() -> tuple[str, ...]:
    """List the keys that :func:`load` understands.

    Returns
    -------
    tuple of str
    """
    return tuple(CARDS)


def _value(text: str) -> int | float | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_spec(spec: str) -> tuple[str, dict[str, int | float | bool | str]]:
    """Split ``key?option=value&…`` into key and options.

    Parameters
    ----------
    spec : str
        A key, or a key with options as in a web address; values become int, float or bool where they look
        like one.

    Returns
    -------
    key : str
    options : dict

    Raises
    ------
    DatasetError
        If an option has no value.

    Examples
    --------
    >>> parse_spec("phantom?scanner=portable&n=60")
    ('phantom', {'scanner': 'portable', 'n': 60})
    """
    key, _, query = str(spec).partition("?")
    try:
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise DatasetError(f"{spec!r} is not a data set: write it as 'phantom?scanner=portable&n=60'.") from None
    return key.strip().lower().replace("_", "-"), {name: _value(text) for name, text in pairs}


def find_folder(key: str, root: str | os.PathLike | None = None) -> Path:
    """Find the published folder of a set.

    Parameters
    ----------
    key : str
    root : path, optional
        Folder that holds the published folders, or the published folder itself; by default
        ``BUSUTILS_DATA_DIR``.

    Returns
    -------
    Path

    Raises
    ------
    DatasetError
        If there is no such folder; the message says what to do.
    """
    about = card(key)
    how = f"fetch it with 'busutils datasets fetch {about.key}', or name the folder with root= or BUSUTILS_DATA_DIR"
    where = root
    if about.key == "folder":
        how = "name the folder that holds the images with root="
    else:
        where = root or os.environ.get("BUSUTILS_DATA_DIR") or (data_dir() if data_dir().is_dir() else None)
    if not where:
        raise DatasetError(f"no data folder is known for {about.title}: {how}.")
    where = Path(where).expanduser()
    if not where.is_dir():
        raise DatasetError(f"{where} is not a folder: {how}.")
    if not any(where.iterdir()):
        raise DatasetError(f"{where} is empty: {how}.")
    for name in filter(None, (about.folder, *about.aliases)):
        found = where / name
        if found.is_dir():
            if not any(found.iterdir()):
                raise DatasetError(f"{found} is empty: {how}.")
            return found
    return where


def _check_options(key: str, function, options: dict, own: tuple[str, ...]) -> None:
    known = [name for name in inspect.signature(function).parameters if name not in own]
    unknown = [name for name in options if name not in known]
    if unknown and "options" not in known:
        have = f"it takes {', '.join(known)}" if known else "it takes none"
        raise DatasetError(f"{key} has no option {unknown[0]!r}; {have}.")


def read_records(key: str, folder: Path, report: readers.Report, **options) -> list[Record]:
    """Read a published folder into records, as :func:`load` does, with a report of one's own.

    Parameters
    ----------
    key : str
    folder : Path
        The published folder.
    report : Report
        Collects problems; a strict one raises at the first fatal problem.
    **options
        Options of the set.

    Returns
    -------
    list of Record

    Raises
    ------
    DatasetError
        If an option is unknown, the folder is another set, or (strict) something is missing.
    """
    reader = readers.READERS[key]
    _check_options(key, reader, options, ("root", "card", "report"))
    return reader(folder, card(key), report, **options)


def load(key: str, root: str | os.PathLike | None = None, **options) -> LesionDataset:
    """Load an image set.

    Parameters
    ----------
    key : str
        One of :func:`keys`, or a key with options: ``"phantom?scanner=portable&n=60"``.
    root : path, optional
        Folder that holds the published folders (``Dataset_BUSI_with_GT/``, ``BUSBRA/`` …), or the published
        folder itself; by default the environment variable ``BUSUTILS_DATA_DIR``. Simulated images need none.
    **options
        Options of the set; they win over those in ``key``. A folder of your own takes ``root`` as well, and a ``name``
        that tells it from other folders: ``"folder?root=/scans/clinic&name=clinic"``.

    Returns
    -------
    LesionDataset
        Pixels are read when asked for, not here.

    Raises
    ------
    DatasetError
        If key or option is unknown, the folder is missing, empty or another set, or an image has no mask.

    Warns
    -----
    DatasetWarning
        If something was left out or is missing; also kept in ``LesionDataset.warnings``.
    """
    name, given = parse_spec(key)
    options = {**given, **options}
    root = options.pop("root", root)
    if card(name).key == "phantom":
        _check_options(name, load_phantoms, options, ())
        return load_phantoms(**options)
    called = str(options.pop("name", name)) if card(name).key == "folder" else name
    if called != name and called in CARDS:
        raise DatasetError(f"name={called} is that of a published set: call your folder something else.")
    report = readers.Report()
    records = read_records(name, find_folder(name, root), report, **options)
    messages = [problem.message for problem in report.problems]
    for message in messages:
        warnings.warn(message, DatasetWarning, stacklevel=2)
    return LesionDataset(records, name=called, key=called, warnings=messages)
