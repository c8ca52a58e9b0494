"""Run the lessons headless, and keep their stored outputs fresh."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import shutil
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from busutils import datasets, jobs
from busutils.errors import BusutilsError, MissingPackageError
from busutils.lessons.notebook import FIGURES_VARIABLE, HOMES, RESULTS_VARIABLE

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
    """A lesson that cannot be run as requested, and why."""


@dataclass
class Outcome:
    """How one lesson went: ``error`` is empty if it ran to its end, ``results`` are the numbers it wrote."""

    lesson: str
    seconds: float
    error: str = ""
    results: dict[str, Any] = field(default_factory=dict)


# -- finding and checking ------------------------------------------------------------------------------------


def find_notebooks(folder: str | os.PathLike[str] | None = None) -> Path:
    """Folder of the lessons: the given one, ``notebooks`` here, this one, or the one of the checkout the package runs from.

    Raises
    ------
    LessonError
        If none of them holds the lessons.
    """
    places = [Path(folder)] if folder else [Path("notebooks"), Path(), HOMES[1] / "notebooks"]
    for place in places:
        if (place / f"{LESSONS[0]}.ipynb").is_file():
            return place.resolve()
    raise LessonError(
        f"the lessons are not in {folder or 'this folder'}: copy them with 'busutils lessons copy', or name --notebooks"
    )


def copy(folder: str | os.PathLike[str] = ".") -> Path:
    """Copy the lessons, with their solutions and what they read, so that they can be edited.

    Parameters
    ----------
    folder : path-like, default "."
        Gets ``notebooks`` and ``figures``; made where it does not exist.

    Returns
    -------
    Path
        Of the notebooks.

    Raises
    ------
    LessonError
        If one of the two is there already; nothing is copied then.
    """
    home = next(home for home in HOMES if (home / "notebooks").is_dir())
    parts = [Path(folder, part) for part in ("notebooks", "figures")]
    for part in parts:
        if part.exists():
            raise LessonError(f"{part} exists, and nothing is overwritten: name another folder, or move it away")
    for part in parts:
        shutil.copytree(home / part.name, part, ignore=shutil.ignore_patterns(".*"))
    return parts[0]


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

    Not by papermill's own reader, which does not understand ordinary comments and then finds no parameter at all.
    """
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            return re.findall(r"^(\w+)(?:: .+?)? = ", "".join(cell["source"]), re.M)
    return []


def parse_parameters(pairs: Sequence[str]) -> dict[str, Any]:
    """Turn ``name=value`` pairs into parameters; a value that is no JSON is text.

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
        try:
            parameters[name] = json.loads(text)
        except json.JSONDecodeError:
            parameters[name] = text
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
    existing = set().union(*known.values())
    if unknown := sorted(set(parameters) - existing):
        raise LessonError(f"no chosen lesson has a parameter {unknown[0]!r}: they have {', '.join(sorted(existing))}")
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
        If the request is invalid; nothing was run then.
    """
    folder, chosen = find_notebooks(notebooks), select(names)
    planned = plan(chosen, folder, dataset=dataset, profile=profile, parameters=parameters)
    if importlib.util.find_spec("papermill") is None:
        raise MissingPackageError('the runner needs papermill: pip install "busutils[lessons]"')
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    variables = {RESULTS_VARIABLE: str(out / "results")}
    for name in ("BUSUTILS_DATA_DIR", "BUSUTILS_CACHE_DIR"):
        if value := os.environ.get(name):  # may be relative, and lessons run in a folder of their own
            variables[name] = str(Path(value).expanduser().resolve())
    with jobs.environment(variables):  # kernels inherit it
        return [_execute(folder / f"{lesson}.ipynb", planned[lesson], out) for lesson in chosen]


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
    except (OSError, RuntimeError, ValueError) as failure:  # no kernel, a kernel that died, or no notebook
        error = f"{type(failure).__name__}: {_first_line(str(failure))}"
    numbers = json.loads(results.read_text()) if results.exists() else {}
    if not error and not numbers:
        error = "the lesson wrote no results"
    return Outcome(lesson, time.perf_counter() - start, error, numbers)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no message"


def summary(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """One row a lesson: ``lesson, seconds, result``."""
    rows = [(o.lesson, round(o.seconds), f"FAILED at {o.error}" if o.error else "passed") for o in outcomes]
    return pd.DataFrame(rows, columns=["lesson", "seconds", "result"])


def refresh(
    names: Sequence[str] = (),
    *,
    out: str | os.PathLike[str] = "build",
    notebooks: str | os.PathLike[str] | None = None,
) -> list[Outcome]:
    """Execute lessons with their defaults and store the outputs in the lessons themselves.

    What differs between equal runs is left out: times of execution, paths, progress bars.

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
    with jobs.environment({FIGURES_VARIABLE: str(folder.parent / "figures")}):
        outcomes = run(names, out=out, notebooks=folder)
    for outcome in outcomes:
        path = folder / f"{outcome.lesson}.ipynb"
        if not outcome.error and path.read_bytes() != before[outcome.lesson]:
            outcome.error = "the lesson was edited while it ran: refresh it again"
        if not outcome.error:
            notebook = nbformat.read(Path(out) / path.name, as_version=4)
            with jobs.atomic_path(path) as temporary:
                nbformat.write(strip(notebook), temporary)
    return outcomes


def _smaller(encoded: str) -> str:
    """Encode a PNG with a palette: a fraction of the size, hardly any visible difference.

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
    """Remove traces of papermill, the kernel and progress bars from an executed notebook; shrink pictures."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "outputs_of": code_hash(notebook.cells),
    }
    kept = ("tags", "jupyter", "exercise", "alt")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {key: cell.metadata[key] for key in kept if cell.metadata.get(key)}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = _smaller(output.data["image/png"])
    return notebook
