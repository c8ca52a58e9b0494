"""From a file to pixels: decode, join channels, resize. NumPy arrays in and out.

One meaning everywhere: an image is ``(H, W) uint8``, a mask ``(H, W) bool``. The segmenters use the same
:func:`resize_image` and :func:`resize_mask` as the data sets do, so that both see the same squeeze.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy import sparse

#: Largest picture that is decoded, in pixels; the header is read first, so that a hostile file costs nothing.
MAX_PIXELS = 50_000_000

# A mask may miss its image's size by this much before it counts as a mask of another picture.
_SIZE_SLACK_PX = 2
_ASPECT_SLACK = 0.02
# Masks stored as class numbers (0, 1, 2 …) instead of grey levels never go higher than this.
_LARGEST_CLASS_NUMBER = 15


class DatasetError(ValueError):
    """An image set that cannot be used as it is; the message says what is wrong and what to do."""


class DatasetWarning(UserWarning):
    """An image set that can be used, with something its user should know."""


@runtime_checkable
class PixelSource(Protocol):
    """Anything that can make pixels on demand: a simulated image, a frame of a raw-data file.

    ``read()`` returns ``(H, W) uint8`` for an image, and ``(H, W)`` bool or uint8 for a mask. A source may
    also have a string attribute ``key`` that names its content (settings, seed, version); sources with a key
    are kept in the array cache, others are made anew each time.
    """

    def read(self) -> np.ndarray:
        """Return the pixels."""
        ...


def open_picture(path: Path) -> Image.Image:
    """Open a picture without decoding it, within the size limit.

    Parameters
    ----------
    path : Path

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    DatasetError
        If the file is missing, no picture, or larger than ``MAX_PIXELS``.
    """
    try:
        picture = Image.open(path)
    except FileNotFoundError:
        raise DatasetError(f"{path} is gone: the folder changed since it was read; load the set again.") from None
    except UnidentifiedImageError:
        raise DatasetError(f"{path} is not a picture that can be read; fetch the file again.") from None
    except Image.DecompressionBombError:
        raise DatasetError(f"{path} claims to be larger than {MAX_PIXELS:,} pixels; it is not read.") from None
    except (OSError, SyntaxError, ValueError) as err:
        raise DatasetError(f"{path} cannot be opened ({err}); fetch the file again.") from None
    width, height = picture.size
    if width * height > MAX_PIXELS:
        picture.close()
        raise DatasetError(
            f"{path} has {width} x {height} pixels, more than the limit of {MAX_PIXELS:,}; "
            "it is not read (busutils.datasets.pixels.MAX_PIXELS sets the limit)."
        )
    return picture


def _decode(path: Path) -> np.ndarray:
    """Pixels of a picture as ``(H, W)`` or ``(H, W, 3)`` uint8; alpha is dropped, palettes are looked up."""
    with open_picture(path) as picture:
        try:
            if picture.mode == "1":
                return np.asarray(picture.convert("L"))
            if picture.mode in ("L", "RGB"):
                return np.asarray(picture)
            if picture.mode == "LA":
                return np.asarray(picture.getchannel("L"))
            if picture.mode.startswith("I"):
                deep = np.asarray(picture)
                # 16-bit pictures: 0…65535 to 0…255; those that only use the low byte keep their values.
                deep = np.clip(deep, 0, 65535)
                return (deep if deep.max(initial=0) <= 255 else deep // 257).astype(np.uint8)
            if picture.mode == "F":
                raise DatasetError(f"{path} holds floating-point pixels; convert it to 8-bit grey first.")
            return np.asarray(picture.convert("RGB"))
        except DatasetError:
            raise
        except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as err:
            raise DatasetError(f"{path} is broken or cut short ({err}); fetch the file again.") from None


def picture_size(source: Path | PixelSource) -> tuple[int, int]:
    """Height and width of a picture, from its header where it is a file.

    Parameters
    ----------
    source : path or PixelSource

    Returns
    -------
    (int, int)
        Height, width in pixels.

    Raises
    ------
    DatasetError
        If the file is no picture, or too large.
    """
    if isinstance(source, PixelSource):
        return source.read().shape[:2]
    with open_picture(Path(source)) as picture:
        return picture.height, picture.width


def read_image(source: Path | str | PixelSource) -> np.ndarray:
    """Read one image as 8-bit grey.

    Colour becomes grey by luma (ITU-R 601); where the three channels are equal that is the channel itself.
    Transparency is ignored, palettes are looked up, 1-bit becomes 0 and 255, 16-bit is scaled to 8.

    Parameters
    ----------
    source : path or PixelSource

    Returns
    -------
    (H, W) uint8 ndarray

    Raises
    ------
    DatasetError
        If the file is missing, broken, cut short, or larger than ``MAX_PIXELS``.
    """
    if isinstance(source, PixelSource):
        return source.read()
    pixels = _decode(Path(source))
    if pixels.ndim == 2:
        return pixels
    return np.asarray(Image.fromarray(pixels).convert("L"))


def read_mask(source: Path | str | PixelSource) -> np.ndarray:
    """Read one mask as grey levels, 0 = background, 255 = lesion, in between = anti-aliased edge.

    Colour-coded masks (green benign, red malignant) are handled by taking the brightest channel; masks that
    hold class numbers (nothing above 15) count every class but 0 as lesion.

    Parameters
    ----------
    source : path or PixelSource

    Returns
    -------
    (H, W) uint8 ndarray

    Raises
    ------
    DatasetError
        If the file is missing, broken, cut short, or larger than ``MAX_PIXELS``.
    """
    pixels = source.read() if isinstance(source, PixelSource) else _decode(Path(source))
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.ndim == 3:
        pixels = pixels.max(axis=2)
    if pixels.max(initial=0) <= _LARGEST_CLASS_NUMBER:
        return (pixels > 0).astype(np.uint8) * np.uint8(255)
    return pixels


def _target(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if np.isscalar(size) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}.")
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

    A picture that is not square is squeezed into the square, as the field does.

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
        raise ValueError(f"an image has two axes (H, W), got an array of shape {image.shape}.")
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
        raise ValueError(f"a mask has two axes (H, W), got an array of shape {mask.shape}.")
    if mask.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        raise ValueError(f"a mask is bool or uint8, got {mask.dtype}.")
    target = _target(size)
    grey = mask.dtype == np.uint8 and bool(((mask > 0) & (mask < 255)).any())
    larger = image_shape is not None and (
        mask.shape[0] > image_shape[0] + _SIZE_SLACK_PX or mask.shape[1] > image_shape[1] + _SIZE_SLACK_PX
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


def sizes_agree(mask_shape: tuple[int, int], image_shape: tuple[int, int]) -> bool:
    """Tell whether a mask of one size can belong to an image of another.

    It can when the sizes are equal up to two pixels, or when the mask is larger with the same aspect ratio
    (STU-Hospital).

    Parameters
    ----------
    mask_shape, image_shape : (int, int)
        Height and width in pixels.

    Returns
    -------
    bool

    Examples
    --------
    >>> (
    ...     sizes_agree((512, 512), (128, 128)),
    ...     sizes_agree((100, 101), (100, 100)),
    ...     sizes_agree((50, 50), (100, 100)),
    ... )
    (True, True, False)
    """
    high, wide = (mask_shape[axis] - image_shape[axis] for axis in (0, 1))
    if abs(high) <= _SIZE_SLACK_PX and abs(wide) <= _SIZE_SLACK_PX:
        return True
    ratio = (mask_shape[0] / image_shape[0]) / (mask_shape[1] / image_shape[1])
    return min(high, wide) >= 0 and abs(ratio - 1) <= _ASPECT_SLACK
