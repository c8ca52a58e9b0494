"""Validation Dice over training time: our light U-Net, the network from which this project developed, and MONAI's.

All train on the same images (BUSI, folds 1 to 4 without the validation groups) at 128², and are scored after each epoch on
the same validation groups, at a threshold of one half; the clock stops meanwhile. Each runs in its own process, one after
the other:

- ``light``: the package's recipe;
- ``sibling``: 64 to 1024 channels, cross-entropy, Adam at Keras' default rate, batches of 16, no augmentation, as in its README;
- ``monai``: ``monai.networks.nets.UNet`` with our channels and residual units, ``DiceCELoss``, AdamW 1e-3, batches of 8, flips,
  rotation, zoom, contrast and noise from MONAI; needs an interpreter with ``torch`` and ``monai`` (no dependency of ours).

``seconds`` is wall time, so the machine should be otherwise idle; ``cpu_seconds`` is processor time on all cores. Writes
figures/unet_peers.csv, one row for each epoch, with the network's ``engine``, and draws figures/unet_peers.png. Rows of networks
that are not named are kept; without a name it only draws. If a Dice is never reached, the time spent is a lower bound. With
``--masks``, the masks of the best epoch on fold 5 are written too, at the images' own sizes, for ``busutils evaluate --pred``.

Usage: python benchmarks/unet_peers.py light sibling monai [--minutes 20] [--python monai=/path/to/python] [--masks DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a peer's interpreter has no pandas
    import pandas as pd

    from busutils import datasets

FIGURES = Path(__file__).parents[1] / "figures"
SIZE = 128
LEVELS = (0.5, 0.6, 0.65, 0.7)

Proba = Callable[[np.ndarray], np.ndarray]


def epochs_of_light(data: dict[str, np.ndarray], seed: int) -> Iterator[tuple[Proba, int]]:
    """Train by the package's recipe; what is scored is the average of the weights."""
    from busutils import models
    from busutils.models.training import Training, network_proba

    settings = models.UNetSegmenter(size=SIZE, seed=seed)
    images, masks = data["images"], data["masks"]
    training = Training(settings, images, masks, held_out=np.zeros(len(images), bool))
    network = training.network
    for epoch in range(settings.epochs):
        training._epoch(epoch)
        weights = network.get_weights()
        network.set_weights(training.average)
        yield (lambda squares: network_proba(network, squares)), network.count_params()
        network.set_weights(weights)


def epochs_of_sibling(data: dict[str, np.ndarray], seed: int) -> Iterator[tuple[Proba, int]]:
    """Train the large network plainly."""
    from busutils.models.backend import keras
    from busutils.models.training import PRESETS, network_proba
    from busutils.models.unet import unet

    network = unet(SIZE, **PRESETS["classic"], seed=seed)
    network.compile("adam", "binary_crossentropy")
    keras.utils.set_random_seed(seed)
    images, masks = (data[name][..., None].astype("float32") for name in ("images", "masks"))
    while True:
        network.fit(images, masks, batch_size=16, verbose=0)
        yield (lambda squares: network_proba(network, squares)), network.count_params()


def epochs_of_monai(data: dict[str, np.ndarray], seed: int) -> Iterator[tuple[Proba, int]]:
    """Train MONAI's network with MONAI's losses and augmentation."""
    import monai
    import torch
    from monai_unet import monai_unet

    monai.utils.set_determinism(seed)
    network = monai_unet()
    loss = monai.losses.DiceCELoss(sigmoid=True)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    keys = ["image", "mask"]
    change = monai.transforms.Compose(
        [
            monai.transforms.RandFlipd(keys, prob=0.5, spatial_axis=1),
            monai.transforms.RandRotated(keys, range_x=0.26, prob=0.5, mode=["bilinear", "nearest"]),
            monai.transforms.RandZoomd(keys, min_zoom=0.8, max_zoom=1.25, prob=0.5, mode=["bilinear", "nearest"]),
            monai.transforms.RandAdjustContrastd("image", prob=0.5, gamma=(0.7, 1.5)),
            monai.transforms.RandGaussianNoised("image", prob=0.3, std=0.1),
        ]
    )

    def prepared(images: np.ndarray) -> torch.Tensor:
        images = images.astype(np.float32)
        centred = images - images.mean(axis=(1, 2), keepdims=True)
        return torch.tensor(centred / (images.std(axis=(1, 2), keepdims=True) + 1e-3))[:, None]

    def proba(squares: np.ndarray) -> np.ndarray:
        network.eval()
        with torch.no_grad():
            maps = [
                torch.sigmoid(network(prepared(squares[i : i + 8])))[:, 0].numpy() for i in range(0, len(squares), 8)
            ]
        return np.concatenate(maps)

    images, masks = prepared(data["images"]), torch.tensor(data["masks"].astype(np.float32))[:, None]
    rng = np.random.default_rng(seed)
    while True:
        network.train()
        order = rng.permutation(len(images))
        for start in range(0, len(order), 8):
            pairs = [change({"image": images[i], "mask": masks[i]}) for i in order[start : start + 8]]
            optimizer.zero_grad()
            value = loss(
                network(torch.stack([torch.as_tensor(p["image"]) for p in pairs])),
                torch.stack([torch.as_tensor(p["mask"]) for p in pairs]),
            )
            value.backward()
            optimizer.step()
        yield proba, sum(p.numel() for p in network.parameters())


PEERS = {"light": epochs_of_light, "sibling": epochs_of_sibling, "monai": epochs_of_monai}


def mean_dice(masks: np.ndarray, predicted: np.ndarray) -> float:
    """Mean per-image Dice of the images that show a lesion, without any package."""
    both = (masks & predicted).sum(axis=(1, 2))
    either = masks.sum(axis=(1, 2)) + predicted.sum(axis=(1, 2))
    shown = masks.any(axis=(1, 2))
    return float((2 * both[shown] / either[shown]).mean())


def run_here(peer: str, path: str, minutes: float, seed: int) -> None:
    """Train one peer in this process; print one JSON line an epoch, and keep the best epoch's maps of the test images."""
    with np.load(path) as archive:
        data = dict(archive)
    wall = cpu = best = 0.0
    start, cpu_start = time.perf_counter(), time.process_time()
    for epoch, (proba, parameters) in enumerate(PEERS[peer](data, seed), 1):
        wall += time.perf_counter() - start
        cpu += time.process_time() - cpu_start
        val_dice = mean_dice(data["val_masks"], proba(data["val_images"]) >= 0.5)
        row = {
            "peer": peer,
            "epoch": epoch,
            "seconds": round(wall, 2),
            "cpu_seconds": round(cpu, 2),
            "val_dice": round(val_dice, 4),
            "parameters": parameters,
            "images_per_second": round(epoch * len(data["images"]) / wall, 2),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        print(json.dumps(row), flush=True)
        if "test_images" in data and val_dice > best:
            best = val_dice
            np.savez_compressed(test_maps(path, peer), probs=proba(data["test_images"]).astype(np.float32))
        if wall > 60 * minutes:
            break
        start, cpu_start = time.perf_counter(), time.process_time()


def test_maps(path: str, peer: str) -> Path:
    """Where a peer leaves its maps of the test images."""
    return Path(path).with_suffix(f".{peer}.npz")


def write_masks(probs: np.ndarray, dataset: datasets.LesionDataset, folder: Path) -> None:
    """Write one mask an image, as large as the image."""
    from PIL import Image

    from busutils.io import resize_map

    folder.mkdir(parents=True, exist_ok=True)
    for index, (record, prob) in enumerate(zip(dataset, probs, strict=True)):
        image, _ = dataset.load_native(index)
        mask = resize_map(prob, image.shape) >= 0.5
        Image.fromarray(np.uint8(255) * mask).save(folder / f"{record.id}.png")


def draw(table: pd.DataFrame) -> None:
    """Draw validation Dice over training time."""
    import matplotlib.pyplot as plt

    from busutils import jobs, plotting

    figure, axis = plt.subplots(figsize=(6, 3.6))
    names = ("U-Net", "K-Means, improved", "constant mask")
    colours = dict(zip(PEERS, (plotting.COLOURS[name] for name in names), strict=True))
    markers = dict(zip(PEERS, "os^", strict=True))
    for (peer, engine), part in table.groupby(["peer", "engine"], sort=False):
        options = {"color": colours[peer], "markersize": 3, "label": f"{peer} ({engine})"}
        axis.plot(part["seconds"] / 60, part["val_dice"], f"{markers[peer]}-", **options)
    axis.axhline(0.65, color="grey", linewidth=0.8, linestyle=":")
    axis.set(
        xlabel="minutes of training on two cores", ylabel="mean Dice, validation groups", ylim=(0, 1), xlim=(0, None)
    )
    axis.legend(frameon=False, loc="lower right")
    with jobs.atomic_path(FIGURES / "unet_peers.png") as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("peers", nargs="*", choices=[*PEERS, []])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="another interpreter")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="write each peer's masks of fold 5 to DIR/<peer>")
    parser.add_argument("--here", metavar="NPZ", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        run_here(given.peers[0], given.here, given.minutes, given.seed)
        return

    import pandas as pd

    from busutils import datasets, jobs
    from busutils.models.training import validation_groups

    interpreters = dict(entry.split("=", 1) for entry in given.python)
    target = FIGURES / "unet_peers.csv"
    table = pd.read_csv(target) if target.exists() else pd.DataFrame(columns=["engine", "peer"])
    if given.peers:
        train, test = datasets.load("busi").split(5)
        images, masks = train.load_arrays(SIZE)
        held_out = validation_groups(train.groups, 0.15, given.seed)
        path = jobs.cache_dir() / "peers.npz"
        with jobs.atomic_path(path) as temporary:
            np.savez(
                temporary,
                images=images[~held_out],
                masks=masks[~held_out],
                val_images=images[held_out],
                val_masks=masks[held_out],
                **({"test_images": test.load_arrays(SIZE)[0]} if given.masks else {}),
            )
    for peer in given.peers:
        command = [interpreters.get(peer, sys.executable), __file__, peer, "--here", str(path)]
        command += ["--minutes", str(given.minutes), "--seed", str(given.seed)]
        rows = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    rows.append(json.loads(line))
                    print(line, end="", flush=True)
        if process.returncode or not rows:
            sys.exit(f"{peer} ended with {process.returncode} after {len(rows)} epochs: nothing of it was written")
        engine = "torch" if peer == "monai" else os.environ.get("KERAS_BACKEND", "tensorflow")
        before = table[(table["peer"] != peer) | (table["engine"] != engine)]
        table = pd.concat([before, pd.DataFrame(rows).assign(engine=engine)], ignore_index=True)
        with jobs.atomic_path(target) as temporary:
            table.to_csv(temporary, index=False)
        if given.masks:
            with np.load(test_maps(str(path), peer)) as archive:
                write_masks(archive["probs"], test, given.masks / peer)
    draw(table)
    for (engine, peer), part in table.groupby(["engine", "peer"]):
        reached = {
            level: f"{part.loc[part['val_dice'] >= level, 'seconds'].min():.0f} s"
            if (part["val_dice"] >= level).any()
            else f"> {part['seconds'].max():.0f} s"
            for level in LEVELS
        }
        print(engine, peer, f"best {part['val_dice'].max():.3f};", "; ".join(f"{k}: {v}" for k, v in reached.items()))


if __name__ == "__main__":
    main()
