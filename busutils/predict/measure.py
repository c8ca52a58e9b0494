"""Area, bounding box, longest axis and probabilities of what was found in an image."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import zlib
from typing import Any

import numpy as np
import PIL.Image
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from busutils.explain.uncertainty import mean_entropy
from busutils.io import Image

__all__ = ["COLUMNS", "Prediction", "describe", "mask_png", "one_line", "overlay_png"]

_CYAN = (39, 215, 242)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was found in one image: its row in ``predictions.csv``.

    ``area_px`` counts lesion pixels at the image's own size; ``top, left, bottom, right`` bound them (empty without a
    lesion); ``confidence`` is the mean probability inside the mask; ``uncertainty`` the mean entropy in bits of the
    pixels that may be lesion; ``frame`` counts from 1 in files that hold several images; ``longest_axis_px`` is the
    longest straight line across the largest region, from border to border; ``area_mm2`` and ``longest_axis_mm`` are
    given where the file tells the size of its pixels; ``error`` says why an image could not be used.
    """

    file: str
    mask: str = ""
    height: int | None = None
    width: int | None = None
    area_px: int | None = None
    area_share: float | None = None
    top: int | None = None
    left: int | None = None
    bottom: int | None = None
    right: int | None = None
    confidence: float | None = None
    uncertainty: float | None = None
    frame: int | None = None
    longest_axis_px: float | None = None
    area_mm2: float | None = None
    longest_axis_mm: float | None = None
    error: str = ""


COLUMNS = [field.name for field in dataclasses.fields(Prediction)]


def one_line(text: str | os.PathLike[str]) -> str:
    """Text in one line of valid UTF-8, since a row of the table must be one line."""
    text = os.fspath(text).encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _outer_corners(mask: np.ndarray) -> np.ndarray:
    """Convex hull (n, 2) of the largest region of a mask that has one, by the middles of its pixels' outer edges."""
    regions, n_regions = ndimage.label(mask, structure=np.ones((3, 3)))
    if n_regions > 1:
        mask = regions == 1 + np.bincount(regions.ravel())[1:].argmax()
    # The first and the last pixel of every row span the hull.
    rows = np.flatnonzero(mask.any(axis=1))
    left, right = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    ends = [
        (column, outer) for column, side in ((left, -0.5), (right, 0.5)) for outer in ((-0.5, 0), (0.5, 0), (0, side))
    ]
    points = np.concatenate([np.stack([rows, column], axis=1) + outer for column, outer in ends])
    return points[ConvexHull(points).vertices]


def describe(
    file: str | os.PathLike[str], mask_file: str, image: Image, prob: np.ndarray, mask: np.ndarray, threshold: float
) -> Prediction:
    """Measure what was found in an image.

    Parameters
    ----------
    file : path-like
        Where the image came from.
    mask_file : str
        Name of its mask.
    image : Image
        The image and the size of its pixels.
    prob : (H, W) float32 ndarray
        Probability map.
    mask : (H, W) bool ndarray
        The mask drawn from it.
    threshold : float
        From which the probability counted as lesion.

    Returns
    -------
    Prediction
        A row of the table.
    """
    area, spacing = int(np.count_nonzero(mask)), image.spacing
    values: dict[str, Any] = {}
    if area:
        rows, columns = (np.flatnonzero(mask.any(axis=axis)).tolist() for axis in (1, 0))
        values |= {"top": rows[0], "left": columns[0], "bottom": rows[-1] + 1, "right": columns[-1] + 1}
        corners = _outer_corners(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        values["longest_axis_px"] = round(float(pdist(corners).max()), 2)
        values["confidence"] = round(float(prob[mask].mean()), 4)
        if spacing:
            values["longest_axis_mm"] = round(float(pdist(corners * spacing).max()), 3)
    if spacing:
        values["area_mm2"] = round(area * spacing[0] * spacing[1], 3)
    return Prediction(
        file=one_line(file),
        mask=mask_file,
        height=mask.shape[0],
        width=mask.shape[1],
        area_px=area,
        area_share=round(area / mask.size, 6),
        uncertainty=round(mean_entropy(prob, threshold), 4),
        frame=image.frame,
        **values,
    )


def mask_png(mask: np.ndarray) -> bytes:
    """A mask as a PNG file: 255 for lesion.

    Parameters
    ----------
    mask : (H, W) bool ndarray

    Returns
    -------
    bytes
    """
    # Run-length compression suits masks: twice as fast, and smaller files.
    return _png(np.uint8(255) * mask, compress_type=zlib.Z_RLE)


def overlay_png(image: np.ndarray, mask: np.ndarray) -> bytes:
    """The image as a PNG file, with a cyan line, two pixels wide, around the lesion."""
    picture = np.repeat(image[..., None], 3, axis=-1)
    picture[ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)] = _CYAN
    return _png(picture, compress_level=3)


def _png(pixels: np.ndarray, **options: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()
