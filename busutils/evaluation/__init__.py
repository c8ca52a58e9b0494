"""Scores of many images: tables, intervals, comparisons. Free of Keras."""

from busutils.evaluation.benchmark import BenchmarkSpec, SpecError, compare_methods, run_benchmark
from busutils.evaluation.calibration import (
    contour_band,
    expected_calibration_error,
    fit_temperature,
    reliability,
    with_temperature,
)
from busutils.evaluation.evaluate import (
    ENTRY_HEAD,
    EvaluationError,
    entry_row,
    evaluate,
    evaluate_masks,
    score_masks,
    summarise,
)
from busutils.evaluation.ranking import compare_all, gain, holm, rank_methods
from busutils.evaluation.statistics import Comparison, Interval, bootstrap_mean, compare
from busutils.evaluation.strata import CONTRAST_BANDS, SIZE_BANDS, add_descriptors, add_size_band, lesion_contrast

__all__ = [
    "CONTRAST_BANDS",
    "ENTRY_HEAD",
    "SIZE_BANDS",
    "BenchmarkSpec",
    "Comparison",
    "EvaluationError",
    "Interval",
    "SpecError",
    "add_descriptors",
    "add_size_band",
    "bootstrap_mean",
    "compare",
    "compare_all",
    "compare_methods",
    "contour_band",
    "entry_row",
    "evaluate",
    "evaluate_masks",
    "expected_calibration_error",
    "fit_temperature",
    "gain",
    "holm",
    "lesion_contrast",
    "rank_methods",
    "reliability",
    "run_benchmark",
    "score_masks",
    "summarise",
    "with_temperature",
]
