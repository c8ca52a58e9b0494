"""Checks that a pretty map must pass before anybody believes it.

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

from busutils.models.segmenter import Segmenter

__all__ = ["deletion_insertion", "edge_map", "energy_inside", "map_similarity", "randomisation_curve", "randomise"]


def edge_map(image: np.ndarray, *, sigma: float = 2.0) -> np.ndarray:
    """Strength of grey-value edges: a map that knows nothing of any network, as a baseline.

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

    A map that stays as it was shows the image, not what the network has learned.

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
        If the network has no such layer.
    """
    names = [layer.name for layer in segmenter.network_.layers]
    if down_to not in names:
        raise ValueError(f"the network has no layer {down_to!r}")
    shuffled = copy.deepcopy(segmenter)
    rng = np.random.default_rng(seed)
    for layer in shuffled.network_.layers[names.index(down_to) :]:
        # Shuffling keeps the distribution of a layer's weights, so that only what they have learned is lost.
        layer.set_weights([rng.permuted(weight.ravel()).reshape(weight.shape) for weight in layer.get_weights()])
    return shuffled


def randomisation_curve(
    segmenter: Segmenter,
    explain: Callable[[Segmenter, np.ndarray], np.ndarray],
    images: Sequence[np.ndarray],
    layers: Sequence[str],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of a map survives while more and more of the network is shuffled.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network.
    explain : callable
        From a segmenter and an image to a map. It should ask about the same region before and after.
    images : sequence of (H, W) uint8 ndarray
        Images.
    layers : sequence of str
        How far back to shuffle, from the output on, such as ``["dec1", "dec3", "bottleneck", "enc1"]``.
    seed : int, default 0
        Of the shuffling.

    Returns
    -------
    pandas.DataFrame
        One row an image and layer: ``image, layer, similarity`` to the map of the trained network. A curve that stays
        high belongs to a method that shows the image.
    """
    before = [explain(segmenter, image) for image in images]
    rows = []
    for layer in layers:
        shuffled = randomise(segmenter, layer, seed=seed)
        for index, (image, first) in enumerate(zip(images, before, strict=True)):
            rows.append((index, layer, map_similarity(first, explain(shuffled, image))))
    return pd.DataFrame(rows, columns=["image", "layer", "similarity"])


def deletion_insertion(
    segmenter: Segmenter, image: np.ndarray, values: np.ndarray, region: np.ndarray, *, steps: int = 10
) -> pd.DataFrame:
    """Blur away the pixels that a map calls important, most important first; and bring them back into a blurred image.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one.
    image : (H, W) uint8 ndarray
        B-mode image.
    values : (H, W) float ndarray
        The map.
    region : (H, W) bool ndarray
        Whose mean probability is watched.
    steps : int, default 10
        Equal parts of the pixels.

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
    # Equal values, such as the zeros of a map cut at zero, come in random order and not from the top down.
    ties = np.random.default_rng(0).random(values.size)
    order = np.lexsort((ties, -values.ravel()))
    shares = np.linspace(0, 1, steps + 1)
    versions = []
    for share in shares:
        important = np.zeros(values.size, bool)
        important[order[: round(share * values.size)]] = True
        important = important.reshape(values.shape)
        versions += [np.where(important, blurred, image), np.where(important, image, blurred)]
    means = [float(prob[region].mean()) for prob in segmenter.predict_proba(np.stack(versions))]
    return pd.DataFrame({"share": shares, "deleted": means[::2], "inserted": means[1::2]})
