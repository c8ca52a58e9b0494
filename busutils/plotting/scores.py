"""Figures of scores: strips by method, forest plots, matrices, histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from busutils.evaluation import Interval, bootstrap_mean
from busutils.plotting.style import LINES, colour_of


def score_strips(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw every image's Dice as a dot, one strip a method; below it the mean and its 95 % interval over groups.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an image and method, from :func:`busutils.evaluation.compare_methods`. Images without a lesion, whose
        Dice is undefined, are left out.
    title : str
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    table = table[(table["mask_area"] > 0) & table["dice"].notna()]
    names = list(dict.fromkeys(table["method"]))
    figure, axes = plt.subplots(figsize=(7, 0.9 * len(names) + 1.1), layout="constrained")
    rng = np.random.default_rng(0)  # the same dots lie in the same places
    for row, name in enumerate(names):
        part = table[table["method"] == name]
        heights = row - 0.15 + rng.uniform(-0.2, 0.2, len(part))
        style: dict[str, Any] = {"alpha": 0.8, "markeredgecolor": "white", "markeredgewidth": 0.4}
        axes.plot(part["dice"], heights, "o", color=colour_of(name, row), ms=5, **style)
        y = row + 0.2
        interval = bootstrap_mean(part["dice"], part["group"].to_numpy())
        error = [[interval.mean - interval.low], [interval.high - interval.mean]]
        axes.errorbar(interval.mean, y, xerr=error, fmt="D", color="black", ms=5, capsize=4)
        text = f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]  n={len(part)}"
        place: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 8}
        # A text at the edge moves inwards.
        axes.annotate(text, (min(max(interval.mean, 0.13), 0.86), y), (0, -6), **place)
    axes.set(xlim=(-0.03, 1.03), ylim=(len(names) - 0.4, -0.5), yticks=range(len(names)), yticklabels=names)
    axes.set_xlabel("Dice of each image; mean, 95 % interval over groups")
    axes.set_title(title, fontsize=11)
    return figure


def score_matrix(means: pd.DataFrame, intervals: pd.DataFrame | None = None, *, title: str = "") -> Figure:
    """Draw a table of scores as a heat map: rows trained on, columns tested on.

    Parameters
    ----------
    means : pandas.DataFrame
        Mean Dice; index and columns name the sets.
    intervals : pandas.DataFrame of str, optional
        Written below each score.
    title : str
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(figsize=(1.6 * means.shape[1] + 2.6, 0.9 * means.shape[0] + 1.5), layout="constrained")
    text = means.map(lambda value: "–" if pd.isna(value) else f"{value:.2f}")
    if intervals is not None:
        text = text + "\n" + intervals
    sns.heatmap(
        means, annot=text, fmt="", cmap="viridis", vmin=0, vmax=1, ax=axes, annot_kws={"fontsize": 8},
        cbar_kws={"label": "mean Dice"},
    )  # fmt: skip
    axes.set(xlabel="tested on", ylabel="")
    axes.tick_params(axis="y", rotation=0)
    axes.set_title(title, fontsize=11)
    return figure


def reliability_diagram(tables: Mapping[str, pd.DataFrame], *, title: str = "") -> Figure:
    """Draw observed against predicted probability; the diagonal is perfect calibration.

    Parameters
    ----------
    tables : mapping of str to pandas.DataFrame
        Name → table from :func:`busutils.evaluation.reliability`.
    title : str
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(figsize=(4, 4), layout="constrained")
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, label="perfect")
    for index, (name, table) in enumerate(tables.items()):
        axes.plot(table["predicted"], table["observed"], "o-", color=colour_of(name, index), label=name)
    axes.set(xlabel="predicted probability", ylabel="share of such pixels that are lesion", title=title)
    axes.legend(frameon=False, fontsize=8)
    return figure


def dataset_overview(table: pd.DataFrame, areas: Sequence[float], *, title: str = "") -> Figure:
    """Draw what a set consists of: images a class, and the lesions' sizes.

    Parameters
    ----------
    table : pandas.DataFrame
        ``dataset.table()``.
    areas : (N,) sequence of float
        Lesion area of every image as a share of it.
    title : str
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    labels = [label for label in ("benign", "malignant", "normal", "unknown") if (table["label"] == label).any()]
    counts = [int((table["label"] == label).sum()) for label in labels]
    bars = left.bar(labels, counts, color=[colour_of(label) for label in labels])
    left.bar_label(bars, fontsize=8)
    left.set_ylabel("images")
    areas = 100 * np.asarray(areas)
    for label in labels:
        own = areas[(table["label"] == label).to_numpy() & (areas > 0)]
        if len(own):
            right.hist(
                own, bins=np.geomspace(0.1, 100, 25), histtype="step", linewidth=1.6, color=colour_of(label),
                label=f"{label}, median {np.median(own):.1f} %",
            )  # fmt: skip
    right.set(xscale="log", xlabel="lesion area (% of the image)", ylabel="images")
    right.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    right.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def histogram_1d(
    image: np.ndarray, mask: np.ndarray, *, centres: Sequence[float] = (), thresholds: Sequence[float] = ()
) -> Figure:
    """Draw the grey values of lesion and background, with the centres that K-Means found.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        B-mode image.
    mask : (H, W) bool ndarray
        Reference.
    centres, thresholds : sequence of float
        Grey values of cluster centres (triangles) and of the borders between clusters (dashed).

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    bins = list(range(0, 257, 8))
    axes.hist(image[~mask], bins=bins, density=True, color="#999999", alpha=0.7, label="background")
    if mask.any():
        axes.hist(image[mask], bins=bins, density=True, color="#d55e00", alpha=0.6, label="lesion")
    for threshold in thresholds:
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
    axes.plot(centres, np.zeros(len(centres)), "^", color="black", ms=10, clip_on=False, label="cluster centre")
    axes.set(xlabel="grey value", ylabel="density", xlim=(0, 256))
    axes.legend(frameon=False, fontsize=8)
    return figure


def forest_plot(columns: Mapping[str, Mapping[str, Interval]], *, reference: float) -> Figure:
    """Draw means with intervals instead of a long table: one panel per column, one row per name.

    Parameters
    ----------
    columns : dict of str to dict of str to Interval
        Label of the panel's axis → name of the row → mean with its interval. Rows that a column lacks stay empty.
    reference : float
        Where a dashed line is drawn, such as 0 for differences.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
    size = (2.2 + 3.4 * len(columns), 0.9 + 0.32 * len(names))
    figure, grid = plt.subplots(1, len(columns), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for axes, (label, rows) in zip(grid[0], columns.items(), strict=True):
        axes.axvline(reference, color="#999999", linestyle="--", linewidth=1)
        for name, interval in rows.items():
            place = names.index(name)
            axes.plot([interval.low, interval.high], [place, place], color=LINES[0], linewidth=2)
            axes.plot(interval.mean, place, "o", color=LINES[0])
        axes.set(xlabel=label, yticks=range(len(names)), yticklabels=names)
        axes.margins(x=0.05)
        axes.locator_params(axis="x", nbins=6)  # labels that do not touch
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    return figure
