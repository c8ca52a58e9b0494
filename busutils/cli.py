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


def _lessons_copy(args: argparse.Namespace) -> None:
    notebooks = lessons.copy(args.folder)
    print(f"the lessons are in {notebooks}: open {notebooks / lessons.LESSONS[0]}.ipynb with 'jupyter lab'")


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


def _files_of(place: str) -> list[str | Path]:
    """The image files of a set that is named in place of a path."""
    if os.path.exists(place):
        return [place]
    try:
        datasets.card(datasets.parse_spec(place)[0])
    except datasets.DatasetError:  # a pattern, or a path that is wrong
        return [place]
    return [record.image for record in datasets.load(place) if isinstance(record.image, Path)]


def _predict(args: argparse.Namespace) -> int:
    import joblib
    from tqdm import tqdm

    from busutils.models.runtimes import load, runtime_name
    from busutils.predict import find_images, predict_files

    images = [file for place in args.images for file in _files_of(place)]
    files = find_images(images, recursive=args.recursive, out=args.out)
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

    if os.path.isdir(args.out):
        raise CommandError(f"{args.out} is a folder: give a file as --out")
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


def _benchmark_check(args: argparse.Namespace) -> None:
    from busutils import benchmark, evaluation

    table = benchmark.check_entry(args.entry)
    _print(evaluation.summarise(table, ["target", "method"], scores=("dice", "iou", "hd95", "nsd")))
    print("the entry is complete")


def _cluster(address: str | None) -> contextlib.AbstractContextManager[Any]:
    """A client of the Dask cluster at this address, or None to stay on this machine."""
    if address is None:
        return contextlib.nullcontext()
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingPackageError('a cluster needs Dask: pip install "busutils[cluster]"') from error
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


def _datasets_adopt(args: argparse.Namespace) -> None:
    if odd := [pair for pair in args.label if "=" not in pair]:
        raise CommandError(f"--label takes CLASS=LABEL, such as cyst=benign, got {odd[0]!r}")
    classes = dict(pair.rsplit("=", 1) for pair in args.label)
    told = {
        option: getattr(args, option)
        for option in ("root", "images", "masks", "labels", "group", "without_mask", "search")
    }
    data = datasets.adopt(args.folder, args.name, classes=classes, progress=True, **told)
    table = data.table()
    print(f"{len(data)} images, {table['n_masks'].sum()} masks, {table['group'].nunique()} groups, such as")
    for record in data.records[:: -(-len(data) // 3)]:
        masks = " + ".join(Path(str(mask)).name for mask in record.masks) or "no mask"
        print(f"  {record.image}: {masks}; {record.label}, group {record.group}")
    print(pd.crosstab(table["fold"], table["label"]).to_string())


def _datasets_export(args: argparse.Namespace) -> None:
    print(datasets.write_nnunet(datasets.load(args.name, root=args.root), args.out, number=args.number))


def _datasets_split(args: argparse.Namespace) -> None:
    dataset = datasets.load(args.name, root=args.root)
    table = dataset.table()[["id", "label", "group", "fold"]]
    _write(table, args.out)
    print(pd.crosstab(table["fold"], table["label"]).to_string())


# -- the commands and their options ---------------------------------------------------------------------------

# Options that several commands have.
_NAME = ("name", {"metavar": "NAME", "help": "such as busi"})
_DATASET = ("--dataset", {"required": True, "metavar": "NAME", "help": "such as busi, or phantom?n=60"})
_ROOT = ("--root", {"help": "folder of the published folders; BUSUTILS_DATA_DIR by default"})
_CSV = ("--out", {"metavar": "CSV", "help": "one row an image"})
_SCHEDULER = ("--scheduler", {"metavar": "ADDRESS", "help": "a Dask cluster, such as tcp://host:8786"})
_LESSONS = (
    ("lessons", {"nargs": "*", "metavar": "NN", "help": "numbers or names; all by default"}),
    ("--out", {"default": "build", "metavar": "DIR", "help": "where results go"}),
    ("--notebooks", {"metavar": "DIR", "help": "folder of the lessons"}),
)


def _command(
    group: Any, name: str, run: Callable[[argparse.Namespace], int | None], text: str, *options: tuple[str, Any]
) -> Callable[..., Any]:
    """Add a command with shared options to a group; returns the method that adds its own options."""
    command = group.add_parser(name, help=text, description=text)
    command.set_defaults(run=run, command=name)
    for option, settings in options:
        command.add_argument(option, **settings)
    return command.add_argument


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="busutils", description="Lesion segmentation in breast-ultrasound images. Not a medical device."
    )
    parser.add_argument("--version", action="version", version=f"busutils {busutils.__version__}")
    top = parser.add_subparsers(metavar="COMMAND", required=True)

    group = top.add_parser("datasets", help="public image sets").add_subparsers(metavar="WHAT", required=True)
    _command(group, "list", _datasets_list, "list the sets this package reads")
    _command(group, "info", _datasets_info, "what is known about one set", _NAME)
    add = _command(group, "fetch", _datasets_fetch, "download, verify and unpack a set", _NAME, _ROOT)
    add("--yes", action="store_true", help="accept the licence")
    _command(group, "check", _datasets_check, "count what is on disk against what should be there", _NAME, _ROOT)
    add = _command(group, "audit", _datasets_audit, "look for near-duplicates and other traps", _NAME, _ROOT)
    add("--out", metavar="CSV", help="one row a pair")
    add("--html", metavar="FILE", help="a page of pairs to look through")
    add = _command(group, "adopt", _datasets_adopt, "make a set of a folder of your own", _ROOT)
    add("folder", metavar="FOLDER", help="of images and masks, which stay where they are")
    add("--name", required=True, help="what commands call the set: small letters, digits and -")
    add("--images", metavar="DIR", help="folder of the images in FOLDER, where it has an unusual name")
    add("--masks", metavar="DIR", help="folder of the masks")
    add("--labels", metavar="CSV", help="columns id, label and group; default: labels.csv in FOLDER")
    add(
        "--group",
        metavar="REGEX",
        help="finds the patient in folder/name of an image, in parentheses, as in (p[0-9]+)_",
    )
    add(
        "--label",
        action="append",
        default=[],
        metavar="CLASS=LABEL",
        help="what a class is: cyst=benign; * for all others",
    )
    add("--without-mask", choices=["normal", "skip"], help="images without a mask are normal, or left out")
    add("--no-search", dest="search", action="store_false", help="do not look for near-duplicates")
    add = _command(group, "export", _datasets_export, "write a set and its folds for nnU-Net", _NAME, _ROOT)
    add("--out", required=True, metavar="DIR", help="nnU-Net's folder of raw data")
    add("--number", type=int, default=501, help="nnU-Net's number of the set; default: 501")
    _command(group, "split", _datasets_split, "show the folds; groups stay whole", _NAME, _ROOT, _CSV)

    add = _command(top, "train", _train, "train a U-Net on all folds but one", _DATASET, _ROOT)
    add("--fold", type=int, default=5, help="held out (default 5)")
    add("--preset", default="light", metavar="NAME", help="light, encoder or classic (default light)")
    add("--epochs", type=int, help="in place of the preset's")
    add("--seed", type=int)
    add("--size", type=int, help="side of the network's square")
    add("--dropout", type=float, help="at the bottleneck")
    add("--init-weights", metavar="WEIGHTS", help="begin with shipped weights or a file")
    add("--out", required=True, metavar="FILE", help="the trained segmenter, .npz")

    text = "score a segmenter, or masks that another program drew"
    add = _command(top, "evaluate", _evaluate, text, _DATASET, _ROOT, _CSV)
    add("--fold", type=int, help="score this fold only")
    add("--weights", metavar="NAME", help="a K-Means preset, shipped weights, or a file")
    add("--pred", metavar="DIR", help="folder of masks <id>.png")
    add("--name", metavar="METHOD", help="what the method is called in the table")
    add("--size", type=int, default=256, help="side of the square; default: 256")

    add = _command(top, "predict", _predict, "write masks for image files", _SCHEDULER)
    add(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="images, clips, DICOM files, folders, .txt lists of paths, or a set's name",
    )
    add("--weights", required=True, metavar="NAME", help="a K-Means preset, shipped weights, or a file")
    add("--out", required=True, metavar="DIR", help="where results go")
    add("--overlay", action="store_true", help="also write images with the lesion's outline")
    add("--recursive", action="store_true", help="search folders of folders")
    add("--runtime", default="auto", choices=["auto", "onnx", "keras"], help="auto: the fastest installed")

    group = top.add_parser("benchmark", help="compare methods").add_subparsers(metavar="WHAT", required=True)
    text = "train methods on every set and score them on every other"
    add = _command(group, "run", _benchmark_run, text, _ROOT, _SCHEDULER)
    add("spec", metavar="YAML", help="methods, sources, targets, seeds, folds")
    add("--jobs", type=int, default=1, metavar="N", help="processes on this machine")
    add("--out", metavar="CSV", help="one row an image and training")

    add = _command(group, "check", _benchmark_check, "check an entry before you propose it")
    add("entry", metavar="CSV", help="from evaluate --out, with its description beside it as .json")

    group = top.add_parser("lessons", help="run the lessons").add_subparsers(metavar="WHAT", required=True)
    add = _command(group, "copy", _lessons_copy, "copy the lessons, to work with them")
    add("folder", nargs="?", default=".", metavar="DIR", help="gets notebooks/ and figures/; default: here")
    add = _command(group, "run", _lessons_run, "execute lessons headless", *_LESSONS)
    add("--dataset", default="phantom", metavar="NAME", help="such as busi, or phantom?n=60")
    add("-p", dest="parameters", action="append", default=[], metavar="name=value")
    _command(group, "refresh", _lessons_run, "execute lessons and store their outputs in the notebooks", *_LESSONS)

    add = _command(top, "export", _export, "write a network as a file that needs no TensorFlow")
    add("--weights", required=True, metavar="NAME", help="shipped weights, or a file")
    add("--out", required=True, metavar="FILE", help="ends in .onnx")
    add("--precision", default="float32", choices=["float32", "int8"], help="int8: a quarter of the size")

    add = _command(top, "app", _app, "serve the web page")
    add("--weights", default="busi-light", metavar="NAME", help="default: busi-light")
    add("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in; default: 127.0.0.1")
    add("--port", type=int, default=7860)
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
