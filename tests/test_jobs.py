import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busutils import datasets, jobs
from busutils.models import KMeansSegmenter


def square(x):
    return x * x


def test_equal_content_has_equal_keys():
    assert jobs.content_key({"a": 1, "b": [2.0]}) == jobs.content_key({"b": [2.0], "a": 1})
    assert jobs.content_key(np.arange(3)) == jobs.content_key(np.arange(3))
    assert jobs.content_key(KMeansSegmenter("best")) == jobs.content_key(KMeansSegmenter("best"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1, "1"),
        (1, 1.0),
        (1, True),
        (["ab", "c"], ["a", "bc"]),
        ([[1], 2], [1, [2]]),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(2, np.float32), np.zeros(2, np.int32)),
        (KMeansSegmenter("best"), KMeansSegmenter("improved")),
        (None, "None"),
    ],
)
def test_different_content_has_different_keys(first, second):
    assert jobs.content_key(first) != jobs.content_key(second)


@given(st.lists(st.one_of(st.integers(), st.text(), st.none()), max_size=4))
def test_keys_do_not_depend_on_list_or_tuple(values):
    assert jobs.content_key(values) == jobs.content_key(tuple(values))


def test_functions_have_no_content_key():
    with pytest.raises(TypeError, match="parameters instead"):
        jobs.content_key(square)


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    target = tmp_path / "result.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), jobs.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("ending", "value"), [(".json", {"a": [1, None]}), (".npz", {"x": np.arange(3)}), (".csv", None)]
)
def test_every_kind_of_result_is_computed_once_and_comes_back_the_same(tmp_path, ending, value):
    value = pd.DataFrame({"x": [0.1, 1 / 3]}) if value is None else value
    calls = []

    def compute(item):
        calls.append(item)
        return value

    (first,), (again,) = (jobs.run("step", compute, [1], suffix=ending, folder=tmp_path) for _ in range(2))
    assert calls == [1]
    if ending == ".csv":
        pd.testing.assert_frame_equal(first, value)
        pd.testing.assert_frame_equal(again, value)
    else:
        np.testing.assert_equal(first, value)
        np.testing.assert_equal(again, value)
    with pytest.raises(ValueError, match="suffix must be one of"):
        jobs.run("step", compute, [1], suffix=".pkl", folder=tmp_path)


def test_a_damaged_result_is_computed_anew(tmp_path):
    jobs.run("step", lambda x: 5, [1], folder=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert jobs.run("step", lambda x: 6, [1], folder=tmp_path) == [6]


def test_a_truncated_archive_is_computed_anew(tmp_path):
    jobs.run("step", lambda x: {"x": np.zeros(99)}, [1], suffix=".npz", folder=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    (result,) = jobs.run("step", lambda x: {"x": np.ones(3)}, [1], suffix=".npz", folder=tmp_path)
    assert result["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_run_keeps_order_and_takes_up_where_it_was_stopped(tmp_path, n_jobs):
    done = []

    def stop_at_three(x):
        if x == 3:
            raise KeyboardInterrupt
        done.append(x)
        return x * x

    with pytest.raises(KeyboardInterrupt):
        jobs.run("squares", stop_at_three, range(6), folder=tmp_path)
    assert done == [0, 1, 2]
    assert jobs.run("squares", square, range(6), folder=tmp_path, n_jobs=n_jobs) == [0, 1, 4, 9, 16, 25]
    # Everything is kept now: a step that would fail is never called.
    assert jobs.run("squares", lambda x: 1 / 0, range(6), folder=tmp_path) == [0, 1, 4, 9, 16, 25]


def test_run_keeps_results_of_other_options_apart(tmp_path):
    assert jobs.run("scale", lambda x: 2 * x, [1], parts=2, folder=tmp_path) == [2]
    assert jobs.run("scale", lambda x: 3 * x, [1], parts=3, folder=tmp_path) == [3]


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Write a small package and import it anew, as another process would after an edit."""
    monkeypatch.syspath_prepend(str(tmp_path / "code"))

    def write(step="x * helper.FACTOR", factor=2, remark=""):
        folder = tmp_path / "code" / "own_steps"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
        (folder / "helper.py").write_text(f"FACTOR = {factor}\n")
        text = f'from own_steps import helper\n\n\ndef step(x):\n    """{remark}"""\n    return {step}  # {remark}\n'
        (folder / "steps.py").write_text(text)
        for name in [name for name in sys.modules if name.startswith("own_steps")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module("own_steps.steps").step

    return write


def test_an_edited_step_is_computed_anew(tmp_path, own_module):
    assert jobs.run("own", own_module(), [3], folder=tmp_path / "kept") == [6]
    assert jobs.run("own", own_module("x + helper.FACTOR"), [3], folder=tmp_path / "kept") == [5]
    assert jobs.run("own", own_module("x + helper.FACTOR", factor=4), [3], folder=tmp_path / "kept") == [7]


def test_comments_and_docstrings_do_not_count_as_edits(tmp_path, own_module):
    keys = {jobs.code_key(own_module(remark=remark)) for remark in ("", "a word", "another word")}
    assert len(keys) == 1


def test_a_step_without_a_file_counts_by_its_instructions():
    keys = set()
    for text in ("lambda x: [i + 1 for i in x]", "lambda x: [i + 1 for i in x]", "lambda x: [i + 2 for i in x]"):
        keys.add(jobs.code_key(eval(text, {"__name__": "typed"})))
    assert len(keys) == 2


def test_a_method_s_code_is_part_of_its_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = set()
    for value in (1, 2):
        lines = ["from sklearn.base import BaseEstimator", "", "", "class Own(BaseEstimator):"]
        (tmp_path / "own_method.py").write_text(
            "\n".join([*lines, "    def fit(self):", f"        return {value}", ""])
        )
        sys.modules.pop("own_method", None)
        importlib.invalidate_caches()
        keys.add(jobs.content_key(importlib.import_module("own_method").Own()))
    assert len(keys) == 2


def test_paths_count_by_what_they_hold(tmp_path):
    first, second = tmp_path / "a.bin", tmp_path / "b.bin"
    first.write_bytes(b"one")
    second.write_bytes(b"one")
    before = jobs.content_key(first)
    assert jobs.content_key(second) == before
    first.write_bytes(b"two")
    assert jobs.content_key(first) != before
    with pytest.raises(FileNotFoundError):
        jobs.content_key(tmp_path / "gone")


def test_a_kept_table_comes_back_with_its_types(tmp_path):
    table = pd.DataFrame(
        {
            "id": ["000001", "1e5", "NA", ""],
            "n": [1, 2, 3, 4],
            "dice": [0.1, 1 / 3, np.nan, np.inf],
            "found": [True, False, True, True],
            "label": ["x", None, "nan", 'a,"b"'],
        }
    )
    (kept,) = jobs.run("table", lambda _: table, [1], suffix=".csv", folder=tmp_path)
    pd.testing.assert_frame_equal(kept, table)


def test_the_cache_folder_may_be_given_from_the_home_folder(monkeypatch):
    monkeypatch.setenv("BUSUTILS_CACHE_DIR", "~/cache")
    assert jobs.cache_dir() == Path.home() / "cache"
    assert datasets.cache_dir() == Path.home() / "cache" / "arrays"
