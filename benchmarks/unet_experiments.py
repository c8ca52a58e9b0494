"""What a leak does to a score, what simulated images are worth before real ones, and how far seeds lie apart.

Three experiments with the light U-Net on BUSI, each scored on images it never saw:

- ``leak``: trained on 80 % drawn at random, as most publications do. Test images are told apart by whether a near-copy of
  them (their group in ``datasets/folds/busi.csv``) was in training.
- ``pretraining``: 16, 64 and 256 training images of folds 1 to 4, from scratch and from the weights ``phantom-light``, which
  saw simulated images only; each takes as many steps as a quarter of the epochs on all images; scored on fold 5.
- ``seeds``: the whole recipe on folds 1 to 4 with several seeds, scored on fold 5.

Every training is kept, so a stopped run is taken up again. Writes figures/unet_<experiment>.csv, one row an image, and
draws figures/unet_experiments.png from those that are there.

Usage: python benchmarks/unet_experiments.py leak pretraining seeds [--seeds 3] [--epochs 40] [--precision mixed_bfloat16]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from busutils import datasets, evaluation, jobs, models, plotting

FIGURES = Path(__file__).parents[1] / "figures"


def leak(busi: datasets.LesionDataset, seeds: int, epochs: int, precision: str) -> pd.DataFrame:
    """Train on a random split and score images with and without a near-copy in training."""
    tables = []
    for seed in range(seeds):
        in_test = np.zeros(len(busi), bool)
        in_test[np.random.default_rng(seed).permutation(len(busi))[: len(busi) // 5]] = True
        train, test = busi.subset(~in_test), busi.subset(in_test)
        # Ids as groups: whoever splits at random does so for validation too.
        images, masks = train.load_arrays(256)
        settings = models.UNetSegmenter(epochs=epochs, precision=precision, seed=seed)
        kept = jobs.cache_dir() / "trained" / f"leak-{jobs.content_key(settings, images, masks)[:20]}.npz"
        if not kept.exists():
            settings.fit(images, masks, checkpoint=kept.with_suffix(".checkpoint.npz"), progress=True)
            settings.save(kept)
        table = evaluation.evaluate(models.load(kept), test)
        copied = set(train.groups)
        table["setting"] = ["copy in training" if group in copied else "no copy" for group in table["group"]]
        tables.append(table.assign(seed=seed))
    return pd.concat(tables)


def pretraining(busi: datasets.LesionDataset, seeds: int, epochs: int, precision: str) -> pd.DataFrame:
    """Train on few images, from scratch and from phantoms."""
    train, test = busi.split(5)
    lesions = train.lesions()
    tables = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(lesions))
        for n in (16, 64, 256):
            some = lesions.subset(order[:n])
            for name, start in (("from scratch", None), ("phantoms first", "phantom-light")):
                # Equal numbers of steps: as many as `epochs` of all training images.
                equal = math.ceil(epochs * len(train) / n / 4)
                settings = models.UNetSegmenter(epochs=equal, start=start, precision=precision, seed=seed)
                fitted = models.fit_on(settings, some, progress=True)
                tables.append(evaluation.evaluate(fitted, test).assign(setting=name, n_train=n, seed=seed))
    return pd.concat(tables)


def seeds(busi: datasets.LesionDataset, seeds: int, epochs: int, precision: str) -> pd.DataFrame:
    """Train the same recipe again with other seeds."""
    train, test = busi.split(5)
    return pd.concat(
        evaluation.evaluate(
            models.fit_on(models.UNetSegmenter(epochs=epochs, precision=precision, seed=seed), train, progress=True),
            test,
        ).assign(setting="light", seed=seed)
        for seed in range(seeds)
    )


EXPERIMENTS = {"leak": leak, "pretraining": pretraining, "seeds": seeds}


def draw() -> plt.Figure:
    """Draw what has been measured so far."""
    found = [name for name in EXPERIMENTS if (FIGURES / f"unet_{name}.csv").exists()]
    figure, axes = plt.subplots(1, len(found), figsize=(4 * len(found), 3.4), squeeze=False, sharey=True)
    for axis, name in zip(axes[0], found, strict=True):
        table = pd.read_csv(FIGURES / f"unet_{name}.csv")
        by = ["setting", "seed"] + (["n_train"] if name == "pretraining" else [])
        means = evaluation.summarise(table, by)
        for index, (setting, part) in enumerate(means.groupby("setting", sort=False)):
            x = part["n_train"] if name == "pretraining" else np.full(len(part), index)
            shift = 1 + 0.04 * index if name == "pretraining" else 1
            colour = plotting.COLOURS[("U-Net", "K-Means, improved")[index]]
            error = np.abs(part[["dice_low", "dice_high"]].to_numpy().T - part["dice"].to_numpy())
            axis.errorbar(x * shift, part["dice"], error, fmt="o", color=colour, label=setting, alpha=0.8)
        if name == "pretraining":
            axis.set(xscale="log", xticks=[16, 64, 256], xticklabels=[16, 64, 256], xlabel="real training images")
            axis.minorticks_off()
        else:
            axis.set(xticks=[], xlim=(-0.5, means["setting"].nunique() - 0.5))
        axis.set(title=name, ylim=(0, 1))
        axis.legend(frameon=False, loc="lower right")
    axes[0, 0].set_ylabel("mean Dice, 95 % interval over groups")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("experiments", nargs="*", choices=[*EXPERIMENTS, []], help="none: draw only")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--precision", default="float32")
    given = parser.parse_args()
    busi = datasets.load("busi")
    for name in given.experiments:
        table = EXPERIMENTS[name](busi, given.seeds, given.epochs, given.precision).round(4)
        with jobs.atomic_path(FIGURES / f"unet_{name}.csv") as temporary:
            table.to_csv(temporary, index=False)
        by = ["n_train", "setting", "seed"] if name == "pretraining" else ["setting", "seed"]
        print(evaluation.summarise(table, by).round(3).to_string())
    figure = draw()
    with jobs.atomic_path(FIGURES / "unet_experiments.png") as temporary:
        figure.savefig(temporary, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
