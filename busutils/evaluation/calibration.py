"""Calibration of probability maps: reliability table, expected calibration error, temperature scaling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage, optimize, special


def contour_band(mask: np.ndarray, pred: np.ndarray, *, radius: float = 10.0) -> np.ndarray:
    """Pixels near the contour of the reference or of the prediction, where most errors are.

    Parameters
    ----------
    mask, pred : (H, W) bool ndarray
        Reference and prediction.
    radius : float, default 10
        Distance in pixels.

    Returns
    -------
    (H, W) bool ndarray
        Empty if both masks are.

    Examples
    --------
    >>> mask = np.zeros((1, 9), bool)
    >>> mask[0, 4:] = True
    >>> contour_band(mask, mask, radius=2).astype(int).tolist()
    [[0, 0, 1, 1, 1, 1, 0, 0, 0]]
    """
    near = np.zeros(mask.shape, bool)
    for shown in (mask, pred):
        if shown.any() and not shown.all():
            inside = ndimage.distance_transform_edt(shown)
            outside = ndimage.distance_transform_edt(~shown)
            near |= inside + outside <= radius  # one of them is zero
    return near


def with_temperature(prob: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logits by a temperature; above 1, probabilities become less extreme. The mask at 0.5 does not change.

    Parameters
    ----------
    prob : float ndarray
        Probabilities in [0, 1].
    temperature : float
        Positive.

    Returns
    -------
    float32 ndarray of the same shape
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    logits = special.logit(np.clip(np.asarray(prob, float), 1e-6, 1 - 1e-6))
    return special.expit(logits / temperature).astype(np.float32)


def fit_temperature(masks: Sequence[np.ndarray], probs: Sequence[np.ndarray]) -> float:
    """Temperature with the least cross-entropy. Fit it on validation images, never on those that are scored.

    Parameters
    ----------
    masks, probs : sequences of arrays of equal shapes
        References (bool) and probabilities; whole images, or the pixels of a band.

    Returns
    -------
    float
        In [0.05, 20].

    References
    ----------
    Guo et al. 2017, On calibration of modern neural networks, ICML, arXiv:1706.04599.
    """
    truth = np.concatenate([np.ravel(mask) for mask in masks]).astype(float)
    prob = np.concatenate([np.ravel(prob) for prob in probs]).astype(float)
    logits = special.logit(np.clip(prob, 1e-6, 1 - 1e-6))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - truth * scaled))

    return float(np.exp(optimize.minimize_scalar(loss, bounds=np.log([0.05, 20]), method="bounded").x))


def reliability(masks: Sequence[np.ndarray], probs: Sequence[np.ndarray], *, bins: int = 10) -> pd.DataFrame:
    """Compare predicted probabilities with observed frequencies, pixel by pixel.

    Parameters
    ----------
    masks : sequence of (H, W) bool ndarray
        References.
    probs : sequence of (H, W) float ndarray
        Predicted probabilities in [0, 1].
    bins : int, default 10
        Equal steps of probability.

    Returns
    -------
    pandas.DataFrame
        One row a bin: ``low, high, n, predicted, observed`` (means; ``nan`` for an empty bin).

    Raises
    ------
    ValueError
        If masks and maps differ in number or shape.

    Examples
    --------
    >>> reliability([np.array([[True, False]])], [np.array([[0.9, 0.1]])], bins=2)["observed"].tolist()
    [0.0, 1.0]
    """
    if len(masks) != len(probs) or any(np.shape(m) != np.shape(p) for m, p in zip(masks, probs, strict=True)):
        raise ValueError("masks and probs must be as many and of the same shapes")
    n, predicted, observed = np.zeros(bins), np.zeros(bins), np.zeros(bins)
    for mask, prob in zip(masks, probs, strict=True):
        prob = np.asarray(prob, dtype=float).ravel()
        index = np.minimum((prob * bins).astype(int), bins - 1)
        n += np.bincount(index, minlength=bins)
        predicted += np.bincount(index, weights=prob, minlength=bins)
        observed += np.bincount(index, weights=np.ravel(mask), minlength=bins)
    edges = np.linspace(0, 1, bins + 1)
    filled = np.where(n > 0, n, np.nan)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "n": n.astype(int),
            "predicted": predicted / filled,
            "observed": observed / filled,
        }
    )


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Mean gap between predicted and observed frequency, weighted by pixels (ECE).

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`reliability`.

    Returns
    -------
    float
        In [0, 1]; 0 is perfect. In segmentation, the many easy background pixels make it small.

    References
    ----------
    Guo et al. 2017, On calibration of modern neural networks, ICML, arXiv:1706.04599.
    """
    gap = (table["predicted"] - table["observed"]).abs().fillna(0)
    return float((gap * table["n"]).sum() / table["n"].sum())
