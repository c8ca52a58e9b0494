"""What a lesion is like: descriptors by which scores are compared, such as its size, its contrast and the scanner."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import ndimage

from busutils.datasets import LesionDataset
from busutils.evaluation.evaluate import EvaluationError

__all__ = ["CONTRAST_BANDS", "SIZE_BANDS", "add_descriptors", "add_size_band", "lesion_contrast"]

SIZE_BANDS = ("below 3 %", "3 to 10 %", "above 10 %")  # of the image; near BUSI's thirds
CONTRAST_BANDS = ("below 0.55", "0.55 to 0.75", "above 0.75")  # gCNR; near the thirds of BUSI and BUS-BRA together


def add_size_band(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``size``: which share of the image the lesion fills.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an image, from :func:`busutils.evaluation.evaluate`.

    Returns
    -------
    pandas.DataFrame
        A copy with an ordered category; missing for images without a lesion.

    Examples
    --------
    >>> add_size_band(pd.DataFrame({"mask_area": [0.0, 0.01, 0.2]}))["size"].tolist()
    [nan, 'below 3 %', 'above 10 %']
    """
    shares = table["mask_area"].where(table["mask_area"] > 0)
    return table.assign(size=pd.cut(shares, [0, 0.03, 0.1, 1], labels=list(SIZE_BANDS)))


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
        One row an image, from :func:`busutils.evaluation.evaluate` or a benchmark, whose ids may begin with the set's key
        and a colon.
    dataset : LesionDataset
        Where the images are.
    size : int, default 256
        Square at which contrast is measured.

    Returns
    -------
    pandas.DataFrame
        The rows of images that the data set has, with ordered bands of size and of :func:`lesion_contrast`.

    Raises
    ------
    EvaluationError
        If the table holds none of the set's images.
    """
    ids = table["id"].str.removeprefix(f"{dataset.key}:")
    dataset = dataset.subset(np.isin(dataset.ids, ids))
    if not len(dataset):
        raise EvaluationError(f"none of the table's images ({table['id'].iloc[0]}, …) is in {dataset.name}")
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
    return add_size_band(table[known]).assign(**{name: found[name].loc[ids[known]].array for name in found})
