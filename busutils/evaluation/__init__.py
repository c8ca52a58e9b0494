"""Scores of many images: tables, intervals, comparisons. Free of Keras."""

from busutils.evaluation.calibration import (
    contour_band,
    expected_calibration_error,
    fit_temperature,
    reliability,
    with_temperature,
)
from busutils.evaluation.evaluate import (
    SIZE_BANDS,
    EvaluationError,
    add_size_band,
    compare_methods,
    evaluate,
    evaluate_masks,
    score_masks,
    summarise,
)
from busutils.evaluation.ranking import compare_all, holm, paired_difference, rank_methods
from busutils.evaluation.statistics import Comparison, Interval, bootstrap_mean, compare

__all__ = [
    "SIZE_BANDS",
    "Comparison",
    "EvaluationError",
    "Interval",
    "add_size_band",
    "bootstrap_mean",
    "compare",
    "compare_all",
    "compare_methods",
    "contour_band",
    "evaluate",
    "evaluate_masks",
    "expected_calibration_error",
    "fit_temperature",
    "holm",
    "paired_difference",
    "rank_methods",
    "reliability",
    "score_masks",
    "summarise",
    "with_temperature",
]
