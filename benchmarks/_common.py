"""Shared by the scripts of this folder: their command line, and how tables and pictures are written to figures/.

Imports only the standard library until something is written, because some scripts run parts of themselves in other Pythons.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parents[1] / "figures"


def command_line(doc: str | None, *shared: str) -> argparse.ArgumentParser:
    """A script's command line, described by its docstring's first line, with options that several scripts have."""
    parser = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0])
    if "root" in shared:
        parser.add_argument("--root", help="folder of the published folders; BUSUTILS_DATA_DIR by default")
    if "n_jobs" in shared:
        parser.add_argument("--n-jobs", type=int, default=1, help="processes on this machine")
    if "draw" in shared:
        parser.add_argument("--draw", action="store_true", help="only draw the picture, from the table")
    return parser


def write_table(table: Any, path: Path) -> None:
    """Write a data frame, whole or not at all."""
    from busutils import jobs

    with jobs.atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def write_picture(figure: Any, path: Path, *, dpi: int = 120, **options: Any) -> None:
    """Write a figure, whole or not at all."""
    from busutils import jobs

    with jobs.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi, **options)
