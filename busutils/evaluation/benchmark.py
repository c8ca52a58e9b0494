"""Several methods on the same images; several folds of one set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from busutils import jobs
from busutils.datasets import LesionDataset
from busutils.evaluation.evaluate import evaluate
from busutils.models.fitting import fit_on
from busutils.models.segmenter import Segmenter
from busutils.models.training import RECIPE_VERSION

__all__ = ["compare_methods", "cross_validate"]


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
        As in :func:`busutils.evaluation.evaluate`.

    Returns
    -------
    pandas.DataFrame
        The methods' tables below each other, told apart by the column ``method``.
    """
    tables = [
        evaluate(segmenter, dataset, size, native=native).assign(method=name) for name, segmenter in methods.items()
    ]
    return pd.concat(tables, ignore_index=True)


def cross_validate(
    methods: Mapping[str, Segmenter],
    dataset: LesionDataset,
    *,
    folds: Iterable[int] = (1, 2, 3, 4, 5),
    size: int = 256,
    progress: bool = False,
) -> pd.DataFrame:
    """Train on all folds but one and score that one, for every fold and method.

    Every fold of every method is a kept step: a run that was stopped is taken up where it was.

    Parameters
    ----------
    methods : mapping of str to Segmenter
        Name → settings. Unsupervised methods never see a mask.
    dataset : LesionDataset
        Its folds never split a group.
    folds : iterable of int
        Test folds.
    size : int, default 256
        Square of training and scores.
    progress : bool, default False
        Show progress bars.

    Returns
    -------
    pandas.DataFrame
        The out-of-fold table: rows as from :func:`busutils.evaluation.evaluate`, with ``method`` and ``fold``.
    """
    images, masks = dataset.load_arrays(size)
    content = jobs.content_key(RECIPE_VERSION, images, masks, dataset.ids, dataset.folds(), size)

    def step(task: tuple[str, int, Any]) -> pd.DataFrame:
        name, fold, segmenter = task
        train, test = dataset.split(fold)
        fitted = fit_on(segmenter, train, size, progress=progress)
        return evaluate(fitted, test, size).assign(method=name, fold=fold)

    tasks = [(name, fold, segmenter) for name, segmenter in methods.items() for fold in folds]
    tables = jobs.run("fold", step, tasks, parts=content, ending=".csv", progress=progress)
    return pd.concat(tables, ignore_index=True)
