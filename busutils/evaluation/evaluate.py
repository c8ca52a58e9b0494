"""Score the masks of a segmenter or of any other program, and summarise the scores."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from busutils import metrics
from busutils.datasets import LesionDataset, Record
from busutils.errors import BusutilsError
from busutils.evaluation.statistics import bootstrap_mean
from busutils.io import DatasetError, read_image, read_mask, resize_mask
from busutils.models.segmenter import Segmenter

SIZE_BANDS = ("below 3 %", "3 to 10 %", "above 10 %")  # of the image; near BUSI's thirds

_Masks = Sequence[np.ndarray] | np.ndarray  # one mask an image


class EvaluationError(BusutilsError):
    """Predictions that cannot be scored, and why."""


def score_masks(dataset: LesionDataset, masks: _Masks, preds: _Masks) -> pd.DataFrame:
    """Score predicted masks that are in memory.

    Parameters
    ----------
    dataset : LesionDataset
        The images, for their names and groups.
    masks, preds : sequence of (H, W) bool ndarray
        Reference and prediction of every image, in the order of the set.

    Returns
    -------
    pandas.DataFrame
        As from :func:`evaluate`.
    """
    rows = [
        {"id": r.id, "label": r.label, "group": r.group, "source": r.source, **metrics.scores(mask, pred)}
        for r, mask, pred in zip(dataset, masks, preds, strict=True)
    ]
    return pd.DataFrame(rows)


def evaluate(segmenter: Segmenter, dataset: LesionDataset, size: int = 256, *, native: bool = False) -> pd.DataFrame:
    """Score a segmenter on every image of a set.

    Parameters
    ----------
    segmenter : Segmenter
        Fitted, or of a kind that needs no fitting.
    dataset : LesionDataset
        Images that were not used for training; this is not checked.
    size : int, default 256
        Images and masks are brought to this square, and scored there.
    native : bool, default False
        Also segment the images at their own sizes, and add ``dice_native, iou_native, hd95_native`` (pixels).

    Returns
    -------
    pandas.DataFrame
        One row an image: ``id, label, group, source`` and the columns of :func:`busutils.metrics.scores`.

    Raises
    ------
    EvaluationError
        If the set is empty.
    """
    if not len(dataset):
        raise EvaluationError("there is no image to evaluate: the set is empty")
    images, masks = dataset.load_arrays(size)
    table = score_masks(dataset, masks, segmenter.predict(images))
    if native:
        pairs = [dataset.load_native(i) for i in range(len(dataset))]
        preds = segmenter.predict([image for image, _ in pairs])
        native_table = score_masks(dataset, [mask for _, mask in pairs], preds)
        table = table.join(native_table[["dice", "iou", "hd95"]].add_suffix("_native"))
    return table


def compare_methods(
    methods: Mapping[str, Segmenter], dataset: LesionDataset, size: int = 256, *, native: bool = False
) -> pd.DataFrame:
    """Score several fitted methods on the same images.

    Parameters
    ----------
    methods : mapping of str to Segmenter
        Name → method.
    dataset : LesionDataset
        Test images.
    size, native
        As in :func:`evaluate`.

    Returns
    -------
    pandas.DataFrame
        The methods' tables below each other, with a column ``method``.
    """
    tables = [
        evaluate(segmenter, dataset, size, native=native).assign(method=name) for name, segmenter in methods.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _mask_file(folder: Path, record_id: str) -> Path | None:
    # Where both exist, <id>.png may be the image.
    suffixes = (".png", ".bmp", ".tif", ".tiff", ".webp")
    paths = [folder / f"{stem}{suffix}" for stem in (f"{record_id}_mask", record_id) for suffix in suffixes]
    return next((path for path in paths if path.is_file()), None)


def evaluate_masks(folder: str | os.PathLike[str], dataset: LesionDataset, size: int = 256) -> pd.DataFrame:
    """Score masks from any other program.

    Parameters
    ----------
    folder : path-like
        Holds one mask an image, ``<id>_mask.png`` or ``<id>.png`` (also BMP, TIFF, WebP): bright is lesion, black is not,
        see :mod:`busutils.io.masks`; probability maps are cut at one half; an image without a lesion has a black mask. Any
        size of the image's proportions will do: masks are brought to the evaluation's square by the nearest pixel.
    dataset : LesionDataset
        The images that were to be segmented, all of them.
    size : int, default 256
        Side of the square the scores are taken at.

    Returns
    -------
    pandas.DataFrame
        As from :func:`evaluate`.

    Raises
    ------
    EvaluationError
        If the folder is missing, an image has no mask, or a mask cannot be read, is not black and white, or has other
        proportions than its image. No image may be left out.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EvaluationError(f"there is no folder {folder} with predicted masks: check the path")
    if not len(dataset):
        raise EvaluationError("there is no image to evaluate: the set is empty")
    paths = [_mask_file(folder, record.id) for record in dataset]
    missing = [record.id for record, path in zip(dataset, paths, strict=True) if path is None]
    if missing:
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise EvaluationError(
            f"{folder} lacks the masks of {len(missing)} of {len(paths)} images ({some}): "
            f"write one PNG an image, named <id>.png, black where nothing was found"
        )
    _, masks = dataset.load_arrays(size)
    preds = [_read_prediction(path, record, size) for path, record in zip(paths, dataset, strict=True) if path]
    return score_masks(dataset, masks, preds)


def _read_prediction(path: Path, record: Record, size: int) -> np.ndarray:
    try:
        pred = read_mask(path) > 127
    except DatasetError as error:
        raise EvaluationError(str(error)) from error
    height, width = read_image(record.image).shape
    # A difference of one pixel is rounding.
    if abs(pred.shape[0] * width - pred.shape[1] * height) > 2 * max(height, width):
        raise EvaluationError(
            f"{path} has {pred.shape[1]} x {pred.shape[0]} pixels (width x height), but its image {width} x {height}: "
            f"write masks as large as the images, or of their proportions"
        )
    return resize_mask(pred, size)


def summarise(
    table: pd.DataFrame,
    by: str | Sequence[str] | None = None,
    *,
    scores: Sequence[str] = ("dice", "iou"),
) -> pd.DataFrame:
    """Means over lesion images with intervals over groups, and specificity on normal images.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an image, from :func:`evaluate`; of several methods if `by` distinguishes them. A column ``seed``
        distinguishes several trainings of a method: they are averaged, and the intervals cover the variation between them.
    by : str or sequence of str, optional
        Columns to group by, such as ``"method"`` or ``["method", "label"]``.
    scores : sequence of str
        Columns to average.

    Returns
    -------
    pandas.DataFrame
        One row a part: ``n`` lesion images, ``groups``; for every score its mean and ``_low, _high``; ``dice_median``;
        ``missed`` (share of lesion images with Dice below 0.1); ``n_normal`` and ``normal_specificity`` (share of the
        normal images without any false-positive region; ``nan`` if there are no normal images).
    """
    by = [by] if isinstance(by, str) else list(by or [])
    parts = [((), table)] if not by else table.groupby(by, sort=False, observed=True)
    rows = []
    for name, part in parts:
        row: dict[str, object] = dict(zip(by, name if isinstance(name, tuple) else (name,), strict=True))
        lesions, normals = part[part["mask_area"] > 0], part[part["mask_area"] == 0]
        trainings = lesions["seed"] if "seed" in part else None
        n_lesions, n_normals = ((t["id"].nunique() if "seed" in part else len(t)) for t in (lesions, normals))
        row |= {"n": n_lesions, "groups": lesions["group"].nunique()}
        for score in scores:
            interval = bootstrap_mean(lesions[score], lesions["group"], trainings=trainings)
            row |= {score: interval.mean, f"{score}_low": interval.low, f"{score}_high": interval.high}
        row["dice_median"] = lesions["dice"].median()
        row["missed"] = (lesions["dice"] < 0.1).mean()
        row["n_normal"] = n_normals
        row["normal_specificity"] = (normals["pred_area"] == 0).mean()
        rows.append(row)
    return pd.DataFrame(rows)


def add_size_band(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``size``: which share of the image the lesion fills.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an image, from :func:`evaluate`.

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
