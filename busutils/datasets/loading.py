"""Find, open and load image sets by a key or a description such as ``phantom?scanner=portable&n=60``."""

from __future__ import annotations

import inspect
import os
import urllib.parse
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from busutils.datasets import readers
from busutils.datasets.adopt import load_adopted
from busutils.datasets.catalogue import CARDS, adopted_table, card, data_dir
from busutils.datasets.lesions import LesionDataset
from busutils.datasets.phantoms import load_phantoms
from busutils.datasets.reports import Report
from busutils.io import DatasetError, DatasetWarning

# Options whose values are names or paths, whatever they look like.
_TEXT = ("root", "name", "images", "masks", "labels")


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
        like one, but for names and paths (root, name, images, masks, labels), which stay text.

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
        # In a web address a plus is a space; in a path it is a plus.
        query = query.replace("+", "%2B")
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise DatasetError(f"{spec!r} is not a data set: write it as 'phantom?scanner=portable&n=60'.") from None
    options = {name: text if name in _TEXT else _value(text) for name, text in pairs}
    return key.strip().lower().replace("_", "-"), options


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
    if about.key == "folder":
        how = "name the folder that holds the images with root="
    elif not root and (os.environ.get("BUSUTILS_DATA_DIR") or data_dir().is_dir()):
        root = data_dir()
    if not root:
        raise DatasetError(f"no data folder is known for {about.title}: {how}.")
    where = Path(root).expanduser()
    if not where.is_dir():
        raise DatasetError(f"{where} is not a folder: {how}.")
    published = [where / name for name in (about.folder, *about.aliases) if name and (where / name).is_dir()]
    found = published[0] if published else where
    if not any(found.iterdir()):
        raise DatasetError(f"{found} is empty: {how}.")
    return found


def load(key: str, root: str | os.PathLike | None = None, **options) -> LesionDataset:
    """Load an image set.

    Parameters
    ----------
    key : str
        A key of ``CARDS``, or a key with options: ``"phantom?scanner=portable&n=60"``.
    root : path, optional
        Folder that holds the published folders (``Dataset_BUSI_with_GT/``, ``BUSBRA/`` …), or the published
        folder itself; by default the environment variable ``BUSUTILS_DATA_DIR``. Simulated images need none.
    **options
        Options of the set; they override those in ``key``. Every set takes a ``root`` and a ``name`` for tables; the name
        of a folder of your own also distinguishes it from other folders: ``"folder?root=/scans/clinic&name=clinic"``.

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
    report = Report()
    dataset, _ = open_set(key, report, root=root, **options)
    for message in dataset.warnings:
        warnings.warn(message, DatasetWarning, stacklevel=2)
    return dataset


def open_set(key: str, report: Report, **options: Any) -> tuple[LesionDataset, Path]:
    """Open a set; a strict report raises the first fatal problem, another one collects all.

    Parameters
    ----------
    key : str
        As for :func:`load`.
    report : Report
    **options
        ``root`` and the options of the set; those that are None are left to ``key``.

    Returns
    -------
    dataset : LesionDataset
    folder : Path
        Where its files are.

    Raises
    ------
    DatasetError
        As :func:`load`.
    """
    name, in_key = parse_spec(key)
    options = {**in_key, **{option: value for option, value in options.items() if value is not None}}
    root, called = options.pop("root", None), options.pop("name", None)
    about = card(name, root)
    if called is not None and not str(called).strip():
        raise DatasetError("name= is empty: give the set a name, or leave the option out.")
    if about.key == "phantom":
        _check_options(name, load_phantoms, options)
        dataset, folder = load_phantoms(**options), Path()
        dataset.name = str(called or dataset.name)
        return dataset, folder
    if about.key not in CARDS:
        _check_options(name, load_adopted, options, ("table", "name"))
        table = adopted_table(about.key, root)
        return load_adopted(table, str(called or name)), table
    if about.key == "folder" and called in CARDS and called != "folder":
        raise DatasetError(f"name={called} is that of a published set: call your folder something else.")
    called = str(called or name)
    reader = readers.READERS.get(name, readers.read_pairs)
    _check_options(name, reader, options, ("root", "card", "report"))
    folder = find_folder(name, root)
    records = reader(folder, about, report, **options)
    messages = [problem.message for problem in report.problems]
    return LesionDataset(records, name=called, key=called if name == "folder" else name, warnings=messages), folder


def _check_options(key: str, function: Callable, options: Mapping[str, Any], own: tuple[str, ...] = ()) -> None:
    known = [name for name in inspect.signature(function).parameters if name not in own]
    for option in options:
        if option not in known:
            raise DatasetError(f"{key} has no option {option!r}; it takes {', '.join(['root', 'name', *known])}.")
