"""Test remedies for domain shift, without labels or with ten: BUSI's weights on BUS-BRA, fold 5.

Each remedy is applied alone to the shipped weights ``busi-light`` and ``busi-encoder``, which never saw the target:

- ``mirrored``: test-time augmentation, the mean with the mirror image;
- ``grey values 1 to 99 %``: every image stretched between these percentiles;
- ``home's histogram``: every image's grey values matched to the mean quantiles of the training set;
- ``local contrast``: CLAHE with scikit-image's settings;
- ``batch statistics of the target``: means and variances of all normalisation layers computed from the target's images,
  without their masks;
- ``ten labelled images``: 100 more training steps on one image of each of ten cases from the target's folds 1 to 4, which
  are drawn anew for each seed (light network only).

Each is compared with the same network without test-time augmentation, called ``without the cut-off`` because earlier
networks also dropped regions below a minimum confidence; ``as shipped, no TTA`` kept that minimum.
Writes figures/shift_help.csv, one row for each image, and figures/shift_help_pairs.csv, the paired differences with
p-values after Holm's correction. Rows of weights that are not named are kept.

Usage: python benchmarks/shift_help.py [--weights busi-light busi-encoder] [--seeds 3]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from _common import FIGURES, command_line, write_table
from skimage import exposure

from busutils import datasets, evaluation, models
from busutils.models.backend import keras

LEVELS = np.linspace(0, 1, 257)
BASE = "without the cut-off"
COLUMNS = [
    "weights",
    "method",
    "seed",
    "id",
    "label",
    "group",
    "source",
    "dice",
    "iou",
    "hd95",
    "nsd",
    "mask_area",
    "pred_area",
]

Change = Callable[[np.ndarray], np.ndarray]


def to_grey(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def stretched(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, [1, 99])
    return to_grey((image - low) / max(high - low, 1) * 255)


def like(home: np.ndarray) -> Change:
    """Match an image's quantiles to the mean of the training images' quantiles."""
    wanted = np.mean([np.quantile(image, LEVELS) for image in home], axis=0)

    def matched(image: np.ndarray) -> np.ndarray:
        # Equal grey values stay equal: each takes the quantile of the middle of its pixels.
        counts = np.bincount(image.ravel(), minlength=256)
        middle = (np.cumsum(counts) - counts / 2) / image.size
        return to_grey(np.interp(middle, LEVELS, wanted))[image]

    return matched


def local_contrast(image: np.ndarray) -> np.ndarray:
    return to_grey(exposure.equalize_adapthist(image) * 255)


def adapt_statistics(segmenter: models.Segmenter, images: np.ndarray, batch: int = 16) -> None:
    """Take the moving means and variances of batch normalisation from these images alone."""
    network = segmenter.network_
    norms = [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    squares = np.stack([datasets.resize_image(image, segmenter.size) for image in images])
    for index, start in enumerate(range(0, len(squares) - batch + 1, batch)):
        for layer in norms:
            layer.momentum = index / (index + 1)  # the running mean of all batches so far
        network(squares[start : start + batch, ..., None].astype(np.float32), training=True)


def with_ten_labels(weights: str, pool: datasets.LesionDataset, seed: int) -> models.Segmenter:
    """Train on with one image each of ten cases."""
    groups = np.asarray(pool.groups)
    cases = np.random.default_rng(seed).choice(np.unique(groups), 10, replace=False)
    ten = pool.subset([int(np.flatnonzero(groups == case)[0]) for case in cases])
    # Two steps an epoch. No image is spared for validation: the last epoch counts, and a threshold of one half.
    settings = {"init_weights": weights, "epochs": 50, "learning_rate": 5e-4, "validation_fraction": 0.0, "seed": seed}
    return models.fit_on(models.UNetSegmenter.preset("light", **settings), ten)


def helps(
    weights: str,
    home: datasets.LesionDataset,
    pool: datasets.LesionDataset,
    target: datasets.LesionDataset,
    seeds: int,
) -> pd.DataFrame:
    """Score every help with one network."""
    images, masks = target.load_arrays(256)
    changes: dict[str, Change] = {
        "grey values 1 to 99 %": stretched,
        "home's histogram": like(home.load_arrays(256)[0]),
        "local contrast": local_contrast,
    }

    def fresh(**settings: object) -> models.Segmenter:
        return models.load_weights(weights).set_params(tta="none", **settings)

    def score(name: str, segmenter: models.Segmenter, seen: np.ndarray) -> pd.DataFrame:
        table = evaluation.score_masks(target, masks, segmenter.predict(seen))
        row = evaluation.summarise(table).iloc[0]
        print(f"{weights}: {name}: {row.dice:.3f} [{row.dice_low:.3f}, {row.dice_high:.3f}]", flush=True)
        return table.assign(method=name, weights=weights)

    cut = models.load_weights(weights).set_params(tta="none")
    tables = [score("as shipped, no TTA", cut, images), score(BASE, fresh(), images)]
    tables.append(score("mirrored", fresh().set_params(tta="mirror"), images))
    for name, change in changes.items():
        tables.append(score(name, fresh(), np.stack([change(image) for image in images])))
    adapted = fresh()
    adapt_statistics(adapted, images)
    tables.append(score("batch statistics of the target", adapted, images))
    tables = [table.assign(seed=0) for table in tables]
    if weights.endswith("light"):
        for seed in range(seeds):
            trained = with_ten_labels(weights, pool, seed)
            tables.append(score("ten labelled images", trained, images).assign(seed=seed))
    return pd.concat(tables)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--weights", nargs="+", default=["busi-light", "busi-encoder"])
    parser.add_argument("--seeds", type=int, default=3, help="trainings on ten labelled images")
    given = parser.parse_args()
    home, _ = datasets.load("busi").split(5)
    pool, target = datasets.load("bus-bra").split(5)
    table = pd.concat(helps(weights, home, pool, target, given.seeds) for weights in given.weights)
    target_file = FIGURES / "shift_help.csv"
    table = table[COLUMNS].round(4)
    if target_file.exists():
        before = pd.read_csv(target_file)
        table = pd.concat([before[~before["weights"].isin(given.weights)], table])
    write_table(table, target_file)
    against_base = []
    for weights, part in table.groupby("weights", sort=False):
        pairs = evaluation.compare_all(part)
        pairs = pairs[(pairs["first"] == BASE) | (pairs["second"] == BASE)].copy()
        turned = pairs["first"] == BASE
        pairs.loc[turned, ["difference", "low", "high", "effect"]] = -pairs.loc[
            turned, ["difference", "high", "low", "effect"]
        ].to_numpy()
        pairs.insert(0, "help", pairs["first"].where(~turned, pairs["second"]))
        against_base.append(pairs.drop(columns=["first", "second"]).assign(weights=weights))
    found = pd.concat(against_base)
    found["p_holm"] = evaluation.holm(found["p"])  # as many comparisons as there are rows
    found = found.round(6)
    print(found.to_string(index=False))
    write_table(found, FIGURES / "shift_help_pairs.csv")


if __name__ == "__main__":
    main()
