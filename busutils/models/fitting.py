"""Fit a segmenter on a data set, once: what was trained before is loaded."""

from __future__ import annotations

import inspect
import logging
import os
from pathlib import Path

from busutils import jobs
from busutils.datasets import LesionDataset
from busutils.models.segmenter import Segmenter, WeightsError
from busutils.models.training import RECIPE_VERSION

__all__ = ["fit_on"]

logger = logging.getLogger(__name__)


def fit_on(
    segmenter: Segmenter,
    dataset: LesionDataset,
    size: int = 256,
    *,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Segmenter:
    """Fit a segmenter on a data set, or load it if the same was done before.

    Parameters
    ----------
    segmenter : Segmenter
        Its settings; it is left as it is.
    dataset : LesionDataset
        Training images. Their groups keep near-copies on one side of the validation split.
    size : int, default 256
        Square at which images are handed over.
    folder : path-like, optional
        Where trained segmenters are kept; ``trained`` in :func:`busutils.jobs.cache_dir` by default. A training that
        was stopped is taken up from there.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Segmenter
        A fitted one. An unsupervised method is fitted on the images alone and never sees a mask.
    """
    from sklearn.base import clone

    images, masks = dataset.load_arrays(size)
    fresh = clone(segmenter)
    if not segmenter.supervised:
        return fresh.fit(images)
    parts = [RECIPE_VERSION, segmenter, images, masks, dataset.groups]
    if (before := getattr(segmenter, "start_file", None)) is not None and before.is_file():
        parts.append(before.read_bytes())
    key = jobs.content_key(*parts)[:20]
    place = Path(folder or jobs.cache_dir() / "trained")
    path = place / f"{type(segmenter).__name__}-{key}.npz"
    if path.exists():
        try:
            return Segmenter.load(path)
        except WeightsError as error:
            logger.warning("%s: trained anew", error)
    options = {}
    checkpoint = path.with_suffix(".checkpoint.npz")
    if "checkpoint" in inspect.signature(segmenter._fit).parameters:
        options = {"groups": dataset.groups, "checkpoint": checkpoint, "progress": progress}
    fresh.fit(images, masks, **options)
    fresh.save(path)
    checkpoint.unlink(missing_ok=True)
    # What the first call returns is what every later one loads.
    return Segmenter.load(path)
