"""Cache of image and mask arrays on disk, keyed by the files that they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from busutils import jobs

if TYPE_CHECKING:
    from busutils.datasets.lesions import Record

# Increase this when reading or resizing changes, so that arrays made by older code are not used.
_FORMAT = 3


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
    sizes = [file.stat().st_size for file in cache_dir().glob("*.npz")]
    return CacheInfo(cache_dir(), len(sizes), sum(sizes))


def entry_of(records: Sequence[Record], size: int) -> Path | None:
    """Find the cache file of a set.

    Its name depends on the path, size and date of every image and mask file, so that a changed file means another entry.

    Parameters
    ----------
    records : sequence of Record
    size : int
        Side of the square in pixels.

    Returns
    -------
    Path or None
        ``None`` when a source is neither a file nor has a key.
    """
    digest = hashlib.sha256(json.dumps([_FORMAT, size]).encode())
    for record in records:
        for source in (record.image, *record.masks):
            if isinstance(source, Path):
                try:
                    stat = source.stat()
                except OSError:
                    return None
                stamp = [str(source.resolve()), stat.st_size, stat.st_mtime_ns]
            elif (key := getattr(source, "key", None)) is not None:
                stamp = [type(source).__qualname__, str(key)]
            else:
                return None
            digest.update(json.dumps(stamp).encode())
        digest.update(b"|")
    return cache_dir() / f"{size}-{digest.hexdigest()[:24]}.npz"


def load_or_make(entry: Path, make: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Load arrays from the cache, or make and keep them.

    Parameters
    ----------
    entry : Path
        Cache file.
    make : callable
        Returns images (N, S, S) uint8 and masks (N, S, S) bool.

    Returns
    -------
    images, masks : ndarray
    """
    # A missing or damaged entry is made again.
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(entry) as kept:
        images = kept["images"]
        return images, np.unpackbits(kept["masks"], axis=-1, count=images.shape[-1]).view(bool)
    images, masks = make()
    with contextlib.suppress(OSError), jobs.atomic_path(entry) as fresh:  # the cache may be full or read-only
        np.savez(fresh, images=images, masks=np.packbits(masks, axis=-1))
    return images, masks
