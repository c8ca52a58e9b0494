"""Scores of many images: tables, intervals, comparisons. Free of Keras."""

from busutils.evaluation.benchmark import BenchmarkSpec, SpecError, compare_methods, run_benchmark
from busutils.evaluation.calibration import expected_calibration_error, reliability
from busutils.evaluation.evaluate import EvaluationError, evaluate, evaluate_masks, summarise
from busutils.evaluation.statistics import Comparison, Interval, bootstrap_mean, compare

__all__ = [
    "BenchmarkSpec",
    "Comparison",
    "EvaluationError",
    "Interval",
    "SpecError",
    "bootstrap_mean",
    "compare",
    "compare_methods",
    "evaluate",
    "evaluate_masks",
    "expected_calibration_error",
    "reliability",
    "run_benchmark",
    "summarise",
]
