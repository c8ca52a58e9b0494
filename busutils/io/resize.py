"""Resize images, maps of real values and masks: the same way in every set, segmenter and score."""

from __future__ import annotations

import functools

import numpy as np
from scipy import sparse

from busutils.errors import BusutilsError

#: A mask may miss its image's size by this many pixels before it counts as a mask of another image.
SIZE_SLACK_PX = 2


def _target(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = size if isinstance(size, tuple | list) else (size, size)
    if height < 1 or width < 1:
        raise BusutilsError(f"size must be at least 1 pixel, got {size}.")
    return int(height), int(width)


@functools.lru_cache(maxsize=512)
def _weights(n_in: int, n_out: int) -> sparse.csr_array:
    """Resampling of one axis as a matrix: shares of covered pixels when shrinking, linear when growing."""
    if n_out < n_in:
        edges = np.arange(n_out + 1) * (n_in / n_out)
        low, high = edges[:-1, None], edges[1:, None]
        # A row covers no more pixels than this; those it does not cover get no share.
        cols = low.astype(int) + np.arange(int(np.ceil(n_in / n_out)) + 1)
        shares = np.clip(np.minimum(cols + 1, high) - np.maximum(cols, low), 0, None)
        shares[(cols >= np.ceil(high - 1e-9)) | (cols >= n_in)] = 0
        shares /= shares.sum(axis=1, keepdims=True)
        rows, places = np.nonzero(shares)
        cols, shares = cols[rows, places], shares[rows, places]
    else:
        centre = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
        low = np.minimum(centre.astype(int), max(n_in - 2, 0))
        high = np.minimum(low + 1, n_in - 1)
        rows = np.tile(np.arange(n_out), 2)
        cols = np.concatenate([low, high])
        shares = np.concatenate([1 - (centre - low), centre - low])
    return sparse.csr_array((shares.astype(np.float32), (rows, cols)), shape=(n_out, n_in))


def _resample(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = _weights(image.shape[0], size[0]), _weights(image.shape[1], size[1])
    image = image.astype(np.float32)
    if size[0] > image.shape[0]:
        # Columns first: what lies between the two steps is then small, and the large result need not be turned.
        return rows @ np.ascontiguousarray((columns @ image.T).T)
    return np.ascontiguousarray((columns @ (rows @ image).T).T)


def resize_image(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resize an image: area averaging where it shrinks, linear interpolation where it grows, axis by axis.

    An image that is not square is squeezed into the square, as is usual.

    Parameters
    ----------
    image : (H, W) ndarray
        uint8, or any float image such as a probability map.
    size : int or (int, int)
        Side of the square, or height and width, in pixels.

    Returns
    -------
    (h, w) ndarray
        uint8 (rounded) for uint8 input, else float32. Always a new array.

    Raises
    ------
    ValueError
        If ``image`` has not two axes, is empty, or ``size`` is below one.

    Examples
    --------
    >>> resize_image(np.array([[0, 100], [100, 200]], np.uint8), 1)
    array([[100]], dtype=uint8)
    """
    image = np.asarray(image)
    if image.ndim != 2 or image.size == 0:
        raise BusutilsError(f"an image has two axes (H, W), got an array of shape {image.shape}.")
    target = _target(size)
    if image.shape == target:
        return image.copy() if image.dtype == np.uint8 else image.astype(np.float32)
    resized = _resample(image, target)
    if image.dtype == np.uint8:
        return np.clip(np.rint(resized), 0, 255).astype(np.uint8)
    return resized


def resize_map(values: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resize a map of real values, such as probabilities, as :func:`resize_image` does.

    Parameters
    ----------
    values : (H, W) float ndarray
    size : int or (int, int)
        Side of the square, or height and width, in pixels.

    Returns
    -------
    (h, w) float32 ndarray
        Always a new array.

    Examples
    --------
    >>> resize_map(np.ones((4, 4)), 2)
    array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    return resize_image(np.asarray(values, np.float32), size)


def resize_mask(
    mask: np.ndarray, size: int | tuple[int, int], image_shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Resize a mask: nearest neighbour, or area and a threshold at one half.

    A two-valued mask as large as its image is resized by nearest neighbour. An anti-aliased one (grey levels)
    or one that is larger than its image is averaged over area and cut at one half.

    Parameters
    ----------
    mask : (H, W) bool or uint8 ndarray
        uint8 runs from 0 (background) to 255 (lesion).
    size : int or (int, int)
        Side of the square, or height and width, in pixels.
    image_shape : (int, int), optional
        Size of the image the mask belongs to; without it the mask counts as being as large as its image.

    Returns
    -------
    (h, w) bool ndarray
        Always a new array.

    Raises
    ------
    ValueError
        If ``mask`` has not two axes, or is neither bool nor uint8.

    Examples
    --------
    >>> resize_mask(np.eye(2, dtype=bool), 4).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [0, 0, 1, 1],
           [0, 0, 1, 1]])
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0:
        raise BusutilsError(f"a mask has two axes (H, W), got an array of shape {mask.shape}.")
    if mask.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        raise BusutilsError(f"a mask is bool or uint8, got {mask.dtype}.")
    target = _target(size)
    grey = mask.dtype == np.uint8 and bool(((mask > 0) & (mask < 255)).any())
    larger = image_shape is not None and (
        mask.shape[0] > image_shape[0] + SIZE_SLACK_PX or mask.shape[1] > image_shape[1] + SIZE_SLACK_PX
    )
    if grey or larger:
        level = mask.astype(np.float32) if mask.dtype == bool else mask / np.float32(255)
        return (level if mask.shape == target else _resample(level, target)) >= 0.5
    lesion = mask if mask.dtype == bool else mask > 127
    if mask.shape == target:
        return lesion.copy()
    rows = ((np.arange(target[0]) + 0.5) * (mask.shape[0] / target[0])).astype(int)
    cols = ((np.arange(target[1]) + 0.5) * (mask.shape[1] / target[1])).astype(int)
    return lesion[np.ix_(rows, cols)]
