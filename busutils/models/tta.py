"""Test-time augmentation: the mean probability over transformed copies of an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from busutils.errors import BusutilsError
from busutils.io import resize_image, resize_map

__all__ = ["TTA", "mean_over_tta"]

# Height and width of each copy as shares of the square's side. Hospitals differ in the aspect ratio of their images, and a
# network sees them all as squares.
TTA: dict[str, tuple[tuple[float, float], ...]] = {
    "none": ((1.0, 1.0),),
    "mirror": ((1.0, 1.0),),
    "stretch": ((1.0, 1.0), (0.8, 1.0), (1.0, 0.8)),
}


def mean_over_tta(proba: Callable[[np.ndarray], np.ndarray], squares: np.ndarray, tta: str) -> np.ndarray:
    """Mean probability over transformed copies of square images, each map transformed back.

    Parameters
    ----------
    proba : callable
        From (N, S, S) uint8 images to (N, S, S) probability maps.
    squares : (N, S, S) uint8 ndarray
        Images.
    tta : {"none", "mirror", "stretch"}
        The image alone; with its mirror image; both also at 80 % of the height and at 80 % of the width, the margin
        filled by repeating the border.

    Returns
    -------
    (N, S, S) float32 ndarray

    Raises
    ------
    ValueError
        If there is no such test-time augmentation.
    """
    if tta not in TTA:
        raise BusutilsError(f"tta must be one of {', '.join(TTA)}, got {tta!r}")
    side = squares.shape[1]
    maps = []
    for shares in TTA[tta]:
        height, width = (round(side * share) for share in shares)
        top, left = (side - height) // 2, (side - width) // 2
        copies = squares
        if (height, width) != (side, side):
            pads = ((top, side - height - top), (left, side - width - left))
            copies = np.stack([np.pad(resize_image(square, (height, width)), pads, mode="edge") for square in squares])
        for step in (1,) if tta == "none" else (1, -1):
            part = proba(copies[:, :, ::step])[:, :, ::step][:, top : top + height, left : left + width]
            maps.append(part if part.shape == squares.shape else np.stack([resize_map(m, (side, side)) for m in part]))
    return np.stack(maps).mean(axis=0, dtype=np.float32)
