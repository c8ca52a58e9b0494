"""Fit a segmenter on a data set, once: what was trained before is loaded."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from busutils import jobs
from busutils.datasets import LesionDataset
from busutils.models.segmenter import Segmenter, WeightsError
from busutils.models.training import RECIPE_VERSION

__all__ = ["fit_on", "provenance_of"]

logger = logging.getLogger(__name__)


def provenance_of(dataset: LesionDataset) -> dict[str, Any]:
    """Sets that training images come from, and the fold of each that is left out.

    Parameters
    ----------
    dataset : LesionDataset
        Training images.

    Returns
    -------
    dict
        ``sets``: keys of the sets; ``folds``: of each the only fold from 1 to 5 without an image here, or None.
    """
    folds, sources = dataset.folds(), dataset.sources
    sets = list(dict.fromkeys(sources.tolist()))
    left_out = [sorted(set(range(1, 6)) - set(folds[sources == name].tolist())) for name in sets]
    return {"sets": sets, "folds": [absent[0] if len(absent) == 1 else None for absent in left_out]}


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
        Training images. Their groups keep near-duplicates on one side of the validation split.
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
    parts = [segmenter, images, masks, dataset.groups, dataset.sources]
    if segmenter.init_file is not None and segmenter.init_file.is_file():
        parts.append(segmenter.init_file.read_bytes())
    key = jobs.content_key(*parts)[:20]
    place = Path(folder or jobs.cache_dir() / "trained")
    path = place / f"{type(segmenter).__name__}-{key}.npz"
    if path.exists():
        try:
            return Segmenter.load(path)
        except WeightsError as error:
            logger.warning("%s: trained anew", error)
    checkpoint = path.with_suffix(".checkpoint.npz")
    place.mkdir(parents=True, exist_ok=True)
    fresh.fit(images, masks, groups=dataset.groups, sources=dataset.sources, checkpoint=checkpoint, progress=progress)
    fresh.provenance = provenance_of(dataset) | {"seed": fresh.get_params().get("seed"), "recipe": RECIPE_VERSION}
    fresh.save(path)
    checkpoint.unlink(missing_ok=True)
    # What the first call returns is what every later one loads.
    return Segmenter.load(path)
