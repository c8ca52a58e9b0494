"""Show where each method of the matrix fails: by class, size and contrast of the lesion and by scanner, from figures/matrix.csv.

Contrast is the generalised contrast-to-noise ratio of the lesion, see ``lesion_contrast``. The scanner is
known for BUS-BRA and for simulated images. Writes figures/matrix_strata.csv, one row for each set, stratum and method (means
over lesion images with intervals over groups, share of missed lesions), and draws figures/matrix_strata.png.

Usage: python benchmarks/strata.py [--draw]    (the latter redraws from the table, without images)
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _common import FIGURES, command_line, write_picture, write_table
from scipy import ndimage
from tables import STRATA_OF, common_images  # as in the documentation's tables

from busutils import datasets, evaluation, plotting
from busutils.datasets import LesionDataset

ROOT = Path(__file__).parents[1]

DESCRIPTORS = {"label": "class", "size": "size", "contrast": "contrast", "scanner": "scanner"}
FEWEST = 10  # lesions; strata with fewer are in the table, but an interval over so few groups is not worth a line
CONTRAST_BANDS = ("below 0.55", "0.55 to 0.75", "above 0.75")  # gCNR; near the thirds of BUSI and BUS-BRA together


def lesion_contrast(image: np.ndarray, mask: np.ndarray, *, rim: int = 3) -> float:
    """How well grey values alone separate a lesion from what is around it: the generalised contrast-to-noise ratio.

    One minus the overlap of two histograms: that of the lesion, and that of as many pixels around it, the nearest ones. It
    does not care whether the lesion is the darker part, nor how the scanner maps echoes to grey values.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        Grey values.
    mask : (H, W) bool ndarray
        The lesion.
    rim : int, default 3
        Pixels on both sides of the contour that are left out, since it is drawn by hand. Inside it stays where nothing
        else would be left.

    Returns
    -------
    float
        From 0 (alike) to 1 (a threshold separates them); ``nan`` without a lesion or without surroundings.

    References
    ----------
    Rodriguez-Molares et al. 2020, The generalized contrast-to-noise ratio, IEEE Trans Ultrason Ferroelectr Freq Control
    67:745, doi:10.1109/TUFFC.2019.2956855.

    Examples
    --------
    >>> image = np.full((20, 20), 200, np.uint8)
    >>> image[5:15, 5:15] = 40
    >>> lesion_contrast(image, image < 100)
    1.0
    """
    inside = ndimage.binary_erosion(mask, iterations=rim) if rim else mask
    inside = inside if inside.any() else mask
    distance = ndimage.distance_transform_edt(~mask).ravel()
    around = np.flatnonzero(distance > rim)
    if not mask.any() or not len(around):
        return math.nan
    around = around[np.argsort(distance[around], kind="stable")][: int(mask.sum())]
    grey = image.ravel() // 4  # 64 bins: small lesions have few pixels
    shares = [np.bincount(part, minlength=64) / len(part) for part in (grey[inside.ravel()], grey[around])]
    return 1 - float(np.minimum(*shares).sum())


def add_descriptors(table: pd.DataFrame, dataset: LesionDataset, size: int = 256) -> pd.DataFrame:
    """Add what is known about each lesion: ``size``, ``gcnr``, ``contrast`` and, where the set says so, ``scanner``.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an image, from ``busutils.evaluation.evaluate`` or a benchmark, whose ids may begin with the set's key
        and a colon.
    dataset : LesionDataset
        Where the images are.
    size : int, default 256
        Square at which contrast is measured.

    Returns
    -------
    pandas.DataFrame
        The rows of images that the data set has, with ordered bands of size and of ``lesion_contrast``.

    Raises
    ------
    EvaluationError
        If the table holds none of the set's images.
    """
    ids = table["id"].str.removeprefix(f"{dataset.key}:")
    dataset = dataset.subset(np.isin(dataset.ids, ids))
    if not len(dataset):
        raise evaluation.EvaluationError(f"none of the table's images ({table['id'].iloc[0]}, …) is in {dataset.name}")
    images, masks = dataset.load_arrays(size)
    found = pd.DataFrame(
        {
            "gcnr": [lesion_contrast(image, mask) for image, mask in zip(images, masks, strict=True)],
            "scanner": [record.extras.get("scanner", record.extras.get("device")) for record in dataset],
        },
        index=dataset.ids,
    )
    found["contrast"] = pd.cut(found["gcnr"], [-1, 0.55, 0.75, 1], labels=list(CONTRAST_BANDS))
    known = ids.isin(found.index)
    return evaluation.add_size_band(table[known]).assign(**{name: found[name].loc[ids[known]].array for name in found})


def strata() -> pd.DataFrame:
    """Summarise every method in every stratum of every set."""
    table = common_images()
    parts = []
    for target, rows in table.groupby("target", sort=False):
        lesions = add_descriptors(rows[rows["mask_area"] > 0], datasets.load(str(target)))
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
