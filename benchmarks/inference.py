"""Measure the speed of prediction: runtimes side by side, and the time of each step from image file to mask file.

There are four parts, each with its own rows in figures/inference.csv; running a part again replaces its rows. Each
measurement is a separate process, one after the other. Imports, loading and the first call are not counted.

- ``network``: the light U-Net alone at 128² to 512², one image and eight at a time, on all cores, with Keras
  (``predict_on_batch``), ONNX Runtime, and ONNX Runtime with 8-bit integers; and ``monai.networks.nets.UNet`` with our channels and two residual
  units in each level on PyTorch, if ``--python`` names an interpreter that has it;
- ``stages``: each step from file to file on one core, with ``busi-light``;
- ``files``: BUSI's 780 images from PNG to mask PNG and table with ``busi-light``: ``busutils predict`` with each runtime,
  and two plain loops over Keras' ``predict``, with eight images and one image a call, that read, resize, post-process,
  measure and write with the same functions. ``network alone`` is the slowest stage by itself, on one core and on all;
- ``memory``: peak memory of ``busutils predict`` for few and many simulated images.

``ms`` and ``cpu_ms`` are wall time and processor time of an image; other work on the machine lengthens the former. ``load``
is the machine's load average at the start. ``python tools/write_readme.py`` puts the comparisons into docs/speed.md.

Usage: python benchmarks/inference.py network stages files memory [--python monai=/path/to/python] [--root DATA]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from _common import FIGURES, command_line, write_picture

from busutils import jobs

COLUMNS = ["part", "what", "size", "batch", "cores", "images", "ms", "cpu_ms", "peak_mb", "load"]
WEIGHTS = "busi-light"
SIZES, BATCHES = (128, 256, 512), (1, 8)
NETWORKS = {"keras": "Keras", "onnx": "ONNX Runtime", "int8": "ONNX Runtime, int8", "monai": "MONAI, PyTorch"}
METHODS = (
    "busutils, onnx",
    "busutils, keras",
    "loop, batches of 8",
    "loop, one by one",
    "network alone, one core",
    "network alone, all cores",
)
FEW, MANY = 1000, 20_000

Row = dict[str, Any]


def measured(call: Callable[[], Any], images: int, **about: Any) -> Row:
    """Run once; wall and processor time an image."""
    load = os.getloadavg()[0]
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        **about,
        "images": images,
        "ms": round(1000 * wall / images, 3),
        "cpu_ms": round(1000 * cpu / images, 3),
        "peak_mb": round(jobs.peak_memory_mb()),
        "load": round(load, 2),
    }


def repeated(call: Callable[[], Any], images: int, seconds: float, **about: Any) -> Row:
    """Median of several runs, after one that is not counted."""
    call()
    rows, start = [], time.perf_counter()
    while len(rows) < 3 or time.perf_counter() - start < seconds:
        rows.append(measured(call, images, **about))
    middle = {name: round(statistics.median(row[name] for row in rows), 3) for name in ("ms", "cpu_ms", "load")}
    return {**rows[-1], **middle, "images": images * len(rows)}


# -- the network alone ---------------------------------------------------------------------------------------


def light(size: int) -> Any:
    """The shipped network for squares of another size: convolutions do not care."""
    from busutils import models

    shipped = models.load_weights(WEIGHTS)
    same = models.UNetSegmenter(**{**shipped.get_params(deep=False), "size": size})
    same._set_arrays(shipped._arrays())
    same.history_, same.threshold_ = shipped.history_, shipped.threshold_
    same.fitted_ = True
    return same


def exported(size: int, folder: Path, precision: str) -> str:
    from busutils.models import export_network

    path = folder / f"light-{size}-{precision}.onnx"
    return str(path if path.exists() else export_network(light(size), path, precision=precision))


def calls_of_keras(size: int, batch: int, folder: Path) -> Callable[[np.ndarray], Any]:
    return light(size).network_.predict_on_batch


def calls_of_onnx(size: int, batch: int, folder: Path, precision: str = "float32") -> Callable[[np.ndarray], Any]:
    from busutils.models.runtimes import OnnxSegmenter

    session = OnnxSegmenter(exported(size, folder, precision)).session_
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def calls_of_int8(size: int, batch: int, folder: Path) -> Callable[[np.ndarray], Any]:
    return calls_of_onnx(size, batch, folder, "int8")


def calls_of_monai(size: int, batch: int, folder: Path) -> Callable[[np.ndarray], Any]:
    import torch
    from monai_unet import monai_unet

    network = monai_unet().eval()

    def call(images: np.ndarray) -> Any:
        with torch.inference_mode():
            return torch.sigmoid(network(torch.from_numpy(images).permute(0, 3, 1, 2))).numpy()

    return call


def networks_here(engine: str, folder: Path, seconds: float) -> Iterator[Row]:
    make = {"keras": calls_of_keras, "onnx": calls_of_onnx, "int8": calls_of_int8, "monai": calls_of_monai}
    rng = np.random.default_rng(0)
    for size in SIZES:
        for batch in BATCHES:
            call = make[engine](size, batch, folder)
            images = rng.uniform(0, 255, (batch, size, size, 1)).astype(np.float32)
            about = {
                "part": "network",
                "what": engine,
                "size": size,
                "batch": batch,
                "cores": joblib.cpu_count(),
            }
            yield repeated(lambda call=call, images=images: call(images), batch, seconds, **about)


# -- from file to file ---------------------------------------------------------------------------------------


def busi_files(root: str | None) -> list[Path]:
    from busutils import datasets

    return [record.image for record in datasets.load("busi", root=root)]


def write_one(path: Path, prob: np.ndarray, image: np.ndarray, segmenter: Any, out: Path) -> dict[str, Any]:
    """What `busutils predict` does with a map: tidy, measure, compress, write."""
    from busutils import predict
    from busutils.io import Image

    (mask,) = segmenter.masks_from([prob])
    row = predict.describe(path, f"{path.stem}_mask.png", Image(image), prob, mask, segmenter.threshold_)
    with jobs.atomic_path(out / row.mask) as temporary:
        temporary.write_bytes(predict.mask_png(mask))
    return row.__dict__


def plain_loop(segmenter: Any, files: list[Path], out: Path, batch: int) -> None:
    """Read, `predict`, write; nothing at the same time."""
    from busutils.io import read_images, resize_image, resize_map

    rows = []
    for start in range(0, len(files), batch):
        part = files[start : start + batch]
        images = [next(read_images(path)).pixels for path in part]
        squares = np.stack([resize_image(image, segmenter.size) for image in images])
        probs = segmenter.network_.predict(squares[..., None].astype(np.float32), batch_size=batch, verbose=0)[..., 0]
        for path, image, prob in zip(part, images, probs, strict=True):
            rows.append(write_one(path, resize_map(prob, image.shape), image, segmenter, out))
    with open(out / "predictions.csv", "w", newline="") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def method_here(method: str, root: str | None) -> Iterator[Row]:
    import joblib

    from busutils.io import read_images, resize_image
    from busutils.models import load
    from busutils.predict import predict_files

    files, cores = busi_files(root), joblib.cpu_count()
    engine = method.removeprefix("busutils, ") if method.startswith("busutils") else "keras"
    segmenter = load(WEIGHTS, "auto" if method.startswith("network") else engine, streams=cores)
    about = {"part": "files", "what": method, "size": segmenter.size, "batch": 8, "cores": cores}
    with tempfile.TemporaryDirectory() as folder:
        if method.startswith("busutils"):
            list(predict_files(segmenter, files[:16], Path(folder, "first")))
            yield measured(lambda: list(predict_files(segmenter, files, Path(folder, "out"))), len(files), **about)
        elif method.startswith("loop"):
            batch = 8 if method.endswith("8") else 1
            Path(folder, "out").mkdir()
            plain_loop(segmenter, files[: 2 * batch], Path(folder, "out"), batch)
            run = lambda: plain_loop(segmenter, files, Path(folder, "out"), batch)  # noqa: E731
            yield measured(run, len(files), **{**about, "batch": batch})
        else:
            n_threads = 1 if method.endswith("one core") else cores
            squares = [resize_image(next(read_images(path)).pixels, segmenter.size)[None] for path in files]
            segmenter._square_proba(squares[0])
            with ThreadPoolExecutor(n_threads) as pool:
                run = lambda: list(pool.map(segmenter._square_proba, squares))  # noqa: E731
                yield measured(run, len(files), **{**about, "batch": 1, "cores": n_threads})


def stages_here(root: str | None) -> Iterator[Row]:
    import joblib

    from busutils import predict
    from busutils.io import Image, read_images, resize_image, resize_map
    from busutils.models import load

    files = busi_files(root)[::6]
    segmenter = load(WEIGHTS, streams=joblib.cpu_count())
    kept: dict[str, list] = {}

    def stage(what: str, step: Callable[..., Any], *inputs: str) -> Row:
        values = [files if name == "files" else kept[name] for name in inputs]
        step(*(value[0] for value in values))
        about = {"part": "stages", "what": what, "size": segmenter.size, "batch": 1, "cores": 1}
        return measured(
            lambda: kept.update({what: [step(*one) for one in zip(*values, strict=True)]}), len(files), **about
        )

    with tempfile.TemporaryDirectory() as folder:

        def write(path: Path, content: bytes) -> None:
            with jobs.atomic_path(Path(folder, path.name)) as temporary:
                temporary.write_bytes(content)

        cut = segmenter.threshold_
        yield stage("decode", lambda path: next(read_images(path)).pixels, "files")
        yield stage("resize", lambda image: resize_image(image, segmenter.size), "decode")
        yield stage("network", lambda square: segmenter._square_proba(square[None])[0], "resize")
        yield stage(
            "resize back", lambda prob, image: np.clip(resize_map(prob, image.shape), 0, 1), "network", "decode"
        )
        yield stage("tidy", lambda prob: segmenter.masks_from([prob])[0], "resize back")
        describe = lambda p, i, prob, mask: predict.describe(p, "", Image(i), prob, mask, cut)  # noqa: E731
        yield stage("measure", describe, "files", "decode", "resize back", "tidy")
        yield stage("compress", lambda mask: predict.mask_png(mask), "tidy")
        yield stage("write", write, "files", "compress")


def memory_here(n: int) -> Iterator[Row]:
    """Predict for many names of a few simulated images."""
    import joblib
    from PIL import Image

    from busutils import datasets
    from busutils.models import load
    from busutils.predict import find_images, predict_files

    segmenter = load(WEIGHTS, streams=joblib.cpu_count())
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        images = [datasets.load("phantom", n=8, size=128).load_native(index)[0] for index in range(8)]
        for index in range(n):
            path = source / f"{index:06d}.png"
            if index < len(images):
                Image.fromarray(images[index]).save(path)
            else:
                os.link(source / f"{index % len(images):06d}.png", path)

        def run() -> None:
            for _ in predict_files(segmenter, find_images([source]), out):
                pass

        about = {"part": "memory", "what": f"busutils, {segmenter.runtime}", "size": segmenter.size, "batch": 8}
        yield measured(run, n, **about, cores=joblib.cpu_count())


# -- running and drawing -------------------------------------------------------------------------------------


def draw(rows: list[Row]) -> None:
    import matplotlib.pyplot as plt
    import pandas as pd
    from matplotlib.ticker import LogLocator

    table = pd.DataFrame(rows)
    table = table.astype({name: float if name in ("ms", "cpu_ms", "load") else int for name in COLUMNS[2:]})
    figure, axes = plt.subplots(1, 3, figsize=(14, 3.8), width_ratios=[1.1, 1, 1.2], layout="constrained")
    colours = dict(zip(NETWORKS, ("#0072b2", "#009e73", "#d55e00", "#999999"), strict=True))
    markers = dict(zip(NETWORKS, "os^D", strict=True))
    part = table[table["part"] == "network"]
    for engine in [name for name in NETWORKS if (part["what"] == name).any()]:
        for batch, line in ((1, "-"), (8, ":")):
            chosen = part[(part["what"] == engine) & (part["batch"] == batch)]
            axes[0].plot(
                chosen["size"],
                chosen["cpu_ms"],
                line + markers[engine],
                color=colours[engine],
                label=NETWORKS[engine] if batch == 1 else None,
            )
    axes[0].set(
        title="The network alone\n(line: one image a call, dots: eight)",
        xlabel="side of the square, pixels",
        ylabel="processor time, ms an image",
        xscale="log",
        yscale="log",
        xticks=SIZES,
        xticklabels=map(str, SIZES),
    )
    axes[0].minorticks_off()
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].legend(frameon=False)
    stages = table[table["part"] == "stages"].iloc[::-1]
    bars = axes[1].barh(stages["what"], stages["cpu_ms"], color="#0072b2")
    axes[1].bar_label(bars, fmt="%.1f", padding=2)
    axes[1].set(title=f"One BUSI image, one core\n(n = {stages['images'].max()})", xlabel="processor time, ms an image")
    axes[1].margins(x=0.15)
    whole = table[table["part"] == "files"].iloc[::-1]
    names = [what.replace("loop", "Keras in a loop") for what in whole["what"]]
    bars = axes[2].barh(names, whole["ms"], color=["#009e73" if "busutils" in name else "#999999" for name in names])
    axes[2].bar_label(bars, fmt="%.1f", padding=2)
    axes[2].set(
        title=f"From PNG to mask PNG, {whole['cores'].max()} cores\n(n = {whole['images'].max()})",
        xlabel="wall time, ms an image",
    )
    axes[2].margins(x=0.15)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    write_picture(figure, FIGURES / "inference.png")


def main() -> None:
    parser = command_line(__doc__, "root")
    parser.add_argument("parts", nargs="*", metavar="PART", help="network, stages, files, memory; none only draws")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="another interpreter")
    parser.add_argument("--seconds", type=float, default=2, help="of every network measurement")
    parser.add_argument("--here", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        what, folder = given.here
        (part,) = given.parts
        here = {
            "network": lambda: networks_here(what, Path(folder), given.seconds),
            "stages": lambda: stages_here(given.root),
            "files": lambda: method_here(what, given.root),
            "memory": lambda: memory_here(int(what)),
        }
        for row in here[part]():
            print(json.dumps(row), flush=True)
        return
    interpreters = dict(entry.split("=", 1) for entry in given.python)
    target = FIGURES / "inference.csv"
    rows: list[Row] = []
    if target.exists():
        with open(target, newline="") as lines:
            rows = list(csv.DictReader(lines))
    todo = {
        "network": [n for n in NETWORKS if n != "monai" or "monai" in interpreters],
        "stages": ["all"],
        "files": METHODS,
        "memory": [str(FEW), str(MANY)],
    }
    folder = tempfile.mkdtemp()
    try:
        for part in given.parts:
            found = []
            for what in todo[part]:
                command = [interpreters.get(what, sys.executable), __file__, part, "--here", what, folder]
                command += ["--seconds", str(given.seconds), *(["--root", given.root] if given.root else [])]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
                print(*done.stdout.splitlines(), sep="\n", flush=True)
            measured_anew = {row["what"] for row in found}
            rows = [row for row in rows if row["part"] != part or row["what"] not in measured_anew] + found
            with open(target.with_suffix(".part"), "w", newline="") as table:
                writer = csv.DictWriter(table, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            os.replace(target.with_suffix(".part"), target)
    finally:
        shutil.rmtree(folder)
    draw(rows)


if __name__ == "__main__":
    main()
