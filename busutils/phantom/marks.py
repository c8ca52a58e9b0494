"""Burnt-in calipers and text of the phantoms, with a mask of their pixels."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SIDES = ("RT", "LT")
_PLACES = ("UOQ", "UIQ", "LOQ", "LIQ", "AXILLA", "SUBAREOLAR", "2", "6", "9", "11", "3 4CM", "10 5CM")


def draw_marks(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, *, calipers: float, text: float
) -> np.ndarray:
    """Burn calipers and text into an image, in place.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        Changed in place.
    mask : (H, W) bool ndarray
        Calipers span the lesion's long axis and the axis across.
    rng : numpy.random.Generator
    calipers, text : float
        Probability of each.

    Returns
    -------
    (H, W) bool ndarray
        Pixels that were burnt in.
    """
    with_calipers, with_text = rng.random(2) < (calipers, text)
    canvas = Image.new("L", image.shape[::-1])
    pen = ImageDraw.Draw(canvas)
    # The bitmap font is the same on every machine; a TrueType font would change bytes with its version.
    font = ImageFont.load_default_imagefont()
    if with_calipers and mask.any():
        for number, (start, end) in enumerate(_axes(mask), 1):
            _caliper(pen, start, end, f"{number}", font, max(round(len(image) / 64), 2))
    if with_text:
        words = f"{rng.choice(_SIDES)} {rng.choice(_PLACES)}"
        at = (rng.uniform(0.03, 0.7) * image.shape[1], rng.uniform(0.72, 0.93) * image.shape[0])
        pen.text((round(at[0]), round(at[1])), words, fill=235, font=font)
    burnt = np.asarray(canvas)
    marks = burnt > 127
    image[marks] = burnt[marks]
    return marks


def _axes(mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """End points (row, column) of the largest lesion extent and of the widest extent across it."""
    points = np.argwhere(mask).astype(float)
    centre = points.mean(0)
    _, vectors = np.linalg.eigh(np.cov((points - centre).T) + 1e-6 * np.eye(2))
    axes = []
    for direction in vectors.T[::-1]:
        along = (points - centre) @ direction
        near = np.abs((points - centre) @ np.array([-direction[1], direction[0]])) < 1.5
        low, high = along[near].min(initial=0.0), along[near].max(initial=0.0)
        axes.append((centre + low * direction, centre + high * direction))
    return axes


def _caliper(pen, start, end, name, font, arm):
    length = math.dist(start, end)
    for step in np.arange(0, length, 3.0):
        row, column = start + (end - start) * (step / max(length, 1e-6))
        pen.point((round(column), round(row)), fill=200)
    for row, column in (start, end):
        row, column = round(row), round(column)
        pen.line((column - arm, row, column + arm, row), fill=245)
        pen.line((column, row - arm, column, row + arm), fill=245)
    pen.text((round(start[1]) + arm + 1, round(start[0]) - 2 * arm - 6), name, fill=245, font=font)
