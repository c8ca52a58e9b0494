"""Uncertainty of a prediction: entropy, test-time augmentation, Monte Carlo dropout, ensembles, risk and coverage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from busutils.explain.activation import batch_of, levels_of, network_of
from busutils.io import resize_map
from busutils.models.segmenter import Segmenter, check_images


def entropy(prob: np.ndarray) -> np.ndarray:
    """Entropy of every pixel's probability, in bits: 0 where it is 0 or 1, and 1 at one half.

    Parameters
    ----------
    prob : (..., H, W) float ndarray
        Probabilities in [0, 1].

    Returns
    -------
    float32 ndarray of the same shape

    Examples
    --------
    >>> entropy(np.array([0.0, 0.5, 1.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    p = np.clip(np.asarray(prob, dtype=np.float64), 1e-12, 1 - 1e-12)
    bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return np.where((prob <= 0) | (prob >= 1), 0.0, bits).astype(np.float32)


def tta_proba(segmenter: Segmenter, images: np.ndarray | Sequence[np.ndarray]) -> tuple[list, list]:
    """Mean and spread of the probability under changes that should not matter.

    Each image is also segmented mirrored, darker and brighter (gamma 0.8 and 1.25).

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one.
    images : (N, H, W) uint8 ndarray or sequence of (H, W) uint8 ndarray
        Images.

    Returns
    -------
    mean, spread : list of (H, W) float32 ndarray
        Mean and standard deviation over the four versions.
    """
    images = check_images(images)
    grey = np.arange(256) / 255
    darker, brighter = (np.round(255 * grey**g).astype(np.uint8) for g in (1.25, 0.8))
    versions: list[Any] = [
        segmenter.predict_proba(images),
        [prob[:, ::-1] for prob in segmenter.predict_proba([image[:, ::-1] for image in images])],
        segmenter.predict_proba([darker[image] for image in images]),
        segmenter.predict_proba([brighter[image] for image in images]),
    ]
    return _mean_and_spread(zip(*versions, strict=True))


def dropout_proba(
    segmenter: Segmenter,
    images: np.ndarray | Sequence[np.ndarray],
    *,
    rate: float = 0.3,
    samples: int = 8,
    seed: int = 0,
) -> tuple[list, list]:
    """Mean and spread of the probability while channels of the bottleneck are dropped at random (MC dropout).

    A dropout layer after the bottleneck sets whole channels to zero and scales the others up, as in training with
    ``UNetSegmenter(dropout=…)``. Nothing else is in training mode, so batch statistics stay as they are. For a network
    trained without dropout, the spread only measures how robust it is to the loss of channels.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network that has a layer ``bottleneck``.
    images : (N, H, W) uint8 ndarray or sequence of (H, W) uint8 ndarray
        Images.
    rate : float, default 0.3
        Share of the channels, in [0, 1).
    samples : int, default 8
        Draws.
    seed : int, default 0
        Of the draws.

    Returns
    -------
    mean, spread : list of (H, W) float32 ndarray
        Mean and standard deviation over the draws.

    Raises
    ------
    ValueError
        If the segmenter has no network, or `rate` is not in [0, 1).

    References
    ----------
    Gal, Ghahramani 2016, ICML, arXiv:1506.02142.
    """
    from busutils.models.backend import keras

    network = network_of(segmenter)
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    levels = [name for name in levels_of(segmenter) if name.startswith("enc")]
    cuts = [network.get_layer(name).output for name in [*levels, "bottleneck"]]
    contract, expand = keras.Model(network.inputs, cuts), keras.Model(cuts, network.outputs)
    dropout = keras.layers.SpatialDropout2D(rate, seed=seed)
    stacks = []
    for image in check_images(images):
        values = contract.predict_on_batch(batch_of(segmenter, image))
        *skips, deepest = (keras.ops.repeat(keras.ops.convert_to_tensor(v), samples, axis=0) for v in values)
        probs = expand.predict_on_batch([*skips, dropout(deepest, training=True)])
        stacks.append([resize_map(np.asarray(prob, np.float32)[..., 0], image.shape) for prob in probs])
    return _mean_and_spread(stacks)


def ensemble_proba(members: Sequence[Segmenter], images: np.ndarray | Sequence[np.ndarray]) -> tuple[list, list]:
    """Mean and spread of the probability over segmenters of one recipe and different seeds.

    Parameters
    ----------
    members : sequence of Segmenter
        Fitted ones, at least two.
    images : (N, H, W) uint8 ndarray or sequence of (H, W) uint8 ndarray
        Images.

    Returns
    -------
    mean, spread : list of (H, W) float32 ndarray
        Mean and standard deviation over the members.

    Raises
    ------
    ValueError
        If there are fewer than two members.

    References
    ----------
    Lakshminarayanan, Pritzel, Blundell 2017, Simple and scalable predictive uncertainty estimation using deep ensembles,
    NeurIPS, arXiv:1612.01474.
    """
    if len(members) < 2:
        raise ValueError(f"an ensemble needs at least two members, got {len(members)}")
    images = check_images(images)
    return _mean_and_spread(zip(*(member.predict_proba(images) for member in members), strict=True))


def _mean_and_spread(maps: Iterable[Any]) -> tuple[list, list]:
    """Mean and standard deviation of each image's maps; every item holds the maps of one image."""
    stacks = [np.stack(of_image) for of_image in maps]
    return [stack.mean(axis=0) for stack in stacks], [stack.std(axis=0) for stack in stacks]


def mean_entropy(prob: np.ndarray, threshold: float = 0.5) -> float:
    """Uncertainty of an image as one number: mean entropy of the pixels that may be lesion.

    Parameters
    ----------
    prob : (H, W) float ndarray
        Probabilities.
    threshold : float, default 0.5
        Pixels with at least half of it count.

    Returns
    -------
    float
        In [0, 1] bit; 1 if no pixel counts, since a lesion may then have been missed.
    """
    candidates = prob[prob >= threshold / 2]
    return float(entropy(candidates).mean()) if candidates.size else 1.0


def risk_coverage(uncertainties: Sequence[float], dice: Sequence[float]) -> pd.DataFrame:
    """Mean error of the images that remain when the most uncertain ones are handed to a person.

    Parameters
    ----------
    uncertainties : (N,) sequence of float
        Uncertainty of every image.
    dice : (N,) sequence of float
        Its Dice; images whose Dice is undefined are left out.

    Returns
    -------
    pandas.DataFrame
        ``coverage`` (share of images kept, least uncertain first) and ``risk`` (mean of 1 − Dice among them).

    Examples
    --------
    >>> risk_coverage([0.9, 0.1], [0.0, 1.0])["risk"].tolist()
    [0.0, 0.5]
    """
    table = (
        pd.DataFrame({"uncertainty": uncertainties, "dice": dice}).dropna().sort_values("uncertainty", kind="stable")
    )
    n = np.arange(1, len(table) + 1)
    return pd.DataFrame({"coverage": n / max(len(table), 1), "risk": np.cumsum(1 - table["dice"].to_numpy()) / n})
