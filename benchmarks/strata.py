"""Show where each method of the matrix fails: by class, size and contrast of the lesion and by scanner, from figures/matrix.csv.

Contrast is the generalised contrast-to-noise ratio of the lesion, see ``busutils.evaluation.lesion_contrast``. The scanner is
known for BUS-BRA and for simulated images. Writes figures/matrix_strata.csv, one row for each set, stratum and method (means
over lesion images with intervals over groups, share of missed lesions), and draws figures/matrix_strata.png.

Usage: python benchmarks/strata.py [--draw]    (the latter redraws from the table, without images)
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _common import FIGURES, command_line, write_picture, write_table
from tables import STRATA_OF, common_images  # as in the documentation's tables

from busutils import datasets, evaluation, plotting

ROOT = Path(__file__).parents[1]

DESCRIPTORS = {"label": "class", "size": "size", "contrast": "contrast", "scanner": "scanner"}
FEWEST = 10  # lesions; strata with fewer are in the table, but an interval over so few groups is not worth a line


def strata() -> pd.DataFrame:
    """Summarise every method in every stratum of every set."""
    table = common_images()
    parts = []
    for target, rows in table.groupby("target", sort=False):
        lesions = evaluation.add_descriptors(rows[rows["mask_area"] > 0], datasets.load(str(target)))
        for column, by in DESCRIPTORS.items():
            if lesions[column].nunique() < 2:  # all of one class, or the set does not tell
                continue
            order = {str(value): place for place, value in enumerate(lesions[column].astype("category").cat.categories)}
            means = evaluation.summarise(lesions.astype({column: str}), [column, "method"])
            means = means.rename(columns={column: "stratum"}).assign(target=target, by=by)
            parts.append(means.sort_values("stratum", key=lambda names, order=order: names.map(order), kind="stable"))
    columns = ["target", "by", "stratum", "method", "n", "groups", "dice", "dice_low", "dice_high", "missed"]
    return pd.concat(parts)[columns].round(4)


def draw(table: pd.DataFrame) -> plt.Figure:
    """One panel a set: strata from top to bottom, one dot a method."""
    table = table[table["n"] >= FEWEST]
    targets = table["target"].unique()
    heights = [table[table["target"] == target].groupby(["by", "stratum"]).ngroups for target in targets]
    figure, axes = plt.subplots(
        len(targets), 1, figsize=(7.5, 0.42 * sum(heights) + 2), height_ratios=heights, sharex=True, squeeze=False
    )
    for axis, target in zip(axes[:, 0], targets, strict=True):
        part = table[table["target"] == target]
        rows = part[["by", "stratum", "n"]].drop_duplicates().reset_index(drop=True)
        # A gap between the descriptors.
        places = np.arange(len(rows)) + 0.6 * (rows["by"] != rows["by"].shift()).cumsum()
        for index, method in enumerate(STRATA_OF):
            means = rows.merge(part[part["method"] == method], on=["by", "stratum"])
            error = np.abs(means[["dice_low", "dice_high"]].to_numpy().T - means["dice"].to_numpy())
            y = places + 0.18 * (index - (len(STRATA_OF) - 1) / 2)
            axis.errorbar(
                means["dice"], y, xerr=error, fmt="o", markersize=4, color=plotting.LINES[index], label=method
            )
        labels = [f"{row.by}: {row.stratum} (n={row.n})" for row in rows.itertuples()]
        axis.set(yticks=places, yticklabels=labels, title=f"tested on {target}", xlim=(0, 1))
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
    axes[-1, 0].set_xlabel("mean Dice over lesion images, 95 % interval over groups")
    axes[0, 0].legend(frameon=False, loc="lower left", fontsize="small")
    return figure


def main() -> None:
    parser = command_line(__doc__, "draw")
    given = parser.parse_args()
    target = FIGURES / "matrix_strata.csv"
    if not given.draw:
        table = strata()
        write_table(table, target)
    figure = draw(pd.read_csv(target))
    write_picture(figure, FIGURES / "matrix_strata.png", bbox_inches="tight")


if __name__ == "__main__":
    main()
