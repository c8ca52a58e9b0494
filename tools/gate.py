"""Repeatability gate: execute each lesson's executed copy again; every printed digit must agree.

``busutils lessons run`` (``make lessons``) writes the copies. ``python tools/gate.py build [NN ...]`` executes them again
with nbval in its strict mode, which compares all text and tables, and with an empty cache, so that all networks are
trained again. Pictures are not compared: their pixels depend on fonts, and what they show is also printed.
``tools/gate.cfg`` lists what may differ from run to run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from busutils import lessons

RULES = Path(__file__).with_suffix(".cfg")


class PrintedOnly:
    """Plugin of pytest: nbval leaves out progress bars and notices of libraries, which no two runs share."""

    def pytest_configure(self, config: pytest.Config) -> None:
        """Let nbval's comparison see no stderr."""
        from nbval.plugin import IPyNbCell  # not before pytest has prepared its plugins

        compare = IPyNbCell.compare_outputs

        def compare_printed(cell, test, ref, skip_compare=None):
            printed = ([output for output in outputs if output.get("name") != "stderr"] for outputs in (test, ref))
            return compare(cell, *printed, skip_compare)

        IPyNbCell.compare_outputs = compare_printed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where busutils lessons run wrote to")
    parser.add_argument("lessons", nargs="*", metavar="NN", help="these lessons; all that were run by default")
    given = parser.parse_args()
    try:
        chosen = lessons.select(given.lessons)
    except lessons.LessonError as error:
        parser.error(str(error))
    found = [name for name in chosen if (given.folder / f"{name}.ipynb").is_file()]
    missing = sorted(set(chosen) - set(found)) if given.lessons or not found else []
    if missing:
        parser.error(f"{given.folder} holds no executed {', '.join(missing)}: run busutils lessons run first")
    again = given.folder / "gate"
    shutil.rmtree(again, ignore_errors=True)
    again.mkdir()
    for name in found:
        shutil.copy(given.folder / f"{name}.ipynb", again)
    options = ["-o", "addopts=", "-q", "--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(RULES)]
    with tempfile.TemporaryDirectory(prefix="busutils-gate-") as empty:
        os.environ["BUSUTILS_CACHE_DIR"] = empty  # kernels inherit it
        return int(pytest.main([*options, "-p", "no:cacheprovider", str(again)], plugins=[PrintedOnly()]))


if __name__ == "__main__":
    sys.exit(main())
