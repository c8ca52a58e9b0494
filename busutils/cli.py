"""The command ``busutils``: parse options, call the package, print; an error is one sentence and an exit status."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import busutils
from busutils import datasets, jobs, lessons
from busutils.errors import BusutilsError, MissingPackageError

__all__ = ["main"]


class CommandError(BusutilsError):
    """A command that cannot be carried out as asked, and why."""


# -- printing ------------------------------------------------------------------------------------------------


def _print(table: pd.DataFrame) -> None:
    with pd.option_context("display.width", 200, "display.max_columns", 50, "display.max_colwidth", 90):
        print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="–"))


def _write(table: pd.DataFrame, path: str | None) -> None:
    if path:
        with jobs.atomic_path(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# -- segmenters by name --------------------------------------------------------------------------------------


def segmenter_named(name: str):
    """A segmenter by a K-Means preset, the name of shipped weights, or a file; Keras runs the networks it trained."""
    from busutils import models

    return models.load(name, "auto" if name.endswith(".onnx") else "keras")


# -- commands ------------------------------------------------------------------------------------------------


def _lessons_run(args: argparse.Namespace) -> int:
    if args.command == "refresh":
        outcomes = lessons.refresh(args.lessons, out=args.out, notebooks=args.notebooks)
    else:
        outcomes = lessons.run(
            args.lessons,
            dataset=args.dataset,
            parameters=lessons.parse_parameters(args.parameters),
            out=args.out,
            notebooks=args.notebooks,
        )
    table = lessons.summary(outcomes)
    table.to_csv(Path(args.out) / "summary.csv", index=False)
    print()
    _print(table)
    print(f"\n{sum(outcome.seconds for outcome in outcomes) / 60:.1f} minutes in all")
    for outcome in outcomes:
        if outcome.error:
            _say(f"busutils: {outcome.lesson} failed at {outcome.error}")
    return int(any(outcome.error for outcome in outcomes))


def _evaluate(args: argparse.Namespace) -> None:
    from busutils import evaluation

    if bool(args.weights) == bool(args.pred):
        raise CommandError("say what to score: either --weights or --pred")
    dataset = datasets.load(args.dataset, root=args.root)
    if args.fold is not None:
        _, dataset = dataset.split(args.fold)
    if args.pred:
        table = evaluation.evaluate_masks(args.pred, dataset, args.size)
    else:
        table = evaluation.evaluate(segmenter_named(args.weights), dataset, args.size)
    method = args.name or args.weights or Path(args.pred).resolve().name
    _write(table.assign(method=method, target=args.dataset, fold=args.fold), args.out)
    scores = ["dice", "iou", "precision", "recall", "hd95", "nsd"]
    whole = evaluation.summarise(table, scores=scores).assign(label="all lesions")
    by_label = evaluation.summarise(table[table["mask_area"] > 0], "label", scores=scores)
    shown = ["label", "n", "dice", "dice_low", "dice_high", "dice_median", *scores[1:], "missed"]
    _print(pd.concat([whole, by_label])[shown])
    if n_normal := whole["n_normal"].item():
        print(f"\nspecificity on {n_normal} normal images: {whole['normal_specificity'].item():.1%}")
    print(f"\nThe row for a table:\n{evaluation.ENTRY_HEAD}\n{evaluation.entry_row(table, method)}")


def _predict(args: argparse.Namespace) -> int:
    import joblib
    from tqdm import tqdm

    from busutils.models.runtimes import load, runtime_name
    from busutils.predict import find_images, predict_files

    files = find_images(args.images, recursive=args.recursive, out=args.out)
    segmenter = load(args.weights, args.runtime, streams=joblib.cpu_count())
    if name := runtime_name(segmenter):
        _say(f"busutils: {name} runs the network")
    seen, failed = set(), 0
    with _cluster(args.scheduler) as client, tqdm(total=len(files), desc="predict", unit="file") as bar:
        for row in predict_files(segmenter, files, args.out, weights=args.weights, overlay=args.overlay, client=client):
            seen.add(row.file)
            bar.update(len(seen) - bar.n)
            if row.error:
                failed += 1
                tqdm.write(f"busutils: {row.error}", file=sys.stderr)
    n = len(files)
    before = f" ({n - len(seen)} before)" if len(seen) < n else ""
    print(f"{n - failed} of {n} images segmented{before}; masks and predictions.csv are in {args.out}")
    return int(failed > 0)


def _train(args: argparse.Namespace) -> None:
    from busutils import evaluation, models

    dataset = datasets.load(args.dataset, root=args.root)
    train, test = dataset.split(args.fold)
    given = {name: getattr(args, name) for name in ("epochs", "size", "dropout", "init_weights", "seed")}
    changes = {name: value for name, value in given.items() if value is not None}
    fitted = models.fit_on(models.UNetSegmenter.preset(args.preset, **changes), train, progress=True)
    fitted.save(args.out)
    print(f"trained on {len(train)} images without fold {args.fold}; threshold {fitted.threshold_:.2f}; {args.out}")
    _print(evaluation.summarise(evaluation.evaluate(fitted, test)))


def _benchmark_run(args: argparse.Namespace) -> None:
    from busutils import benchmark, evaluation

    spec = benchmark.BenchmarkSpec.read(args.spec)
    with _cluster(args.scheduler) as client:
        table = benchmark.run_benchmark(spec, root=args.root, n_jobs=args.jobs, client=client, progress=True)
    _write(table, args.out)
    _print(evaluation.summarise(table, ["method", "source", "target"]))


def _cluster(address: str | None) -> contextlib.AbstractContextManager[Any]:
    """A client of the Dask cluster at this address, or None to stay on this machine."""
    if address is None:
        return contextlib.nullcontext()
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingPackageError("a cluster needs Dask: pip install 'busutils[cluster]'") from error
    return Client(address)


def _export(args: argparse.Namespace) -> None:
    from busutils.models import export_network

    if Path(args.out).suffix != ".onnx":
        raise CommandError("an exported network ends in .onnx: give such an --out")
    print(export_network(segmenter_named(args.weights), args.out, precision=args.precision))


def _app(args: argparse.Namespace) -> None:
    import signal
    import threading

    from busutils import models
    from busutils.app import page

    # Containers are stopped by this signal; uploads are deleted then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        page.serving(models.load(args.weights), name=args.weights, host=args.host, port=args.port) as address,
    ):
        _say(f"busutils: the page is at {address} until you press Ctrl-C; not a medical device")
        threading.Event().wait()


def _datasets_list(args: argparse.Namespace) -> None:
    _print(datasets.catalogue_table())


def _datasets_info(args: argparse.Namespace) -> None:
    for name, value in datasets.info(args.name).items():
        if value not in (None, "", [], {}):
            text = "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
            print(f"{name:14s} {text}")


def _datasets_check(args: argparse.Namespace) -> int:
    report = datasets.check(args.name, root=args.root)
    print(f"{report.folder}: {report.n_images} images, {report.n_masks} masks, {report.n_groups} groups")
    _print(report.table)
    for problem in report.problems:
        print(f"{'problem' if problem.fatal else 'note'}: {problem.message}")
    print("usable" if report.ok else "not usable")
    return 0 if report.ok else 1


def _datasets_fetch(args: argparse.Namespace) -> None:
    def confirm(card: datasets.Card) -> bool:
        print(f"{card.title}. Licence: {card.licence}")
        if args.yes:
            return True
        if not sys.stdin.isatty():
            raise CommandError("fetching asks whether you accept the licence above: add --yes to accept it")
        return input("Accept and download? [y/N] ").strip().lower() in ("y", "yes")

    print(datasets.fetch(args.name, args.root, confirm=confirm))


def _datasets_audit(args: argparse.Namespace) -> None:
    report = datasets.audit(datasets.load(args.name, root=args.root), progress=True)
    if args.out:
        report.write_csv(args.out)
    if args.html:
        report.write_html(args.html)
    print(f"pairs of near-duplicates: {len(report.pairs)}")
    if len(report.pairs):
        _print(report.pairs.head(20))  # the most similar ones
    print(f"\nimages with a finding: {len(report.problems)}")
    if len(report.problems):
        kinds = report.problems["findings"].str.split("; ").explode().value_counts()
        _print(kinds.rename_axis("finding").reset_index(name="images"))


def _datasets_split(args: argparse.Namespace) -> None:
    dataset = datasets.load(args.name, root=args.root)
    table = dataset.table()[["id", "label", "group", "fold"]]
    _write(table, args.out)
    print(pd.crosstab(table["fold"], table["label"]).to_string())


# -- the commands and their options ---------------------------------------------------------------------------

_OPTIONS: dict[str, dict[str, Any]] = {
    "name": {"metavar": "NAME", "help": "such as busi"},
    "images": {"nargs": "+", "metavar": "IMAGE", "help": "images, clips, DICOM files, folders, .txt lists of paths"},
    "spec": {"metavar": "YAML", "help": "methods, sources, targets, seeds, folds"},
    "lessons": {"nargs": "*", "metavar": "NN", "help": "numbers or names; all by default"},
    "-p": {"dest": "parameters", "action": "append", "default": [], "metavar": "name=value"},
    "--dataset": {"required": True, "metavar": "NAME", "help": "such as busi, or phantom?n=60"},
    "--dropout": {"type": float, "help": "at the bottleneck"},
    "--epochs": {"type": int, "help": "in place of the preset's"},
    "--fold": {"type": int, "help": "score this fold only"},
    "--host": {"default": "127.0.0.1", "help": "0.0.0.0 lets other machines in; default: 127.0.0.1"},
    "--html": {"metavar": "FILE", "help": "a page of pairs to look through"},
    "--init-weights": {"metavar": "WEIGHTS", "help": "begin with shipped weights or a file"},
    "--jobs": {"type": int, "default": 1, "metavar": "N", "help": "processes on this machine"},
    "--name": {"metavar": "METHOD", "help": "what the method is called in the table"},
    "--notebooks": {"metavar": "DIR", "help": "folder of the lessons"},
    "--out": {"metavar": "CSV", "help": "one row an image"},
    "--overlay": {"action": "store_true", "help": "also write images with the lesion's outline"},
    "--port": {"type": int, "default": 7860},
    "--precision": {"default": "float32", "choices": ["float32", "int8"], "help": "int8: a quarter of the size"},
    "--pred": {"metavar": "DIR", "help": "folder of masks <id>.png"},
    "--preset": {"default": "light", "metavar": "NAME", "help": "light, encoder or classic (default light)"},
    "--recursive": {"action": "store_true", "help": "search folders of folders"},
    "--root": {"help": "folder of the published folders; BUSUTILS_DATA_DIR by default"},
    "--runtime": {"default": "auto", "choices": ["auto", "onnx", "keras"], "help": "auto: the fastest installed"},
    "--scheduler": {"metavar": "ADDRESS", "help": "a Dask cluster, such as tcp://host:8786"},
    "--seed": {"type": int},
    "--size": {"type": int, "default": 256, "help": "side of the square; default: 256"},
    "--weights": {"required": True, "metavar": "NAME", "help": "a K-Means preset, shipped weights, or a file"},
    "--yes": {"action": "store_true", "help": "accept the licence"},
}
_GROUPS = {
    "datasets": "public image sets",
    "benchmark": "compare methods",
    "lessons": "run the lessons",
}
_FOLDER = {"metavar": "DIR", "help": "where results go"}
# Command, function, what it does, its options, and where these differ from those above.
_COMMANDS: tuple[tuple[str, Callable[[argparse.Namespace], int | None], str, str, dict[str, dict[str, Any]]], ...] = (
    ("datasets list", _datasets_list, "list the sets this package reads", "", {}),
    ("datasets info", _datasets_info, "what is known about one set", "name", {}),
    ("datasets fetch", _datasets_fetch, "download, verify and unpack a set", "name --root --yes", {}),
    ("datasets check", _datasets_check, "count what is on disk against what should be there", "name --root", {}),
    ("datasets audit", _datasets_audit, "look for near-duplicates and other traps", "name --root --out --html",
     {"--out": {"help": "one row a pair"}}),
    ("datasets split", _datasets_split, "show the folds; groups stay whole", "name --root --out", {}),
    ("train", _train, "train a U-Net on all folds but one",
     "--dataset --root --fold --preset --epochs --seed --size --dropout --init-weights --out",
     {"--fold": {"default": 5, "help": "held out (default 5)"},
      "--size": {"default": None, "help": "side of the network's square"},
      "--out": {"required": True, "metavar": "FILE", "help": "the trained segmenter, .npz"}}),
    ("evaluate", _evaluate, "score a segmenter, or masks that another program drew",
     "--dataset --root --fold --weights --pred --name --size --out", {"--weights": {"required": False}}),
    ("predict", _predict, "write masks for image files",
     "images --weights --out --overlay --recursive --runtime --scheduler",
     {"--out": _FOLDER | {"required": True}}),
    ("benchmark run", _benchmark_run, "train methods on every set and score them on every other",
     "spec --root --jobs --scheduler --out", {"--out": {"help": "one row an image and training"}}),
    ("lessons run", _lessons_run, "execute lessons headless", "lessons --out --notebooks --dataset -p",
     {"--out": _FOLDER | {"default": "build"}, "--dataset": {"required": False, "default": "phantom"}}),
    ("lessons refresh", _lessons_run, "execute lessons and store their outputs in the notebooks",
     "lessons --out --notebooks", {"--out": _FOLDER | {"default": "build"}}),
    ("export", _export, "write a network as a file that needs no TensorFlow", "--weights --out --precision",
     {"--weights": {"help": "shipped weights, or a file"},
      "--out": {"required": True, "metavar": "FILE", "help": "ends in .onnx"}}),
    ("app", _app, "serve the web page", "--weights --host --port",
     {"--weights": {"required": False, "default": "busi-light", "help": "default: busi-light"}}),
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="busutils", description="Lesion segmentation in breast-ultrasound images. Not a medical device."
    )
    parser.add_argument("--version", action="version", version=f"busutils {busutils.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    groups: dict[str, Any] = {}
    for words, run, text, options, own in _COMMANDS:
        group, _, name = words.rpartition(" ")
        if group and group not in groups:
            groups[group] = commands.add_parser(group, help=_GROUPS[group]).add_subparsers(
                metavar="WHAT", required=True
            )
        command = groups.get(group, commands).add_parser(name, help=text, description=text)
        command.set_defaults(run=run, command=name, parameters=[])
        for option in options.split():
            command.add_argument(option, **(_OPTIONS[option] | own.get(option, {})))
    return parser


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Show warnings and the package's log as lines of this command, for its length only."""
    logger, handler = logging.getLogger("busutils"), logging.StreamHandler()
    level = logger.level
    handler.setFormatter(logging.Formatter("busutils: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _say(f"busutils: note: {message}")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 if all went well, 1 if part of the work failed, 2 if it could not be done at all."""
    args = _parser().parse_args(argv)
    try:
        with _notes():
            return args.run(args) or 0  # most commands return nothing, those that can fail in part their status
    except BrokenPipeError:  # whoever read our output has seen enough, as in `busutils datasets list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BusutilsError as error:  # one sentence already; anything else is a bug, and shows its traceback
        _say(f"busutils: {error}")
        return 2
    except OSError as error:  # no permission, a full disk, a port in use; but a file that is missing here is a bug
        if error.errno in (None, errno.ENOENT):
            raise
        _say(f"busutils: {error.filename or 'the system refused'}: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        _say("busutils: stopped; the same command takes it up again")
        return 130


if __name__ == "__main__":
    sys.exit(main())
