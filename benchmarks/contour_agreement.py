"""Compare the reference contours of one scene with each other: how exact is the reference of BUSI?

    python benchmarks/contour_agreement.py [--dataset busi] [--out figures]

BUSI contains many scenes twice, and each copy has its own contour. Two copies are compared if they show the same frame,
that is, if their pixels correlate at 256². Pairs with a correlation below ``--least`` are left out: they are cropped
differently, and their contours cannot be compared without registration. A remaining shift of a few pixels lowers the
Dice a little, so the results are a lower bound of the agreement.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from _common import command_line

from busutils import datasets, metrics


def compare_contours(images: datasets.LesionDataset, *, least: float = 0.9, size: int = 256) -> pd.DataFrame:
    """Score the masks of near-duplicates against each other.

    Parameters
    ----------
    images : LesionDataset
        Lesion images with groups.
    least : float
        Correlation of the pixels below which a pair is left out.
    size : int
        Side at which images and masks are compared.

    Returns
    -------
    pandas.DataFrame
        One row a pair: ``id_a, id_b, group, correlation, dice, iou, hd95`` (pixels).
    """
    pixels, masks = images.load_arrays(size)
    rows = []
    for group in pd.unique(images.groups):
        for a, b in itertools.combinations(np.flatnonzero(images.groups == group), 2):
            correlation = float(np.corrcoef(pixels[a].ravel(), pixels[b].ravel())[0, 1])
            if correlation >= least:
                scores = {name: getattr(metrics, name)(masks[a], masks[b]) for name in ("dice", "iou", "hd95")}
                names = {"id_a": images.ids[a], "id_b": images.ids[b], "group": group}
                rows.append(names | {"correlation": correlation} | scores)
    return pd.DataFrame(rows)


def main() -> None:
    """Write ``<dataset>_contours.csv``."""
    parser = command_line(__doc__)
    parser.add_argument("--dataset", default="busi")
    parser.add_argument("--least", type=float, default=0.9)
    parser.add_argument("--out", type=Path, default=Path("figures"))
    options = parser.parse_args()
    table = compare_contours(datasets.load(options.dataset).lesions(), least=options.least)
    table.to_csv(options.out / f"{options.dataset}_contours.csv", index=False, float_format="%.4f")
    print(table[["correlation", "dice", "iou", "hd95"]].describe().round(3).to_string())


if __name__ == "__main__":
    main()
