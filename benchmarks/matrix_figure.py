"""Draw figures/matrix.png, the heat map of the README's table, and compare its methods, from figures/matrix.csv.

Writes figures/matrix_pairs.csv (for each two methods on each set: paired difference, Wilcoxon's p over groups with Holm's
correction within the set) and figures/matrix_ranks.csv (ranks, and the share of bootstrap draws in which each came first).

Usage: python benchmarks/matrix_figure.py
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from _common import FIGURES, write_picture, write_table
from tables import common_images  # as in the documentation's tables

from busutils import evaluation, plotting

ROOT = Path(__file__).parents[1]


def main() -> None:
    table = common_images()
    summary = evaluation.summarise(table, ["method", "target"])
    methods, targets = table["method"].unique(), table["target"].unique()
    means, low, high = (
        summary.pivot(index="method", columns="target", values=value).loc[methods, targets]
        for value in ("dice", "dice_low", "dice_high")
    )
    intervals = low.map("{:.2f}–".format) + high.map("{:.2f}".format)
    figure = plotting.score_matrix(means, intervals, title="mean Dice on images never seen, 95 % interval over groups")
    for name, tell in (("pairs", evaluation.compare_all), ("ranks", evaluation.rank_methods)):
        parts = [tell(part).assign(target=target) for target, part in table.groupby("target", sort=False)]
        write_table(pd.concat(parts).round(6), FIGURES / f"matrix_{name}.csv")
    write_picture(figure, FIGURES / "matrix.png", bbox_inches="tight")


if __name__ == "__main__":
    main()
