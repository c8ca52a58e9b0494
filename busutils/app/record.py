"""The record of a folder of predictions: what its runs have read and written.

With it a run is taken up again, an input that changed is segmented again, and a file that no run wrote is never
overwritten.
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
from PIL import Image

from busutils import jobs
from busutils.errors import BusutilsError

__all__ = ["PredictError", "Record", "Source", "only_run", "read_settings"]

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
    name: str = ""
    lines: list[str] = dataclasses.field(default_factory=list)
    outputs: dict[str, str] = dataclasses.field(default_factory=dict)
    done: bool = False


def source_of(file: Path) -> Source:
    """Look at an input file; nothing was made of it so far."""
    path = os.path.abspath(file)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return Source(path, [])
    return Source(path, [status.st_size, status.st_mtime_ns])


def _events(record: Path) -> Iterator[dict[str, Any]]:
    if record.exists():
        with open(record, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # a line that a kill has torn
                    if isinstance(event := json.loads(line), dict):
                        yield event


def read_settings(out: Path) -> dict[str, str]:
    """What made the predictions in a folder; empty if there are none."""
    return next((event["settings"] for event in _events(out / RECORD) if "settings" in event), {})


def _line(values: Iterable[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            picture.load()
    except Exception:  # whatever a damaged file leads the decoder to
        return False
    return True


class Record:
    """``predictions.jsonl`` beside the table ``predictions.csv``.

    It has a line with the settings, and for each input a line when it is begun, a line for each image *before* that
    image's files are written, and for a clip a line when it is done. So a run that was killed at any moment knows its own files:
    those whose content has a hash in the record.

    Parameters
    ----------
    out : Path
        The folder.
    columns : sequence of str
        Of the table.
    """

    def __init__(self, out: Path, columns: Sequence[str]) -> None:
        self.out, self.columns = out, list(columns)
        self.settings = read_settings(out)
        self.sources: dict[str, Source] = {}
        self._hashes: dict[str, set[str]] = {}
        self._lines = {_line(columns)}  # all that this record has ever put into the table
        source = Source("", [])
        for event in _events(out / RECORD):
            if "path" in event:
                source = self.sources[event["path"]] = Source(event["path"], event["version"], event["name"])
            elif "line" in event:
                source.lines.append(event["line"])
                source.outputs |= event["outputs"]
                self._lines.add(event["line"])
                for name, content in event["outputs"].items():
                    self._hashes.setdefault(name, set()).add(content)
            source.done |= event.get("done", False)

    # -- before a run ----------------------------------------------------------------------------------------

    def drop_lost(self, overlay: bool) -> None:
        """Forget inputs whose results are not all there; those that were changed by hand count as there."""
        self.sources = {path: source for path, source in self.sources.items() if self._is_whole(source, overlay)}

    def _is_whole(self, source: Source, overlay: bool) -> bool:
        if not source.done or (overlay and len(source.outputs) < 2 * len(source.lines)):
            return False
        for name, content in source.outputs.items():
            path = self.out / name
            if not (overlay or name.endswith("_mask.png")):
                continue
            if not path.is_file():
                return False
            if _hash(path.read_bytes()) != content:
                if not _is_picture(path):
                    return False
                logger.warning("%s was changed after it was written, and is kept; its row was not changed", path)
        return True

    def _is_own(self, name: str) -> bool:
        """Whether a file is as a run wrote it, or a damaged rest of that."""
        hashes, path = self._hashes.get(name, set()), self.out / name
        return bool(hashes) and (_hash(path.read_bytes()) in hashes or not _is_picture(path))

    def check(self, names: set[str], overlay: bool) -> None:
        """Refuse to overwrite what no run wrote.

        Parameters
        ----------
        names : set of str
            Of the results that are to be made.
        overlay : bool
            Whether overlays are to be made, too.

        Raises
        ------
        PredictError
            If one of their files, or the table, is somebody else's or was changed.
        """
        present = [name for name in (TABLE, RECORD) if (self.out / name).exists()]
        if present and not self.settings:
            raise PredictError(f"{self.out / present[0]} is not from this version of predict: give another --out")
        if TABLE in present:
            *lines, last = (self.out / TABLE).read_bytes().decode(errors="replace").replace("\r\n", "\n").split("\n")
            if not self._lines.issuperset(lines) or not any(line.startswith(last) for line in self._lines):
                raise PredictError(f"{self.out / TABLE} was changed after it was written: move it elsewhere first")
        wanted = {name.casefold() for name in names}
        foreign = []
        for name in sorted(os.listdir(self.out)):
            found = _RESULT.fullmatch(name.casefold())
            if found and found[1] in wanted and (overlay or found[3] == "mask") and not self._is_own(name):
                foreign.append(name)
        if foreign:
            more = f" and {len(foreign) - 1} more were" if len(foreign) > 1 else " was"
            raise PredictError(
                f"{self.out / foreign[0]}{more} not written by predict, or changed since, and would be overwritten: "
                "give another --out"
            )

    def clear(self) -> None:
        """Remove all that runs wrote into the folder and nobody has changed."""
        for name in self._hashes:
            if (self.out / name).is_file() and self._is_own(name):
                (self.out / name).unlink()
        for name in (TABLE, RECORD):
            (self.out / name).unlink(missing_ok=True)
        self.sources, self.settings = {}, {}

    # -- during a run ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self, settings: Mapping[str, str], again: Iterable[str] = ()) -> Iterator[None]:
        """Open record and table; the table is written anew without the inputs (paths) that are to be made again."""
        for path in again:
            self.sources.pop(path, None)
        for partial in self.out.glob(".partial-*.png"):  # a run that was killed left them
            partial.unlink(missing_ok=True)
        with (
            jobs.atomic_path(self.out / TABLE) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as table,
        ):
            lines = (line for source in self.sources.values() for line in source.lines)
            table.writelines(f"{line}\r\n" for line in (_line(self.columns), *lines))
        self.sources, self._lines, self._hashes = {}, set(), {}  # memory does not grow with a run
        with (
            open(self.out / RECORD, "a", encoding="utf-8") as self._record,
            open(self.out / TABLE, "a", encoding="utf-8", newline="") as self._table,
        ):
            self._record.write("\n" if self._record.tell() else "")  # the last line may be torn
            if not self.settings:
                self._note(settings=dict(settings))
            yield

    def _note(self, **event: Any) -> None:
        self._record.write(json.dumps(event) + "\n")
        self._record.flush()

    def begin(self, source: Source) -> None:
        """Note that the images of an input follow."""
        self._note(path=source.path, version=source.version, name=source.name)

    def add(self, row: Mapping[str, Any], outputs: Mapping[str, bytes], done: bool) -> None:
        """Write the files of one image, then its row; `done` if it is the only image of its input."""
        line = _line(row.values())
        self._note(line=line, outputs={name: _hash(content) for name, content in outputs.items()}, done=done)
        for name, content in outputs.items():
            with jobs.atomic_path(self.out / name) as temporary:
                temporary.write_bytes(content)
        self._table.write(f"{line}\r\n")
        self._table.flush()

    def finish(self) -> None:
        """Note that the clip that was begun last is done."""
        self._note(done=True)


@contextlib.contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Refuse a second run into a folder while one is under way; the system forgets the lock of a killed one."""
    lock = filelock.FileLock(out / ".predictions.lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise PredictError(f"another run is writing to {out}: wait for it, or give another folder") from None
    except NotImplementedError:  # a file system without locks
        pass
    try:
        yield
    finally:
        lock.release()
