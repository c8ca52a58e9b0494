"""Test-time augmentation: the mean probability over an image and its mirror image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from busutils.errors import BusutilsError

__all__ = ["TTA", "mean_over_tta"]

TTA = ("none", "mirror")


def mean_over_tta(proba: Callable[[np.ndarray], np.ndarray], squares: np.ndarray, tta: str) -> np.ndarray:
    """Mean probability over transformed copies of square images, each map transformed back.

    Parameters
    ----------
    proba : callable
        From (N, S, S) uint8 images to (N, S, S) probability maps.
    squares : (N, S, S) uint8 ndarray
        Images.
    tta : {"none", "mirror"}
        The image alone, or with its mirror image.

    Returns
    -------
    (N, S, S) float32 ndarray

    Raises
    ------
    BusutilsError
        If there is no such test-time augmentation.
    """
    if tta not in TTA:
        raise BusutilsError(f"tta must be {' or '.join(TTA)}, got {tta!r}")
    probs = proba(squares)
    return (probs + proba(squares[:, :, ::-1])[:, :, ::-1]) / np.float32(2) if tta == "mirror" else probs
