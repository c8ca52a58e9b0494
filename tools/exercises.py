"""Exercises and their solutions: ``notebooks/solutions`` holds the stub of each exercise and the code that replaces it.

``python tools/exercises.py write`` copies the stubs into the lessons; ``python tools/exercises.py run [NN ...]`` executes
lessons with the solutions in place of the stubs; every check must then accept them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat

from busutils import jobs, lessons

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CHECK = re.compile(r"^checks\.check_", re.M)
RIGHT, TO_DO = "✓", "· to be done"


def is_solution(cell) -> bool:
    return "solution" in cell["metadata"].get("tags", [])


def read_exercises(lesson: str, folder: Path = NOTEBOOKS) -> dict[str, dict[str, str]]:
    """Code of a lesson's exercises: number → ``{"stub": …, "solution": …}``."""
    path = folder / "solutions" / f"{lesson}.ipynb"
    exercises: dict[str, dict[str, str]] = {}
    if not path.is_file():
        return exercises
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if (number := cell["metadata"].get("exercise")) and cell["cell_type"] == "code":
            kind = "solution" if is_solution(cell) else "stub"
            exercises.setdefault(number, {})[kind] = "".join(cell["source"])
    return exercises


def lesson_stubs(cells: Sequence[dict]) -> dict[str, str]:
    """Code of the exercises as a lesson holds it, by number."""
    return {c["metadata"]["exercise"]: "".join(c["source"]) for c in cells if c["metadata"].get("exercise")}


def find_faults(lesson: str, folder: Path = NOTEBOOKS) -> list[str]:
    """What keeps a lesson's exercises from being those of its solutions, in sentences."""
    exercises = read_exercises(lesson, folder)
    cells = json.loads((folder / f"{lesson}.ipynb").read_text(encoding="utf-8"))["cells"]
    held = lesson_stubs(cells)
    faults = [f"exercise {n} lacks its {k}" for n, e in exercises.items() for k in ("stub", "solution") if k not in e]
    for number in sorted(set(exercises) | set(held)):
        if number not in exercises:
            faults.append(f"exercise {number} has no solution in solutions/{lesson}.ipynb")
        elif held.get(number) != exercises[number].get("stub"):
            faults.append(f"exercise {number} differs from its stub: python tools/exercises.py write")
    for cell in cells:
        if cell["metadata"].get("exercise") and CHECK.search("".join(cell["source"])):
            said = "".join("".join(output.get("text", "")) for output in cell["outputs"])
            if TO_DO not in said:
                faults.append(f"the check of exercise {cell['metadata']['exercise']} does not say what is to be done")
    return faults


def replace(lesson: str, kind: str, folder: Path = NOTEBOOKS):
    """The lesson with the stubs, or the solutions, in its exercises' cells; all other cells are left as they are."""
    notebook = nbformat.read(folder / f"{lesson}.ipynb", as_version=4)
    exercises = read_exercises(lesson, folder)
    for cell in notebook.cells:
        if number := cell.metadata.get("exercise"):
            cell.source = exercises[number][kind]
    return notebook


def write(names: Sequence[str]) -> None:
    for lesson in names:
        with jobs.atomic_path(NOTEBOOKS / f"{lesson}.ipynb") as temporary:
            nbformat.write(replace(lesson, "stub"), temporary)


def run(names: Sequence[str], out: Path) -> list[str]:
    """Execute lessons with their solutions; what went wrong, in sentences."""
    with tempfile.TemporaryDirectory() as solved:
        for lesson in lessons.LESSONS:
            nbformat.write(replace(lesson, "solution"), Path(solved) / f"{lesson}.ipynb")
        outcomes = lessons.run(names, out=out, notebooks=solved)
    faults = [f"{outcome.lesson}: {outcome.error}" for outcome in outcomes if outcome.error]
    for outcome in outcomes:
        for cell in nbformat.read(out / f"{outcome.lesson}.ipynb", as_version=4).cells:
            if not (number := cell.metadata.get("exercise")) or not CHECK.search(cell.source):
                continue
            said = "".join(output.get("text", "") for output in cell.outputs)
            if said.count(RIGHT) != len(CHECK.findall(cell.source)):
                faults.append(f"{outcome.lesson}: the check of exercise {number} does not accept its solution")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["write", "run"])
    parser.add_argument("lessons", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("build/solutions"))
    args = parser.parse_args()
    chosen = lessons.select(args.lessons)
    if args.command == "write":
        write(chosen)
        return 0
    faults = run(chosen, args.out)
    print("\n".join(faults) or f"the solutions of {len(chosen)} lessons are right")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
