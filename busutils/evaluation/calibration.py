"""Does a probability of 0.8 mean that 8 of 10 such pixels are lesion?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

__all__ = ["expected_calibration_error", "reliability"]


def reliability(masks: Sequence[np.ndarray], probs: Sequence[np.ndarray], *, bins: int = 10) -> pd.DataFrame:
    """Compare predicted probabilities with how often they came true, pixel by pixel.

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
        In [0, 1]; 0 is perfect. The many easy background pixels make it look small in segmentation.

    References
    ----------
    Guo et al. 2017, On calibration of modern neural networks, ICML, arXiv:1706.04599.
    """
    gap = (table["predicted"] - table["observed"]).abs().fillna(0)
    return float((gap * table["n"]).sum() / table["n"].sum())
