"""Benchmarks: train methods on sets of images, score them on every other set and over folds; resumable."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import busutils
from busutils import datasets, jobs
from busutils.datasets import LesionDataset
from busutils.errors import BusutilsError
from busutils.evaluation.evaluate import evaluate
from busutils.models.fitting import fit_on
from busutils.models.segmenter import Segmenter
from busutils.models.training import RECIPE_VERSION
from busutils.models.weights import weights_file

__all__ = ["BenchmarkSpec", "SpecError", "run_benchmark"]


class SpecError(BusutilsError):
    """A benchmark's description that cannot be carried out, and why."""


BLOCK = 200  # images scored in one step, so that a slow method on a large set does not keep one worker busy alone
_KINDS = ("constant", "kmeans", "unet", "ensemble", "weights")


@dataclass(frozen=True)
class BenchmarkSpec:
    """Which methods are trained where and tested where.

    Parameters
    ----------
    methods : mapping of str to mapping
        Name → ``kind`` (``constant``, ``kmeans``, ``unet``, ``ensemble`` or ``weights``) and its settings. ``weights`` are
        tested only: ``name`` is that of shipped weights, or a file. For a file, also as the ``start`` of a network,
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
    """

    methods: Mapping[str, Mapping[str, Any]]
    sources: list[str]
    targets: list[str]
    seeds: list[int]
    folds: list[int]
    size: int = 256

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

        path = Path(path)
        if not path.is_file():
            raise SpecError(f"there is no file {path}: check the path")
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SpecError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(found, dict):
            raise SpecError(f"{path} must hold the keys {', '.join(f.name for f in fields(cls))}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(map(str, set(found) - known)):
            raise SpecError(f"{path} has unknown keys {', '.join(unknown)}: known are {', '.join(sorted(known))}")
        if missing := sorted({"methods", "sources", "targets"} - set(found)):
            raise SpecError(f"{path} lacks {', '.join(missing)}")
        spec = cls(**{"seeds": [0], "folds": [5], **found})
        for name in ("sources", "targets", "seeds", "folds"):
            if not isinstance(getattr(spec, name), list) or not getattr(spec, name):
                raise SpecError(f"{path}: {name} must be a list with at least one entry")
        folders: dict[str, Any] = {}
        for part in " + ".join(map(str, spec.sources + spec.targets)).split(" + "):
            key, options = datasets.parse_spec(part)
            if key != "folder":
                continue
            name, where = options.get("name", "folder"), options.get("root")
            if where is None:
                raise SpecError(f"{path}: say which folder is meant, as in folder?root=/scans/clinic&name=clinic")
            if folders.setdefault(name, where) != where:
                # Their images could not be told apart, and those of one would count as seen with the other.
                raise SpecError(f"{path}: two folders are called {name}: give each a name, as in {part}&name=clinic")
        if not isinstance(spec.methods, dict) or not spec.methods:
            raise SpecError(f"{path}: methods must name at least one method")
        for name, method in spec.methods.items():
            if not isinstance(method, dict):
                raise SpecError(f"{path}: method {name} needs a kind: one of {', '.join(_KINDS)}")
            try:
                segmenter = _segmenter(method, spec.seeds[0])
                _known_before(method, segmenter)  # that of K-Means checks its options
                segmenter.check_settings()
            except (TypeError, ValueError) as error:
                raise SpecError(f"{path}: method {name}: {error}") from error
        return spec


def _segmenter(method: Mapping[str, Any], seed: int) -> Segmenter:
    from busutils import models

    about = ("kind", "trained_on", "held_out")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in method.items() if k not in about}
    kind = method.get("kind")
    if kind == "constant":
        return models.ConstantMaskSegmenter(**settings)
    if kind == "kmeans":
        return models.KMeansSegmenter(**settings)
    if kind == "unet":
        return models.UNetSegmenter.preset(settings.pop("preset", "light"), **settings, seed=seed)
    if kind == "ensemble":
        return models.EnsembleSegmenter(**settings, seed=seed)
    if kind == "weights":
        name = str(settings.get("name"))
        _facts(name, method)
        return models.load_weights(name) if name in models.list_weights() else models.load(name)
    raise SpecError(f"unknown kind {kind!r}: choose one of {', '.join(_KINDS)}")


# Sets that a method was shaped by, joined by " + ", each with the fold that was left out of them, or None.
_Known = tuple[tuple[str, int | None], ...]


def _facts(name: str, method: Mapping[str, Any]) -> _Known:
    """What weights were trained on: told by themselves if they are shipped, by the description otherwise."""
    from busutils import models

    about = {**(models.weights_facts(name) if name in models.list_weights() else {}), **method}
    if "trained_on" not in about:
        raise SpecError(f"weights {name} need trained_on: the sets that they must not be scored on")
    return ((about["trained_on"], about.get("held_out")),)


def _known_before(method: Mapping[str, Any], segmenter: Segmenter) -> _Known:
    """What shaped a method before it is trained here, if it is."""
    if method["kind"] == "weights":
        return _facts(str(method["name"]), method)
    if (start := segmenter.init_file) is not None:
        shipped = start == weights_file(start.stem)
        return _facts(start.stem if shipped else str(start), method)
    made = segmenter.provenance
    return tuple(zip(made["sets"], made["folds"], strict=True)) if made else ()


def _load(specs: str, root: str | None) -> LesionDataset:
    parts = []
    for spec in specs.split(" + "):
        key, options = datasets.parse_spec(spec)
        parts.append(datasets.load(spec, root=None if key == "phantom" or "root" in options else root))
    # Also a single set: the ids and groups of all sets then carry their set's key, and leaks between sets show.
    return datasets.concatenate(*parts)


@dataclass(frozen=True)
class _Task:
    """One training (without `target`), or one training's scores on one set."""

    name: str
    method: Mapping[str, Any]
    source: str | None
    seed: int
    fold: int | None
    known: _Known
    target: str | None
    size: int
    root: str | None
    content: str
    block: tuple[int, int] = (0, 0)  # the target's images that are scored: from, to


def _train(task: _Task) -> Segmenter:
    segmenter = _segmenter(task.method, task.seed)
    if task.source is None:
        return segmenter
    train, _ = _load(task.source, task.root).split(task.fold)
    return fit_on(segmenter, train, task.size)


def _train_step(given: dict[str, Any]) -> dict[str, Any]:
    with _told_already():
        return {"threshold": _train(_Task(**given)).threshold_}


def _told_already() -> warnings.catch_warnings:
    """Keep back the notes on partial copies: the run gave them once, when it looked at the sets."""
    return warnings.catch_warnings(action="ignore", category=datasets.DatasetWarning)


def _score_step(given: dict[str, Any]) -> pd.DataFrame:
    with _told_already():
        return _scores(_Task(**given))


def _scores(task: _Task) -> pd.DataFrame:
    assert task.target is not None
    target = _load(task.target, task.root).subset(range(*task.block))
    unseen = np.ones(len(target), bool)
    for specs, fold in task.known:
        # Groups carry their set's key, so only the sets that are on both sides can share any.
        shared = [part for part in specs.split(" + ") if _keys(part) & _keys(task.target)]
        if shared:
            known = _load(" + ".join(shared), task.root)
            unseen &= ~np.isin(target.groups, (known if fold is None else known.split(fold)[0]).groups)
    if not unseen.any():
        return pd.DataFrame(columns=["id", "label", "group", "source"])
    target = target.subset(unseen)
    return evaluate(_train(task), target, task.size)


def run_benchmark(
    spec: BenchmarkSpec,
    *,
    root: str | os.PathLike[str] | None = None,
    n_jobs: int = 1,
    client: Any = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Train every method on every source and score it on every target.

    Every training and every scoring is a kept step: a run that was stopped, by whatever, is taken up where it was and gives
    the same table.

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
    """
    # Everything a worker needs is told here: it may run in another folder, and with other variables.
    root = root or os.environ.get("BUSUTILS_DATA_DIR")
    root = None if root is None else os.path.abspath(root)
    content, groups, n_images, folds = {}, {}, {}, set()
    for name in dict.fromkeys([*spec.sources, *spec.targets]):
        dataset = _load(name, root)
        content[name] = jobs.content_key(*dataset.load_arrays(spec.size), dataset.ids, dataset.groups, dataset.folds())
        groups[name], n_images[name] = set(dataset.groups), len(dataset)
        folds |= set(dataset.folds()) if name in spec.sources else set()
    if absent := sorted(set(spec.folds) - folds):
        raise SpecError(f"the training sets have no fold {absent[0]}: their folds are {min(folds)} to {max(folds)}")
    if client is not None:
        _check_shared_cache(client)
    trainings, scorings = [], []
    for name, given in spec.methods.items():
        method = _anywhere(given)
        for source, fold, seed in _trainings(spec, method):
            segmenter = _segmenter(method, seed)
            known = _known_before(method, segmenter) + (((source, fold),) if source else ())
            parts = [content.get(source, "")]
            parts += [file.read_bytes() for file in _files_of(method, segmenter)]
            task = asdict(
                _Task(name, method, source, seed, fold, known, None, spec.size, root, jobs.content_key(*parts))
            )
            if source is not None:
                trainings.append(task)
            for target in spec.targets:
                at_home = source is not None and bool(groups[source] & groups[target])
                # Away from home one training a seed is enough: that without the first fold.
                if at_home or source is None or fold == spec.folds[0]:
                    scoring = task | {"target": target, "content": task["content"] + content[target]}
                    blocks = [(i, min(i + BLOCK, n_images[target])) for i in range(0, n_images[target], BLOCK)]
                    scorings += [scoring | {"block": block} for block in blocks]
    options = {"n_jobs": n_jobs, "client": client, "progress": progress}
    jobs.run("train", _train_step, trainings, parts=RECIPE_VERSION, **options)
    tables = jobs.run("score", _score_step, scorings, parts=[RECIPE_VERSION, _code()], ending=".csv", **options)
    told = ("target", "seed", "fold")
    rows = [
        table.assign(method=task["name"], source=_source_of(task), **{name: task[name] for name in told})
        for task, table in zip(scorings, tables, strict=True)
    ]
    if not any(map(len, rows)):
        raise SpecError("no image is left to test on: every target was trained on; leave a fold out or add a target")
    return pd.concat([table for table in rows if len(table)], ignore_index=True)


def _trainings(spec: BenchmarkSpec, method: Mapping[str, Any]) -> Iterator[tuple[str | None, int | None, int]]:
    """Sources, folds and seeds with which a method is trained here; no source for what is not."""
    segmenter = _segmenter(method, spec.seeds[0])
    if method["kind"] == "weights":
        ((_, held_out),) = _known_before(method, segmenter)
        yield None, held_out, spec.seeds[0]
    elif not segmenter.supervised:
        yield None, spec.folds[0], spec.seeds[0]
    else:
        by_chance = "seed" in segmenter.get_params(deep=False)
        yield from itertools.product(spec.sources, spec.folds, spec.seeds if by_chance else spec.seeds[:1])


def _source_of(task: Mapping[str, Any]) -> str:
    """What the table names as the training set: that of this run, or that which shaped the method before."""
    return task["source"] or " + ".join(dict.fromkeys(specs for specs, _ in task["known"]))


def _anywhere(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method whose files are named by whole paths."""
    whole = dict(method)
    for key in ("name", "start"):
        # Shipped weights are found by their name everywhere.
        if key in method and weights_file(str(method[key])) == Path(str(method[key])):
            whole[key] = os.path.abspath(method[key])
    if "changes" in method:  # of an ensemble's members
        whole["changes"] = _anywhere(method["changes"])
    return whole


def _files_of(method: Mapping[str, Any], segmenter: Segmenter) -> list[Path]:
    """Files of weights that a method's answers depend on: their content counts, not their name."""
    if method["kind"] == "weights":
        return [weights_file(str(method["name"]))]
    return [] if segmenter.init_file is None else [segmenter.init_file]


def _code() -> str:
    """Key of the code that scores depend on, beyond that of trainings, whose recipe has a version."""
    package = Path(busutils.__file__).parent
    names = ("metrics", "evaluation/evaluate", "datasets/pixels")
    names += tuple(f"models/{name}" for name in ("constant", "ensemble", "kmeans", "regions", "segmenter"))
    return jobs.content_key(*((package / f"{name}.py").read_bytes() for name in names))


def _sees(name: str) -> bool:
    return (jobs.cache_dir() / name).is_file()


def _check_shared_cache(client: Any) -> None:
    """Refuse a cluster whose workers would train one network again for every block of images."""
    jobs.cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=jobs.cache_dir(), prefix="shared-") as probe:
        blind = [worker for worker, sees in client.run(_sees, Path(probe.name).name).items() if not sees]
    if blind:
        raise SpecError(
            f"worker {blind[0]} does not see this machine's cache {jobs.cache_dir()}: give all of them one "
            f"BUSUTILS_CACHE_DIR that they share"
        )


def _keys(specs: str) -> set[str]:
    return {datasets.parse_spec(part)[0] for part in specs.split(" + ")}
