"""The matrix of methods, sources and targets: nothing leaks, and it is the same however it is computed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from busutils import benchmark, cli, datasets, jobs, models
from busutils.models import kmeans

SPEC = """
methods:
  constant: {kind: constant}
  textbook: {kind: kmeans, preset: textbook}
sources: ["phantom?n=20&size=32", "phantom?n=20&size=32&scanner=portable&seed=3"]
targets: ["phantom?n=20&size=32", "phantom?n=20&size=32&scanner=portable&seed=3"]
folds: [5, 1]
size: 32
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return benchmark.BenchmarkSpec.read(path)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSUTILS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_method_is_scored_on_every_set_and_never_on_its_training_images(spec, own_cache):
    table = benchmark.run_benchmark(spec)
    textbook = table[table["method"] == "textbook"]
    assert set(textbook["source"]) == {""}  # learns nothing: all images are tests
    assert (textbook.groupby("target").size() == 20).all()
    constant = table[table["method"] == "constant"]
    for (source, target, fold), part in constant.groupby(["source", "target", "fold"]):
        train, _ = datasets.concatenate(datasets.load(source)).split(fold)
        assert not set(part["group"]) & set(train.groups), (source, target, fold)
    at_home = constant[constant["source"] == constant["target"]]
    assert set(at_home["fold"]) == {5, 1}
    assert at_home.groupby(["source", "fold"]).size().between(3, 5).all()


def test_five_folds_score_every_image_once(tmp_path, own_cache):
    path = tmp_path / "spec.yaml"
    path.write_text(
        'methods: {constant: {kind: constant}}\nsources: ["phantom?n=20&size=32"]\ntargets: ["phantom?n=20&size=32"]\n'
        "folds: [1, 2, 3, 4, 5]\nsize: 32\n"
    )
    table = benchmark.run_benchmark(benchmark.BenchmarkSpec.read(path))
    phantoms = datasets.concatenate(datasets.load("phantom?n=20&size=32"))
    assert sorted(table["id"]) == sorted(phantoms.ids)
    assert (table.set_index("id")["fold"].loc[phantoms.ids] == phantoms.folds()).all()


def read_spec(tmp_path, text):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return benchmark.BenchmarkSpec.read(path)


def test_home_is_where_scenes_are_shared_not_where_a_set_has_the_same_key(tmp_path, own_cache):
    """The same scenes through another scanner are home; other scenes of the simulator are away, and scored once."""
    text = 'methods: {constant: {kind: constant}}\nsources: ["phantom?n=20&size=32"]\nfolds: [1, 2]\nsize: 32\n'
    targets = ["phantom?n=20&size=32&scanner=portable", "phantom?n=20&size=32&seed=9"]
    table = benchmark.run_benchmark(read_spec(tmp_path, f"{text}targets: {targets}\n".replace("'", '"')))
    home, away = (table[table["target"] == target] for target in targets)
    assert set(home["fold"]) == {1, 2} and home["id"].is_unique
    assert set(away["fold"]) == {1} and len(away) == 20


def test_what_chose_the_weights_of_kmeans_is_not_scored(tmp_path, own_cache, monkeypatch):
    fitted_on = {"score": (("phantom?n=20&size=32", 5),), "presence": ()}
    monkeypatch.setattr(kmeans, "FITTED_ON", fitted_on)
    text = (
        "methods: {textbook: {kind: kmeans, preset: textbook}, improved: {kind: kmeans, preset: improved}}\n"
        'sources: ["phantom?n=20&size=32"]\ntargets: ["phantom?n=20&size=32"]\nsize: 32\n'
    )
    table = benchmark.run_benchmark(read_spec(tmp_path, text))
    _, test = datasets.concatenate(datasets.load("phantom?n=20&size=32")).split(5)
    assert (table["method"] == "textbook").sum() == 20
    improved = table[table["method"] == "improved"]
    assert sorted(improved["id"]) == sorted(test.ids)
    assert set(improved["source"]) == {"phantom?n=20&size=32"}


def test_folders_of_ones_own_are_added_by_name(tmp_path, own_cache, monkeypatch):
    monkeypatch.setenv("BUSUTILS_DATA_DIR", str(tmp_path / "data"))
    for name in ("mine", "yours"):
        home = datasets.write_nnunet(datasets.load("phantom?n=5&size=32"), tmp_path / name)
        (home / "labels.csv").unlink()
        datasets.adopt(home, name, search=False)
    text = "methods: {constant: {kind: constant}}\nsources: [mine]\nsize: 32\n"
    table = benchmark.run_benchmark(read_spec(tmp_path, f"{text}targets: [mine, yours]\n"))
    held_out = datasets.load("mine").split(5)[1].ids
    assert set(table.loc[table["target"] == "mine", "id"]) == {f"mine:{id_}" for id_ in held_out}
    assert (table["target"] == "yours").sum() == 5
    assert table["id"].is_unique  # equal file names in two folders are different images


def test_scores_are_taken_anew_when_the_code_has_changed(spec, own_cache, monkeypatch):
    benchmark.run_benchmark(spec)
    step, counted = benchmark.evaluate, []
    monkeypatch.setattr(benchmark, "evaluate", lambda *args: counted.append(1) or step(*args))
    benchmark.run_benchmark(spec)
    assert not counted
    monkeypatch.setattr(jobs, "code_key", lambda step: "another")
    benchmark.run_benchmark(spec)
    assert len(counted) == len(list((own_cache / "jobs").glob("score-*.csv"))) / 2


@pytest.mark.slow  # killed by time
def test_a_run_killed_at_a_random_moment_gives_the_same_table(spec, own_cache, tmp_path):
    whole = benchmark.run_benchmark(spec)
    out = tmp_path / "table.csv"
    command = [sys.executable, "-m", "busutils.cli", "benchmark", "run", str(tmp_path / "spec.yaml"), "--out", str(out)]
    options = {"env": {**os.environ, "BUSUTILS_CACHE_DIR": str(tmp_path / "killed")}, "stdout": subprocess.DEVNULL}
    kept, codes = 0, []
    moments = np.random.default_rng(0).integers(1, 7, size=2)
    for moment in moments:
        run = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
        while kept < moment and run.poll() is None:
            kept = len(list((tmp_path / "killed" / "jobs").glob("*-*.*")))
        run.kill()
        codes.append(run.wait())
    assert -signal.SIGKILL in codes, moments
    out.unlink(missing_ok=True)
    subprocess.run([*command, "--jobs", "2"], check=True, stderr=subprocess.DEVNULL, **options)
    assert out.read_text() == whole.to_csv(index=False, float_format="%.6g")


def test_it_is_resumed_and_gives_the_same_table(spec, own_cache, monkeypatch):
    whole = benchmark.run_benchmark(spec)
    kept = sorted((own_cache / "jobs").glob("score-*.csv"))
    for path in kept[::2]:
        path.unlink()
    counted, step = [], benchmark.evaluate
    monkeypatch.setattr(benchmark, "evaluate", lambda *args: counted.append(1) or step(*args))
    pd.testing.assert_frame_equal(benchmark.run_benchmark(spec), whole)
    assert len(counted) == len(kept[::2])


def test_blocks_of_images_give_the_same_table(spec, own_cache, monkeypatch):
    whole = benchmark.run_benchmark(spec)
    before = len(list((own_cache / "jobs").glob("score-*.csv")))
    monkeypatch.setattr(benchmark, "BLOCK", 3)
    pd.testing.assert_frame_equal(benchmark.run_benchmark(spec), whole)
    # 20 images make seven blocks; a block of nothing but training images is an empty table.
    assert len(list((own_cache / "jobs").glob("score-*.csv"))) == 8 * before


@pytest.mark.tf
def test_shipped_weights_are_scored_on_what_they_never_saw(tmp_path, own_cache, monkeypatch):
    path = tmp_path / "spec.yaml"
    path.write_text(
        "methods: {w: {kind: weights, name: phantom-light}}\n"
        'sources: ["phantom?n=8&size=32"]\ntargets: ["phantom?n=30&size=32&seed=5"]\nsize: 32\n'
    )
    spec = benchmark.BenchmarkSpec.read(path)
    seen = "phantom?n=30&size=32&seed=5"
    monkeypatch.setattr(models, "weights_facts", lambda name: {"trained_on": seen, "held_out": 5})
    table = benchmark.run_benchmark(spec)
    seen_groups = datasets.concatenate(datasets.load(seen)).split(5)[0].groups
    all_groups = datasets.concatenate(datasets.load(spec.targets[0])).groups
    assert sorted(table["group"]) == sorted(set(all_groups) - set(seen_groups))
    # Other weights under the same name are scored anew, not found among the kept results.
    other = tmp_path / "other.npz"
    models.UNetSegmenter(size=32, filters=(2, 4), epochs=1).fit(*datasets.load(seen).load_arrays(32)).save(other)
    monkeypatch.setattr(benchmark, "weights_file", lambda name: other)
    load = models.load
    monkeypatch.setattr(models, "load", lambda name, runtime: load(other, runtime))
    assert not benchmark.run_benchmark(spec)["dice"].equals(table["dice"])
    monkeypatch.setattr(models, "weights_facts", lambda name: {"trained_on": seen, "held_out": None})
    with pytest.raises(benchmark.SpecError, match="no image is left"):
        benchmark.run_benchmark(spec)
    # A file of one's own is none of the shipped ones: what it was trained on has to be said.
    monkeypatch.setattr(benchmark, "weights_file", models.weights.weights_file)
    monkeypatch.setattr(models, "load", load)
    path.write_text(path.read_text().replace("phantom-light", str(other)))
    with pytest.raises(benchmark.SpecError, match="need trained_on"):
        benchmark.BenchmarkSpec.read(path)


@pytest.mark.tf
def test_what_the_starting_weights_saw_is_not_scored(tmp_path, own_cache):
    seen, new = "phantom?n=20&size=32&seed=5", "phantom?n=20&size=32&seed=6"
    start = tmp_path / "start.npz"
    models.UNetSegmenter(size=32, filters=(2, 4), epochs=1).fit(*datasets.load(seen).load_arrays(32)).save(start)
    recipe = f"kind: unet, size: 32, filters: [2, 4], epochs: 1, init_weights: {start}"
    sets = f'sources: ["{new}"]\ntargets: ["{seen}"]\nsize: 32\n'
    with pytest.raises(benchmark.SpecError, match="need trained_on"):
        read_spec(tmp_path, f"methods: {{u: {{{recipe}}}}}\n{sets}")
    spec = read_spec(tmp_path, f'methods: {{u: {{{recipe}, trained_on: "{seen}", held_out: 5}}}}\n{sets}')
    table = benchmark.run_benchmark(spec)
    assert sorted(table["id"]) == sorted(datasets.concatenate(datasets.load(seen)).split(5)[1].ids)
    assert set(table["source"]) == {new}
    # Other weights to start from, under the same name, are another method.
    models.UNetSegmenter(size=32, filters=(2, 4), epochs=1, seed=9).fit(*datasets.load(seen).load_arrays(32)).save(
        start
    )
    kept = len(list((own_cache / "jobs").glob("score-*.csv")))
    benchmark.run_benchmark(spec)
    assert len(list((own_cache / "jobs").glob("score-*.csv"))) == 2 * kept


def test_a_cluster_that_does_not_share_the_cache_is_refused(spec, own_cache):
    class Blind:
        def run(self, *_):
            return {"tcp://worker": False}

    with pytest.raises(benchmark.SpecError, match=r"worker tcp://worker does not see .*BUSUTILS_CACHE_DIR"):
        benchmark.run_benchmark(spec, client=Blind())


@pytest.mark.slow  # a worker is killed
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_loses_a_worker_gives_the_same_table(spec, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    tables = []
    for name in ("alone", "cluster"):
        monkeypatch.setenv("BUSUTILS_CACHE_DIR", str(tmp_path / name))
        if name == "alone":
            tables.append(benchmark.run_benchmark(spec))
            continue
        options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
            doomed = next(iter(cluster.workers.values()))
            process = doomed.process.process._process
            written, write = [], jobs._write

            def write_and_kill(path, result, process=process, written=written, write=write):
                write(path, result)
                written.append(path)
                if len(written) == 3:
                    process.kill()

            monkeypatch.setattr(jobs, "_write", write_and_kill)
            tables.append(benchmark.run_benchmark(spec, client=client))
            process.join(10)
            assert process.exitcode == -signal.SIGKILL
            assert len(written) > 3
            command = ["benchmark", "run", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "table.csv")]
            assert cli.main([*command, "--scheduler", cluster.scheduler_address]) == 0
            assert len(pd.read_csv(tmp_path / "table.csv")) == len(tables[1])
    pd.testing.assert_frame_equal(tables[0], tables[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("kind: constant", "kind: magic"), "method constant: unknown kind 'magic': choose one of constant, kmeans"),
        (("preset: textbook", "preset: textbok"), "method textbook: .*textbok"),
        (("preset: textbook", "colour: red"), "method textbook: .*colour"),
        (("folds:", "fold:"), "may have only folds, seeds, size"),
        (("targets:", "#"), "must have the keys .*targets"),
        (('targets: ["', 'targets: ["folder", "'), "a folder of your own needs a name here: adopt it"),
        (("folds: [5, 1]", "folds: []"), "folds must be a list with at least one entry"),
        (
            ("kind: constant", "kind: unet, tta: turned"),
            "method constant: tta must be none or mirror, got 'turned'",
        ),
        (("kind: constant", "kind: unet, init_weights: busi-lite"), "busi-lite need trained_on"),
        (("methods:", "methods: ["), "as YAML"),
    ],
)
def test_a_wrong_description_is_refused_in_one_sentence(tmp_path, change, message):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace(*change))
    with pytest.raises(benchmark.SpecError, match=message) as caught:
        benchmark.BenchmarkSpec.read(path)
    assert "\n" not in str(caught.value)


def test_a_fold_that_does_not_exist_is_named(tmp_path, own_cache):
    with pytest.raises(benchmark.SpecError, match="the training sets have no fold 9: their folds are 1 to 5"):
        benchmark.run_benchmark(read_spec(tmp_path, SPEC.replace("folds: [5, 1]", "folds: [9]")))


def test_paths_of_weights_may_begin_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    models.ConstantMaskSegmenter(size=32).fit(*datasets.load("phantom?n=4&size=32").load_arrays(32)).save(
        tmp_path / "own.npz"
    )
    spec = read_spec(tmp_path, SPEC.replace("kind: constant", "kind: weights, name: ~/own.npz, trained_on: stu"))
    assert spec.methods["constant"]["name"] == str(tmp_path / "own.npz")


def test_a_description_made_in_code_is_checked_like_one_of_a_file():
    with pytest.raises(benchmark.SpecError, match="no_such"):
        benchmark.BenchmarkSpec({"a": {"kind": "no_such"}}, ["phantom"], ["phantom"])


def test_a_missing_description_is_named(tmp_path):
    with pytest.raises(benchmark.SpecError, match=r"none\.yaml"):
        benchmark.BenchmarkSpec.read(tmp_path / "none.yaml")


ENTRIES = Path(__file__).parents[1] / "benchmarks" / "entries"


def entry(tmp_path, change_table=lambda table: table, **about):
    table = change_table(pd.read_csv(ENTRIES / "monai.csv"))
    table.to_csv(tmp_path / "mine.csv", index=False)
    described = json.loads((ENTRIES / "monai.json").read_text(encoding="utf-8")) | about
    (tmp_path / "mine.json").write_text(json.dumps(described), encoding="utf-8")
    return tmp_path / "mine.csv"


def test_an_entry_is_checked_without_images(tmp_path, capsys):
    assert len(benchmark.check_entry(entry(tmp_path))) == 156
    assert cli.main(["benchmark", "check", str(tmp_path / "mine.csv")]) == 0
    assert "the entry is complete" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "about", "words"),
    [
        (lambda t: t.drop(columns=["dice", "nsd"]), {}, "lacks dice, nsd: see"),
        (lambda t: t, {"seeds": None, "code": ""}, "lacks code, seeds: see"),
        (lambda t: t, {"method": "another"}, "one method, which the description calls alike"),
        (lambda t: t.iloc[1:], {}, "does not hold each of the 156 images of fold 5 once"),
        (lambda t: pd.concat([t, t.iloc[:1]]), {}, "does not hold each of the 156 images"),
        (lambda t: t.assign(group="a"), {}, "with its label and group"),
        (lambda t: t.assign(fold=4), {}, "was scored on busi, fold 4"),
        (lambda t: t.assign(target="udiat"), {}, "was scored on udiat, fold 5"),
        (lambda t: t.assign(dice=t["dice"] + 0.01), {}, r"Dice and IoU of benign \(1\) contradict each other"),
        (lambda t: t.assign(dice=1.2, iou=1.5), {}, "contradict each other"),
    ],
)
def test_an_entry_that_is_incomplete_or_impossible_is_refused(tmp_path, change, about, words):
    with pytest.raises(benchmark.SpecError, match=words):
        benchmark.check_entry(entry(tmp_path, change, **about))


def test_an_entry_has_a_description(tmp_path):
    entry(tmp_path).with_suffix(".json").unlink()
    with pytest.raises(benchmark.SpecError, match="a description with the suffix"):
        benchmark.check_entry(tmp_path / "mine.csv")


def test_descriptions_fit_their_schema():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ENTRIES / "schema.json").read_text(encoding="utf-8"))
    assert tuple(schema["required"]) == tuple(schema["properties"]) == benchmark.ENTRY_FIELDS
    tables = sorted(ENTRIES.glob("*.csv"))
    assert tables
    for path in tables:
        jsonschema.validate(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")), schema)
        benchmark.check_entry(path)
