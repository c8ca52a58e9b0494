"""Any function that maps images to probabilities, as a method among the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from busutils.errors import BusutilsError
from busutils.models.segmenter import Segmenter

__all__ = ["FunctionSegmenter"]


class FunctionSegmenter(Segmenter):
    """Predict with a function of your own: it can then be scored and compared as every other method.

    Parameters
    ----------
    function : callable
        From (N, size, size) uint8 images to (N, size, size) probability maps or boolean masks.
    size : int, default 256
        Side of the square, in pixels, that the function is given.

    Examples
    --------
    >>> dark = FunctionSegmenter(lambda squares: squares < 50, size=8)
    >>> dark.predict(np.zeros((1, 8, 8), np.uint8)).all()
    np.True_
    """

    supervised: ClassVar[bool] = False

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], size: int = 256) -> None:
        self.function = function
        self.size = size

    def _fit(self, images: list[np.ndarray], masks: list[np.ndarray] | None, **options: Any) -> None:
        """Nothing is learned here."""

    def _square_proba(self, squares: np.ndarray) -> np.ndarray:
        probs = np.asarray(self.function(squares), np.float32)
        if probs.shape != squares.shape:
            raise BusutilsError(f"the function must give maps of shape {squares.shape}, got {probs.shape}")
        return probs

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> Path:
        """Refuse: a function is code, and files of this package hold none.

        Raises
        ------
        BusutilsError
            Always.
        """
        raise BusutilsError("a function cannot be saved: keep its code, and the weights of its network by Keras")
