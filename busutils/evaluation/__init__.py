"""Scores of many images: tables, intervals, comparisons. Free of Keras."""

from busutils.evaluation.benchmark import BenchmarkSpec, SpecError, compare_methods, run_benchmark
from busutils.evaluation.calibration import expected_calibration_error, reliability
from busutils.evaluation.evaluate import EvaluationError, evaluate, evaluate_masks, score_masks, summarise
from busutils.evaluation.ranking import SIZE_BANDS, add_size_band, compare_all, holm, rank_methods
from busutils.evaluation.statistics import Comparison, Interval, bootstrap_mean, compare

__all__ = [
    "SIZE_BANDS",
    "BenchmarkSpec",
    "Comparison",
    "EvaluationError",
    "Interval",
    "SpecError",
    "add_size_band",
    "bootstrap_mean",
    "compare",
    "compare_all",
    "compare_methods",
    "evaluate",
    "evaluate_masks",
    "expected_calibration_error",
    "holm",
    "rank_methods",
    "reliability",
    "run_benchmark",
    "score_masks",
    "summarise",
]
