"""The baseline: one mask for every image, drawn without looking at it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from busutils.errors import BusutilsError
from busutils.io import resize_mask
from busutils.models.segmenter import Segmenter, WeightsError

__all__ = ["ConstantMaskSegmenter"]


class ConstantMaskSegmenter(Segmenter):
    """Answer every image with the same mask: where lesions usually are.

    The mean of the training masks is a probability map; its threshold is the one with the best mean Dice on
    the training masks themselves. What a method scores above this, it has seen in the image.

    Parameters
    ----------
    size : int, default 256
        Side of the square, in pixels, on which masks are averaged.

    Attributes
    ----------
    mean_mask_ : (size, size) float32 ndarray
        Share of the training images with lesion, pixel by pixel. Images without lesion do not count.
    threshold_ : float
        Share from which a pixel is drawn.

    Examples
    --------
    >>> masks = np.zeros((2, 8, 8), bool)
    >>> masks[:, 2:6, 2:6] = True
    >>> images = np.zeros((2, 8, 8), np.uint8)
    >>> ConstantMaskSegmenter(size=8).fit(images, masks).predict(images[:1]).sum()
    np.int64(16)
    """

    supervised: ClassVar[bool] = True
    thread_safe: ClassVar[bool] = True

    def __init__(self, *, size: int = 256) -> None:
        self.size = size

    def _fit(self, images: list[np.ndarray], masks: list[np.ndarray] | None, **options: Any) -> None:
        squares = np.stack([resize_mask(mask, self.size) for mask in masks or []])
        squares = squares[squares.any(axis=(1, 2))]
        if not len(squares):
            raise BusutilsError("no training mask shows a lesion: fit on images with lesions")
        self.mean_mask_ = squares.mean(axis=0, dtype=np.float32)
        areas = squares.sum(axis=(1, 2))
        flat = squares.reshape(len(squares), -1)
        # Each level of the mean is one possible mask; 50 quantiles of them are fine enough.
        levels = np.unique(np.quantile(self.mean_mask_[self.mean_mask_ > 0], np.linspace(0, 1, 50)))
        scores = []
        for level in levels:
            drawn = (self.mean_mask_ >= level).ravel()
            overlap = flat[:, drawn].sum(axis=1)
            scores.append(float(np.mean(2 * overlap / (areas + drawn.sum()))))
        self.threshold_ = float(levels[int(np.argmax(scores))])

    def _square_proba(self, squares: np.ndarray) -> np.ndarray:
        return np.repeat(self.mean_mask_[None], len(squares), axis=0)

    def postprocess(self, mask: np.ndarray) -> np.ndarray:
        """Return the mask as it is."""
        return mask

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"mean_mask": self.mean_mask_}

    def _set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self.mean_mask_ = np.asarray(arrays["mean_mask"], dtype=np.float32)
        if self.mean_mask_.shape != (self.size, self.size):
            raise WeightsError(f"the mean mask has shape {self.mean_mask_.shape}, not {self.size} x {self.size}")
