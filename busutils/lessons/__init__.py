"""The lessons: run them headless, check their exercises, and what their notebooks call."""

from busutils.lessons import checks
from busutils.lessons.notebook import FIGURES_VARIABLE, RESULTS_VARIABLE, publish, read_table, record
from busutils.lessons.run import (
    LESSONS,
    LessonError,
    Outcome,
    code_hash,
    find_notebooks,
    parameter_names,
    parse_parameters,
    peak_memory_gb,
    plan,
    profiles,
    refresh,
    run,
    select,
    summary,
)

__all__ = [
    "FIGURES_VARIABLE",
    "LESSONS",
    "RESULTS_VARIABLE",
    "LessonError",
    "Outcome",
    "checks",
    "code_hash",
    "find_notebooks",
    "parameter_names",
    "parse_parameters",
    "peak_memory_gb",
    "plan",
    "profiles",
    "publish",
    "read_table",
    "record",
    "refresh",
    "run",
    "select",
    "summary",
]
