"""Scores of one predicted mask against one reference mask.

Everything here looks at **one image** and needs NumPy and SciPy only; :mod:`busutils.evaluation` summarises the scores
of many images.

What an empty mask means
------------------------
============  ==============  ======  ======  =========  ======  ==============  =====
reference     prediction      dice    iou     precision  recall  hd95, assd      nsd
============  ==============  ======  ======  =========  ======  ==============  =====
empty         empty           nan     nan     nan        nan     nan             nan
lesion        empty           0       0       nan        0       image diagonal  0
empty         something       0       0       0          nan     image diagonal  0
lesion        something       [0, 1]  [0, 1]  [0, 1]     [0, 1]  ≥ 0             [0, 1]
============  ==============  ======  ======  =========  ======  ==============  =====

``nan`` means *undefined*: such an image leaves the mean instead of being scored 0 or 1 by convention.
Images whose reference is empty (normal images) are summarised apart, as the specificity on normal images.

References
----------
Maier-Hein, Reinke et al. 2024, Metrics reloaded, Nature Methods 21:195, doi:10.1038/s41592-023-02151-z.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Counts(NamedTuple):
    """Pixels of one image by agreement: true and false positives, false and true negatives."""

    tp: int
    fp: int
    fn: int
    tn: int


def _check(mask: np.ndarray, pred: np.ndarray) -> None:
    for name, array in (("mask", mask), ("pred", pred)):
        if not isinstance(array, np.ndarray) or array.dtype != bool:
            kind = getattr(array, "dtype", type(array).__name__)
            raise ValueError(f"{name} must be a boolean array, got {kind}: threshold it first, e.g. prob >= 0.5")
        if array.ndim != 2:
            raise ValueError(f"{name} must have shape (H, W), got {array.shape}: scores are defined for one image")
    if mask.shape != pred.shape:
        raise ValueError(f"mask {mask.shape} and pred {pred.shape} differ in shape: resize the prediction first")


def counts(mask: np.ndarray, pred: np.ndarray) -> Counts:
    """Count the pixels on which two masks of one image agree and differ.

    Parameters
    ----------
    mask, pred : (H, W) bool ndarray
        Reference and predicted lesion.

    Returns
    -------
    Counts
        ``tp, fp, fn, tn`` in pixels.

    Raises
    ------
    ValueError
        If the shapes differ, or an input is not a two-dimensional boolean array.

    Examples
    --------
    >>> counts(np.array([[True, False]]), np.array([[True, True]]))
    Counts(tp=1, fp=1, fn=0, tn=0)
    """
    _check(mask, pred)
    tp = int(np.count_nonzero(mask & pred))
    fp = int(np.count_nonzero(pred)) - tp
    fn = int(np.count_nonzero(mask)) - tp
    return Counts(tp, fp, fn, mask.size - tp - fp - fn)


def _ratio(part: float, whole: float, empty: float = math.nan) -> float:
    return part / whole if whole else empty


def dice(mask: np.ndarray, pred: np.ndarray, *, empty: float = math.nan) -> float:
    """Dice overlap of two masks of one image, ``2 |A ∩ B| / (|A| + |B|)``.

    Parameters
    ----------
    mask, pred : (H, W) bool ndarray
        Reference and predicted lesion.
    empty : float, default nan
        Score when both are empty; ``nan`` leaves the image out of a mean.

    Returns
    -------
    float
        In [0, 1]. It equals the F1 score of the lesion's pixels.

    Raises
    ------
    ValueError
        If the shapes differ, or an input is not a two-dimensional boolean array.

    Examples
    --------
    >>> a = np.eye(2, dtype=bool)
    >>> round(dice(a, np.ones((2, 2), bool)), 3)
    0.667
    """
    c = counts(mask, pred)
    return _ratio(2 * c.tp, 2 * c.tp + c.fp + c.fn, empty)


def iou(mask: np.ndarray, pred: np.ndarray, *, empty: float = math.nan) -> float:
    """Intersection over union (Jaccard index) of two masks of one image, ``|A ∩ B| / |A ∪ B|``.

    For every image ``iou == dice / (2 - dice)``, so that IoU can never exceed Dice.

    Parameters
    ----------
    mask, pred : (H, W) bool ndarray
        Reference and predicted lesion.
    empty : float, default nan
        Score when both are empty.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If the shapes differ, or an input is not a two-dimensional boolean array.

    Examples
    --------
    >>> a = np.eye(2, dtype=bool)
    >>> iou(a, np.ones((2, 2), bool))
    0.5
    """
    c = counts(mask, pred)
    return _ratio(c.tp, c.tp + c.fp + c.fn, empty)


def precision(mask: np.ndarray, pred: np.ndarray) -> float:
    """Share of the predicted pixels that are lesion; ``nan`` when nothing was predicted.

    Examples
    --------
    >>> precision(np.eye(2, dtype=bool), np.ones((2, 2), bool))
    0.5
    """
    c = counts(mask, pred)
    return _ratio(c.tp, c.tp + c.fp)


def recall(mask: np.ndarray, pred: np.ndarray) -> float:
    """Share of the lesion's pixels that were found (sensitivity); ``nan`` without a lesion.

    Examples
    --------
    >>> recall(np.eye(2, dtype=bool), np.ones((2, 2), bool))
    1.0
    """
    c = counts(mask, pred)
    return _ratio(c.tp, c.tp + c.fn)


def specificity(mask: np.ndarray, pred: np.ndarray) -> float:
    """Share of the background's pixels that stay background; ``nan`` without background.

    Examples
    --------
    >>> specificity(np.eye(2, dtype=bool), np.ones((2, 2), bool))
    0.0
    """
    c = counts(mask, pred)
    return _ratio(c.tn, c.tn + c.fp)


def accuracy(mask: np.ndarray, pred: np.ndarray) -> float:
    """Share of all pixels on which both masks agree.

    Reported because others report it, never as a headline: an empty prediction on an image whose lesion covers
    8 % of it has an accuracy of 0.92 and has found nothing.

    Examples
    --------
    >>> accuracy(np.eye(2, dtype=bool), np.zeros((2, 2), bool))
    0.5
    """
    c = counts(mask, pred)
    return (c.tp + c.tn) / mask.size


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask that touch the outside over an edge (4-neighbours); beyond the image counts as outside.

    Parameters
    ----------
    mask : (H, W) bool ndarray
        One lesion mask.

    Returns
    -------
    (H, W) bool ndarray
        The mask's inner boundary, one pixel wide.

    Examples
    --------
    >>> boundary(np.ones((3, 3), bool)).sum()
    np.int64(8)
    """
    return mask & ~ndimage.binary_erosion(mask)


def _surface_scores(mask: np.ndarray, pred: np.ndarray, tolerance: float, spacing: float) -> dict[str, float]:
    """HD95, ASSD and NSD from the distances of every boundary pixel of each mask to the other's boundary."""
    _check(mask, pred)
    if not mask.any() and not pred.any():
        return {"hd95": math.nan, "assd": math.nan, "nsd": math.nan}
    if not mask.any() or not pred.any():
        diagonal = math.hypot(*mask.shape) * spacing
        return {"hd95": diagonal, "assd": diagonal, "nsd": 0.0}
    # Nothing outside the box around both masks is nearer to a boundary.
    (box,) = ndimage.find_objects((mask | pred).astype(np.uint8))
    edge_mask, edge_pred = boundary(mask[box]), boundary(pred[box])
    to_mask = ndimage.distance_transform_edt(~edge_mask, sampling=spacing)
    to_pred = ndimage.distance_transform_edt(~edge_pred, sampling=spacing)
    directed = to_pred[edge_mask], to_mask[edge_pred]
    pooled = np.concatenate(directed)
    return {
        "hd95": float(max(np.percentile(distances, 95) for distances in directed)),
        "assd": float(pooled.mean()),
        "nsd": float(np.mean(pooled <= tolerance)),
    }


def hd95(mask: np.ndarray, pred: np.ndarray, *, spacing: float = 1.0) -> float:
    """Hausdorff distance at the 95th percentile: how far apart the two contours are, but for the worst 5 %.

    The larger of the two directed 95th percentiles of boundary-to-boundary distances, as Metrics Reloaded defines it.
    Tools differ in this choice (some pool both directions), which changes values.

    Parameters
    ----------
    mask, pred : (H, W) bool ndarray
        Reference and predicted lesion.
    spacing : float, default 1
        Size of a pixel; give mm per pixel to have the distance in mm.

    Returns
    -------
    float
        Distance in pixels times `spacing`; ``nan`` if both masks are empty, the image's diagonal if one is.

    Raises
    ------
    ValueError
        If the shapes differ, or an input is not a two-dimensional boolean array.

    References
    ----------
    Podobnik & Vrtovec 2024, arXiv:2410.02630, on how far implementations disagree.

    Examples
    --------
    >>> a = np.zeros((9, 9), bool)
    >>> a[4, 2] = True
    >>> hd95(a, np.roll(a, 3, axis=1))
    3.0
    """
    return _surface_scores(mask, pred, 0.0, spacing)["hd95"]


def assd(mask: np.ndarray, pred: np.ndarray, *, spacing: float = 1.0) -> float:
    """Average symmetric surface distance: mean distance from each contour's pixels to the other contour.

    Parameters and empty masks as in :func:`hd95`.

    Examples
    --------
    >>> a = np.zeros((9, 9), bool)
    >>> a[4, 2] = True
    >>> assd(a, np.roll(a, 3, axis=1))
    3.0
    """
    return _surface_scores(mask, pred, 0.0, spacing)["assd"]


def nsd(mask: np.ndarray, pred: np.ndarray, *, tolerance: float = 2.0, spacing: float = 1.0) -> float:
    """Normalised surface Dice: share of both contours that lies within `tolerance` of the other.

    Parameters
    ----------
    mask, pred : (H, W) bool ndarray
        Reference and predicted lesion.
    tolerance : float, default 2
        Accepted distance, in units of `spacing` (pixels unless mm per pixel is given). Two pixels at 256² is about
        what two readers differ by.
    spacing : float, default 1
        Size of a pixel.

    Returns
    -------
    float
        In [0, 1]; ``nan`` if both masks are empty, 0 if one is.

    Raises
    ------
    ValueError
        If the shapes differ, or an input is not a two-dimensional boolean array.

    References
    ----------
    Nikolov et al. 2021, J Med Internet Res 23:e26151, doi:10.2196/26151.

    Examples
    --------
    >>> a = np.zeros((9, 9), bool)
    >>> a[4, 2] = True
    >>> nsd(a, np.roll(a, 3, axis=1)), nsd(a, np.roll(a, 2, axis=1))
    (0.0, 1.0)
    """
    return _surface_scores(mask, pred, tolerance, spacing)["nsd"]


def scores(mask: np.ndarray, pred: np.ndarray, *, spacing: float = 1.0) -> dict[str, float]:
    """All scores of one image, as one row of the table that :func:`busutils.evaluation.evaluate` returns.

    Parameters
    ----------
    mask, pred : (H, W) bool ndarray
        Reference and predicted lesion.
    spacing : float, default 1
        Size of a pixel, for the distances.

    Returns
    -------
    dict of str to float
        ``dice, iou, precision, recall, specificity, accuracy, hd95, assd, nsd`` and the areas ``mask_area`` and
        ``pred_area`` as shares of the image.

    Examples
    --------
    >>> row = scores(np.eye(4, dtype=bool), np.eye(4, dtype=bool))
    >>> row["dice"], row["hd95"], row["mask_area"]
    (1.0, 0.0, 0.25)
    """
    overlap = {score.__name__: score(mask, pred) for score in (dice, iou, precision, recall, specificity, accuracy)}
    surface = _surface_scores(mask, pred, 2.0 * spacing, spacing)  # the slow part, once for all three
    return overlap | surface | {"mask_area": float(mask.mean()), "pred_area": float(pred.mean())}
