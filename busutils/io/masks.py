"""What a mask file means, and which image it can belong to.

There is one rule, for the masks of every set and for the masks that other programs drew:

1. Black (or transparent, or the darkest of a few levels) is background.
2. One further level is lesion, however dark: 1, 50, 127, 255, 256 of 65535, any colour.
3. Several solid levels or colours are classes, and all of them are lesion.
4. Levels in between that only smooth the edge of one level, and maps of many levels such as probabilities, are cut at half
   of that level or of the format's range: 1 for floating point, 255 for 8 bits, 65535 for 16.
5. A picture that fits none of these is refused by name.

Bright is lesion even where it covers most of the picture; whoever loads a set is warned of such masks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
from scipy import ndimage

from busutils.io.decode import open_picture, upright
from busutils.io.image import DatasetError, PixelSource
from busutils.io.resize import SIZE_SLACK_PX

_ASPECT_SLACK = 0.02
# Masks stored as class numbers (0, 1, 2 …) instead of grey levels never go higher than this.
_LARGEST_CLASS_NUMBER = 15
_FEW_LEVELS = 8  # more are a smooth map, not classes
_NOISE = 0.04  # of the highest level: what a lossy format adds to black
_PLATEAU = 0.9  # of the highest level: what belongs to it, so that half of what is drawn there makes it the lesion's
_COLOURED = 40  # difference between the channels of a pixel that is not grey


def read_mask(source: Path | str | PixelSource) -> np.ndarray:
    """Read one mask as grey levels, 0 = background, 255 = lesion, in between = smooth edge or probability.

    :mod:`busutils.io.masks` defines what counts as lesion; a mask is what is above 127.

    Parameters
    ----------
    source : path or PixelSource

    Returns
    -------
    (H, W) uint8 ndarray

    Raises
    ------
    DatasetError
        If the file is missing, broken, too large, or may mean two things.
    """
    if isinstance(source, PixelSource):
        return mask_levels(source.read(), "a mask")
    path = Path(source)
    with open_picture(path) as picture:
        try:
            pixels = _decode(picture)
        except Exception:  # decoders raise errors of any type on a broken file
            raise DatasetError(f"{path} is broken or cut short; fetch the file again.") from None
    return mask_levels(pixels, path)


def _decode(picture: PIL.Image.Image) -> np.ndarray:
    picture = upright(picture)
    if picture.mode in ("P", "PA"):
        transparent = picture.mode == "PA" or "transparency" in picture.info
        coloured = picture.convert("RGBA" if transparent else "RGB")
        same = all(channel[0] == channel[1] for channel in np.reshape(coloured.getextrema(), (-1, 2)))
        # A palette that shows all its numbers alike says nothing: the numbers themselves are the classes.
        return np.asarray(picture.getchannel(0) if same else coloured)
    if picture.mode == "1" or (picture.mode not in ("L", "LA", "RGB", "RGBA", "F") and picture.mode[0] != "I"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    return np.asarray(picture)


def mask_levels(pixels: np.ndarray, name: object = "the mask") -> np.ndarray:
    """Bring the pixels of a mask file to grey levels by the one rule of :mod:`busutils.io.masks`.

    Parameters
    ----------
    pixels : (H, W) or (H, W, C) ndarray
        bool, integer or floating point; two channels are grey and alpha, three colour, four colour and alpha.
    name : object
        What messages call the mask.

    Returns
    -------
    (H, W) uint8 ndarray

    Raises
    ------
    DatasetError
        If the pixels may mean two things.

    Examples
    --------
    >>> mask_levels(np.array([[0, 100], [100, 0]], np.uint8)).tolist()
    [[0, 255], [255, 0]]
    """
    if pixels.dtype == bool:
        return pixels * np.uint8(255)
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = _without_alpha(pixels[..., :-1], pixels[..., -1], name)
    if pixels.ndim == 3:
        pixels = _without_colour(pixels, name)
    return _from_grey(pixels, name)


def _refuse(name: object, why: str) -> DatasetError:
    return DatasetError(
        f"{name} {why}, which may or may not mean lesion: write black for background and white for lesion."
    )


def _without_alpha(colours: np.ndarray, alpha: np.ndarray, name: object) -> np.ndarray:
    """Colours where opacity is the same everywhere, else the opacity itself."""
    if np.ptp(alpha) == 0:
        return colours[..., 0] if colours.shape[2] == 1 else colours
    opaque = colours[alpha > 127].max(axis=1)
    if opaque.size and opaque.min() == 0 < opaque.max():
        raise _refuse(name, "is transparent in places and black in others")
    return alpha


def _without_colour(colours: np.ndarray, name: object) -> np.ndarray:
    """The brightest channel on a dark background, the colourfulness on a white one."""
    brightest = colours.max(axis=2)
    spread = brightest - colours.min(axis=2)
    grey = spread <= _COLOURED
    if grey.all() or not (white := grey & (brightest > 127)).any():
        return brightest
    if (grey & ~white).any():
        raise _refuse(name, "has black, white and coloured parts")
    return np.where(grey, 0, spread)


def _from_grey(values: np.ndarray, name: object) -> np.ndarray:
    if not np.isfinite(values).all() or values.min(initial=0) < 0:
        raise _refuse(name, "holds negative values or values that are no numbers")
    levels, counts = np.unique(values, return_counts=True)
    top = levels[-1]
    whole = values.dtype.kind != "f" or top > 1
    full = 1 if not whole else 255 if top <= 255 else 65535
    if len(levels) <= _FEW_LEVELS:
        if len(levels) > 1 and levels[0] > 0:  # no black: the darkest level is background
            if levels[1] / 2 < levels[0] and not levels[0] < full / 2 <= levels[1]:
                raise _refuse(name, f"has no black but the levels {', '.join(f'{level:g}' for level in levels)}")
            return _from_grey(values - levels[0], name)
        lesion = _few_levels(values, levels, whole, name)
        if lesion is not None:
            return lesion * np.uint8(255)
    if whole and top <= full and 2 * counts[levels >= _PLATEAU * top].sum() >= counts[levels > _NOISE * top].sum():
        full = top if top < _PLATEAU * full else full  # the smooth edge of one level
    elif whole and not full / 2 <= top <= full:
        raise _refuse(name, f"holds {len(levels)} grey levels up to {top:g}")
    if full == 255 and values.dtype == np.uint8:
        return values
    return np.rint(values * (255 / full)).astype(np.uint8)


def _few_levels(values: np.ndarray, levels: np.ndarray, whole: bool, name: object) -> np.ndarray | None:
    """The lesion (H, W) bool where levels are one lesion or classes; None where they smooth an edge."""
    top, drawn = levels[-1], levels[levels > 0]
    if len(drawn) < 2 or (whole and top <= _LARGEST_CLASS_NUMBER):
        return values > 0
    if not whole:
        return None
    solid = [level for level in drawn[:-1] if ndimage.binary_erosion(values == level, iterations=2).any()]
    if any(level < _NOISE * top for level in solid):
        raise _refuse(name, f"has levels from {drawn[0]:g} to {top:g} side by side")
    return values >= solid[0] if solid else None


def sizes_agree(mask_shape: tuple[int, int], image_shape: tuple[int, int]) -> bool:
    """Whether a mask of one size can belong to an image of another.

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
