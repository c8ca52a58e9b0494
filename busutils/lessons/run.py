"""Run the lessons headless, and keep their stored outputs fresh."""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import io
import json
import logging
import os
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from busutils import datasets, jobs
from busutils.errors import BusutilsError
from busutils.lessons.notebook import FIGURES_VARIABLE, RESULTS_VARIABLE

__all__ = [
    "LESSONS",
    "LessonError",
    "Outcome",
    "find_notebooks",
    "profiles",
    "refresh",
    "run",
]

LESSONS = (
    "00_start_here",
    "01_explore_the_data",
    "02_segment_with_kmeans",
    "03_train_a_unet",
    "04_compare_across_datasets",
    "05_read_activation_maps",
    "06_estimate_uncertainty",
    "07_use_and_deploy",
)


class LessonError(BusutilsError):
    """A lesson that cannot be run as asked, and why."""


@dataclass
class Outcome:
    """How one lesson went: ``error`` is empty if it ran to its end, ``results`` are the numbers it wrote."""

    lesson: str
    seconds: float
    error: str = ""
    results: dict[str, Any] = field(default_factory=dict)


# -- finding and checking ------------------------------------------------------------------------------------


def find_notebooks(folder: str | os.PathLike[str] | None = None) -> Path:
    """Folder of the lessons: the given one, ``notebooks`` here, or the one of the checkout the package runs from.

    Raises
    ------
    LessonError
        If none of them holds the lessons.
    """
    places = [Path(folder)] if folder else [Path("notebooks"), Path(__file__).parents[2] / "notebooks"]
    for place in places:
        if (place / f"{LESSONS[0]}.ipynb").is_file():
            return place.resolve()
    raise LessonError(
        f"the lessons are not in {' or '.join(map(str, places))}: run this in a checkout, or name --notebooks"
    )


def select(names: Sequence[str]) -> list[str]:
    """Lessons by number or name, in their order; all of them if none is named.

    Examples
    --------
    >>> select(["3", "01"])
    ['01_explore_the_data', '03_train_a_unet']
    """
    chosen = set()
    for name in names:
        stem = Path(name).stem
        found = [lesson for lesson in LESSONS if stem in (lesson, lesson[:2], lesson[1:2])]
        if not found:
            raise LessonError(f"there is no lesson {name!r}: choose among {', '.join(LESSONS)}")
        chosen.update(found)
    return [lesson for lesson in LESSONS if lesson in chosen or not names]


def profiles() -> dict[str, dict[str, dict[str, Any]]]:
    """Parameters of every profile: profile → lesson → name → value, from ``profiles.toml``.

    ``quick`` is empty by design: a lesson's own defaults are the quick profile.
    """
    with open(Path(__file__).with_name("profiles.toml"), "rb") as file:
        return tomllib.load(file)


def parameter_names(path: Path) -> list[str]:
    """Names that the cell tagged ``parameters`` assigns.

    Read from the syntax tree: papermill's own reader gives up on ordinary comments and then knows no parameter at all.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            tree = ast.parse("".join(cell["source"]))
            targets = [t for node in tree.body for t in getattr(node, "targets", [getattr(node, "target", None)])]
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _value(text: str) -> Any:
    """A parameter from the command line: JSON where it is some, else a string."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """Turn ``name=value`` pairs into parameters.

    Examples
    --------
    >>> parse_parameters(["epochs=3", "dataset=busi"])
    {'epochs': 3, 'dataset': 'busi'}
    """
    parameters = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name.isidentifier():
            raise LessonError(f"-p takes name=value, got {pair!r}")
        parameters[name] = _value(text)
    return parameters


def plan(
    lessons: Sequence[str],
    folder: Path,
    *,
    dataset: str = "phantom",
    profile: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Parameters of every lesson of a run; refuses names that no chosen lesson has.

    Without a profile, simulated images get ``quick`` and real ones ``full``.

    Raises
    ------
    LessonError
        For an unknown profile, set or parameter.
    """
    key, _ = datasets.parse_spec(dataset)
    datasets.card(key)
    profile = profile or ("quick" if key == "phantom" else "full")
    if profile not in profiles():
        raise LessonError(f"there is no profile {profile!r}: choose one of {', '.join(profiles())}")
    parameters = dict(parameters or {})
    known = {lesson: parameter_names(folder / f"{lesson}.ipynb") for lesson in lessons}
    for name in parameters:
        if not any(name in names for names in known.values()):
            have = sorted({n for names in known.values() for n in names})
            raise LessonError(f"no chosen lesson has a parameter {name!r}: they have {', '.join(have)}")
    planned: dict[str, dict[str, Any]] = {}
    for lesson in lessons:
        wanted = {**profiles()[profile].get(lesson, {}), **parameters}
        if dataset != "phantom":
            wanted.setdefault("dataset", dataset)
            if "dataset" not in known[lesson]:
                raise LessonError(f"lesson {lesson} has no parameter 'dataset': it cannot run on {dataset}")
        planned[lesson] = {name: value for name, value in wanted.items() if name in known[lesson]}
    return planned


# -- running -------------------------------------------------------------------------------------------------


def run(
    names: Sequence[str] = (),
    *,
    dataset: str = "phantom",
    profile: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] = "build",
    notebooks: str | os.PathLike[str] | None = None,
) -> list[Outcome]:
    """Execute lessons top to bottom.

    Parameters
    ----------
    names : sequence of str
        Numbers or names; all lessons by default.
    dataset : str, default "phantom"
        Key or specification of a set, see :func:`busutils.datasets.load`.
    profile : str, optional
        ``quick`` or ``full``; see :func:`plan`.
    parameters : mapping, optional
        Further parameters by name, for all chosen lessons that know them.
    out : path-like, default "build"
        Takes the executed notebooks, and their numbers in ``results/``.
    notebooks : path-like, optional
        Folder of the lessons.

    Returns
    -------
    list of Outcome
        One a lesson; a failed one does not stop the rest.

    Raises
    ------
    LessonError
        If something is wrong with what was asked; nothing was run then.
    """
    folder, chosen = find_notebooks(notebooks), select(names)
    planned = plan(chosen, folder, dataset=dataset, profile=profile, parameters=parameters)
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with _environment(_variables(out)):
        return [_execute(folder / f"{lesson}.ipynb", planned[lesson], out) for lesson in chosen]


def _variables(out: Path) -> dict[str, str]:
    variables = {RESULTS_VARIABLE: str(out / "results")}
    for name in ("BUSUTILS_DATA_DIR", "BUSUTILS_CACHE_DIR"):
        if value := os.environ.get(name):  # lessons run in a folder of their own
            variables[name] = str(Path(value).expanduser().resolve())
    return variables


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, which kernels inherit, for the length of a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _execute(path: Path, parameters: dict[str, Any], out: Path) -> Outcome:
    import papermill
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it reports every cell, and cannot read our parameters
    lesson, start, error = path.stem, time.perf_counter(), ""
    results = out / "results" / f"{lesson}.json"
    results.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            str(path),
            str(out / path.name),
            parameters,
            kernel_name="python3",
            cwd=str(out),
            progress_bar={"desc": lesson, "file": sys.stderr},
            log_output=False,
            extra_arguments=["--log-level=ERROR"],  # kernels warn of every connection on this very machine
        )
    except PapermillExecutionError as failure:
        error = f"cell {failure.exec_count}: {failure.ename}: {_first_line(failure.evalue)}"
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as failure:  # the kernel did not start, died, or the file is no notebook
        error = f"{type(failure).__name__}: {_first_line(str(failure))}"
    numbers = json.loads(results.read_text()) if results.exists() else {}
    if not error and not numbers:
        error = "the lesson wrote no results"
    return Outcome(lesson, time.perf_counter() - start, error, numbers)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no message"


def summary(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row a lesson: ``lesson, seconds, result``."""
    return pd.DataFrame(
        {
            "lesson": [outcome.lesson for outcome in outcomes],
            "seconds": [round(outcome.seconds) for outcome in outcomes],
            "result": [f"FAILED at {outcome.error}" if outcome.error else "passed" for outcome in outcomes],
        }
    )


def peak_memory_gb() -> float:
    """Largest memory that any one lesson's process has held so far, in GB; NaN on Windows."""
    return jobs.peak_memory_mb(children=True) / 1024


# -- stored outputs ------------------------------------------------------------------------------------------


def refresh(
    names: Sequence[str] = (),
    *,
    out: str | os.PathLike[str] = "build",
    notebooks: str | os.PathLike[str] | None = None,
) -> list[Outcome]:
    """Execute lessons with their defaults and store the outputs in the lessons themselves.

    What differs from run to run without meaning is left out: times of execution, paths, progress bars.

    Parameters
    ----------
    names, out, notebooks
        As in :func:`run`.

    Returns
    -------
    list of Outcome
        A lesson that failed keeps its old outputs.
    """
    import nbformat

    folder = find_notebooks(notebooks)
    before = {lesson: (folder / f"{lesson}.ipynb").read_bytes() for lesson in select(names)}
    with _environment({FIGURES_VARIABLE: str(folder.parent / "figures")}):
        outcomes = run(names, out=out, notebooks=folder)
    for outcome in outcomes:
        if not outcome.error and (folder / f"{outcome.lesson}.ipynb").read_bytes() != before[outcome.lesson]:
            outcome.error = "the lesson was edited while it ran: refresh it again"
        if outcome.error:
            continue
        notebook = nbformat.read(Path(out) / f"{outcome.lesson}.ipynb", as_version=4)
        with jobs.atomic_path(folder / f"{outcome.lesson}.ipynb") as temporary:
            nbformat.write(strip(notebook), temporary)
    return outcomes


def _smaller(encoded: str) -> str:
    """Encode a PNG with a palette: a fraction of the size, and the eye sees hardly a difference.

    The octree keeps rare colours, such as those of thin contours, which a median cut merges with their neighbours.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    small = io.BytesIO()
    picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def code_hash(cells: Sequence[Mapping[str, Any]]) -> str:
    """Fingerprint of a notebook's code: stored outputs belong to the code with the same one.

    Examples
    --------
    >>> code_hash([{"cell_type": "code", "source": "1 + 1"}, {"cell_type": "markdown", "source": "two"}])[:8]
    'c96e6eed'
    """
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def strip(notebook: Any) -> Any:
    """Remove from an executed notebook what papermill, the kernel and progress bars left behind; shrink pictures."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "outputs_of": code_hash(notebook.cells),
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {
            key: cell.metadata[key] for key in ("tags", "jupyter", "exercise", "alt") if cell.metadata.get(key)
        }
        if cell.cell_type == "code":
            cell.outputs = [
                output for output in cell.outputs if not (output.output_type == "stream" and output.name == "stderr")
            ]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = _smaller(output.data["image/png"])
    return notebook
