"""Fit the ranking of the candidate regions on BUS-BRA, folds 1 to 4, and on nothing else.

The linear weights maximise the expected Dice of a softmax choice among the candidates of an image, averaged over images.
With ``--preset best``, gradient boosting adds small regression trees for the same objective, on the candidates that the
linear weights rank highest. Two more constants, fitted to the chosen regions of held-out folds, turn the score into an
expected Dice. Prints the Dice of the choice in grouped cross-validation over the four folds. Writes
busutils/models/kmeans_ranking.json.

The numbers in the package were fitted with 944 of the 1,492 images, in two parts of two folds each: on the part left out,
the choice had a Dice of .727, before vote and contour.

Usage: python benchmarks/kmeans_weights.py [--root FOLDER] [--images N] [--preset improved|best]
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _common import command_line
from scipy.optimize import minimize

from busutils import datasets, jobs
from busutils.datasets import resize_mask
from busutils.models import kmeans
from busutils.models.kmeans import PRESETS, KMeansSegmenter
from busutils.models.regions import FEATURES, Region, Trees

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
TREES, LEAVES, RATE = 45, 6, 0.25
CANDIDATES = 25  # of each image, on which the trees are grown
RANKING = Path(kmeans.__file__).with_name("kmeans_ranking.json")
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
    done = KMeansSegmenter(preset, weights={"log_area": 1.0}, reject=0.0, voters=1, contour="none")._run(image)
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


def best_of(score: np.ndarray, image: np.ndarray, n: int = 1) -> np.ndarray:
    """Rows of the n best-scored candidates of each image."""
    order = np.lexsort((-score, image))
    _, first, of = np.unique(image[order], return_index=True, return_inverse=True)
    return np.sort(order[np.arange(len(order)) - first[of] < n])


def boost(features: np.ndarray, dice: np.ndarray, image: np.ndarray, score: np.ndarray) -> Trees:
    """Trees whose sum, added to a score, makes the expected Dice of a choice by softmax higher."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    kept = best_of(score, image, CANDIDATES)
    features, dice, image, score = features[kept], dice[kept], image[kept], score[kept].copy()
    _, first, of = np.unique(image, return_index=True, return_inverse=True)
    grown = []
    for _ in range(TREES):
        chance = np.exp(score - np.maximum.reduceat(score, first)[of])
        chance /= np.add.reduceat(chance, first)[of]
        slope = chance * (dice - np.add.reduceat(chance * dice, first)[of])
        curvature = 0.1 * chance * (1 - chance) + 1e-4
        tree = HistGradientBoostingRegressor(
            max_iter=1, learning_rate=1.0, max_leaf_nodes=LEAVES, min_samples_leaf=60, early_stopping=False, max_bins=32
        ).fit(features, np.clip(slope / curvature, -3, 3), sample_weight=curvature / curvature.mean())
        nodes = tree._predictors[0][0].nodes
        leaf = nodes["is_leaf"].astype(bool)
        one = Trees(
            np.where(leaf, -1, nodes["feature_idx"]),
            np.where(leaf, 0.0, nodes["num_threshold"]),
            nodes["left"].astype(int),
            nodes["right"].astype(int),
            np.where(leaf, RATE * nodes["value"], 0.0),
        )
        grown.append([np.pad(part, (0, 2 * LEAVES - 1 - len(leaf)), constant_values=-1) for part in one])
        score += RATE * tree.predict(features)
    return Trees(*(np.stack(part) for part in zip(*grown, strict=True)))


def calibrate(score: np.ndarray, dice: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the logistic function from score to expected Dice."""

    def loss(line: np.ndarray) -> float:
        total = line[0] * score + line[1]
        return float(np.mean(np.logaddexp(0, total) - dice * total))

    return tuple(minimize(loss, [0.3, 0.0], method="Nelder-Mead", options={"maxiter": 4000}).x)


def rank(
    features: np.ndarray, dice: np.ndarray, image: np.ndarray, fold: np.ndarray, kind: str, penalty: float = 1e-4
) -> tuple[dict[str, float], Trees | None, np.ndarray]:
    """Fit weights and trees; with them, the score of every candidate by weights of the other folds."""
    columns = [list(FEATURES).index(name) for name in COLUMNS[kind]]

    def fitted(rows: np.ndarray) -> tuple[np.ndarray, Trees | None]:
        weights = fit(features[rows][:, columns], dice[rows], image[rows], penalty)
        if kind == "plain":
            return weights, None
        return weights, boost(features[rows], dice[rows], image[rows], features[rows][:, columns] @ weights)

    def scored(rows: np.ndarray, weights: np.ndarray, trees: Trees | None) -> np.ndarray:
        more = 0.0 if trees is None else trees.sum(dict(zip(FEATURES, features[rows].T, strict=True)))
        return features[rows][:, columns] @ weights + more

    held_out = np.zeros(len(dice))
    for number in np.unique(fold):
        held_out[fold == number] = scored(fold == number, *fitted(fold != number))
    chosen = best_of(held_out, image)
    slope, intercept = calibrate(held_out[chosen], dice[chosen])
    weights, trees = fitted(np.ones(len(dice), bool))
    found = dict(zip(COLUMNS[kind], slope * weights, strict=True)) | {"intercept": intercept}
    return found, trees and trees._replace(value=slope * trees.value), held_out


def keep(weights: dict[str, dict[str, float]], trees: Trees | None = None) -> None:
    """Put fitted numbers, with five digits, into the file that the package reads."""

    def rounded(value: Any) -> Any:
        return [rounded(part) for part in value] if isinstance(value, list) else float(f"{value:.5g}")

    kept = json.loads(RANKING.read_text(encoding="utf-8"))
    for name, found in weights.items():
        kept["weights"][name] = {feature: rounded(weight) for feature, weight in found.items()}
    if trees is not None:
        whole = {name: getattr(trees, name).astype(int).tolist() for name in ("feature", "left", "right")}
        kept["trees"] = whole | {name: rounded(getattr(trees, name).tolist()) for name in ("threshold", "value")}
    with jobs.atomic_path(RANKING) as temporary:
        temporary.write_text(json.dumps(kept) + "\n", encoding="utf-8")


def main() -> None:
    parser = command_line(__doc__, "n_jobs", "root")
    parser.add_argument("--preset", choices=("improved", "best"), default="best")
    parser.add_argument("--images", type=int, help="only so many, evenly spread")
    args = parser.parse_args()

    dataset = datasets.load("bus-bra", root=args.root)
    dataset = dataset.subset(np.isin(dataset.folds(), (1, 2, 3, 4)))
    if args.images:
        spread = np.linspace(0, len(dataset) - 1, args.images, dtype=int)
        dataset = dataset.subset(np.isin(np.arange(len(dataset)), spread))
    images, masks = dataset.load_arrays(256)
    parts = jobs.run(
        "kmeans-candidates",
        partial(describe, preset=args.preset),
        list(zip(images, masks, strict=True)),
        parts=[PRESETS[args.preset], list(FEATURES)],
        suffix=".npz",
        n_jobs=args.n_jobs,
        progress=True,
    )
    counts = [len(part["dice"]) for part in parts]
    image, fold = np.repeat(np.arange(len(parts)), counts), np.repeat(dataset.folds(), counts)
    table, dice = np.concatenate([p["features"] for p in parts]), np.concatenate([p["dice"] for p in parts])
    ceiling, reached = np.zeros(len(parts)), np.zeros(len(parts))
    np.maximum.at(ceiling, image, dice)
    kind = "plain" if args.preset == "improved" else "full"
    weights, trees, held_out = rank(table, dice, image, fold, kind)
    chosen = best_of(held_out, image)
    reached[image[chosen]] = dice[chosen]
    print(f"{len(parts)} images, {len(dice) / len(parts):.0f} candidates each: Dice of the choice {reached.mean():.3f}, "
          f"of the best candidate {ceiling.mean():.3f}")  # fmt: skip
    keep({kind: weights}, trees)


if __name__ == "__main__":
    main()
