"""Long work in steps that can be stopped and resumed.

The result of a step is kept in a file that is named by a hash of the **content and code** that went into it. Running the
same step again finds the file; an interrupted step leaves nothing half-written behind and starts anew. Steps run on the
cores of one machine (joblib) or on the workers of a Dask cluster.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import functools
import hashlib
import inspect
import itertools
import json
import math
import os
import sys
import uuid
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

import joblib
import numpy as np
import pandas as pd
import platformdirs
from tqdm import tqdm

__all__ = ["atomic_path", "cache_dir", "code_key", "content_key", "environment", "in_order", "peak_memory_mb", "run"]

_MISSING = "\\N"


def cache_dir() -> Path:
    """Folder of everything that can be computed anew: ``BUSUTILS_CACHE_DIR``, or the system's cache folder.

    Returns
    -------
    pathlib.Path
        It may not exist yet.
    """
    chosen = os.environ.get("BUSUTILS_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("busutils", appauthor=False))


def peak_memory_mb() -> float:
    """Largest memory that this process has held so far.

    Returns
    -------
    float
        MB; NaN where the system does not say (Windows).
    """
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path` and move it there when the block ends well; else remove it.

    Parameters
    ----------
    path : path-like
        The file to be written. Its folder is made.

    Yields
    ------
    pathlib.Path
        A path in the same folder with the same suffix, to be written by the block.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("whole or not at all")
    >>> target.read_text()
    'whole or not at all'
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, and not a file to write", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the length of a block; programs that it starts inherit them.

    Parameters
    ----------
    variables : mapping of str
        Values by name.

    Examples
    --------
    >>> with environment({"BUSUTILS_EXAMPLE": "1"}):
    ...     os.environ["BUSUTILS_EXAMPLE"]
    '1'
    >>> "BUSUTILS_EXAMPLE" in os.environ
    False
    """
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


def content_key(*parts: Any) -> str:
    """Hash of values: equal content, equal key, in every process and on every machine.

    Parameters
    ----------
    *parts
        Numbers, strings, ``None``, NumPy arrays, estimators (their parameters and the code of their class), paths (what
        the file holds, not its name), and sequences and mappings of these.

    Returns
    -------
    str
        40 hexadecimal digits.

    Raises
    ------
    TypeError
        For a value whose content cannot be read, such as a function: see :func:`code_key`.
    OSError
        If a path does not exist.

    Examples
    --------
    >>> content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    True
    >>> content_key(1) == content_key("1")
    False
    """
    digest = hashlib.sha256()
    _feed(digest, parts)
    return digest.hexdigest()[:40]


def _feed(digest: Any, value: Any) -> None:
    # Every value is fed with its type and, where it has one, its length, so that different content never runs together.
    if value is None or isinstance(value, bool | int | float | str | np.bool_ | np.integer | np.floating):
        value = value.item() if isinstance(value, np.generic) else value
        digest.update(f"{type(value).__name__}:{value!r};".encode())
    elif isinstance(value, bytes):
        digest.update(f"bytes:{len(value)}:".encode() + value)
    elif isinstance(value, os.PathLike):
        _feed(digest, Path(value).read_bytes())
    elif isinstance(value, np.ndarray) and value.dtype == object:
        _feed(digest, value.tolist())
    elif isinstance(value, np.ndarray):
        digest.update(f"array:{value.dtype.str}:{value.shape}:".encode())
        digest.update(np.ascontiguousarray(value).data if value.size else b"")
    elif isinstance(value, Mapping):
        digest.update(f"mapping:{len(value)}:".encode())
        for name in sorted(value, key=str):
            _feed(digest, name)
            _feed(digest, value[name])
    elif isinstance(value, Sequence):
        digest.update(f"sequence:{len(value)}:".encode())
        for item in value:
            _feed(digest, item)
    elif hasattr(value, "get_params"):
        digest.update(f"estimator:{type(value).__qualname__}:{code_key(type(value))}:".encode())
        _feed(digest, value.get_params())
    else:
        raise TypeError(f"cannot make a content key of a {type(value).__name__}: give its parameters instead")


def code_key(step: Callable[..., Any] | type) -> str:
    """Hash of the code that a function or class depends on; comments and docstrings do not count.

    Parameters
    ----------
    step : callable or type
        A function, a :func:`functools.partial` of one, or a class.

    Returns
    -------
    str
        Of its module, and of the modules of this package, of its own package and beside it that are imported from there.

    Examples
    --------
    >>> code_key(content_key) == code_key(atomic_path)
    True
    """
    while isinstance(step, functools.partial):
        step = step.func
    parts: Sequence[Any] = step.__mro__ if isinstance(step, type) else [step]
    digest, files = hashlib.sha256(), set[Path]()
    for part in parts:
        if part.__module__.split(".")[0] in ("builtins", "sklearn"):
            continue
        file = Path(getattr(sys.modules.get(part.__module__), "__file__", None) or "")
        if file.is_file():
            files |= _files_behind(file, part.__module__)
        else:  # typed into a notebook
            functions = vars(part).values() if isinstance(part, type) else [part]
            typed = [_instructions(f.__code__) for f in functions if inspect.isfunction(f)]
            digest.update(repr(typed).encode())
    for file in sorted(files):
        digest.update(_without_remarks(file.read_bytes()))
    return digest.hexdigest()[:40]


def _instructions(code: CodeType) -> tuple[Any, ...]:
    constants = [_instructions(value) if isinstance(value, CodeType) else value for value in code.co_consts]
    return code.co_code, code.co_names, constants


def _files_behind(file: Path, name: str) -> set[Path]:
    """File of a module and of all that it imports, directly or not, from this package, its own package or beside it."""
    top, *inner = name.split(".")
    own_top = (file.parent if file.name == "__init__.py" else file.with_suffix("")).parents[len(inner)] / top
    own = {top: own_top, __package__: Path(__file__).parent}
    found, todo = set[Path](), [file]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        found.add(file)
        for wanted in _imports(file.read_bytes()):
            top, *inner = wanted.split(".")
            place = own.get(top, file.parent / top).joinpath(*inner)
            todo += [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
    return found


@functools.cache
def _imports(source: bytes) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


@functools.cache
def _without_remarks(source: bytes) -> bytes:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return ast.dump(tree).encode()


def _write(path: Path, result: Any) -> None:
    with atomic_path(path) as temporary:
        if path.suffix == ".json":
            temporary.write_text(json.dumps(result, indent=1))
        elif path.suffix == ".csv":
            types = [f"{name}|{kind}" for name, kind in result.dtypes.items()]
            result.to_csv(temporary, index=False, header=types, na_rep=_MISSING)
        else:
            np.savez_compressed(temporary, **result)


def _read(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".csv":
        columns = [name.rpartition("|") for name in pd.read_csv(path, nrows=0)]
        types = {name: kind for name, _, kind in columns}
        options = {"keep_default_na": False, "na_values": [_MISSING]}
        return pd.read_csv(path, header=0, names=list(types), dtype=types, **options)
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def run(
    name: str,
    step: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    parts: Any = None,
    suffix: str = ".json",
    folder: str | os.PathLike[str] | None = None,
    n_jobs: int = 1,
    client: Any = None,
    progress: bool = False,
) -> list[Any]:
    """Apply a step to every item, over processes or a Dask cluster, and keep the results, so that a rerun resumes.

    Parameters
    ----------
    name : str
        What the step is called.
    step : callable
        A function of one item. With several processes or a cluster it must be importable.
    items : iterable
        The items; their content and the code of `step` name the results, see :func:`content_key` and :func:`code_key`.
    parts : Any, optional
        Further content on which the results depend, such as options bound into `step`.
    suffix : {".json", ".csv", ".npz"}
        The kind of result: plain values, a data frame, or a mapping of arrays.
    folder : path-like, optional
        Where results are kept; ``jobs`` in :func:`cache_dir` by default.
    n_jobs : int, default 1
        Processes on this machine; -1 for all cores.
    client : distributed.Client, optional
        Runs the steps on a Dask cluster instead. Kept results are written on this machine.
    progress : bool, default False
        Show a progress bar with the time left.

    Returns
    -------
    list
        One result an item, in order. A kept result is read back from its file, so that the first and every later call
        return the same.

    Raises
    ------
    ValueError
        If `suffix` is none of the three.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first = run("square", lambda x: x * x, [3], folder=folder)
    ...     again = run("square", lambda x: 1 / 0, [3], folder=folder)
    >>> first, again
    ([9], [9])
    """
    if suffix not in (".json", ".csv", ".npz"):
        raise ValueError(f"suffix must be one of .json, .csv, .npz, got {suffix!r}")
    items = list(items)
    folder, code = Path(folder or cache_dir() / "jobs"), code_key(step)
    paths = [folder / f"{name}-{content_key(code, parts, item)[:20]}{suffix}" for item in items]
    results: dict[int, Any] = {}
    for index, path in enumerate(paths):
        # A missing or damaged file counts as not done.
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
            results[index] = _read(path)
    todo = [(index, items[index]) for index in range(len(items)) if index not in results]
    with tqdm(total=len(items), initial=len(results), desc=name, disable=not progress) as bar:
        for index, result in _map(step, todo, n_jobs, client):
            _write(paths[index], result)
            results[index] = _read(paths[index])
            bar.update()
    return [results[index] for index in range(len(items))]


def in_order(
    submit: Callable[..., Any], step: Callable[[Any], Any], items: Iterable[Any], *, ahead: Callable[[], int]
) -> Generator[Any]:
    """Apply a step to a stream of items, several at a time, and give the results in the stream's order.

    No more than a few items and results exist at once, however long the stream is.

    Parameters
    ----------
    submit : callable
        Starts a step: the method of that name of an executor of ``concurrent.futures`` or of a ``distributed.Client``.
    step : callable
        A function of one item.
    items : iterable
        Taken when there is room.
    ahead : callable
        How many steps may be under way or waiting for the one before them; asked anew for every result.

    Yields
    ------
    Any
        One result an item.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(in_order(pool.submit, abs, [-3, 2, -1], ahead=lambda: 2))
    [3, 2, 1]
    """
    todo, started = iter(items), deque[Any]()
    try:
        while True:
            room = max(0, max(1, ahead()) - len(started))
            started.extend(submit(step, item) for item in itertools.islice(todo, room))
            if not started:
                return
            yield started.popleft().result()
    finally:
        for future in started:
            future.cancel()


def _numbered(step: Callable[[Any], Any], index: int, item: Any) -> tuple[int, Any]:
    return index, step(item)


def _map(
    step: Callable[[Any], Any], numbered: list[tuple[int, Any]], n_jobs: int, client: Any
) -> Iterator[tuple[int, Any]]:
    if client is not None:
        from distributed import as_completed

        futures = [client.submit(_numbered, step, index, item, pure=False) for index, item in numbered]
        yield from (future.result() for future in as_completed(futures))
    else:
        parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")
        yield from parallel(joblib.delayed(_numbered)(step, index, item) for index, item in numbered)
