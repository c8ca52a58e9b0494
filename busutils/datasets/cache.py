"""Arrays kept on disk: made once, found again by what they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from busutils import jobs

if TYPE_CHECKING:
    from busutils.datasets.lesions import Record

# Raise this when reading or resizing changes, so that arrays made by older code are not found again.
_FORMAT = 2


class CacheInfo(NamedTuple):
    """Where the array cache is, and how large: path, number of entries, bytes."""

    path: Path
    entries: int
    bytes: int


def cache_dir() -> Path:
    """Folder of the array cache, in :func:`busutils.jobs.cache_dir`.

    Returns
    -------
    Path
    """
    return jobs.cache_dir() / "arrays"


def cache_info() -> CacheInfo:
    """Place, number of entries and size of the array cache.

    Returns
    -------
    CacheInfo
    """
    folder = cache_dir()
    sizes = [file.stat().st_size for file in folder.glob("*/*.npy")] if folder.is_dir() else []
    return CacheInfo(folder, len(list(folder.glob("*/masks.npy"))) if sizes else 0, sum(sizes))


def clear_cache() -> CacheInfo:
    """Empty the array cache.

    Returns
    -------
    CacheInfo
        What was removed.
    """
    before = cache_info()
    shutil.rmtree(before.path, ignore_errors=True)
    return before


def _stamp(source: object) -> list | None:
    if isinstance(source, Path):
        with contextlib.suppress(OSError):
            stat = source.stat()
            return [str(source.resolve()), stat.st_size, stat.st_mtime_ns]
        return None
    key = getattr(source, "key", None)
    return None if key is None else [type(source).__qualname__, str(key)]


@dataclass(frozen=True)
class Entry:
    """One place in the cache: the arrays of one set at one size."""

    folder: Path

    def exists(self) -> bool:
        """Whether both arrays are there.

        Returns
        -------
        bool
        """
        return (self.folder / "images.npy").is_file() and (self.folder / "masks.npy").is_file()

    def load_or_make(
        self, make: Callable[[], tuple[np.ndarray, np.ndarray]], index: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Load the arrays, or make and keep them.

        Parameters
        ----------
        make : callable
            Returns images (N, S, S) uint8 and masks (N, S, S) bool.
        index : (M,) int ndarray, optional
            Positions to return; all when ``None``.

        Returns
        -------
        images, masks : ndarray
        """
        if self.exists():
            # A damaged entry is no reason to stop: it is made again.
            with contextlib.suppress(OSError, ValueError, EOFError):
                return self._load(index)
        images, masks = make()
        self._save(images, masks)
        return (images, masks) if index is None else (images[index], masks[index])

    def _load(self, index: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        images = np.load(self.folder / "images.npy", mmap_mode="r", allow_pickle=False)
        packed = np.load(self.folder / "masks.npy", mmap_mode="r", allow_pickle=False)
        rows = slice(None) if index is None else index
        side = images.shape[-1]
        masks = np.unpackbits(packed[rows], axis=-1, count=side).view(bool)
        return np.array(images[rows]), masks

    def _save(self, images: np.ndarray, masks: np.ndarray) -> None:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder.parent))
        except OSError:
            return  # no place to write: the cache is a convenience
        try:
            np.save(fresh / "images.npy", images, allow_pickle=False)
            np.save(fresh / "masks.npy", np.packbits(masks, axis=-1), allow_pickle=False)
            if self.folder.exists():
                shutil.rmtree(self.folder, ignore_errors=True)
            fresh.rename(self.folder)
        except OSError:
            pass  # a full disk, or another process that was first with the same arrays
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def entry_of(records: Sequence[Record], size: int) -> Entry | None:
    """Find the place of a set's arrays.

    The place depends on every file's path, size and date, so that a changed file means another place.

    Parameters
    ----------
    records : sequence of Record
    size : int
        Side of the square in pixels.

    Returns
    -------
    Entry or None
        ``None`` when a source is neither a file nor has a key.
    """
    digest = hashlib.sha256(json.dumps([_FORMAT, size]).encode())
    for record in records:
        for source in (record.image, *record.masks):
            stamp = _stamp(source)
            if stamp is None:
                return None
            digest.update(json.dumps(stamp).encode())
        digest.update(b"|")
    return Entry(cache_dir() / f"{size}-{digest.hexdigest()[:24]}")
