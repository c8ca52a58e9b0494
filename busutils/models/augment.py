"""Random changes of a training image that leave its reference mask known.

Geometry moves image and mask together; grey values change the image alone. Nothing is flipped upside down: depth
runs downwards in ultrasound, and shadows fall away from the probe.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from busutils.errors import BusutilsError

__all__ = ["augment", "augment_batch", "lesion_free_window"]


def lesion_free_window(mask: np.ndarray, rng: np.random.Generator, *, tries: int = 20) -> tuple[int, int, int] | None:
    """Find a square part of an image that shows no lesion, of 30 to 75 % of its side.

    Normal images are rare in public sets; the tissue beside a lesion teaches a network as well where to find nothing.

    Parameters
    ----------
    mask : (S, S) bool ndarray
        Lesion.
    rng : numpy.random.Generator
        Source of randomness.
    tries : int, default 20
        Random windows to look at.

    Returns
    -------
    (top, left, side) of int, or None if no such window was found
    """
    size = mask.shape[0]
    for _ in range(tries):
        side = int(size * rng.uniform(0.3, 0.75))
        top, left = rng.integers(0, size - side + 1, 2)
        if not mask[top : top + side, left : left + side].any():
            return int(top), int(left), side
    return None


def _geometry(rng: np.random.Generator, size: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """A random map from output to input pixels: flip, rotation, scale, aspect ratio and shift about the centre."""
    angle = np.deg2rad(rng.uniform(-15, 15) * strength)
    scale = np.exp(rng.uniform(np.log(0.6), np.log(1.6)) * strength)
    # The ratio of width to height changes by up to 2: images of all shapes become squares, in every hospital differently.
    stretch = np.exp(rng.uniform(-0.35, 0.35) * strength)
    flip = rng.choice([-1.0, 1.0])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.diag([stretch / scale, flip / (stretch * scale)])
    centre = (size - 1) / 2
    shift = rng.uniform(-0.15, 0.15, 2) * size * strength
    return matrix, centre - matrix @ (np.full(2, centre) + shift)


def _processing(values: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """What scanners do to an image before it is stored: a grey map, a filter, uneven gain, black borders."""
    size = values.shape[0]
    if rng.random() < 0.7:
        # A random rising curve through four equal steps of the input.
        curve = np.concatenate([[0], np.cumsum(rng.dirichlet(np.full(4, 2.0)))])
        share = rng.uniform(0, 1) * min(strength, 1)
        values = ((1 - share) * values + share * np.interp(values, np.linspace(0, 1, 5), curve)).astype(np.float32)
    kind = rng.random()
    if kind < 0.2:  # smoothed speckle
        values = ndimage.median_filter(values, size=int(rng.choice([3, 5])))
    elif kind < 0.4:  # enhanced edges
        smooth = ndimage.gaussian_filter(values, rng.uniform(0.8, 2))
        values = np.clip(values + rng.uniform(0.3, 1.2) * strength * (values - smooth), 0, 1)
    elif kind < 0.55:  # coarse pixels
        coarse = max(16, int(size / rng.uniform(1.5, 3.5)))
        values = ndimage.zoom(ndimage.zoom(values, coarse / size, order=1), size / coarse, order=1)
    if rng.random() < 0.3:
        field = ndimage.gaussian_filter(rng.standard_normal(values.shape, np.float32), size * rng.uniform(0.12, 0.3))
        values = np.clip(values * (1 + rng.uniform(0, 0.25) * strength * field / (field.std() + 1e-6)), 0, 1)
    if rng.random() < 0.2:
        width = max(1, int(size * rng.uniform(0.02, 0.15)))
        values = values.copy()
        border = [np.s_[-width:, :], np.s_[:, :width], np.s_[:, -width:]][rng.integers(3)]
        values[border] = 0
    return values.astype(np.float32)


def _grey(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """What differs between scanners and their settings: processing, gamma, gain, gain along depth, blur and speckle."""
    size = image.shape[0]
    values = _processing(image / np.float32(255), rng, strength) ** np.float32(
        np.exp(rng.uniform(-0.5, 0.5) * strength)
    )
    mean = values.mean()
    values = (values - mean) * np.float32(np.exp(rng.uniform(-0.4, 0.4) * strength)) + mean
    # Gain of the whole image, and its change from the skin to the deepest tissue.
    knots = rng.uniform(-0.1, 0.1) + rng.uniform(-0.15, 0.15, 4) * (rng.random() < 0.5)
    values = (
        values + np.interp(np.arange(size), np.linspace(0, size - 1, 4), knots * strength).astype(np.float32)[:, None]
    )
    if rng.random() < 0.3:
        sigma = rng.uniform(0.3, 1.5) * strength * size / 128
        values = ndimage.gaussian_filter(values, (sigma, sigma * rng.uniform(1, 2)), truncate=3)
    if rng.random() < 0.5:
        # Speckle multiplies: bright tissue is noisier. Its grains are wider than high.
        grain = rng.standard_normal(image.shape, np.float32)
        sigma = rng.uniform(0.4, 1.2)
        grain = ndimage.gaussian_filter(grain, (sigma, sigma * rng.uniform(1, 2)), truncate=3)
        values = values * (1 + np.float32(0.15 * strength * rng.uniform(0.2, 1.0) / max(grain.std(), 1e-6)) * grain)
    return np.clip(values, 0, 1) * 255


def strengths(given: float | tuple[float, float]) -> tuple[float, float]:
    """Return the strengths of the changes of geometry and of grey values.

    Parameters
    ----------
    given : float or pair of float
        One number for both, or one each.

    Returns
    -------
    geometry, grey : float

    Raises
    ------
    ValueError
        If it is neither, or negative.
    """
    values = np.ravel(given).astype(float)
    if values.size not in (1, 2) or not (values >= 0).all():
        raise BusutilsError(
            f"augmentation {given!r} must be a number of at least 0, or two: for geometry and for grey values"
        )
    return float(values[0]), float(values[-1])


def augment(
    image: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    strength: float | tuple[float, float] = 1.0,
    window: tuple[int, int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Change one square training image at random, and its mask with it.

    Parameters
    ----------
    image : (S, S) uint8 ndarray
        Grey image.
    mask : (S, S) bool ndarray
        Its lesion.
    rng : numpy.random.Generator
        Source of randomness; the same state gives the same result.
    strength : float or pair of float, default 1
        Scales all changes, or those of geometry and of grey values; 0 leaves a possible mirror image only.
    window : (top, left, side) of int, optional
        Part of the image to enlarge to the whole square first, see :func:`lesion_free_window`.

    Returns
    -------
    image : (S, S) float32 ndarray
        In [0, 255]. What lies beyond the border is filled by reflection, in the mask too.
    mask : (S, S) bool ndarray
    """
    geometry, grey = strengths(strength)
    size = image.shape[0]
    if window is not None:
        top, left, side = window
        image, mask = image[top : top + side, left : left + side], mask[top : top + side, left : left + side]
    zoom = (image.shape[0] - 1) / (size - 1) if size > 1 else 1.0
    matrix, offset = _geometry(rng, size, geometry)
    matrix, offset = matrix * zoom, offset * zoom
    moved = ndimage.affine_transform(image.astype(np.float32), matrix, offset, (size, size), order=1, mode="mirror")
    truth = np.zeros((size, size), bool)
    if mask.any():
        # A mask is moved as a map from 0 to 1 and cut at one half: its border stays as smooth as it was.
        soft = ndimage.affine_transform(mask.astype(np.float32), matrix, offset, (size, size), order=1, mode="mirror")
        truth = soft >= 0.5
    return _grey(moved, rng, grey).astype(np.float32) if grey else moved, truth


def augment_batch(
    images: np.ndarray,
    masks: np.ndarray,
    rng: np.random.Generator,
    *,
    strength: float | tuple[float, float] = 1.0,
    lesion_free: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Apply :func:`augment` to every image of a stack.

    Parameters
    ----------
    images : (N, S, S) uint8 ndarray
        Grey images.
    masks : (N, S, S) bool ndarray
        Their lesions.
    rng : numpy.random.Generator
        Source of randomness.
    strength : float or pair of float, default 1
        As in :func:`augment`.
    lesion_free : float, default 0
        Share of the lesion images of which only a part beside the lesion is shown, see :func:`lesion_free_window`.

    Returns
    -------
    images : (N, S, S) float32 ndarray
        In [0, 255].
    masks : (N, S, S) bool ndarray
    """
    changed, moved = np.empty(images.shape, np.float32), np.empty(masks.shape, bool)
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        cropped = rng.random() < lesion_free and mask.any()
        window = lesion_free_window(mask, rng) if cropped else None
        changed[index], moved[index] = augment(image, mask, rng, strength=strength, window=window)
    return changed, moved
