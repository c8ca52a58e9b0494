"""Several methods on the same images: comparison of every pair, paired differences, ranks with intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from busutils.evaluation.statistics import Interval, bootstrap_mean, compare


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Correct p-values for multiple comparisons by Holm's method.

    Parameters
    ----------
    p_values : (N,) sequence of float
        ``nan`` marks a comparison without a p-value; it stays ``nan`` and does not count.

    Returns
    -------
    (N,) float ndarray
        Corrected values in the same order, at most 1.

    References
    ----------
    Holm 1979, Scandinavian Journal of Statistics 6:65.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, float)
    corrected = np.full(len(p_values), math.nan)
    counted = np.flatnonzero(~np.isnan(p_values))
    order = counted[np.argsort(p_values[counted], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1)
    return corrected


def _lesion_scores(table: pd.DataFrame, score: str) -> tuple[pd.DataFrame, pd.Series]:
    """Images in rows, methods in columns, trainings averaged; and the group of every image."""
    lesions = table[table["mask_area"] > 0]
    scores = lesions.pivot_table(index="id", columns="method", values=score, aggfunc="mean")
    scores = scores[list(dict.fromkeys(table["method"]))]
    if scores.isna().any(axis=None):
        raise ValueError("not every method has a score of every image: compare methods on the same images")
    return scores, lesions.drop_duplicates("id").set_index("id")["group"][scores.index]


def paired_difference(table: pd.DataFrame, column: str, first: str, second: str, score: str = "dice") -> Interval:
    """Mean paired difference of two methods or settings, over images with a lesion that both were scored on.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an image and training, with the columns ``id, group, mask_area``, the score, and ``seed`` where there are
        several trainings.
    column : str
        Column that distinguishes the two, such as ``"method"``.
    first, second : str
        Values of `column`.
    score : str, default "dice"
        Column to compare.

    Returns
    -------
    Interval
        Mean difference, first minus second. Trainings with equal seeds are compared in pairs; where one side has a single
        training, each training of the other side is compared with it. Both are resampled as groups are, so that the
        interval covers the variation between trainings. Unequal seeds on both sides are averaged first.

    Raises
    ------
    ValueError
        If one of them is missing, or they share no image with a lesion.

    Examples
    --------
    >>> table = pd.DataFrame({"id": list("aabb"), "group": list("aabb"), "mask_area": 1, "way": list("xyxy")})
    >>> paired_difference(table.assign(dice=[0.9, 0.4, 0.8, 0.3]), "way", "x", "y").mean
    0.5
    """
    table = table[(table["mask_area"] > 0) & table[column].isin([first, second])]
    scores = table.assign(seed=table.get("seed", 0)).pivot_table(
        index=["id", "group"], columns=[column, "seed"], values=score
    )
    if {first, second} - set(scores.columns.get_level_values(0)):
        raise ValueError(f"{first} and {second} must both be in the column {column}, with images that show a lesion")
    one, other = scores[first], scores[second]  # a column a training
    if set(one) == set(other):
        more = one - other
    elif one.shape[1] == 1:
        more = -other.sub(one.iloc[:, 0], axis=0)
    elif other.shape[1] == 1:
        more = one.sub(other.iloc[:, 0], axis=0)
    else:
        more = (one.mean(axis=1) - other.mean(axis=1)).to_frame("all")
    more = more.rename_axis(columns="training").stack().rename("difference").dropna().reset_index()
    if more.empty:
        raise ValueError(f"{first} and {second} were scored on no image in common that shows a lesion")
    return bootstrap_mean(more["difference"], more["group"], trainings=more["training"])


def compare_all(table: pd.DataFrame, score: str = "dice") -> pd.DataFrame:
    """Compare every pair of methods on the lesion images that all of them were scored on.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an image and method, from :func:`busutils.evaluation.compare_methods` or
        :func:`busutils.benchmark.run_benchmark` for one test set. Several trainings of a method are averaged.
    score : str, default "dice"
        Column to compare.

    Returns
    -------
    pandas.DataFrame
        One row a pair: ``first, second, difference, low, high`` (first minus second), ``p`` of Wilcoxon's signed-rank
        test over groups, ``p_holm`` corrected for the number of pairs, ``effect`` (rank-biserial correlation).

    Raises
    ------
    ValueError
        If a method lacks the score of an image.
    """
    scores, groups = _lesion_scores(table, score)
    rows = []
    for first, second in itertools.combinations(scores.columns, 2):
        found = compare(scores[first], scores[second], groups)
        rows.append((first, second, *found.difference, found.p_value, found.effect))
    result = pd.DataFrame(rows, columns=["first", "second", "difference", "low", "high", "p", "effect"])
    result.insert(6, "p_holm", holm(result["p"]))
    return result


def rank_methods(table: pd.DataFrame, score: str = "dice") -> pd.DataFrame:
    """Rank methods by their mean score, with 95 % intervals of the ranks.

    Groups are resampled 2,000 times and the methods ranked each time; the bounds are quantiles of those ranks.

    Parameters
    ----------
    table, score
        As in :func:`compare_all`.

    Returns
    -------
    pandas.DataFrame
        One row a method, best first: ``method, mean, rank, rank_low, rank_high, first`` (share of the draws in which it
        came first; methods that tie share it).

    Raises
    ------
    ValueError
        If a method lacks the score of an image.
    """
    scores, groups = _lesion_scores(table, score)
    _, index = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(index, weights=scores[name]) for name in scores.columns], axis=1)
    sizes = np.bincount(index)
    times = np.random.default_rng(0).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=2000)
    means = pd.DataFrame((times @ sums) / (times @ sizes)[:, None], columns=scores.columns).round(12)
    ranks = means.rank(axis=1, ascending=False, method="min")
    won = ranks.eq(1)
    result = pd.DataFrame(
        {
            "mean": scores.mean(),
            "rank": scores.mean().round(12).rank(ascending=False, method="min").astype(int),
            "rank_low": ranks.quantile(0.025).round().astype(int),
            "rank_high": ranks.quantile(0.975).round().astype(int),
            "first": won.div(won.sum(axis=1), axis=0).mean(),
        }
    )
    return result.rename_axis("method").reset_index().sort_values("rank", kind="stable", ignore_index=True)
