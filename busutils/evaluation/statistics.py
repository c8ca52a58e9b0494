"""Bootstrap intervals of means and paired comparisons of methods.

Near-duplicates and images of one patient are not independent. Everything here therefore resamples and compares **groups**,
not images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean and the bounds of its bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Comparison(NamedTuple):
    """A paired comparison: mean difference with its interval, Wilcoxon's p and the rank-biserial correlation."""

    difference: Interval
    p_value: float
    effect: float
    n_groups: int


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Any] | np.ndarray | None = None,
    *,
    trainings: Sequence[Any] | np.ndarray | None = None,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over images with a percentile bootstrap interval over groups, and over trainings where there are several.

    Parameters
    ----------
    values : (N,) sequence of float
        One score an image; ``nan`` (undefined) leaves the mean.
    groups : (N,) sequence, optional
        Group of every image; each image is its own by default.
    trainings : (N,) sequence, optional
        Which training of a method each score comes from, such as its seed. Trainings are then resampled too, so that the
        interval covers the variation between them; with two or three trainings it is a rough estimate.
    level : float, default 0.95
        Coverage of the interval.
    n_boot : int, default 2000
        Resamples.
    seed : int, default 0
        Of the resampling.

    Returns
    -------
    Interval
        ``mean, low, high``; all ``nan`` without a defined value, and bounds of ``nan`` with a single group.

    Raises
    ------
    ValueError
        If there is not one group, or one training, a value.

    Examples
    --------
    >>> print(bootstrap_mean([0.0, 1.0, 0.5, 0.5], groups=["a", "b", "c", "c"]).mean)
    0.5
    """
    values = np.asarray(values, dtype=float)
    groups = np.arange(len(values)) if groups is None else np.asarray(groups)
    trainings = np.zeros(len(values), int) if trainings is None else np.asarray(trainings)
    for name, labels in (("groups", groups), ("trainings", trainings)):
        if len(labels) != len(values):
            raise ValueError(f"{len(values)} values but {len(labels)} {name}: they must be equally many")
    defined = ~np.isnan(values)
    if not defined.any():
        return Interval(math.nan, math.nan, math.nan)
    _, row = np.unique(groups[defined], return_inverse=True)
    _, column = np.unique(trainings[defined], return_inverse=True)
    shape = (row.max() + 1, column.max() + 1)
    place = np.ravel_multi_index((row, column), shape)
    n_cells = shape[0] * shape[1]
    sums = np.bincount(place, weights=values[defined], minlength=n_cells).reshape(shape)
    sizes = np.bincount(place, minlength=n_cells).reshape(shape)
    mean = float(sums.sum() / sizes.sum())
    if len(sums) < 2:
        return Interval(mean, math.nan, math.nan)
    # How often each group and each training is drawn; blocks keep the table small for large sets.
    rng, means = np.random.default_rng(seed), []
    for start in range(0, n_boot, 200):
        n = min(200, n_boot - start)
        times = rng.multinomial(shape[0], np.full(shape[0], 1 / shape[0]), size=n)
        chosen = rng.multinomial(shape[1], np.full(shape[1], 1 / shape[1]), size=n) if shape[1] > 1 else np.ones((n, 1))
        with np.errstate(invalid="ignore"):  # a draw without any score, where trainings saw different groups
            means.append(((times @ sums) * chosen).sum(axis=1) / ((times @ sizes) * chosen).sum(axis=1))
    low, high = np.nanquantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def compare(first: Sequence[float], second: Sequence[float], groups: Sequence[Any] | None = None) -> Comparison:
    """Compare two methods on the same images.

    Parameters
    ----------
    first, second : (N,) sequence of float
        Scores of the same images in the same order; an image on which either is ``nan`` is left out.
    groups : (N,) sequence, optional
        Group of every image.

    Returns
    -------
    Comparison
        Difference first minus second with its interval; the p-value of Wilcoxon's signed-rank test on the groups' mean
        differences (``nan`` if all are zero); the matched-pairs rank-biserial correlation, in [-1, 1].

    Raises
    ------
    ValueError
        If the lengths differ.

    References
    ----------
    Kerby 2014, Comprehensive Psychology 3:11.IT.3.1, doi:10.2466/11.IT.3.1 (rank-biserial correlation).

    Examples
    --------
    >>> result = compare([0.8, 0.7, 0.9], [0.5, 0.6, 0.7])
    >>> round(result.difference.mean, 3), result.effect
    (0.2, 1.0)
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} scores: compare methods on the same images")
    groups = np.arange(len(first)) if groups is None else np.asarray(groups)
    difference = first - second
    interval = bootstrap_mean(difference, groups)
    defined = ~np.isnan(difference)
    _, row = np.unique(groups[defined], return_inverse=True)
    means = np.bincount(row, weights=difference[defined]) / np.bincount(row)
    moved = means[means != 0]
    if not len(moved):
        return Comparison(interval, math.nan, 0.0, len(means))
    ranks = stats.rankdata(np.abs(moved))
    effect = float((ranks * np.sign(moved)).sum() / ranks.sum())
    return Comparison(interval, float(stats.wilcoxon(moved).pvalue), effect, len(means))
