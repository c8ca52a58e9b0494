"""Fit the weights of the choice among candidate regions on BUS-BRA, folds 1 to 4, and on nothing else.

The weights are those that make the expected Dice of a choice by softmax over the candidates of an image as
high as possible, averaged over images. Two further constants, fitted to the chosen regions of held-out
folds, turn the score into an expected Dice. Printed: the tables to put into
``busutils.models.kmeans.WEIGHTS``, and the Dice of the choice in grouped cross-validation over the four folds.

Usage: python benchmarks/kmeans_weights.py [--root FOLDER] [--images N] [--preset improved|best]
"""

from __future__ import annotations

from functools import partial

import numpy as np
from _common import command_line
from scipy.optimize import minimize

from busutils import datasets, jobs
from busutils.datasets import resize_mask
from busutils.models.kmeans import PRESETS, KMeansSegmenter
from busutils.models.regions import FEATURES, Region

PLAIN = (
    "log_area",
    "log_area_squared",
    "depth",
    "depth_squared",
    "off_centre_squared",
    "contrast",
    "solidity",
    "touches",
)
COLUMNS = {"plain": PLAIN, "full": tuple(FEATURES)}


def candidate_dice(regions: list[Region], mask: np.ndarray) -> np.ndarray:
    """Dice of every candidate with the reference, on the candidates' grid."""
    small = resize_mask(mask, regions[0].shape)
    dice = []
    for region in regions:
        h, w = region.crop.shape
        inside = small[region.top : region.top + h, region.left : region.left + w]
        dice.append(2 * np.count_nonzero(inside & region.crop) / (small.sum() + region.area))
    return np.array(dice)


def describe(item: tuple[np.ndarray, np.ndarray], preset: str) -> dict[str, np.ndarray]:
    """Features of all candidates of one image, and the Dice each of them would score."""
    image, mask = item
    # Any weights do: the candidates do not depend on them.
    done = KMeansSegmenter(preset, weights={"log_area": 1.0}, reject=0.0, contour="none")._run(image)
    regions = done.get("regions", [])
    if not regions:
        return {"features": np.zeros((0, len(FEATURES))), "dice": np.zeros(0)}
    features = np.stack([done["features"][n] for n in FEATURES], axis=1)
    return {"features": features, "dice": candidate_dice(regions, mask)}


def fit(features: np.ndarray, dice: np.ndarray, image: np.ndarray, penalty: float) -> np.ndarray:
    """Weights of the features that choose best; `image` tells, in order, whose candidate a row is."""
    scale = features.std(axis=0) + 1e-9
    z = (features - features.mean(axis=0)) / scale
    _, first, of = np.unique(image, return_index=True, return_inverse=True)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        score = z @ weights
        chance = np.exp(score - np.maximum.reduceat(score, first)[of])
        chance /= np.add.reduceat(chance, first)[of]
        expected = np.add.reduceat(chance * dice, first)
        slope = z.T @ (chance * (dice - expected[of])) / len(first)
        return penalty * weights @ weights - expected.mean(), 2 * penalty * weights - slope

    found = minimize(loss, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return found.x / scale


def choose(features: np.ndarray, image: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row of the best-scored candidate of each image, and its score."""
    score = features @ weights
    order = np.lexsort((score, image))
    last = np.append(np.flatnonzero(np.diff(image[order])), len(order) - 1)
    return order[last], score[order[last]]


def calibrate(score: np.ndarray, dice: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the logistic function from score to expected Dice."""

    def loss(line: np.ndarray) -> float:
        total = line[0] * score + line[1]
        return float(np.mean(np.logaddexp(0, total) - dice * total))

    return tuple(minimize(loss, [0.3, 0.0], method="Nelder-Mead", options={"maxiter": 4000}).x)


def main() -> None:
    parser = command_line(__doc__, "n_jobs", "root")
    parser.add_argument("--preset", choices=("improved", "best"), default="best")
    parser.add_argument("--images", type=int, help="only so many, evenly spread")
    parser.add_argument("--penalty", type=float, default=1e-4)
    given = parser.parse_args()

    dataset = datasets.load("bus-bra", root=given.root)
    dataset = dataset.subset(np.isin(dataset.folds(), (1, 2, 3, 4)))
    if given.images:
        spread = np.linspace(0, len(dataset) - 1, given.images, dtype=int)
        dataset = dataset.subset(np.isin(np.arange(len(dataset)), spread))
    folds, labels = dataset.folds(), dataset.labels
    images, masks = dataset.load_arrays(256)
    options = {name: PRESETS[given.preset][name] for name in ("median", "background", "k", "openings")}
    parts = jobs.run(
        "kmeans-candidates",
        partial(describe, preset=given.preset),
        list(zip(images, masks, strict=True)),
        parts=[options, list(FEATURES)],
        suffix=".npz",
        n_jobs=given.n_jobs,
        progress=True,
    )
    image = np.repeat(np.arange(len(parts)), [len(part["dice"]) for part in parts])
    table, dice = np.concatenate([p["features"] for p in parts]), np.concatenate([p["dice"] for p in parts])
    ceiling = np.zeros(len(parts))
    np.maximum.at(ceiling, image, dice)
    print(f"{len(parts)} images, {len(dice) / len(parts):.0f} candidates each, oracle {ceiling.mean():.3f}")

    kind = "plain" if given.preset == "improved" else "full"
    columns = [list(FEATURES).index(name) for name in COLUMNS[kind]]
    table = table[:, columns]
    rows, scores = [], []
    for fold in (1, 2, 3, 4):
        held_out = folds[image] == fold
        weights = fit(table[~held_out], dice[~held_out], image[~held_out], given.penalty)
        row, score = choose(table[held_out], image[held_out], weights)
        rows.append(np.flatnonzero(held_out)[row])
        scores.append(score)
    rows, scores = np.concatenate(rows), np.concatenate(scores)
    slope, intercept = calibrate(scores, dice[rows])
    chosen = np.zeros(len(parts))
    chosen[image[rows]] = dice[rows]
    by_label = ", ".join(f"{label} {chosen[labels == label].mean():.3f}" for label in np.unique(labels))
    print(f"cross-validated Dice {chosen.mean():.3f} ({by_label}), below 0.1: {(chosen < 0.1).mean():.3f}")
    weights = slope * fit(table, dice, image, given.penalty)
    print(f'    "{kind}": {{')
    for name, weight in zip(COLUMNS[kind], weights, strict=True):
        print(f'        "{name}": {weight:.4g},')
    print(f'        "intercept": {intercept:.4g},\n    }},')


if __name__ == "__main__":
    main()
