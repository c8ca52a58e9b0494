"""Means with intervals, one row each: the picture that stands in for a long table."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from busutils.evaluation import Interval
from busutils.plotting.style import LINES

__all__ = ["forest_plot"]


def forest_plot(
    columns: Mapping[str, Mapping[str, Interval]], *, title: str = "", reference: float | None = None
) -> Figure:
    """Draw means with intervals, one panel a column, one row a name.

    Parameters
    ----------
    columns : dict of str to dict of str to Interval
        Label of the panel's axis → name of the row → mean with its interval. Rows that a column lacks stay empty.
    title : str
        Of the figure.
    reference : float, optional
        Where a dashed line is drawn: what an interval must not cross.

    Returns
    -------
    matplotlib.figure.Figure
    """
    names = list(dict.fromkeys(name for rows in columns.values() for name in rows))
    size = (2.2 + 3.4 * len(columns), 0.9 + 0.32 * len(names))
    figure, grid = plt.subplots(1, len(columns), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for axes, (label, rows) in zip(grid[0], columns.items(), strict=True):
        if reference is not None:
            axes.axvline(reference, color="#999999", linestyle="--", linewidth=1)
        for name, interval in rows.items():
            place = names.index(name)
            axes.plot([interval.low, interval.high], [place, place], color=LINES[0], linewidth=2)
            axes.plot(interval.mean, place, "o", color=LINES[0])
        axes.set(xlabel=label, yticks=range(len(names)), yticklabels=names)
        axes.margins(x=0.05)
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(title)
    return figure
