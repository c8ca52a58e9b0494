"""The command ``busutils``: one sentence and a non-zero exit for whatever goes wrong."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import math
import os
import sys
import tempfile
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


def _print(table: pd.DataFrame, as_json: bool = False) -> None:
    if as_json:
        print(table.to_json(orient="records", indent=1))
        return
    with pd.option_context("display.width", 200, "display.max_columns", 50, "display.max_colwidth", 90):
        print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="–"))


def _write(table: pd.DataFrame, path: str | None) -> None:
    if path:
        with jobs.atomic_path(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g")


def _check_writable(path: str) -> None:
    """Refuse, before long work, a file that could not be written after it."""
    if Path(path).is_dir():
        raise CommandError(f"{path} is a folder: name the file to write")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=Path(path).parent):
        pass


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# -- segmenters by name --------------------------------------------------------------------------------------


def segmenter_named(name: str):
    """A segmenter by what a user types: a K-Means preset, shipped weights, or a file; networks run as they were trained."""
    from busutils import models

    return models.load(name, "auto" if name.endswith(".onnx") else "keras")


# -- commands ------------------------------------------------------------------------------------------------


def _lessons_run(args: argparse.Namespace) -> int:
    parameters = lessons.parse_parameters(args.parameters)
    if args.command == "refresh":
        outcomes = lessons.refresh(args.lessons, out=args.out, notebooks=args.notebooks)
    else:
        outcomes = lessons.run(
            args.lessons,
            dataset=args.dataset,
            profile=args.profile,
            parameters=parameters,
            out=args.out,
            notebooks=args.notebooks,
        )
    table = lessons.summary(outcomes)
    table.to_csv(Path(args.out) / "summary.csv", index=False)
    print()
    _print(table)
    seconds = sum(outcome.seconds for outcome in outcomes)
    peak = lessons.peak_memory_gb()
    memory = "" if math.isnan(peak) else f"; at most {peak:.1f} GB of memory a lesson"
    print(f"\n{seconds / 60:.1f} minutes in all{memory}")
    for outcome in outcomes:
        if outcome.error:
            _say(f"busutils: {outcome.lesson} failed at {outcome.error}")
    return int(any(outcome.error for outcome in outcomes))


def _lessons_list(args: argparse.Namespace) -> int:
    for lesson in lessons.LESSONS:
        print(lesson)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from busutils import evaluation

    dataset = datasets.load(args.dataset, root=args.root)
    if args.fold is not None:
        _, dataset = dataset.split(args.fold)
    if args.pred:
        if args.native:
            raise CommandError("--native needs --weights: masks of another program are scored at the square")
        table = evaluation.evaluate_masks(args.pred, dataset, args.size)
    else:
        table = evaluation.evaluate(segmenter_named(args.weights), dataset, args.size, native=args.native)
    method = args.name or args.weights or Path(args.pred).resolve().name
    _write(table.assign(method=method, target=args.dataset, fold=args.fold), args.out)
    scores = ["dice", "iou", "precision", "recall", "hd95", "nsd"]
    scores += ["dice_native"] if "dice_native" in table else []
    parts = [evaluation.summarise(table, scores=scores).assign(label="all lesions")]
    parts += [evaluation.summarise(table[table["mask_area"] > 0], "label", scores=scores)]
    summary = pd.concat(parts, ignore_index=True)
    if args.json:
        _print(summary, True)
        return 0
    shown = summary[["label", "n", "dice", "dice_low", "dice_high", "dice_median", *scores[1:], "missed"]]
    _print(shown)
    first = summary.iloc[0]
    if first["n_normal"]:
        print(f"\nspecificity on {first['n_normal']} normal images: {first['normal_specificity']:.1%}")
    print(f"\nThe row for a table:\n{evaluation.ENTRY_HEAD}\n{evaluation.entry_row(table, method)}")
    return 0


def _predict(args: argparse.Namespace) -> int:
    import joblib

    from busutils.models.runtimes import load, runtime_name
    from busutils.predict import find_images, predict_files, recorded_runtime

    files = find_images(args.images, recursive=args.recursive, out=args.out)
    runtime = args.runtime
    if runtime == "auto" and not args.overwrite:
        runtime = recorded_runtime(args.out, args.weights) or "auto"  # runtimes differ in the last digits
    segmenter = load(args.weights, runtime, streams=joblib.cpu_count())
    if name := runtime_name(segmenter):
        _say(f"busutils: {name} runs the network")
    with _cluster(args.scheduler) as client:
        rows = predict_files(
            segmenter,
            files,
            args.out,
            weights=args.weights,
            overlay=args.overlay,
            overwrite=args.overwrite,
            client=client,
        )
        return _report(rows, len(files), args.out)


def _report(rows: Iterator[Any], n_files: int, out: str) -> int:
    """Show predictions as they come; 1 if one failed."""
    from tqdm import tqdm

    failed = seen = frames = 0
    last = None
    with tqdm(total=n_files, desc="predict", unit="file") as bar:
        for row in rows:
            if row.file != last:
                seen, last = seen + 1, row.file
                bar.update()
            frames += row.frame is not None and not row.error
            if row.error:
                failed += 1
                tqdm.write(f"busutils: {row.error}", file=sys.stderr)
    before = f" ({n_files - seen} before)" if seen < n_files else ""
    clips = f"; {frames} frames of clips among them" if frames else ""
    print(f"{n_files - failed} of {n_files} images segmented{before}{clips}; masks and predictions.csv are in {out}")
    return int(failed > 0)


def _train(args: argparse.Namespace) -> int:
    from busutils import evaluation, models

    for path in filter(None, (args.out, args.log)):
        _check_writable(path)
    dataset = datasets.load(args.dataset, root=args.root)
    train, test = dataset.split(args.fold)
    given = {name: getattr(args, name) for name in ("epochs", "size", "dropout", "precision", "init_weights", "seed")}
    changes = {name: value for name, value in given.items() if value is not None}
    if args.members == 1:
        settings = models.UNetSegmenter.preset(args.preset, **changes)
    else:
        seed = changes.pop("seed", 0)
        settings = models.EnsembleSegmenter(args.preset, changes=changes, members=args.members, seed=seed)
    fitted = models.fit_on(settings, train, progress=True)
    fitted.save(args.out)
    if args.log:
        _write(fitted.history_, args.log)
    print(
        f"trained on {len(train)} images without fold {args.fold}; threshold {fitted.threshold_:.2f}, "
        f"minimum confidence {fitted.min_confidence_:.2f}; {args.out}"
    )
    _print(evaluation.summarise(evaluation.evaluate(fitted, test)))
    return 0


def _benchmark_run(args: argparse.Namespace) -> int:
    from busutils import benchmark, evaluation

    spec = benchmark.BenchmarkSpec.read(args.spec)
    with _cluster(args.scheduler) as client:
        table = benchmark.run_benchmark(spec, root=args.root, n_jobs=args.jobs, client=client, progress=True)
    _write(table, args.out)
    _print(evaluation.summarise(table, ["method", "source", "target"]))
    return 0


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """A client of the Dask cluster at this address, or None to stay on this machine."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingPackageError("a cluster needs Dask: pip install 'busutils[cluster]'") from error
    with Client(address) as client:
        yield client


def _export(args: argparse.Namespace) -> int:
    from busutils.models import export_network

    if Path(args.out).suffix != ".onnx":
        raise CommandError("an exported network ends in .onnx: give such an --out")
    images = datasets.load(args.images).load_arrays(256)[0] if args.images else ()
    print(export_network(segmenter_named(args.weights), args.out, precision=args.precision, images=images))
    return 0


def _app(args: argparse.Namespace) -> int:
    import signal
    import threading

    from busutils import models
    from busutils.app import page

    # Containers are stopped by this signal; uploads are deleted then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    segmenter = models.load(args.weights, args.runtime)
    with (
        contextlib.suppress(KeyboardInterrupt),
        page.serving(segmenter, name=args.weights, host=args.host, port=args.port) as address,
    ):
        _say(f"busutils: the page is at {address} until you press Ctrl-C; not a medical device")
        threading.Event().wait()
    return 0


def _phantom(args: argparse.Namespace) -> int:
    made = datasets.load("phantom", n=args.n, seed=args.seed, scanner=args.scanner, size=args.size)
    print(datasets.write_phantoms(made, args.out))
    return 0


def _datasets_list(args: argparse.Namespace) -> int:
    _print(datasets.catalogue_table(), args.json)
    return 0


def _datasets_info(args: argparse.Namespace) -> int:
    about = datasets.info(args.name)
    if args.json:
        print(json.dumps(about, indent=1))
        return 0
    for name, value in about.items():
        if value not in (None, "", [], {}):
            text = "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
            print(f"{name:14s} {text}")
    return 0


def _datasets_check(args: argparse.Namespace) -> int:
    report = datasets.check(args.name, root=args.root)
    if args.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print(f"{report.folder}: {report.n_images} images, {report.n_masks} masks, {report.n_groups} groups")
        _print(report.table)
        for problem in report.problems:
            print(f"{'problem' if problem.fatal else 'note'}: {problem.message}")
        print("usable" if report.ok else "not usable")
    return 0 if report.ok else 1


def _datasets_fetch(args: argparse.Namespace) -> int:
    def confirm(card: datasets.Card) -> bool:
        print(f"{card.title}. Licence: {card.licence}")
        if args.yes:
            return True
        if not sys.stdin.isatty():
            raise CommandError("fetching asks whether you accept the licence above: add --yes to accept it")
        return input("Accept and download? [y/N] ").strip().lower() in ("y", "yes")

    print(datasets.fetch(args.name, args.root, confirm=confirm))
    return 0


def _datasets_audit(args: argparse.Namespace) -> int:
    report = datasets.audit(datasets.load(args.name, root=args.root), progress=True)
    if args.out:
        report.write_csv(args.out)
    if args.html:
        report.write_html(args.html)
    if args.json:
        problems = json.loads(report.problems.to_json(orient="records"))
        print(json.dumps({"pairs": json.loads(report.pairs.to_json(orient="records")), "findings": problems}, indent=1))
        return 0
    n_pairs, n_findings = len(report.pairs), len(report.problems)
    print(
        f"{n_pairs} {'pair' if n_pairs == 1 else 'pairs'} of near-duplicates" + (", the most alike:" if n_pairs else "")
    )
    if n_pairs:
        _print(report.pairs.head(20))
    print(f"\n{n_findings} images with a finding" + (", by kind:" if n_findings else ""))
    if n_findings:
        kinds = report.problems["findings"].str.split("; ").explode().value_counts()
        _print(kinds.rename_axis("finding").reset_index(name="images"))
    return 0


def _datasets_split(args: argparse.Namespace) -> int:
    dataset = datasets.load(args.name, root=args.root)
    table = dataset.table()[["id", "label", "group", "fold"]]
    _write(table, args.out)
    if args.json:
        _print(table, True)
    else:
        print(pd.crosstab(table["fold"], table["label"]).to_string())
    return 0


def _datasets_cache(args: argparse.Namespace) -> int:
    if args.clear:
        datasets.clear_cache()
    about = datasets.cache_info()
    if args.json:
        print(json.dumps({"path": str(about.path), "entries": about.entries, "bytes": about.bytes}))
        return 0
    print(f"{about.path}: {about.entries} sets, {about.bytes / 1e6:.1f} MB")
    return 0


# -- the commands and their options ---------------------------------------------------------------------------

_OPTIONS: dict[str, dict[str, Any]] = {
    "name": {"metavar": "NAME", "help": "such as busi"},
    "images": {
        "nargs": "+",
        "metavar": "IMAGE",
        "help": "pictures, clips, DICOM files, folders, or .txt lists of paths",
    },
    "spec": {"metavar": "YAML", "help": "methods, sources, targets, seeds, folds"},
    "lessons": {"nargs": "*", "metavar": "NN", "help": "numbers or names; all by default"},
    "-p": {"dest": "parameters", "action": "append", "default": [], "metavar": "name=value"},
    "--clear": {"action": "store_true", "help": "empty it"},
    "--dataset": {"required": True, "metavar": "NAME", "help": "such as busi, or phantom?n=60"},
    "--dropout": {"type": float, "help": "at the bottleneck"},
    "--epochs": {"type": int, "help": "in place of the preset's"},
    "--fold": {"type": int, "help": "score this fold only"},
    "--host": {"default": "127.0.0.1", "help": "0.0.0.0 lets other machines in; default: 127.0.0.1"},
    "--html": {"metavar": "FILE", "help": "a page of pairs to look through"},
    "--images": {"metavar": "NAME", "help": "int8: a set whose images measure the ranges, beside phantoms"},
    "--init-weights": {"metavar": "WEIGHTS", "help": "begin with shipped weights or a file"},
    "--jobs": {"type": int, "default": 1, "metavar": "N", "help": "processes on this machine"},
    "--json": {"action": "store_true", "help": "for programs"},
    "--log": {"metavar": "CSV", "help": "loss, validation Dice and seconds of every epoch"},
    "--members": {"type": int, "default": 1, "help": "train as many, with seeds from --seed up, and join them"},
    "--n": {"type": int, "default": 120},
    "--name": {"metavar": "METHOD", "help": "what the method is called in the table"},
    "--native": {"action": "store_true", "help": "score at the images' own sizes too"},
    "--notebooks": {"metavar": "DIR", "help": "folder of the lessons"},
    "--out": {"metavar": "CSV", "help": "one row an image"},
    "--overlay": {"action": "store_true", "help": "also write images with the lesion's outline"},
    "--overwrite": {
        "action": "store_true",
        "help": "replace what DIR holds; by default a stopped run is taken up again",
    },
    "--port": {"type": int, "default": 7860},
    "--precision": {
        "choices": ["float32", "mixed_bfloat16"],
        "help": "mixed_bfloat16 is faster on processors that know the format, but for the preset encoder",
    },
    "--pred": {"metavar": "DIR", "help": "folder of masks <id>.png"},
    "--preset": {"default": "light", "metavar": "NAME", "help": "light, encoder or classic (default light)"},
    "--profile": {"choices": list(lessons.profiles())},
    "--recursive": {"action": "store_true", "help": "search folders of folders"},
    "--root": {"help": "folder of the published folders; BUSUTILS_DATA_DIR by default"},
    "--runtime": {
        "default": "auto",
        "choices": ["auto", "onnx", "keras"],
        "help": "what runs the network; auto takes the fastest that is installed",
    },
    "--scanner": {"default": "clinic"},
    "--scheduler": {"metavar": "ADDRESS", "help": "a Dask cluster, such as tcp://host:8786"},
    "--seed": {"type": int},
    "--size": {"type": int, "default": 256, "help": "side of the square; default: 256"},
    "--weights": {"required": True, "metavar": "NAME", "help": "a K-Means preset, shipped weights, or a file"},
    "--yes": {"action": "store_true", "help": "accept the licence"},
}
_GROUPS = {
    "datasets": "public image sets",
    "phantom": "simulated images",
    "benchmark": "compare methods",
    "lessons": "run the lessons",
}
_FOLDER = {"metavar": "DIR", "help": "where results go"}
# Command, function, what it does, its options (one of a|b is required), and where they differ from those above.
_COMMANDS: tuple[tuple[str, Callable[[argparse.Namespace], int], str, str, dict[str, dict[str, Any]]], ...] = (
    ("datasets list", _datasets_list, "list the sets this package reads", "--json", {}),
    ("datasets info", _datasets_info, "what is known about one set", "name --json", {}),
    ("datasets fetch", _datasets_fetch, "download, verify and unpack a set", "name --root --yes", {}),
    ("datasets check", _datasets_check, "count what is on disk against what should be there", "name --json --root", {}),
    ("datasets audit", _datasets_audit, "look for near-duplicates and other traps", "name --json --root --out --html",
     {"--out": {"help": "one row a pair"}}),
    ("datasets split", _datasets_split, "show the folds; groups stay whole", "name --json --root --out", {}),
    ("datasets cache", _datasets_cache, "where decoded images are kept", "--json --clear", {}),
    ("phantom make", _phantom, "write simulated images in BUSI's layout", "--n --seed --size --scanner --out",
     {"--seed": {"default": 0}, "--out": _FOLDER | {"required": True}}),
    ("train", _train, "train a U-Net on all folds but one",
     "--dataset --root --fold --preset --epochs --precision --seed --members --size --dropout --init-weights --out --log",
     {"--fold": {"default": 5, "help": "held out (default 5)"},
      "--size": {"default": None, "help": "side of the network's square"},
      "--out": {"required": True, "metavar": "FILE", "help": "the trained segmenter, .npz"}}),
    ("evaluate", _evaluate, "score a segmenter, or masks that another program drew",
     "--dataset --root --fold --weights|--pred --name --size --native --out --json", {}),
    ("predict", _predict, "write masks for image files",
     "images --weights --out --overlay --recursive --overwrite --runtime --scheduler",
     {"--out": _FOLDER | {"required": True}}),
    ("benchmark run", _benchmark_run, "train methods on every set and score them on every other",
     "spec --root --jobs --scheduler --out", {"--out": {"help": "one row an image and training"}}),
    ("lessons list", _lessons_list, "list the lessons", "", {}),
    ("lessons run", _lessons_run, "execute lessons headless", "lessons --out --notebooks --dataset --profile -p",
     {"--out": _FOLDER | {"default": "build"}, "--dataset": {"required": False, "default": "phantom"}}),
    ("lessons refresh", _lessons_run, "execute lessons and store their outputs in the notebooks",
     "lessons --out --notebooks", {"--out": _FOLDER | {"default": "build"}}),
    ("export", _export, "write a network as a file that needs no TensorFlow", "--weights --out --precision --images",
     {"--weights": {"help": "shipped weights, or a file"},
      "--out": {"required": True, "metavar": "FILE", "help": "ends in .onnx"},
      "--precision": {"default": "float32", "choices": ["float32", "int8"], "help": "int8: a quarter of the size"}}),
    ("app", _app, "serve the web page", "--weights --runtime --host --port",
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
            choices = option.split("|")
            place = command.add_mutually_exclusive_group(required=True) if len(choices) > 1 else command
            for choice in choices:
                settings = {**_OPTIONS[choice], **own.get(choice, {})}
                if len(choices) > 1:
                    settings.pop("required", None)
                place.add_argument(choice, **settings)
    return parser


# What the system refuses: no permission, a full disk, a file where a folder is needed, a port in use.
_REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EADDRINUSE}
_REFUSALS |= {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


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
            return args.run(args)
    except BrokenPipeError:  # whoever read our output has seen enough, as in `busutils datasets list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BusutilsError as error:  # one sentence already; anything else is a bug, and shows its traceback
        _say(f"busutils: {error}")
        return 2
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        _say(f"busutils: {error.filename or 'the system refused'}: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        _say("busutils: stopped; the same command takes it up again")
        return 130


if __name__ == "__main__":
    sys.exit(main())
