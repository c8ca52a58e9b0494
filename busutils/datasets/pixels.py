"""Resizing, the one way the package does it.

Images shrink by area averaging and grow by linear interpolation; so do probability maps. Masks stay masks.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["resize_image", "resize_map", "resize_mask"]


def _shape(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int | np.integer) else (int(size[0]), int(size[1]))


def _resize(picture: Image.Image, height: int, width: int) -> Image.Image:
    # One axis may shrink while the other grows: each has the filter that suits it.
    if width != picture.width:
        how = Image.Resampling.BOX if width < picture.width else Image.Resampling.BILINEAR
        picture = picture.resize((width, picture.height), how)
    if height != picture.height:
        how = Image.Resampling.BOX if height < picture.height else Image.Resampling.BILINEAR
        picture = picture.resize((width, height), how)
    return picture


def resize_image(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resize a grey image; a square `size` squeezes other formats, as the field does.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        Grey image.
    size : int or (int, int)
        Side of the square, or height and width, in pixels.

    Returns
    -------
    ndarray of uint8
        A new array, also when nothing had to be resized.

    Examples
    --------
    >>> resize_image(np.array([[0, 100], [100, 200]], np.uint8), 1)
    array([[100]], dtype=uint8)
    """
    height, width = _shape(size)
    return np.array(_resize(Image.fromarray(np.ascontiguousarray(image)), height, width))


def resize_map(values: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resize a map of real values, such as probabilities.

    Parameters
    ----------
    values : (H, W) float ndarray
        The map.
    size : int or (int, int)
        Side of the square, or height and width, in pixels.

    Returns
    -------
    ndarray of float32

    Examples
    --------
    >>> resize_map(np.ones((4, 4)), 2)
    array([[1., 1.],
           [1., 1.]], dtype=float32)
    """
    height, width = _shape(size)
    return np.array(_resize(Image.fromarray(np.ascontiguousarray(values, dtype=np.float32)), height, width))


def resize_mask(mask: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resize a mask by the nearest pixel.

    Interpolating a mask linearly and forgetting to threshold it again is a classic mistake: it makes a soft mask.

    Parameters
    ----------
    mask : (H, W) bool ndarray
        The mask.
    size : int or (int, int)
        Side of the square, or height and width, in pixels.

    Returns
    -------
    ndarray of bool

    Examples
    --------
    >>> resize_mask(np.eye(2, dtype=bool), 4).sum()
    np.int64(8)
    """
    height, width = _shape(size)
    picture = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    return np.array(picture.resize((width, height), Image.Resampling.NEAREST)).astype(bool)
