"""The lessons: run them headless, check their exercises, and what their notebooks call."""

from busutils.lessons import checks
from busutils.lessons.notebook import publish, read_table, record, slider
from busutils.lessons.run import (
    LESSONS,
    LessonError,
    code_hash,
    copy,
    parameter_names,
    parse_parameters,
    profiles,
    refresh,
    run,
    select,
    summary,
)

__all__ = [
    "LESSONS",
    "LessonError",
    "checks",
    "code_hash",
    "copy",
    "parameter_names",
    "parse_parameters",
    "profiles",
    "publish",
    "read_table",
    "record",
    "refresh",
    "run",
    "select",
    "slider",
    "summary",
]
