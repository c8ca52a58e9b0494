"""The image type of the package, its size limit, and the errors of files and sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from busutils.errors import BusutilsError

#: Largest image that is decoded, in pixels. The header is checked before anything is decoded, so that a malicious file costs nothing.
MAX_PIXELS = 50_000_000
#: Largest sum over the frames of one file, in multiples of the limit of a frame. Frames are decoded one at a time, so
#: this bounds time, not memory.
MAX_FULL_FRAMES = 20


class DatasetError(BusutilsError):
    """An image, a mask or a set that cannot be used as it is; the message says what is wrong and what to do."""


class DatasetWarning(UserWarning):
    """An image set that can be used, with something its user should know."""


@dataclass(frozen=True)
class Image:
    """One B-mode image.

    Attributes
    ----------
    pixels : (H, W) uint8 ndarray
        Grey levels.
    spacing : (float, float) or None
        Height and width of a pixel, (dy, dx) in mm, where known.
    frame : int or None
        Place in its file, from 1; None where the file holds a single image.
    """

    pixels: np.ndarray
    spacing: tuple[float, float] | None = None
    frame: int | None = None


@runtime_checkable
class PixelSource(Protocol):
    """Anything that can make pixels on demand: a simulated image, a frame of a raw-data file.

    ``read()`` returns ``(H, W) uint8`` for an image, and ``(H, W)`` bool or uint8 for a mask. A source may
    also have a string attribute ``key`` that names its content (settings, seed, version); sources with a key
    are kept in the array cache, others are made anew each time. An integer attribute ``side`` says that all pixels
    are squares of that side: the cache then keeps them at that size only.
    """

    def read(self) -> np.ndarray:
        """Return the pixels."""
        ...


def check_size(path: Path, height: int, width: int, max_pixels: int | None = None) -> None:
    """Refuse an image that is too large to decode.

    Parameters
    ----------
    path : Path
        Named in the message.
    height, width : int
        Size in pixels.
    max_pixels : int, optional
        By default ``MAX_PIXELS``.

    Raises
    ------
    DatasetError
        If there are more.
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    if height * width > limit:
        raise DatasetError(
            f"{path} has {width} x {height} pixels, more than the limit of {limit:,}; "
            "it is not read (busutils.io.image.MAX_PIXELS sets the limit)."
        )


def check_clip_size(path: Path, total: int, max_pixels: int | None = None) -> None:
    """Refuse a clip that is too large as a whole.

    Parameters
    ----------
    path : Path
        Named in the message.
    total : int
        Pixels of all frames.
    max_pixels : int, optional
        Limit of one frame, by default ``MAX_PIXELS``; a clip may have ``MAX_FULL_FRAMES`` times as many.

    Raises
    ------
    DatasetError
        If there are more.
    """
    limit = MAX_FULL_FRAMES * (MAX_PIXELS if max_pixels is None else max_pixels)
    if total > limit:
        raise DatasetError(f"{path} has more than {limit:,} pixels in all its frames; it is not read.")
