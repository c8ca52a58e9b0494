"""Planted defects: each kind is found in a lesson, and called by its name."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from busutils import lessons

ROOT = Path(__file__).parents[1]
NAME = "00_start_here"


@pytest.fixture(scope="module")
def check_lessons():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import check_lessons
    finally:
        sys.path.pop(0)
    return check_lessons


@pytest.fixture
def planted(check_lessons, tmp_path, monkeypatch):
    """A function that changes a copy of a lesson, and returns what the check says of it."""
    for neighbour in ROOT.iterdir():  # what the lessons link to
        if neighbour.name not in ("notebooks", ".venv", ".git"):
            (tmp_path / neighbour.name).symlink_to(neighbour)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setattr(check_lessons, "FOLDER", tmp_path / "notebooks")
    path = tmp_path / "notebooks" / f"{NAME}.ipynb"
    clean = json.loads(path.read_text(encoding="utf-8"))
    assert check_lessons.check(NAME) == []

    def plant(change, *, run_again=True):
        notebook = copy.deepcopy(clean)
        change(notebook["cells"])
        if run_again:
            notebook["metadata"]["outputs_of"] = lessons.code_hash(notebook["cells"])
        path.write_text(json.dumps(notebook), encoding="utf-8")
        return check_lessons.check(NAME)

    return plant


def first(cells, kind, words=""):
    return next(cell for cell in cells if cell["cell_type"] == kind and words in "".join(cell["source"]))


def add(kind, words, text):
    """A change: text after that of the first cell of a kind that holds some words."""

    def change(cells):
        cell = first(cells, kind, words)
        cell["source"] = "".join(cell["source"]) + text

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (add("code", "plt.show", "\nnoise = np.random.rand(3)"), "randomness without a seed: np.random.rand("),
        (add("code", "plt.show", "\nrng = np.random.default_rng()"), "randomness without a seed: default_rng()"),
        (add("markdown", "", "\n\n[more](no_such_lesson.ipynb)"), "the link to no_such_lesson.ipynb leads nowhere"),
        (
            add("markdown", "", "\n\n[more](02_segment_with_kmeans.ipynb#no-such-part)"),
            "the link to 02_segment_with_kmeans.ipynb#no-such-part leads to no heading there",
        ),
        (
            add("markdown", "", "\n\n![](../figures/lesson_02_scores.png)"),
            "the picture ../figures/lesson_02_scores.png needs alt text that says what it shows",
        ),
        (add("code", "plt.show", "\nopen('/home/someone/x')"), "holds a path of one machine: /home/someone"),
        (add("code", "plt.show", "\n!pip install busutils"), "shell or magic command"),
        (
            add("markdown", "**Read it.**", "\n\nIt reaches 0.98765 here."),
            "the number 0.98765 in prose is in no output of the lesson and has no source",
        ),
        (add("markdown", "**Read it.**", "\n\n# Second title"), "needs one first-level heading"),
        (
            add("markdown", "**Read it.**", "\n\n> **Predict first.** Why?"),
            "asks for 5 predictions; docs/teachers.md answers 4",
        ),
    ],
)
def test_a_planted_defect_is_called_by_its_name(planted, change, says):
    faults = planted(change)
    assert len(faults) == 1
    assert faults[0].startswith(says)


def test_code_that_was_changed_after_it_was_run_has_stale_outputs(planted):
    (fault,) = planted(add("code", "plt.show", "\nx = 1"), run_again=False)
    assert fault.startswith("stale outputs")


def test_cells_run_out_of_order_are_found(planted):
    def swap(cells):
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        code[2]["execution_count"], code[3]["execution_count"] = code[3]["execution_count"], code[2]["execution_count"]

    (fault,) = planted(swap)
    assert fault.startswith("was not executed from top to bottom")


def test_a_golden_cell_without_a_stored_output_is_found(planted):
    def empty(cells):
        first(cells, "code", "# NBVAL_CHECK_OUTPUT")["outputs"] = []

    faults = planted(empty)
    assert "a golden cell has no stored output: nbval would let it pass" in faults


def test_a_picture_made_by_code_needs_alt_text(planted):
    def silence(cells):
        del first(cells, "code", "plt.show")["metadata"]["alt"]

    (fault,) = planted(silence, run_again=False)  # alt text is no code: the outputs stay valid
    assert fault.startswith("the picture of the cell 'figure, panels = plt.subplots(1, 2")
    assert "needs alt text that says what it shows" in fault


def test_a_parameter_that_a_profile_misspells_is_found(planted, check_lessons, monkeypatch):
    monkeypatch.setattr(check_lessons, "profiles", lambda: {"full": {NAME: {"sead": 1}}})
    assert planted(lambda cells: None) == ["does not know the parameter 'sead' of profile 'full'"]


def test_a_stub_that_differs_from_its_solutions_notebook_is_found(planted):
    (fault,) = planted(add("code", "my_dice", "\n# a hint"))
    assert fault == "exercise 00.1 differs from its stub: python tools/exercises.py write"


def test_a_check_that_does_not_say_what_is_to_be_done_is_found(planted):
    def silence(cells):
        first(cells, "code", "my_dice")["outputs"] = []

    assert planted(silence) == ["the check of exercise 00.1 does not say what is to be done"]


def test_solutions_take_the_place_of_stubs_and_nothing_else(check_lessons):
    import exercises

    for name in lessons.LESSONS:
        stubs, solved = exercises.replace(name, "stub"), exercises.replace(name, "solution")
        lesson = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        assert [c.source for c in stubs.cells] == [c.source for c in lesson.cells]
        changed = [a.metadata.exercise for a, b in zip(stubs.cells, solved.cells, strict=True) if a.source != b.source]
        assert changed == list(exercises.read_exercises(name))
        assert changed


def test_a_number_with_a_source_may_stand_in_prose(planted):
    assert planted(add("markdown", "**Read it.**", "\n\nOthers reach 0.98765 [1].")) == []


def test_a_changed_number_in_a_golden_cell_fails_when_the_lesson_is_run_again(tmp_path):
    cell = nbformat.v4.new_code_cell("# NBVAL_CHECK_OUTPUT\nprint('Dice', 2 * 2 / 8)", execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
    for stored, status in (("Dice 0.5\n", 0), ("Dice 0.6\n", 1)):
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=stored)]
        nbformat.write(notebook, tmp_path / "lesson.ipynb")
        done = subprocess.run([*command, "lesson.ipynb"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == status, done.stdout
        assert ("Cell outputs differ" in done.stdout) == bool(status)


def test_a_link_to_a_heading_of_a_lesson_is_followed(planted):
    assert planted(add("markdown", "", "\n\n[last](01_explore_the_data.ipynb#summary) and [here](#Summary)")) == []


def test_a_folded_output_and_a_narrow_line_are_asked_for(planted):
    def unfold(cells):
        for cell in cells:
            cell["metadata"].pop("jupyter", None)

    assert any("is not folded" in fault for fault in planted(unfold))
    wide = add("code", "plt.show", "\n# " + 90 * "x")
    assert any("wider than 88 columns" in fault for fault in planted(wide))
