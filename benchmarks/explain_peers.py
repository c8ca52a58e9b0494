"""Compare our explanation maps with those of tf-keras-vis: the same network, images and pixels, map by map.

tf-keras-vis needs Keras 2 and this package Keras 3, so each runs in its own environment: the script asks the other
Python to build the network from the same file `busutils/models/unet.py`, passes weights and images, and compares.
tf-keras-vis has Grad-CAM and the gradient of the input; its LayerCAM equals HiRes-CAM if gradients are not cut at zero.
It has neither integrated gradients nor occlusion. The images are simulated; the weights are `phantom-light`.

Writes figures/explain_peers.csv.

Usage: python benchmarks/explain_peers.py PEER_PYTHON
where PEER_PYTHON is that of an environment with: pip install "tensorflow-cpu==2.15.1" "numpy<2" "scipy<1.12" pandas tf-keras-vis
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
LAYERS = ("bottleneck", "dec1")


def answer(path: Path) -> None:
    """Run in the peer's environment: maps of tf-keras-vis for what the file holds, written beside it."""
    import tensorflow as tf
    import tf_keras_vis
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.layercam import Layercam
    from tf_keras_vis.saliency import Saliency

    # The builder asks `busutils.models.backend` for Keras; here it gets Keras 2.
    engine = types.ModuleType("busutils.models.backend")
    engine.keras = tf.keras
    for name in ("busutils", "busutils.models"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["busutils.models.backend"] = engine
    spec = importlib.util.spec_from_file_location("builder", ROOT / "busutils" / "models" / "unet.py")
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)

    given = np.load(path)
    network = builder.unet(int(given["size"]), filters=tuple(given["filters"].tolist()))
    for layer in network.layers:
        own = [given[f"{layer.name}/{index}"] for index in range(len(layer.get_weights()))]
        layer.set_weights(own)
    logits = tf.keras.Model(network.inputs, network.get_layer("logits").output)
    found = {"version": np.array(tf_keras_vis.__version__)}
    options = {"seek_penultimate_conv_layer": False, "expand_cam": False, "normalize_cam": False}
    for index, (batch, region) in enumerate(zip(given["batches"], given["regions"], strict=True)):

        def score(output: tf.Tensor, region: np.ndarray = region) -> tf.Tensor:
            return tf.reduce_sum(tf.boolean_mask(output[0, ..., 0], region))

        batch = batch[None]
        for layer in LAYERS:
            asked = {"penultimate_layer": layer, **options}
            found[f"Seg-Grad-CAM, {layer}/{index}"] = Gradcam(logits)(score, batch, **asked)[0]
            found[f"HiRes-CAM, {layer}/{index}"] = Layercam(logits)(score, batch, gradient_modifier=None, **asked)[0]
        gradient = Saliency(logits)(score, batch, gradient_modifier=None, normalize_map=False, keepdims=True)
        found[f"gradient of the input/{index}"] = gradient[0, ..., 0]
    np.savez(path.with_suffix(".peer.npz"), **found)


def compare(peer: str, n: int) -> pd.DataFrame:
    """Make our maps, ask the peer for theirs, and say how far they are apart."""
    from busutils import datasets, explain, jobs, models

    segmenter = models.load_weights("phantom-light")
    images, masks = datasets.load("phantom", n=4 * n, seed=1, size=segmenter.size).lesions().load_arrays(segmenter.size)
    images, masks = images[:n], masks[:n]
    ours = {}
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        for layer in LAYERS:
            for name, tell in (("Seg-Grad-CAM", explain.seg_grad_cam), ("HiRes-CAM", explain.hires_cam)):
                cam = tell(segmenter, image, layer=layer, region=mask)
                ours[f"{name}, {layer}/{index}"] = cam
        ours[f"gradient of the input/{index}"] = explain.input_gradients(segmenter, image, region=mask)
    given = {
        f"{layer.name}/{index}": weight
        for layer in segmenter.network_.layers
        for index, weight in enumerate(layer.get_weights())
    }
    given |= {
        "size": segmenter.size,
        "filters": segmenter.filters,
        "batches": images[..., None].astype(np.float32),
        "regions": masks,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.npz"
        np.savez(path, **given)
        subprocess.run([peer, __file__, "--answer", str(path)], check=True)
        theirs = dict(np.load(path.with_suffix(".peer.npz")))
    rows = []
    for key, first in ours.items():
        # Both are enlarged by one function: how to draw a coarse map is not what is compared.
        second = datasets.resize_map(theirs[key].astype(np.float32), first.shape)
        name, index = key.rsplit("/", 1)
        rows.append(
            {
                "map": name,
                "image": int(index),
                "largest_difference": float(np.abs(first - second).max()),
                "largest_value": float(np.abs(first).max()),
                "correlation": float(np.corrcoef(first.ravel(), second.ravel())[0, 1]),
            }
        )
    table = pd.DataFrame(rows).assign(peer=f"tf-keras-vis {theirs['version']}")
    table["relative"] = table["largest_difference"] / table["largest_value"]
    print(table.groupby("map", sort=False)[["relative", "correlation"]].agg({"relative": "max", "correlation": "min"}))
    with jobs.atomic_path(ROOT / "figures" / "explain_peers.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("peer", nargs="?", help="Python of the environment that has tf-keras-vis")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.answer:
        answer(given.answer)
    elif given.peer:
        compare(given.peer, given.images)
    else:
        parser.error("name the Python of the environment that has tf-keras-vis")


if __name__ == "__main__":
    main()
