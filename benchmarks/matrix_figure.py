"""Draw figures/matrix.png, the heat map of the README's table, from figures/matrix.csv.

Usage: python benchmarks/matrix_figure.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from busutils import evaluation, jobs, plotting

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from write_readme import common_images  # noqa: E402  the README and the picture show the same images


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
    with jobs.atomic_path(ROOT / "figures" / "matrix.png") as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
