"""Sanity checks of explanation maps: randomised weights, deletion and insertion, edits of the context.

References
----------
Adebayo et al. 2018, Sanity checks for saliency maps, NeurIPS, arXiv:1810.03292.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import ndimage, stats

from busutils import metrics
from busutils.explain.activation import layer_of, network_of
from busutils.models.segmenter import Segmenter, check_images, check_masks
from busutils.phantom.marks import draw_marks


def edge_map(image: np.ndarray, *, sigma: float = 2.0) -> np.ndarray:
    """Strength of grey-value edges: a baseline map that depends on the image alone.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        B-mode image.
    sigma : float, default 2
        Smoothing in pixels.

    Returns
    -------
    (H, W) float32 ndarray
        Not negative.
    """
    return ndimage.gaussian_gradient_magnitude(image.astype(np.float32), sigma)


def energy_inside(values: np.ndarray, mask: np.ndarray) -> float:
    """Share of a map's sum that lies inside a mask.

    Parameters
    ----------
    values : (H, W) float ndarray
        A map, not negative.
    mask : (H, W) bool ndarray
        The lesion.

    Returns
    -------
    float
        In [0, 1]; compare it with the mask's share of the image, which a flat map reaches. ``nan`` for a map of zeros.

    Examples
    --------
    >>> energy_inside(np.ones((2, 2)), np.eye(2, dtype=bool))
    0.5
    """
    total = float(values.sum())
    return float(values[mask].sum()) / total if total > 0 else float("nan")


def map_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two maps, pixel by pixel.

    Parameters
    ----------
    first, second : (H, W) float ndarray
        Maps of one image.

    Returns
    -------
    float
        In [-1, 1]; ``nan`` if a map is constant.

    Examples
    --------
    >>> values = np.arange(4.0).reshape(2, 2)
    >>> round(map_similarity(values, values**3), 3)
    1.0
    """
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.spearmanr(first.ravel(), second.ravel()).statistic)


def randomise(segmenter: Segmenter, down_to: str, *, seed: int = 0) -> Segmenter:
    """Copy a segmenter and shuffle its weights, from the output back to a layer (cascading randomisation).

    A map that does not change does not show what the network has learned.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network; it is left as it is.
    down_to : str
        The earliest layer whose weights are shuffled.
    seed : int, default 0
        Of the shuffling.

    Returns
    -------
    Segmenter

    Raises
    ------
    ValueError
        If the segmenter has no network, or the network no such layer.
    """
    first = network_of(segmenter).layers.index(layer_of(network_of(segmenter), down_to))
    shuffled = copy.deepcopy(segmenter)
    rng = np.random.default_rng(seed)
    for layer in shuffled.network_.layers[first:]:
        # Shuffling keeps the distribution of a layer's weights and destroys only what they have learned.
        layer.set_weights([rng.permuted(weight.ravel()).reshape(weight.shape) for weight in layer.get_weights()])
    return shuffled


def deletion_insertion(segmenter: Segmenter, image: np.ndarray, values: np.ndarray, region: np.ndarray) -> pd.DataFrame:
    """Blur the pixels that a map calls important, most important first; and restore them in a blurred image.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one.
    image : (H, W) uint8 ndarray
        B-mode image.
    values : (H, W) float ndarray
        The map.
    region : (H, W) bool ndarray
        The region whose mean probability is measured.

    Returns
    -------
    pandas.DataFrame
        ``share`` of the pixels changed, and the region's mean probability ``deleted`` and ``inserted``. A good map makes
        the first fall early and the second rise early; compare it with :func:`edge_map` and with chance.

    References
    ----------
    Petsiuk, Das, Saenko 2018, RISE, BMVC, arXiv:1806.07421.
    """
    blurred = ndimage.gaussian_filter(image, max(image.shape) / 16, mode="nearest")
    # Equal values, such as the zeros of a map cut at zero, come in random order and not row by row.
    ties = np.random.default_rng(0).random(values.size)
    rank = np.argsort(np.lexsort((ties, -values.ravel()))).reshape(values.shape)
    shares = np.linspace(0, 1, 11)
    versions = []
    for share in shares:
        important = rank < round(share * values.size)
        versions += [np.where(important, blurred, image), np.where(important, image, blurred)]
    means = [float(prob[region].mean()) for prob in segmenter.predict_proba(np.stack(versions))]
    return pd.DataFrame({"share": shares, "deleted": means[::2], "inserted": means[1::2]})


def with_calipers(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Burn calipers into an image, at the ends of the lesion's two axes, as in images stored by scanners.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        B-mode image.
    mask : (H, W) bool ndarray
        What is measured. On an image without a lesion, any region may be given.

    Returns
    -------
    (H, W) uint8 ndarray
        A copy; without calipers if the mask is empty.
    """
    marked = image.copy()
    # The generator decides whether to draw, not where.
    draw_marks(marked, mask, np.random.default_rng(0), calipers=1.0, text=0.0)
    return marked


def without_shadow(image: np.ndarray, mask: np.ndarray, *, smooth: float = 4.0) -> np.ndarray:
    """Lift the area below a lesion to the grey level of its neighbours at the same depth.

    In a log-compressed image a loss is a difference of grey levels: adding it back removes a shadow (or, where the area
    is brighter, an enhancement) and keeps the speckle. Where the shadow is black, there is no texture to restore.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        B-mode image.
    mask : (H, W) bool ndarray
        Lesion.
    smooth : float, default 4
        Standard deviation, in pixels of depth, over which the difference is averaged.

    Returns
    -------
    (H, W) uint8 ndarray
        A copy; as it was if nothing lies below the lesion, or beside it.

    Examples
    --------
    >>> mask = np.zeros((9, 9), bool)
    >>> mask[:2, 3:6] = True
    >>> image = np.full((9, 9), 80, np.uint8)
    >>> image[2:, 3:6] = 30
    >>> without_shadow(image, mask)[2:].min()
    np.uint8(80)
    """
    changed = image.copy()
    if not mask.any():
        return changed
    columns = np.flatnonzero(mask.any(axis=0))
    first, last = columns[0], columns[-1]
    below = mask.any(axis=0) & ~np.logical_or.accumulate(mask[::-1])[::-1]
    place = np.arange(mask.shape[1])
    distance = np.maximum(first - place, place - last)  # of columns from those of the lesion
    beside = (distance > 0) & (distance <= last - first + 1)
    rows = np.flatnonzero(below.any(axis=1))
    if not len(rows) or not beside.any():
        return changed
    grey = image.astype(float)
    gap = [grey[row, beside].mean() - grey[row, below[row]].mean() for row in rows]
    gap = ndimage.gaussian_filter1d(np.array(gap), smooth, mode="nearest")
    lifted = grey[rows] + gap[:, None] * below[rows]
    changed[rows] = np.clip(np.round(lifted), 0, 255).astype(np.uint8)
    return changed


def context_test(
    segmenter: Segmenter,
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    change: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> pd.DataFrame:
    """Change what surrounds the lesion, and measure how much the prediction changes.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one, of any kind.
    images : sequence of (H, W) uint8 ndarray
        Images.
    masks : sequence of (H, W) bool ndarray
        References.
    change : callable
        From an image and its mask to the changed image, such as :func:`with_calipers` or :func:`without_shadow`.

    Returns
    -------
    pandas.DataFrame
        One row an image: ``dice_before`` and ``dice_after`` with the reference; ``agreement``, the Dice of both
        predictions with each other (1 if both are empty); ``area_change`` of the prediction, as a share of the image.

    Raises
    ------
    ValueError
        If images and masks do not belong together.
    """
    images = check_images(images)
    masks = check_masks(masks, images)
    before = segmenter.predict(list(images))
    after = segmenter.predict([change(image, mask) for image, mask in zip(images, masks, strict=True)])
    rows = [
        {
            "dice_before": metrics.dice(mask, first),
            "dice_after": metrics.dice(mask, second),
            "agreement": metrics.dice(first, second, empty=1.0),
            "area_change": float(second.mean() - first.mean()),
        }
        for mask, first, second in zip(masks, before, after, strict=True)
    ]
    return pd.DataFrame(rows, columns=["dice_before", "dice_after", "agreement", "area_change"])
