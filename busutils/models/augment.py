"""Random changes of a training image that leave its truth known.

Geometry moves image and mask together; grey values change the image alone. Nothing is flipped upside down: depth
runs downwards in ultrasound, and shadows fall away from the probe.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from busutils.errors import BusutilsError

__all__ = ["augment", "augment_batch"]


def _geometry(rng: np.random.Generator, size: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """A random map from output to input pixels: flip, rotation, scale and shift about the centre."""
    angle = np.deg2rad(rng.uniform(-15, 15) * strength)
    scale = np.exp(rng.uniform(np.log(0.8), np.log(1.25)) * strength)
    stretch = np.exp(rng.uniform(-0.1, 0.1) * strength)
    flip = rng.choice([-1.0, 1.0])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.diag([stretch / scale, flip / (stretch * scale)])
    centre = (size - 1) / 2
    shift = rng.uniform(-0.1, 0.1, 2) * size * strength
    return matrix, centre - matrix @ (np.full(2, centre) + shift)


def _grey(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Gamma, gain, speckle and resolution: what differs between scanners and their settings."""
    values = image / 255.0
    values = values ** np.exp(rng.uniform(-0.4, 0.4) * strength)
    mean = values.mean()
    values = (values - mean) * np.exp(rng.uniform(-0.3, 0.3) * strength) + mean + rng.uniform(-0.1, 0.1) * strength
    if rng.random() < 0.3:
        values = ndimage.gaussian_filter(values, rng.uniform(0.3, 1.2) * strength * image.shape[0] / 128)
    if rng.random() < 0.5:
        # Speckle multiplies: bright tissue is noisier.
        grain = rng.standard_normal(image.shape).astype(np.float32)
        grain = ndimage.gaussian_filter(grain, rng.uniform(0.4, 1.2)) * rng.uniform(0.5, 2.0)
        values = values * (1 + 0.15 * strength * grain)
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
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, *, strength: float | tuple[float, float] = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Change one square training image at random, and its mask with it.

    Parameters
    ----------
    image : (S, S) uint8 ndarray
        Grey image.
    mask : (S, S) bool ndarray
        Its lesion.
    rng : numpy.random.Generator
        Source of chance; the same state gives the same result.
    strength : float or pair of float, default 1
        Scales all changes, or those of geometry and of grey values; 0 leaves a possible mirror image only.

    Returns
    -------
    image : (S, S) float32 ndarray
        In [0, 255].
    mask : (S, S) bool ndarray
    """
    geometry, grey = strengths(strength)
    matrix, offset = _geometry(rng, image.shape[0], geometry)
    moved = ndimage.affine_transform(image.astype(np.float32), matrix, offset, order=1)
    # A mask is moved as a map from 0 to 1 and cut at one half: its border stays as smooth as it was.
    truth = ndimage.affine_transform(mask.astype(np.float32), matrix, offset, order=1) >= 0.5
    return _grey(moved, rng, grey).astype(np.float32), truth


def augment_batch(
    images: np.ndarray,
    masks: np.ndarray,
    rng: np.random.Generator,
    *,
    strength: float | tuple[float, float] = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Apply :func:`augment` to every image of a stack.

    Parameters
    ----------
    images : (N, S, S) uint8 ndarray
        Grey images.
    masks : (N, S, S) bool ndarray
        Their lesions.
    rng : numpy.random.Generator
        Source of chance.
    strength : float or pair of float, default 1
        As in :func:`augment`.

    Returns
    -------
    images : (N, S, S) float32 ndarray
        In [0, 255].
    masks : (N, S, S) bool ndarray
    """
    pairs = [augment(image, mask, rng, strength=strength) for image, mask in zip(images, masks, strict=True)]
    return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])
