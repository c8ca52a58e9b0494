"""The record of a folder of predictions: what its runs have read and written.

A run uses it to skip inputs that are done, to segment inputs again that changed, and never to overwrite a file that no
run wrote.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from busutils import jobs
from busutils.errors import BusutilsError
from busutils.predict.measure import COLUMNS, Prediction

__all__ = ["RECORD", "TABLE", "PredictError", "Record", "Source", "only_run"]

logger = logging.getLogger(__name__)

TABLE, RECORD = "predictions.csv", "predictions.jsonl"
_RESULT = re.compile(r"(.+?)(_f\d{4,})?_(mask|overlay)\.png")


class PredictError(BusutilsError):
    """A request for predictions that cannot be met, and why."""


@dataclasses.dataclass
class Source:
    """An input file, as it was when it was read, and what was made of it.

    Attributes
    ----------
    path : str
        Absolute.
    version : list of int
        Size in bytes and time of the last change; empty if the file is missing.
    file : str
        The file as the caller named it.
    name : str
        Of its results: ``<name>_mask.png``, or for frames ``<name>_f0001_mask.png`` and so on.
    lines : list of str
        Its rows of the table.
    outputs : dict of str
        Hash of the content of each written file, by its name.
    done : bool
        Whether the whole file was segmented.
    """

    path: str
    version: list[int]
    file: str = ""
    name: str = ""
    lines: list[str] = dataclasses.field(default_factory=list)
    outputs: dict[str, str] = dataclasses.field(default_factory=dict)
    done: bool = False

    @classmethod
    def of(cls, file: str | os.PathLike[str]) -> Source:
        """Read path, size and time of the last change of an input file."""
        version = []
        with contextlib.suppress(OSError, ValueError):  # reading the file reports why it cannot be used
            status = os.stat(file)
            version = [status.st_size, status.st_mtime_ns]
        return cls(os.path.abspath(file), version, os.fspath(file))


def _line(values: Iterable[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


class Record:
    """``predictions.jsonl`` beside the table ``predictions.csv``.

    It has a line with the settings, and for each input a line when it is begun, a line for each image *before* that
    image's files are written, and for a clip a line when it is done. A file whose content has a hash in the record was
    written by a run, even if that run was killed.

    Parameters
    ----------
    out : Path
        The folder.

    Attributes
    ----------
    settings : dict
        What made the predictions; empty if there are none.
    sources : dict of Source
        By path.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.settings: dict[str, str] = {}
        self.sources: dict[str, Source] = {}
        # All that runs have ever written: names of files with hashes of their content, and lines of the table.
        self._files = set[tuple[str, str]]()
        self._lines = {_line(COLUMNS)}
        source = Source("", [])
        record = out / RECORD
        for text in record.read_bytes().split(b"\n") if record.exists() else ():
            try:
                event = dict(json.loads(text))
            except (ValueError, TypeError):  # cut off by a kill
                continue
            self.settings |= event.get("settings", {})
            if "path" in event:
                source = self.sources[event["path"]] = Source(**event)
            if "line" in event:
                source.lines.append(event["line"])
                source.outputs |= event["outputs"]
                self._lines.add(event["line"])
                self._files |= set(event["outputs"].items())
            source.done |= event.get("done", False)

    # -- before a run ----------------------------------------------------------------------------------------

    def has(self, source: Source, overlay: bool) -> bool:
        """Whether an unchanged input is done and its results are there, even if somebody edited them since.

        An empty file, as a power failure may leave, counts as missing.

        Parameters
        ----------
        source : Source
        overlay : bool
            Whether it should have overlays.

        Returns
        -------
        bool
        """
        known = self.sources.get(source.path)
        if known is None or not known.done or known.version != source.version:
            return False
        if overlay and len(known.outputs) < 2 * len(known.lines):
            return False
        needed = [name for name in known.outputs if overlay or name.endswith("_mask.png")]
        if not all((self.out / name).is_file() and (self.out / name).stat().st_size for name in needed):
            return False
        for name in needed:
            if not self._is_own(name):
                logger.warning("%s was changed after it was written, and is kept as it is", self.out / name)
        return True

    def _is_own(self, name: str) -> bool:
        """Whether a file is as a run wrote it, or an empty rest of that."""
        content = (self.out / name).read_bytes()
        return (name, _hash(content)) in self._files or (not content and name in dict(self._files))

    def check(self, names: set[str]) -> None:
        """Refuse to overwrite what no run wrote.

        Parameters
        ----------
        names : set of str
            Of the results that are to be made.

        Raises
        ------
        PredictError
            If one of their files, or the table, was written or changed by anything else.
        """
        present = [name for name in (TABLE, RECORD) if (self.out / name).exists()]
        if present and not self.settings:
            raise PredictError(f"{self.out / present[0]} is not from this version of predict: give another --out")
        if TABLE in present:
            *lines, last = (self.out / TABLE).read_bytes().decode(errors="replace").replace("\r\n", "\n").split("\n")
            if not self._lines.issuperset(lines) or not any(line.startswith(last) for line in self._lines):
                raise PredictError(f"{self.out / TABLE} was changed after it was written: move it elsewhere first")
        wanted = {name.casefold() for name in names}
        for name in sorted(os.listdir(self.out)):
            result = _RESULT.fullmatch(name.casefold())
            if result and result[1] in wanted and not self._is_own(name):
                raise PredictError(
                    f"{self.out / name} was not written by predict, or changed since, and would be overwritten: "
                    "give another --out"
                )

    # -- during a run ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, settings: Mapping[str, str], todo: Iterable[Source]) -> Iterator[None]:
        """Open record and table; rows of inputs that are to be segmented again are taken out of the table first."""
        for source in todo:
            self.sources.pop(source.path, None)
        for partial in self.out.glob(".partial-*.png"):  # left by a run that was killed
            partial.unlink(missing_ok=True)
        lines = [_line(COLUMNS), *(line for source in self.sources.values() for line in source.lines), ""]
        with jobs.atomic_path(self.out / TABLE) as temporary:
            temporary.write_bytes("\r\n".join(lines).encode())
        with open(self.out / RECORD, "ab") as self._record, open(self.out / TABLE, "ab") as self._table:
            self._record.write(b"\n")  # ends a last line that was cut off
            if not self.settings:
                self.note(settings=dict(settings))
            yield

    def note(self, **event: Any) -> None:
        """Add a line to the record."""
        self._record.write(json.dumps(event).encode() + b"\n")
        self._record.flush()

    def add(self, row: Prediction, outputs: Mapping[str, bytes]) -> None:
        """Write the files of one image, then its row."""
        line = _line(dataclasses.astuple(row))
        hashes = {name: _hash(content) for name, content in outputs.items()}
        self.note(line=line, outputs=hashes, done=row.frame is None and not row.error)
        for name, content in outputs.items():
            with jobs.atomic_path(self.out / name) as temporary:
                temporary.write_bytes(content)
        self._table.write(f"{line}\r\n".encode())
        self._table.flush()


@contextlib.contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Refuse a second run into a folder while one is under way; the lock of a killed run is released."""
    try:
        with filelock.FileLock(out / ".predictions.lock", timeout=0, thread_local=False):
            yield
    except filelock.Timeout:
        raise PredictError(f"another run is writing to {out}: wait for it, or give another folder") from None
