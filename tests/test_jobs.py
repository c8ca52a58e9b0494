import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from busutils import jobs
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

    (first,), (again,) = (jobs.run("step", compute, [1], ending=ending, folder=tmp_path) for _ in range(2))
    assert calls == [1]
    if ending == ".csv":
        pd.testing.assert_frame_equal(first, value)
        pd.testing.assert_frame_equal(again, value)
    else:
        np.testing.assert_equal(first, value)
        np.testing.assert_equal(again, value)
    with pytest.raises(ValueError, match="ending must be one of"):
        jobs.run("step", compute, [1], ending=".pkl", folder=tmp_path)


def test_a_damaged_result_is_computed_anew(tmp_path):
    jobs.run("step", lambda x: 5, [1], folder=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert jobs.run("step", lambda x: 6, [1], folder=tmp_path) == [6]


def test_a_truncated_archive_is_computed_anew(tmp_path):
    jobs.run("step", lambda x: {"x": np.zeros(99)}, [1], ending=".npz", folder=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    (result,) = jobs.run("step", lambda x: {"x": np.ones(3)}, [1], ending=".npz", folder=tmp_path)
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
