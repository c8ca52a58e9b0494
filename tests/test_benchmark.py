"""The matrix of methods, sources and targets: nothing leaks, and it is the same however it is computed."""

import pandas as pd
import pytest

from busutils import datasets, evaluation, jobs, models
from busutils.evaluation import benchmark

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
    return evaluation.BenchmarkSpec.read(path)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSUTILS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_method_is_scored_on_every_set_and_never_on_its_training_images(spec, own_cache):
    table = evaluation.run_benchmark(spec)
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
    table = evaluation.run_benchmark(evaluation.BenchmarkSpec.read(path))
    phantoms = datasets.concatenate(datasets.load("phantom?n=20&size=32"))
    assert sorted(table["id"]) == sorted(phantoms.ids)
    assert (table.set_index("id")["fold"].loc[phantoms.ids] == phantoms.folds()).all()


def test_it_is_resumed_and_gives_the_same_table(spec, own_cache, monkeypatch):
    whole = evaluation.run_benchmark(spec)
    kept = sorted((own_cache / "jobs").glob("score-*.csv"))
    for path in kept[::2]:
        path.unlink()
    counted, step = [], benchmark._score_step
    monkeypatch.setattr(benchmark, "_score_step", lambda task: counted.append(1) or step(task))
    pd.testing.assert_frame_equal(evaluation.run_benchmark(spec), whole)
    assert len(counted) == len(kept[::2])


def test_blocks_of_images_give_the_same_table(spec, own_cache, monkeypatch):
    whole = evaluation.run_benchmark(spec)
    before = len(list((own_cache / "jobs").glob("score-*.csv")))
    monkeypatch.setattr(benchmark, "BLOCK", 3)
    pd.testing.assert_frame_equal(evaluation.run_benchmark(spec), whole)
    # 20 images make seven blocks; a block of nothing but training images is an empty table.
    assert len(list((own_cache / "jobs").glob("score-*.csv"))) == 8 * before


@pytest.mark.tf
def test_shipped_weights_are_scored_on_what_they_never_saw(tmp_path, own_cache, monkeypatch):
    path = tmp_path / "spec.yaml"
    path.write_text(
        "methods: {w: {kind: weights, name: phantom-light}}\n"
        'sources: ["phantom?n=8&size=32"]\ntargets: ["phantom?n=30&size=32&seed=5"]\nsize: 32\n'
    )
    spec = evaluation.BenchmarkSpec.read(path)
    seen = "phantom?n=30&size=32&seed=5"
    monkeypatch.setattr(models, "weights_facts", lambda name: {"trained_on": seen, "held_out": 5})
    table = evaluation.run_benchmark(spec)
    seen_groups = datasets.concatenate(datasets.load(seen)).split(5)[0].groups
    all_groups = datasets.concatenate(datasets.load(spec.targets[0])).groups
    assert sorted(table["group"]) == sorted(set(all_groups) - set(seen_groups))
    # Other weights under the same name are scored anew, not found among the kept results.
    other = tmp_path / "other.npz"
    models.UNetSegmenter(size=32, filters=(2, 4), epochs=1).fit(*datasets.load(seen).load_arrays(32)).save(other)
    monkeypatch.setattr(benchmark, "weights_file", lambda name: other)
    monkeypatch.setattr(models, "load_weights", lambda name: models.load(other))
    assert not evaluation.run_benchmark(spec)["dice"].equals(table["dice"])
    monkeypatch.setattr(models, "weights_facts", lambda name: {"trained_on": seen, "held_out": None})
    with pytest.raises(evaluation.SpecError, match="no image is left"):
        evaluation.run_benchmark(spec)
    path.write_text(path.read_text().replace("phantom-light", str(tmp_path / "mine.npz")))
    with pytest.raises(evaluation.SpecError, match="need trained_on"):
        evaluation.BenchmarkSpec.read(path)


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_loses_a_worker_gives_the_same_table(spec, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    tables = []
    for name in ("alone", "cluster"):
        monkeypatch.setenv("BUSUTILS_CACHE_DIR", str(tmp_path / name))
        if name == "alone":
            tables.append(evaluation.run_benchmark(spec))
            continue
        options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
        with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
            doomed = next(iter(cluster.workers.values()))
            written, write = [], jobs._write

            def write_and_kill(path, result, doomed=doomed, written=written, write=write):
                write(path, result)
                written.append(path)
                if len(written) == 3:
                    doomed.process.process._process.kill()

            monkeypatch.setattr(jobs, "_write", write_and_kill)
            tables.append(evaluation.run_benchmark(spec, client=client))
            assert len(written) > 3
    pd.testing.assert_frame_equal(tables[0], tables[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("kind: constant", "kind: magic"), "method constant: unknown kind 'magic': choose one of constant, kmeans"),
        (("preset: textbook", "preset: textbok"), "method textbook: .*textbok"),
        (("preset: textbook", "colour: red"), "method textbook: .*colour"),
        (("folds:", "fold:"), "unknown keys fold: known are folds"),
        (("targets:", "#"), "lacks targets"),
        (("folds: [5, 1]", "folds: []"), "folds must be a list with at least one entry"),
        (("methods:", "methods: ["), "is not YAML"),
    ],
)
def test_a_wrong_description_is_refused_in_one_sentence(tmp_path, change, message):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace(*change))
    with pytest.raises(evaluation.SpecError, match=message) as caught:
        evaluation.BenchmarkSpec.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_description_is_named(tmp_path):
    with pytest.raises(evaluation.SpecError, match="there is no file"):
        evaluation.BenchmarkSpec.read(tmp_path / "none.yaml")
