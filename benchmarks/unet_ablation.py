"""Test which parts of the training recipe help in a hospital that the network never saw.

The U-Net with an encoder is trained on one hospital and scored on the other, from BUSI to BUS-BRA and back. Only folds 1 to
4 of both are used, so no image is scored on which the shipped weights are tested. All trainings take equally many steps
at 128²:

- ``base``: ImageNet weights, the narrow augmentation of recipe 3, and one lesion image in ten cropped to a part without
  lesion;
- ``no crops``: without these crops;
- ``phantoms first``: pretrained with 5,000 simulated images, counted with repetitions;
- ``phantoms first and mixed``: pretrained so, and a fifth of the images simulated;
- ``wide augmentation``: the same with the augmentation of recipe 4: wider geometry, and the processing of scanners;
- ``wide from pretraining on``: the pretraining also has that augmentation, as in recipe 4;
- ``random convolutions``: the same, and half of the images are mixed with themselves after a random filter.

Writes figures/unet_ablation.csv, one row for each training and threshold: mean Dice of lesion images, share of missed
lesions (Dice below 0.1) and, if there are normal images, specificity, with the mirror image as test-time augmentation and
regions below 0.2 % of the image dropped. Existing rows are kept, so a stopped run can be resumed.

Usage: python benchmarks/unet_ablation.py ["base" "wide augmentation" …] [--root FOLDER] [--seeds 1]
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
from _common import FIGURES, command_line, write_table
from scipy import ndimage

from busutils import datasets, metrics
from busutils.models import augment as package
from busutils.models.backend import keras
from busutils.models.encoder import LITE0, load_imagenet, names_of_encoder
from busutils.models.losses import bce_dice_loss
from busutils.models.optimizer import LayerwiseAdamW
from busutils.models.segmenter import clean_mask
from busutils.models.training import ENCODER_LR_SCALE, network_proba
from busutils.models.tta import mean_over_tta
from busutils.models.unet import unet

TABLE = FIGURES / "unet_ablation.csv"
SIZE, BATCH, PASSES, RATE = 128, 16, 5000, 1e-3
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {},
    "no crops": {"lesion_free": 0.0},
    "phantoms first": {"first": True},
    "phantoms first and mixed": {"first": True, "mixed": 0.2},
    "wide augmentation": {"first": True, "mixed": 0.2, "wide": True},
    "wide from pretraining on": {"first": True, "mixed": 0.2, "wide": True, "wide_first": True},
    "random convolutions": {"first": True, "mixed": 0.2, "wide": True, "wide_first": True, "filtered": True},
}
Pool = tuple[np.ndarray, np.ndarray, float]  # images, masks, share of a batch


def narrow_geometry(rng: np.random.Generator, size: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Scale, aspect ratio and shift of recipe 3."""
    angle = np.deg2rad(rng.uniform(-15, 15))
    scale, stretch = np.exp(rng.uniform(np.log(0.7), np.log(1.4))), np.exp(rng.uniform(-0.2, 0.2))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.diag([stretch / scale, rng.choice([-1.0, 1.0]) / (stretch * scale)])
    centre = np.full(2, (size - 1) / 2)
    return matrix, centre - matrix @ (centre + rng.uniform(-0.1, 0.1, 2) * size)


def mix_with_filtered(images: np.ndarray, rng: np.random.Generator) -> None:
    """Mix half of the images with themselves after a random filter (Xu et al. 2021, RandConv, arXiv:2007.13003)."""
    for index, image in enumerate(images):
        if rng.random() < 0.5:
            side = int(rng.choice([1, 3, 5, 7]))
            values = image / 255.0
            kernel = rng.standard_normal((side, side)).astype(np.float32) / side
            other = ndimage.convolve(values, kernel, mode="mirror")
            other = (other - other.mean()) / (other.std() + 1e-6) * (values.std() + 1e-6) + values.mean()
            share = rng.uniform(0, 1)
            images[index] = np.clip(share * values + (1 - share) * other, 0, 1) * 255


def train(
    pools: list[Pool],
    seed: int,
    start: list[np.ndarray] | None,
    *,
    lesion_free: float = 0.1,
    filtered: bool = False,
) -> keras.Model:
    """Train with the package's loss, optimiser, schedule and average of the weights; sources have fixed shares."""
    network = unet(SIZE, encoder=LITE0, seed=seed)
    if start is None:
        load_imagenet(network)
    else:
        network.set_weights(start)
    steps = PASSES // BATCH
    rate = keras.optimizers.schedules.CosineDecay(
        0.01 * RATE, int(0.9 * steps), alpha=0.01, warmup_target=RATE, warmup_steps=int(0.1 * steps)
    )
    scales = dict.fromkeys(names_of_encoder(network), ENCODER_LR_SCALE)
    network.compile(LayerwiseAdamW(rate, scales, weight_decay=1e-4), loss=bce_dice_loss)
    average = network.get_weights()
    shares = [share for *_, share in pools]
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        images, masks = [], []
        for (stack, truths, _), n in zip(pools, rng.multinomial(BATCH, shares), strict=True):
            chosen = rng.integers(0, len(stack), n)
            images.append(stack[chosen])
            masks.append(truths[chosen])
        changed, moved = package.augment_batch(
            np.concatenate(images), np.concatenate(masks), rng, lesion_free=lesion_free
        )
        if filtered:
            mix_with_filtered(changed, rng)
        network.train_on_batch(changed[..., None], moved[..., None].astype(np.float32))
        if step % 4 == 3 or step == steps - 1:
            momentum = min(1 - 1 / (0.05 * steps), (step + 1) / (step + 10)) ** 4
            for mean, weight in zip(average, network.get_weights(), strict=True):
                mean += (1 - momentum) * (weight - mean)
    network.set_weights(average)
    return network


def score(network: keras.Model, images: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """One row a threshold."""
    probs = mean_over_tta(functools.partial(network_proba, network), images, "mirror")
    rows = []
    for threshold in (0.3, 0.5):
        drawn = [clean_mask(prob >= threshold, min_area=0.002, fill=False) for prob in probs]
        dice = np.array([metrics.dice(mask, pred) for mask, pred in zip(masks, drawn, strict=True) if mask.any()])
        silent = [not pred.any() for mask, pred in zip(masks, drawn, strict=True) if not mask.any()]
        rows.append(
            {
                "threshold": threshold,
                "n": len(dice),
                "dice": dice.mean(),
                "missed": (dice < 0.1).mean(),
                "n_normal": len(silent),
                "specificity": np.mean(silent) if silent else None,
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = command_line(__doc__, "root")
    parser.add_argument("settings", nargs="*", help=f"all by default: {', '.join(SETTINGS)}")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    hospitals = {key: datasets.load(key, root=given.root) for key in ("busi", "bus-bra")}
    arrays = {key: images.split(5)[0].load_arrays(SIZE) for key, images in hospitals.items()}
    phantoms = datasets.load("phantom?n=900&scanner=mixed&seed=7&calipers=0.3&text=0.3").load_arrays(SIZE)
    narrow = patch.multiple(package, _geometry=narrow_geometry, _processing=lambda values, *_: values)

    @functools.cache
    def start(wide: bool) -> list[np.ndarray]:
        with contextlib.nullcontext() if wide else narrow:
            return train([(*phantoms, 1.0)], 0, None).get_weights()

    done = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=["setting", "source", "seed"])
    for seed, name, source in itertools.product(range(given.seeds), given.settings or SETTINGS, hospitals):
        if ((done["setting"] == name) & (done["source"] == source) & (done["seed"] == seed)).any():
            continue
        options = dict(SETTINGS[name])
        first, mixed, wide = options.pop("first", False), options.pop("mixed", 0.0), options.pop("wide", False)
        wide_first = options.pop("wide_first", False)
        pools = [(*arrays[source], 1 - mixed), (*phantoms, mixed)]
        with contextlib.nullcontext() if wide else narrow:
            network = train(pools, seed, start(wide_first) if first else None, **options)
        (target,) = set(hospitals) - {source}
        rows = score(network, *arrays[target])
        rows.insert(0, "seed", seed)
        rows.insert(0, "target", target)
        rows.insert(0, "source", source)
        rows.insert(0, "setting", name)
        done = pd.concat([done, rows.round(4)], ignore_index=True)
        write_table(done, TABLE)
        print(rows.round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
