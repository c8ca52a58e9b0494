"""Experiments on training: effect of data leakage, of pretraining on simulated images, and of four augmentations.

All train the light U-Net on BUSI and score images that were never seen:

- ``leak``: lesion images are split at random, one fifth for the test, as in most publications. The network is trained
  twice: on images that include near-duplicates of test images (of their group in ``datasets/folds/busi.csv``), and on as
  many images without any. Both are scored on the same test images, separately for those with and without a copy.
- ``pretraining``: 16, 64 and 256 training images of folds 1 to 4, from scratch and from the weights ``phantom-light``, which
  saw simulated images only, each with as many steps as a quarter of the epochs on all images; scored on fold 5;
- ``external``: four trainings on the lesion images of folds 1 to 4, with equally many steps: changes of geometry only;
  changes of grey values as well (the package's augmentation); the same with as many simulated images mixed in; the same
  starting from ``phantom-light``. Scored in-domain (fold 5) and on BUS-BRA's fold 5.

Trainings are cached, so a stopped run can be resumed. Writes figures/unet_<experiment>.csv, one row for each image, and
draws figures/unet_experiments.png from those that exist.

Usage: python benchmarks/unet_experiments.py leak pretraining external [--seeds 3] [--epochs 40] [--size 128]
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from busutils import datasets, evaluation, jobs, models, plotting

FIGURES = Path(__file__).parents[1] / "figures"


def leak(busi: datasets.LesionDataset, seeds: int, settings: dict[str, Any]) -> pd.DataFrame:
    """Train with and without near-duplicates of the test images, on equally many images."""
    lesions = busi.lesions()
    groups = np.asarray(lesions.groups)
    tables = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(lesions))
        test, rest = np.split(order, [len(order) // 5])
        copied = np.isin(groups[rest], groups[test])
        others = rest[~copied]
        # Copies replace other images, so that both trainings see the same number.
        trainings = {"copies in training": np.r_[rest[copied], others[copied.sum() :]], "no copies": others}
        for training, chosen in trainings.items():
            train = lesions.subset(np.sort(chosen))
            fitted = models.fit_on(models.UNetSegmenter(seed=seed, **settings), train, progress=True)
            table = evaluation.evaluate(fitted, lesions.subset(np.sort(test)))
            has_copy = np.isin(table["group"], groups[rest])
            table["image"] = np.where(has_copy, "has a copy", "has none")
            tables.append(table.assign(setting=training, seed=seed, n_train=len(train)))
    return pd.concat(tables)


def pretraining(busi: datasets.LesionDataset, seeds: int, settings: dict[str, Any]) -> pd.DataFrame:
    """Train on few images, from scratch and from phantoms."""
    train, test = busi.split(5)
    lesions = train.lesions()
    tables = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(lesions))
        for n in (16, 64, 256):
            some = lesions.subset(order[:n])
            # Equal numbers of steps.
            epochs = math.ceil(settings["epochs"] * len(train) / n / 4)
            for name, start in (("from scratch", None), ("phantoms first", "phantom-light")):
                segmenter = models.UNetSegmenter(**{**settings, "epochs": epochs}, init_weights=start, seed=seed)
                fitted = models.fit_on(segmenter, some, progress=True)
                tables.append(evaluation.evaluate(fitted, test).assign(setting=name, seed=seed, n_train=n))
    return pd.concat(tables)


def external(busi: datasets.LesionDataset, seeds: int, settings: dict[str, Any]) -> pd.DataFrame:
    """Train in four ways at home, and test at home and in another hospital."""
    train, home = busi.split(5)
    _, away = datasets.load("bus-bra").split(5)
    lesions = train.lesions()
    phantoms = datasets.load(f"phantom?n={2 * len(lesions)}").lesions()
    mixed = datasets.concatenate(lesions, phantoms.subset(range(len(lesions))))
    ways: dict[str, tuple[datasets.LesionDataset, dict[str, Any]]] = {
        "geometry only": (lesions, {"augmentation": (1.0, 0.0)}),
        "geometry and grey values": (lesions, {}),
        "phantoms mixed in": (mixed, {"epochs": math.ceil(settings["epochs"] * len(lesions) / len(mixed))}),
        "phantoms first": (lesions, {"init_weights": "phantom-light"}),
    }
    tables = []
    for seed, (name, (images, changes)) in itertools.product(range(seeds), ways.items()):
        fitted = models.fit_on(models.UNetSegmenter(**{**settings, **changes}, seed=seed), images, progress=True)
        for target in (home.lesions(), away.lesions()):
            table = evaluation.evaluate(fitted, target)
            tables.append(table.assign(setting=name, target=target.name, seed=seed, n_train=len(images)))
            print(f"seed {seed}, {name}, {target.name}: {table['dice'].mean():.3f}", flush=True)
    return pd.concat(tables)


EXPERIMENTS = {"leak": leak, "pretraining": pretraining, "external": external}
X_OF = {"leak": "image", "pretraining": "n_train", "external": "target"}
X_LABELS = {
    "leak": "test image",
    "pretraining": "real training images",
    "external": "tested on",
}


def draw() -> plt.Figure:
    """Draw what has been measured so far: means and intervals over groups and trainings."""
    found = [name for name in EXPERIMENTS if (FIGURES / f"unet_{name}.csv").exists()]
    figure, axes = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.4), squeeze=False, sharey=True)
    for axis, name in zip(axes[0], found, strict=True):
        table = pd.read_csv(FIGURES / f"unet_{name}.csv")
        means = evaluation.summarise(table, ["setting", X_OF[name]])
        places = {value: place for place, value in enumerate(table[X_OF[name]].unique())}
        for index, (setting, part) in enumerate(means.groupby("setting", sort=False)):
            x = part[X_OF[name]].map(places) + 0.16 * (index - (means["setting"].nunique() - 1) / 2)
            colour = plotting.LINES[index]
            error = np.abs(part[["dice_low", "dice_high"]].to_numpy().T - part["dice"].to_numpy())
            axis.errorbar(x, part["dice"], error, fmt="o", color=colour, label=setting, capsize=3)
        n = table.groupby(X_OF[name])["id"].nunique() if name == "leak" else None
        labels = [f"{value}".replace(", ", "\n") if n is None else f"{value} (n={n[value]})" for value in places]
        axis.set(
            xticks=list(places.values()), xticklabels=labels, xlabel=X_LABELS[name], xlim=(-0.5, len(places) - 0.5)
        )
        trainings = table["seed"].nunique()
        axis.set(
            title=f"{name}, {trainings if trainings > 1 else 'one'} training{'s'[: trainings - 1]} each", ylim=(0, 1)
        )
        axis.tick_params(axis="x", labelsize="small")
        axis.legend(frameon=False, loc="lower right")
    axes[0, 0].set_ylabel("mean Dice, 95 % interval over groups\n(and trainings, where there are several)")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("experiments", nargs="*", choices=[*EXPERIMENTS, []], help="none: draw only")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--size", type=int, default=128)
    given = parser.parse_args()
    for name in given.experiments:
        table = EXPERIMENTS[name](datasets.load("busi"), given.seeds, {"epochs": given.epochs, "size": given.size})
        asked = {"size": given.size, "epochs": given.epochs}
        table = table.assign(**{key: table.get(key, value) for key, value in asked.items()}).round(4)
        with jobs.atomic_path(FIGURES / f"unet_{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
        print(evaluation.summarise(table, ["setting", X_OF[name]]).round(3).to_string())
    if not any((FIGURES / f"unet_{name}.csv").exists() for name in EXPERIMENTS):
        parser.exit(message="nothing was measured yet: name an experiment\n")
    figure = draw()
    with jobs.atomic_path(FIGURES / "unet_experiments.png") as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
