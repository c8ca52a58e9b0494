"""What a mask file means, and which image it can belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from busutils.io.decode import open_picture, upright
from busutils.io.image import DatasetError, PixelSource
from busutils.io.resize import SIZE_SLACK_PX

_ASPECT_SLACK = 0.02
# Masks stored as class numbers (0, 1, 2 …) instead of grey levels never go higher than this.
_LARGEST_CLASS_NUMBER = 15


def _decode(path: Path) -> np.ndarray:
    """Pixels of a picture as ``(H, W)`` or ``(H, W, 3)`` uint8; alpha is dropped, palettes are looked up."""
    with open_picture(path) as picture:
        try:
            picture = upright(picture)
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
    if abs(high) <= SIZE_SLACK_PX and abs(wide) <= SIZE_SLACK_PX:
        return True
    ratio = (mask_shape[0] / image_shape[0]) / (mask_shape[1] / image_shape[1])
    return min(high, wide) >= 0 and abs(ratio - 1) <= _ASPECT_SLACK
