import json
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from busutils import datasets, evaluation, explain, lessons, models
from busutils.errors import BusutilsError
from busutils.lessons import checks
from busutils.lessons.notebook import FIGURES_VARIABLE, RESULTS_VARIABLE
from busutils.lessons.run import find_notebooks, plan, strip

ROOT = Path(__file__).parents[1]


def write_lesson(folder, name, *cells, parameters="dataset: str = 'phantom'  # set\nepochs: int = 2  # passes"):
    notebook = nbformat.v4.new_notebook()
    for number, text in enumerate([parameters, *cells]):
        cell = nbformat.v4.new_code_cell(text)
        if number == 0:
            cell.metadata["tags"] = ["parameters"]
        notebook.cells.append(cell)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / f"{name}.ipynb")


RECORD = "from busutils import lessons\nlessons.record('{}', epochs=epochs, dataset=dataset)"


@pytest.fixture
def folder(tmp_path):
    for name in lessons.LESSONS:
        write_lesson(tmp_path, name, RECORD.format(name))
    return tmp_path


def test_tables_of_the_repository_are_read_and_missing_ones_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert lessons.read_table("no_such_table") is None
    assert "figures/no_such_table.csv is not here" in capsys.readouterr().out
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "own.csv").write_text("id,dice\na,0.5\n")
    (tmp_path / "notebooks").mkdir()
    for place in (tmp_path, tmp_path / "notebooks"):  # a lesson may run in either folder of a clone
        monkeypatch.chdir(place)
        assert lessons.read_table("own")["dice"].tolist() == [0.5]
    assert not capsys.readouterr().out


def test_lessons_are_chosen_by_number_or_name():
    assert lessons.select(["02", "0", "02_segment_with_kmeans"]) == [lessons.LESSONS[0], lessons.LESSONS[2]]
    assert lessons.select([]) == list(lessons.LESSONS)
    with pytest.raises(lessons.LessonError, match="no lesson '9'"):
        lessons.select(["9"])


def test_parameters_are_planned_for_the_lessons_that_know_them(folder):
    write_lesson(folder, lessons.LESSONS[0], "1", parameters="dataset: str = 'phantom'  # a set, \"quoted\" … ?")
    planned = plan(lessons.LESSONS[:2], folder, dataset="busi", parameters={"epochs": 5})
    assert planned[lessons.LESSONS[0]] == {"dataset": "busi"}
    assert planned[lessons.LESSONS[1]] == {"dataset": "busi", "epochs": 5}
    assert plan(lessons.LESSONS[:1], folder) == {lessons.LESSONS[0]: {}}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"parameters": {"epochz": 3}}, "no chosen lesson has a parameter 'epochz'"),
        ({"profile": "huge"}, "no profile 'huge'"),
        ({"dataset": "bussi"}, "bussi"),
    ],
)
def test_misspelt_requests_are_refused_before_anything_runs(folder, tmp_path, request_, words):
    with pytest.raises(ValueError, match=words):
        lessons.run(out=tmp_path / "out", notebooks=folder, **request_)
    assert not (tmp_path / "out").exists()


def test_a_real_set_is_never_replaced_by_the_default_in_silence(folder):
    write_lesson(folder, lessons.LESSONS[1], "1", parameters="epochs: int = 2  # passes")
    with pytest.raises(lessons.LessonError, match="no parameter 'dataset'"):
        plan(lessons.LESSONS[:2], folder, dataset="stu")


def test_pairs_on_the_command_line():
    assert lessons.parse_parameters(["a=[1, 2]", "b=text=more", "c=true"]) == {"a": [1, 2], "b": "text=more", "c": True}
    with pytest.raises(lessons.LessonError, match="name=value"):
        lessons.parse_parameters(["epochs"])


def test_a_run_executes_records_and_names_what_failed(folder, tmp_path):
    write_lesson(folder, lessons.LESSONS[1], "x = 1", "1 / 0", "y = 2")
    write_lesson(folder, lessons.LESSONS[2], "x = 1")
    out = tmp_path / "out"
    good, bad, silent = lessons.run(["0", "1", "2"], parameters={"epochs": 7}, out=out, notebooks=folder)
    assert not good.error
    assert good.results == {"epochs": 7, "dataset": "phantom"}
    assert json.loads((out / "results" / f"{good.lesson}.json").read_text()) == good.results
    assert bad.error.startswith("cell ")
    assert bad.error.endswith("ZeroDivisionError: division by zero")
    assert silent.error == "the lesson wrote no results"
    table = lessons.summary([good, bad, silent])
    assert table["result"].str.startswith("FAILED").tolist() == [False, True, True]


def test_refreshing_stores_outputs_and_leaves_no_trace_of_the_run(folder, tmp_path):
    name = lessons.LESSONS[0]
    write_lesson(folder, name, "import sys\nprint('seen')\nprint('noi' + 'se', file=sys.stderr)", RECORD.format(name))
    notebook = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    notebook.cells[1].metadata |= {"alt": "a picture in words", "collapsed": True}
    nbformat.write(notebook, folder / f"{name}.ipynb")
    (outcome,) = lessons.refresh(["0"], out=tmp_path / "out", notebooks=folder)
    assert not outcome.error
    first = (folder / f"{name}.ipynb").read_text()
    assert "seen" in first
    assert "a picture in words" in first
    assert "collapsed" not in first
    assert "noise" not in first
    assert "papermill" not in first
    assert str(tmp_path) not in first
    lessons.refresh(["0"], out=tmp_path / "out", notebooks=folder)
    assert (folder / f"{name}.ipynb").read_text() == first


def test_numbers_are_recorded_as_plain_values(tmp_path, monkeypatch):
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path))
    given = lessons.record("x", a=np.float64(1 / 3), b=np.int64(2), c=float("nan"), d="text", e=np.bool_(True))
    assert given == {"a": 0.3333, "b": 2, "c": None, "d": "text", "e": True}
    assert json.loads((tmp_path / "x.json").read_text()) == given


def test_figures_are_published_on_request_only(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    monkeypatch.delenv(FIGURES_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    lessons.publish("f", Figure(), pd.DataFrame({"x": [1]}))
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv(FIGURES_VARIABLE, str(tmp_path / "figures"))
    lessons.publish("f", Figure(), pd.DataFrame({"x": [1]}))
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["f.csv", "f.png"]


def test_lessons_are_not_found_in_an_empty_folder(tmp_path):
    with pytest.raises(lessons.LessonError, match="not in"):
        find_notebooks(tmp_path)


def test_lessons_are_copied_once_and_run_from_their_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lessons.copy() == Path("notebooks")
    assert (tmp_path / "notebooks" / "solutions" / f"{lessons.LESSONS[3]}.ipynb").is_file()
    assert (tmp_path / "figures" / "matrix.csv").is_file()
    for place in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(place)
        assert find_notebooks() == tmp_path / "notebooks"
    with pytest.raises(lessons.LessonError, match="nothing is overwritten"):
        lessons.copy(tmp_path)
    with pytest.raises(lessons.LessonError, match="busutils lessons copy"):
        find_notebooks(tmp_path / "figures")


def test_a_missing_runner_is_named_with_its_command(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BusutilsError, match=r'pip install "busutils\[lessons\]"'):
        lessons.run(["00"], out=tmp_path / "out", notebooks=folder)


def test_the_anatomy_check_finds_what_is_wrong(tmp_path, monkeypatch):
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import check_lessons
    finally:
        sys.path.pop(0)
    monkeypatch.setattr(check_lessons, "FOLDER", tmp_path)
    name = lessons.LESSONS[1]
    write_lesson(
        tmp_path, name, "# NBVAL_CHECK_OUTPUT\n1", "!pip install x", "open('/home/someone/x')", parameters="epochs = 3"
    )
    faults = " | ".join(check_lessons.check(name))
    for words in (
        "no stored output",
        "shell or magic",
        "path of one machine",
        "without type",
        "golden",
        "lacks",
        "executed",
    ):
        assert words in faults
    assert check_lessons.check(lessons.LESSONS[2]) == ["is missing"]


# -- exercises -----------------------------------------------------------------------------------------------


def test_a_right_dice_passes_and_wrong_ones_are_told_apart():
    from busutils import metrics

    checks.check_dice(metrics.dice)
    for wrong, words in (
        (metrics.iou, "IoU"),
        (metrics.accuracy, "accuracy"),
        (lambda a, b: a, "one number"),
        (lambda a, b: 0.3, "not the Dice"),
        (0.5, "without brackets"),
        (lambda a, b: float("nan"), "not the Dice"),
    ):
        with pytest.raises(checks.ExerciseError, match=words):
            checks.check_dice(wrong)


def test_other_exercises_say_what_is_wrong(capsys):
    with pytest.raises(checks.ExerciseError, match="too large"):
        checks.check_number(2, 1.0)
    with pytest.raises(checks.ExerciseError, match="too small: count"):
        checks.check_number(0.5, 1.0, hint="count")
    with pytest.raises(checks.ExerciseError, match="one number"):
        checks.check_number("1", 1.0)
    with pytest.raises(checks.ExerciseError):
        checks.check_number(float("nan"), 1.0)
    with pytest.raises(checks.ExerciseError, match="boolean"):
        checks.check_mask(np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(checks.ExerciseError, match="shape"):
        checks.check_mask(np.zeros((2, 3), bool), np.zeros((2, 2)))
    capsys.readouterr()
    checks.check_dice(lambda mask, pred: None)
    checks.check_number(None, 1.0)
    checks.check_mask(np.zeros((2, 2), bool), np.zeros((2, 2)))
    assert capsys.readouterr().out.splitlines() == [
        "· to be done: let the function return your number instead of None",
        "· to be done: replace None by your answer",
        "✓ this is a mask of the image",
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda image: image > 60, "bright"),
        (lambda image: image >= 60, "bright"),
        (lambda image: image <= 60, "exactly 60"),
        (lambda image: image < 70, "2 pixels are on the wrong side"),
        (np.zeros_like, "boolean"),
    ],
)
def test_the_mask_of_a_threshold_must_hold_the_pixels_below_it(answer, words):
    image = np.array([[0, 59, 60], [61, 70, 255]], np.uint8)
    checks.check_mask(image < 60, image, below=60)
    with pytest.raises(checks.ExerciseError, match=words):
        checks.check_mask(answer(image), image, below=60)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ("abcdef", "fgh", "1 groups are on both sides, among them 'f'"),
        ("abcdefgh", "", "empty"),
        ("abcdef", "gx", "no group 'x'"),
        ("abcde", "gh", "1 groups are on neither side, among them 'f'"),
        ("abcdefg", "h", "12%"),
        ("abcd", "efgh", "50%"),
    ],
)
def test_a_split_puts_every_group_on_one_side_and_a_quarter_into_the_test(train, test, words):
    groups = list("abcdefghhh")
    checks.check_split(list("abcdef"), ["g", "h"], groups)
    with pytest.raises(checks.ExerciseError, match=words):
        checks.check_split(list(train), list(test), groups)


def test_the_command_s_summary_and_exit_status(folder, tmp_path):
    write_lesson(folder, lessons.LESSONS[1], "raise ValueError('no such thing')")
    command = [sys.executable, "-m", "busutils.cli", "lessons", "run", "0", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "--notebooks", str(folder)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "01_explore_the_data failed at cell 2: ValueError: no such thing" in done.stderr
    assert "passed" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_similarity_must_find_mirrored_duplicates_and_no_strangers(capsys):
    images = np.random.default_rng(0).random((2, 8, 8))

    def correlation(first, second):
        return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])

    checks.check_similarity(lambda a, b: max(correlation(a, b), correlation(a, b[:, ::-1])), images)
    checks.check_similarity(lambda a, b: None, images)
    said = capsys.readouterr().out
    assert "✓" in said
    assert "to be done" in said
    with pytest.raises(checks.ExerciseError, match="mirror image must be 1"):
        checks.check_similarity(correlation, images)
    with pytest.raises(checks.ExerciseError, match="different scenes"):
        checks.check_similarity(lambda a, b: 1.0, images)


def judged(capsys, check, *args, **options):
    """What a check says: ✓, ·, or the error's text."""
    try:
        check(*args, **options)
    except checks.ExerciseError as error:
        return str(error)
    return capsys.readouterr().out[0]


def test_darkest_clusters_are_known_by_their_form(capsys):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16)).astype(np.uint8)
    right = {3: images < 80, 4: images < 60}

    def says(**changed):
        return judged(capsys, checks.check_clusters, right | {int(k[1:]): v for k, v in changed.items()}, images)

    assert says() == "✓"
    assert says(k4=None) == "·"
    assert "boolean masks" in says(k3=images)
    assert "boolean masks" in says(k3=right[3][0])
    assert "as dark as one inside" in says(k3=images > 80)
    assert "empty or full" in says(k4=images < 0)
    assert "does k reach" in says(k4=right[3])


def test_mean_dices_are_told_from_what_is_taken_for_them(capsys):
    masks = np.zeros((3, 8, 8), bool)
    masks[0, :4], masks[1:, 0, 0] = True, True
    drawn = masks.copy()
    drawn[0, 2:] = False
    drawn[2] = False

    def says(answer):
        return judged(capsys, checks.check_mean_dice, {3: answer}, {3: drawn}, masks)

    each = [2 / 3, 1, 0]
    assert says(np.mean(each)) == "✓"
    assert says(None) == "·"
    assert "pooled" in says(2 * 17 / (17 + 34))
    assert "IoU" in says(np.mean([1 / 2, 1, 0]))
    assert "not the mean Dice" in says(0.9)
    assert "one number" in says("much")
    drawn[0, 2] = True
    assert "median" in says(6 / 7)


def test_a_network_of_one_s_own_is_scored_on_every_set(capsys):
    sets = {name: datasets.load("phantom", n=6, size=64, seed=seed) for seed, name in enumerate("ab")}
    network, other = (models.KMeansSegmenter(preset, size=64) for preset in ("textbook", "improved"))
    scores = {name: evaluation.evaluate(network, images.lesions())["dice"].mean() for name, images in sets.items()}

    def says(network, scores):
        return judged(capsys, checks.check_network, network, scores, sets, {"K-Means": other})

    assert says(network, scores) == "✓"
    assert says(None, scores) == "·"
    assert says(network, dict.fromkeys(sets)) == "·"
    assert "train another" in says(other, scores)
    assert "the trained network, got str" in says("U-Net", scores)
    assert "the mean Dice on 'b' is missing" in says(network, {"a": scores["a"]})
    assert "b: " in says(network, scores | {"b": 0.999})


def test_training_sets_grow_as_asked_and_hold_no_test_image(capsys):
    train, other, test = (datasets.load("phantom", n=8, size=64, seed=seed) for seed in range(3))

    def says(enlarged):
        return judged(capsys, checks.check_enlarged, {2: enlarged}, train, other, {"away": test})

    assert says(datasets.concatenate(train, other.subset([0, 1]))) == "✓"
    assert says(None) == "·"
    assert "3 were added" in says(datasets.concatenate(train, other.subset([0, 1, 2])))
    assert "2 groups of the test set 'away'" in says(datasets.concatenate(train, test.subset([0, 1])))
    assert "1 of the first training images are gone" in says(
        datasets.concatenate(train.subset(range(7)), other.subset([0, 1]))
    )
    strangers = datasets.load("phantom", n=2, size=64, seed=9)
    assert "in neither of the two" in says(datasets.concatenate(train, strangers))
    assert "needs a set" in says([1, 2])


def test_numbers_with_a_name_of_their_own_are_judged_by_it(capsys):
    counts = {"tp": 30, "fp": 20, "fn": 10, "tn": 940}
    known = {"accuracy": 0.97, "precision": 30 / 50, "recall": 30 / 40}
    lesion = counts["tp"] / (counts["tp"] + counts["fp"] + counts["fn"])
    background = counts["tn"] / (counts["tn"] + counts["fp"] + counts["fn"])
    for answer, words in (
        ((lesion + background) / 2, "✓"),
        (None, "·"),
        (lesion, "the lesion's IoU alone"),
        (background, "the background's IoU alone"),
        (0.5 * lesion, "repeat the calculation"),
    ):
        assert words in judged(capsys, checks.check_mean_iou, answer, **known)

    groups, test = np.array(["a", "a", "b", "b", "c", "d"]), np.array([0, 2, 3, 4])
    for answer, words in (
        (1 / 4, "✓"),
        (None, "·"),
        (3 / 4, "within the test part"),
        (1 / 2, "the share of the rest"),
        (0.9, "not that share"),
    ):
        assert words in judged(capsys, checks.check_near_duplicates, answer, groups, test)

    known = {"pixels": 1000, "width_px": 256, "width_mm": 40}
    for answer, words in ((24.4, "✓"), (None, "·"), (156.25, "its height and its width"), (1000, "one pixel")):
        assert words in judged(capsys, checks.check_area, answer, **known)


def test_files_for_a_person_are_those_with_an_error_an_empty_mask_or_a_high_uncertainty(capsys):
    columns = {"area_px": [10, 0, 10, np.nan, 10], "uncertainty": [0.5, 0.5, 0.9, np.nan, 0.85]}
    table = pd.DataFrame({"file": list("abcde"), "error": [np.nan, "", np.nan, "broken", ""], **columns})

    def says(answer):
        return judged(capsys, checks.check_review, answer, table, 0.85)

    assert says(["b", "c", "d"]) == says(table["file"][1:4]) == "✓"
    assert says(None) == "·"
    assert says(["b", "c"]) == "files with an error: 1 missing"
    assert says(["c", "d"]) == "files with an empty mask: 1 missing"
    assert says([]) == "files with an error: 1 missing"
    assert says(["b", "d"]) == "files with an uncertainty above 0.85: 1 missing"
    assert "1 of these files have a mask" in says(["b", "c", "d", "e"])
    assert "no file 'z'" in says(["z"])
    assert "list of names, got str" in says("bcd")
    assert "list of names, got int" in says(3)


def test_an_edit_must_brighten_one_place_only(capsys):
    image, where = np.full((4, 4), 100, np.uint8), np.eye(4, dtype=bool)
    checks.check_edit(np.where(where, 120, image).astype(np.uint8), image, where)
    checks.check_edit(None, image, where)
    said = capsys.readouterr().out
    assert "✓" in said
    assert "to be done" in said
    for answer, says in {
        "everywhere": (image + 20, "12 pixels changed"),
        "darker": (np.where(where, 80, image).astype(np.uint8), "no brighter"),
        "another type": (image / 255, "must stay uint8"),
    }.values():
        with pytest.raises(checks.ExerciseError, match=says):
            checks.check_edit(answer, image, where)


def test_a_refreshed_lesson_keeps_its_folded_outputs():
    cell = nbformat.v4.new_code_cell("1", metadata={"jupyter": {"outputs_hidden": True}, "tags": ["hide-output"]})
    kept = strip(nbformat.v4.new_notebook(cells=[cell])).cells[0].metadata
    assert kept == {"jupyter": {"outputs_hidden": True}, "tags": ["hide-output"]}


def test_a_quiz_says_which_answers_are_right_and_names_no_letter(capsys):
    for lesson, letters in checks.QUIZ.items():
        right = {f"q{n}": letter for n, letter in enumerate(letters, 1)}
        checks.check_quiz(lesson, **right)
        assert capsys.readouterr().out.count("✓ right") == len(letters)
        checks.check_quiz(lesson, **dict.fromkeys(right, ""))
        assert capsys.readouterr().out.count("· to be done") == len(letters)
        checks.check_quiz(lesson, **dict.fromkeys(right, "Z"))
        assert "✗ think again" in capsys.readouterr().out


def test_a_number_is_checked_against_what_the_exercise_starts_from(capsys):
    mask = np.eye(4, dtype=bool)
    checks.check_answer("00.3", 0.75, mask)
    assert "✓ right" in capsys.readouterr().out
    with pytest.raises(checks.ExerciseError, match="which pixels"):
        checks.check_answer("00.3", 0.25, mask)
    uncertainty, dice = np.array([0.1, 0.2, 0.9, 0.3]), np.array([0.9, 0.9, 0.1, 0.9])
    checks.check_answer("06.2", 0.25, uncertainty, dice)
    checks.check_answer("06.2", None, uncertainty, dice)
    assert "to be done" in capsys.readouterr().out


def test_maps_of_single_pixels_are_judged_by_their_similarity(capsys):
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    maps = {"flat": np.ones((4, 4)), "sharp": 1.0 + mask, "empty": np.zeros((4, 4))}
    for answer, words in (("sharp", "✓"), (None, "·"), ("flat", "a larger share"), ("dec9", "must be one of")):
        assert words in judged(capsys, checks.check_largest_share, answer, maps, mask)

    rows = np.arange(16.0).reshape(4, 4)
    inside, outside = np.zeros((2, 4, 4), bool)
    inside[1, 1] = outside[0, 0] = True

    def says(answer, first=inside, second=outside):
        maps = {True: rows, False: rows.T}
        return judged(capsys, checks.check_two_pixels, answer, first, second, mask, lambda r: maps[r[1, 1]])

    expected = explain.map_similarity(rows, rows.T)
    assert says(expected) == "✓"
    assert says(None) == says(expected, None) == "·"
    assert "not the map_similarity" in says(-expected)
    assert "lesion: the region must hold one pixel, it has 4" in says(expected, mask)
    assert "background: the pixel lies on the other side" in says(expected, inside, inside)
    assert "boolean mask" in says(expected, rows)


def test_a_temperature_is_fitted_on_some_scenes_and_tested_on_others(capsys):
    rng = np.random.default_rng(0)
    masks = [rng.random(500) < share for share in (0.2, 0.4, 0.6, 0.8)]
    probs = [1 / (1 + np.exp(4 - 8 * mask + rng.normal(0, 4 + i, 500))) for i, mask in enumerate(masks)]

    def error(temperature, part):
        changed = [evaluation.with_temperature(prob, temperature) for prob in probs[part]]
        return evaluation.expected_calibration_error(evaluation.reliability(masks[part], changed))

    def says(**changed):
        return judged(capsys, checks.check_temperatures, right | changed, masks, probs, 2.0)

    odd, own = slice(1, None, 2), evaluation.fit_temperature(masks[::2], probs[::2])
    right = {"own": error(own, odd), "other": error(2.0, odd)}
    assert says() == "✓"
    assert says(own=None) == "·"
    assert "served for the fit" in says(own=error(own, slice(0, None, 2)))
    assert "all scenes" in says(other=error(2.0, slice(None)))
    assert "without any temperature" in says(other=error(1.0, odd))
    assert "own: 0.900 is not the error" in says(own=0.9)


def test_pixels_changed_by_half_precision_are_counted_as_a_share(capsys):
    def network(weight, limit):
        weights = [np.full(2, weight, np.float32), np.full(1, 1e6 + 0.1, np.float32)]  # save() keeps the second
        layers = types.SimpleNamespace(get_weights=lambda: weights)
        return types.SimpleNamespace(network_=layers, predict=lambda images: np.asarray(images) > limit)

    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    whole, half = network(0.1, 7), network(0.5, 9)

    def says(answer, light=half):
        return judged(capsys, checks.check_changed_pixels, answer, light, whole, images)

    assert says(2 / 16) == "✓"
    assert says(None) == says(0.5, None) == "·"
    assert "divide by" in says(2)
    assert "percentage" in says(12.5)
    assert "take the mean" in says(0.3)
    assert "half=True" in says(0.0, whole)
    assert "loaded again" in says(0.0, "half.npz")


def test_a_slider_draws_once_where_nobody_can_move_it(monkeypatch):
    drawn, moved = [], []
    widgets = types.SimpleNamespace(interact=lambda draw, **ranges: moved.append(ranges))
    monkeypatch.setitem(sys.modules, "ipywidgets", widgets)
    monkeypatch.setenv(RESULTS_VARIABLE, "results")  # as the runner does
    lessons.slider(lambda k=2: drawn.append(k), k=(2, 8))
    assert (drawn, moved) == ([2], [])
    monkeypatch.delenv(RESULTS_VARIABLE)
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    lessons.slider(lambda k=2: drawn.append(k), k=(2, 8))
    assert (drawn, moved) == ([2], [{"k": (2, 8)}])
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # not installed
    lessons.slider(lambda k=2: drawn.append(k), k=(2, 8))
    assert drawn == [2, 2]
