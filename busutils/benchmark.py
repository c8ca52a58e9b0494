"""Benchmarks: train methods on image sets, score them on every other set and over folds; resumable."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from busutils import datasets, jobs, models
from busutils.datasets import LesionDataset
from busutils.errors import BusutilsError
from busutils.evaluation import evaluate
from busutils.models.segmenter import Segmenter
from busutils.models.weights import weights_file

__all__ = ["BenchmarkSpec", "SpecError", "check_entry", "run_benchmark"]

BLOCK = 200  # images scored in one step, so that a slow method on a large set does not keep one worker busy alone
_KINDS = (*models.METHODS, "weights")
# What shaped a method: sets joined by " + ", and the fold that was left out of each, or None.
_Known = tuple[tuple[str, int | None], ...]


class SpecError(BusutilsError):
    """A benchmark's description that cannot be carried out, and why."""


@dataclass(frozen=True)
class BenchmarkSpec:
    """Which methods are trained where and tested where.

    Parameters
    ----------
    methods : mapping of str to mapping
        Name → ``kind`` (one of ``models.METHODS``, or ``weights``) and its settings. ``weights`` are only tested:
        ``name`` is that of shipped weights, or a file. For a file, also as the ``init_weights`` of a network,
        ``trained_on`` names its sets, as in `sources`, and ``held_out`` the fold it did not see, if any.
    sources : list of str
        Training sets, such as ``busi`` or ``phantom?scanner=portable``; several joined by `` + `` are trained on together.
    targets : list of str
        Test sets.
    seeds : list of int
        Each gives one training of every method that depends on chance.
    folds : list of int
        A method is trained on its sources without one of these folds. On its own sources it is tested on what shares no
        group with its training images: that fold; on other sets, with the first of these folds, on all images.
    size : int
        Square of training and scores.

    Raises
    ------
    SpecError
        If a part is missing or malformed, or a method's settings are wrong.
    """

    methods: Mapping[str, Mapping[str, Any]]
    sources: list[str]
    targets: list[str]
    seeds: list[int] = field(default_factory=lambda: [0])
    folds: list[int] = field(default_factory=lambda: [5])
    size: int = 256

    def __post_init__(self) -> None:
        for name in ("sources", "targets", "seeds", "folds"):
            if not isinstance(getattr(self, name), list) or not getattr(self, name):
                raise SpecError(f"{name} must be a list with at least one entry")
        if "folder" in _keys(" + ".join(map(str, [*self.sources, *self.targets]))):
            raise SpecError("a folder of your own needs a name here: adopt it with 'busutils datasets adopt'")
        if not isinstance(self.methods, Mapping) or not self.methods:
            raise SpecError("methods must name at least one method")
        for name, method in self.methods.items():
            if not isinstance(method, Mapping):
                raise SpecError(f"method {name} needs a kind: one of {', '.join(_KINDS)}")
            try:
                segmenter = _segmenter(_absolute(method), self.seeds[0])
                _known(method, segmenter)
                segmenter.check_settings()
            except (TypeError, ValueError) as error:
                raise SpecError(f"method {name}: {error}") from error
        object.__setattr__(self, "methods", {name: _absolute(method) for name, method in self.methods.items()})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> BenchmarkSpec:
        """Read a description in YAML.

        Parameters
        ----------
        path : path-like
            Keys are the parameters of this class; ``seeds`` is ``[0]`` and ``folds`` ``[5]`` by default.

        Returns
        -------
        BenchmarkSpec

        Raises
        ------
        SpecError
            If the file is missing, not YAML, or says something unknown.
        """
        import yaml

        try:
            found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SpecError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
        required, known = {"methods", "sources", "targets"}, {part.name for part in fields(cls)}
        if not isinstance(found, dict) or not required <= set(found) <= known:
            optional = ", ".join(sorted(known - required))
            raise SpecError(f"{path} must have the keys {', '.join(sorted(required))}, and may have only {optional}")
        return cls(**found)


def _absolute(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method whose files are named by whole paths: workers may run in another folder."""
    whole = dict(method)
    for key in ("name", "init_weights"):
        # Shipped weights are found by their name everywhere.
        if key in method and weights_file(str(method[key])) == Path(str(method[key])):
            whole[key] = os.path.abspath(os.path.expanduser(method[key]))
    return whole


def _segmenter(method: Mapping[str, Any], seed: int) -> Segmenter:
    about = ("kind", "trained_on", "held_out")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in method.items() if k not in about}
    kind = method.get("kind")
    if kind == "unet":
        return models.UNetSegmenter.preset(settings.pop("preset", "light"), **settings, seed=seed)
    if kind == "weights":
        name = str(settings.get("name"))
        return models.load(name, "auto" if name.endswith(".onnx") else "keras")
    if kind in models.METHODS:
        return getattr(models, models.METHODS[kind])(**settings)
    raise SpecError(f"unknown kind {kind!r}: choose one of {', '.join(_KINDS)}")


def _weights_of(method: Mapping[str, Any], segmenter: Segmenter) -> Path | None:
    """File of the weights that a method consists of or starts from; its content counts, not its name."""
    return weights_file(str(method["name"])) if method["kind"] == "weights" else segmenter.init_file


def _known(method: Mapping[str, Any], segmenter: Segmenter) -> _Known:
    """What shaped a method before it is trained here: known of shipped weights; else the description must say so."""
    file = _weights_of(method, segmenter)
    if file is None:
        return tuple(zip(segmenter.provenance.get("sets", ()), segmenter.provenance.get("folds", ()), strict=True))
    shipped = file == weights_file(file.stem)
    facts = {**(models.weights_facts(file.stem) if shipped else {}), **method}
    if "trained_on" not in facts:
        raise SpecError(f"weights {file} need trained_on: the sets that they must not be scored on")
    if isinstance(facts.get("held_out"), list):
        return tuple(zip(facts["trained_on"].split(" + "), facts["held_out"], strict=True))
    return ((facts["trained_on"], facts.get("held_out")),)


def _load(specs: str, root: str | None) -> LesionDataset:
    parts = []
    for spec in specs.split(" + "):
        key, options = datasets.parse_spec(spec)
        parts.append(datasets.load(spec, root=None if key == "phantom" or "root" in options else root))
    # Even a single set is concatenated: ids and groups then carry their set's key, which shows leaks between sets.
    return datasets.concatenate(*parts)


def _keys(specs: str) -> set[str]:
    return {datasets.parse_spec(part)[0] for part in specs.split(" + ")}


# -- the steps: one training, or one training's scores on some images of one set -------------------------------


def _train(task: Mapping[str, Any]) -> Segmenter:
    segmenter = _segmenter(task["method"], task["seed"])
    if task["source"] is None:
        return segmenter
    train, _ = _load(task["source"], task["root"]).split(task["fold"])
    return models.fit_on(segmenter, train, task["size"])


def _train_step(task: Mapping[str, Any]) -> dict[str, Any]:
    return {"threshold": _train(task).threshold_}


def _score_step(task: Mapping[str, Any]) -> pd.DataFrame:
    target = _load(task["target"], task["root"]).subset(range(*task["block"]))
    keys = _keys(task["target"])
    unseen = np.ones(len(target), bool)
    for specs, fold in task["known"]:
        # Groups carry their set's key, so only the sets that are on both sides can share any.
        if shared := [part for part in specs.split(" + ") if _keys(part) & keys]:
            known = _load(" + ".join(shared), task["root"])
            unseen &= ~np.isin(target.groups, (known if fold is None else known.split(fold)[0]).groups)
    if not unseen.any():
        return pd.DataFrame(columns=["id", "label", "group", "source"])
    return evaluate(_train(task), target.subset(unseen), task["size"])


def run_benchmark(
    spec: BenchmarkSpec,
    *,
    root: str | os.PathLike[str] | None = None,
    n_jobs: int = 1,
    client: Any = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Train every method on every source and score it on every target.

    The result of every training and every scoring is kept: a run that was stopped is resumed and gives the same table.

    Parameters
    ----------
    spec : BenchmarkSpec
        What to do.
    root : path-like, optional
        Folder of the published folders; ``BUSUTILS_DATA_DIR`` by default.
    n_jobs : int, default 1
        Processes on this machine.
    client : distributed.Client, optional
        Run on a Dask cluster instead. Its workers need the same version of this package, the image folders under the same
        path, and a shared ``BUSUTILS_CACHE_DIR``.
    progress : bool, default False
        Show progress with the time left.

    Returns
    -------
    pandas.DataFrame
        One row an image and training: the columns of :func:`busutils.evaluation.evaluate` and ``method, source, target,
        seed, fold``. Images that share a group with a training image are not in it.

    Raises
    ------
    SpecError
        If a fold does not exist, no image is left to test on, or a worker does not see the shared cache.
    """
    # A task holds all that a worker needs, which may run in another folder and with other variables.
    root = root or os.environ.get("BUSUTILS_DATA_DIR")
    root = None if root is None else os.path.abspath(os.path.expanduser(root))
    sets = {name: _load(name, root) for name in dict.fromkeys([*spec.sources, *spec.targets])}
    folds = {fold for name in spec.sources for fold in sets[name].folds()}
    if absent := sorted(set(spec.folds) - folds):
        raise SpecError(f"the training sets have no fold {absent[0]}: their folds are {min(folds)} to {max(folds)}")
    if client is not None:
        _check_shared_cache(client)
    content = {
        name: jobs.content_key(*images.load_arrays(spec.size), images.ids, images.groups, images.folds())
        for name, images in sets.items()
    }
    trainings, scorings = [], []
    for name, method in spec.methods.items():
        for source, fold, seed in _trainings(spec, method):
            segmenter = _segmenter(method, seed)
            known = _known(method, segmenter) + (((source, fold),) if source else ())
            task: dict[str, Any] = {"name": name, "method": method, "source": source, "seed": seed, "fold": fold}
            task |= {"known": known, "size": spec.size, "root": root, "weights": _weights_of(method, segmenter)}
            task |= {"content": content.get(source or ""), "code": jobs.code_key(type(segmenter))}
            if source is not None:
                trainings.append(task)
            for target in spec.targets:
                in_domain = source is not None and bool(set(sets[source].groups) & set(sets[target].groups))
                # On other sets one training a seed is enough: that without the first fold.
                if in_domain or source is None or fold == spec.folds[0]:
                    scoring = task | {"target": target, "target_content": content[target]}
                    starts = range(0, len(sets[target]), BLOCK)
                    scorings += [scoring | {"block": (i, min(i + BLOCK, len(sets[target])))} for i in starts]
    options = {"n_jobs": n_jobs, "client": client, "progress": progress}
    jobs.run("train", _train_step, trainings, **options)
    tables = jobs.run("score", _score_step, scorings, suffix=".csv", **options)
    rows = []
    for task, table in zip(scorings, tables, strict=True):
        # The training set of this run, or what shaped the method before.
        source = task["source"] or " + ".join(dict.fromkeys(specs for specs, _ in task["known"]))
        about = {"method": task["name"], "source": source} | {key: task[key] for key in ("target", "seed", "fold")}
        rows += [table.assign(**about)] if len(table) else []
    if not rows:
        raise SpecError("no image is left to test on: every target was trained on; leave a fold out or add a target")
    return pd.concat(rows, ignore_index=True)


def _trainings(spec: BenchmarkSpec, method: Mapping[str, Any]) -> Iterator[tuple[str | None, int | None, int]]:
    """Sources, folds and seeds with which a method is trained here; no source if it is not trained."""
    segmenter = _segmenter(method, spec.seeds[0])
    if method["kind"] == "weights":
        held_out = max((fold or 0 for _, fold in _known(method, segmenter)), default=0) or None
        yield None, held_out, spec.seeds[0]
    elif not segmenter.supervised:
        yield None, spec.folds[0], spec.seeds[0]
    else:
        by_chance = "seed" in segmenter.get_params(deep=False)
        yield from itertools.product(spec.sources, spec.folds, spec.seeds if by_chance else spec.seeds[:1])


def _check_shared_cache(client: Any) -> None:
    """Refuse a cluster whose workers would train one network again for every block of images."""
    folder = jobs.cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="shared-") as probe:
        name = Path(probe.name).name
        for worker, found in client.run(lambda: (jobs.cache_dir() / name).is_file()).items():
            if not found:
                raise SpecError(
                    f"worker {worker} does not see {folder}: give all one BUSUTILS_CACHE_DIR that they share"
                )


# -- entries of others ---------------------------------------------------------------------------------------

#: What the description of an entry must say; ``benchmarks/entries/schema.json`` explains each.
ENTRY_FIELDS = ("method", "trained_on", "chosen_on", "code", "seeds", "scored")
_COLUMNS = {"id", "label", "group", "method", "target", "fold", "dice", "iou", "hd95", "nsd", "mask_area", "pred_area"}


def check_entry(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Check the scores of a method that somebody enters; no image is needed.

    Parameters
    ----------
    path : path-like
        CSV of ``busutils evaluate --fold 5 --out``; its description lies beside it, with the suffix ``.json``.

    Returns
    -------
    pandas.DataFrame
        The scores, one row an image.

    Raises
    ------
    SpecError
        If a column or a part of the description is missing, the images are not those of fold 5 of a set whose folds are
        shipped, each once, or scores are impossible.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype={"id": str, "label": str, "group": str})
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        said = [name for name in ENTRY_FIELDS if about.get(name)]
    except (OSError, ValueError, AttributeError) as error:
        raise SpecError(f"an entry is a CSV and a description with the suffix .json beside it ({error})") from None
    if missing := [*(_COLUMNS - set(table)), *(name for name in ENTRY_FIELDS if name not in said)]:
        raise SpecError(f"{path} lacks {', '.join(sorted(missing))}: see benchmarks/entries/schema.json")
    if (
        table[["method", "target", "fold"]].drop_duplicates().shape[0] != 1
        or table["method"].iloc[0] != about["method"]
    ):
        raise SpecError(f"{path} must hold one set and fold, and one method, which the description calls alike")
    target, fold = table.loc[0, ["target", "fold"]]
    folds = datasets.shipped_folds(str(target))
    if folds is None or fold != 5:
        raise SpecError(
            f"{path} was scored on {target}, fold {fold}: score it on fold 5 of a set whose folds are shipped"
        )
    expected = folds.loc[folds["fold"] == 5, ["label", "group"]].sort_index()
    rows = table.set_index("id").sort_index()
    if rows.index.tolist() != expected.index.tolist() or not rows[["label", "group"]].eq(expected).all(axis=None):
        raise SpecError(
            f"{path} does not hold each of the {len(expected)} images of fold 5 once, with its label and group"
        )
    dice = rows["dice"].where(rows["mask_area"] + rows["pred_area"] > 0, 0.0)  # undefined where both masks are empty
    possible = dice.between(0, 1) & np.isclose(rows["iou"].fillna(0), dice / (2 - dice), atol=1e-4)
    if not possible.all():
        raise SpecError(f"{path}: Dice and IoU of {rows.index[~possible][0]} contradict each other: do not edit scores")
    return table
