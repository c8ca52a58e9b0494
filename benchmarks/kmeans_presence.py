"""Fit the probability that what `best` votes for is a lesion, on BUS-BRA, folds 1 to 4, and on simulated images.

It depends on the mean features of the candidates that vote. BUS-BRA has no normal images, so three substitutes show what is
found where there is no lesion: the best-scored candidates away from the lesion, crops beside the lesion, and simulated
normal images. The positive examples are votes that hit a lesion, in BUS-BRA and in simulated images. For held-out folds and
several thresholds, prints and writes to figures/kmeans_presence.csv the Dice that BUS-BRA loses and the share of each
substitute that is rejected. The threshold in use is the highest that costs at most 0.01 of Dice. Writes the weights to
busutils/models/kmeans_ranking.json.

Usage: python benchmarks/kmeans_presence.py [--root FOLDER] [--n-jobs N]
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from _common import FIGURES, command_line, write_table
from kmeans_weights import candidate_dice, keep
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from busutils import datasets, jobs, metrics
from busutils.datasets import LesionDataset, resize_image
from busutils.models import KMeansSegmenter
from busutils.models.kmeans import PRESETS, WEIGHTS, vote_weights
from busutils.models.regions import FEATURES

COST = 0.01  # Dice that "nothing found" may cost on images that do show a lesion
AWAY = 0.05  # Dice below which a candidate has nothing to do with the lesion


def describe(item: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean features of the voters of one image, and of those away from its lesion; Dice of the vote."""
    image, mask = item
    done = KMeansSegmenter("best", reject=0.0, contour="none")._run(image)
    nothing = np.zeros((0, len(FEATURES)))
    if not done.get("regions"):
        return {"chosen": nothing, "away": nothing, "dice": np.zeros(0)}
    table = np.stack([done["features"][name] for name in FEATURES], axis=1)
    order = np.argsort(-done["scores"], kind="stable")
    if not mask.any():
        return {"chosen": mean_of_voters(table, done["scores"], order), "away": nothing, "dice": np.zeros(1)}
    away = order[candidate_dice(done["regions"], mask)[order] < AWAY]
    return {
        "chosen": mean_of_voters(table, done["scores"], order),
        "away": mean_of_voters(table, done["scores"], away) if len(away) else nothing,
        "dice": np.array([metrics.dice(mask, done["refined"])]),
    }


def mean_of_voters(table: np.ndarray, scores: np.ndarray, order: np.ndarray) -> np.ndarray:
    voters = order[: PRESETS["best"]["voters"]]
    return np.average(table[voters], axis=0, weights=vote_weights(scores[voters]))[None]


def beside(image: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """The upper part of an image to the left or the right of its lesion, or None where that is too narrow."""
    columns = np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    room = {"left": columns[0] / width - 0.03, "right": 1 - (columns[-1] + 1) / width - 0.03}
    side = max(room, key=room.__getitem__)
    if room[side] < 0.4:
        return None
    w, h = int(room[side] * width), int(min(1.0, 1.15 * room[side]) * height)
    return resize_image(np.ascontiguousarray(image[:h, :w] if side == "left" else image[:h, width - w :]), 256)


def spread(dataset: LesionDataset) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(*dataset.load_arrays(256), strict=True))


def fit(hits: list[np.ndarray], nothing: list[np.ndarray]) -> dict[str, float]:
    """Logistic weights of the features; every source counts the same on its side."""
    x = np.concatenate(hits + nothing)
    y = np.repeat([1, 0], [sum(map(len, hits)), sum(map(len, nothing))])
    share = [np.full(len(part), 1 / len(part) / len(side)) for side in (hits, nothing) for part in side]
    scale = StandardScaler().fit(x)
    model = LogisticRegression(C=0.1, max_iter=5000)
    model.fit(scale.transform(x), y, sample_weight=len(x) / 2 * np.concatenate(share))
    slope = model.coef_[0] / scale.scale_
    return dict(zip(FEATURES, slope, strict=True)) | {"intercept": float(model.intercept_[0] - slope @ scale.mean_)}


def chance(table: np.ndarray, weights: dict[str, float]) -> np.ndarray:
    total = table @ np.array([weights[name] for name in FEATURES]) + weights["intercept"]
    return 1 / (1 + np.exp(-np.clip(total, -50, 50)))


Found = dict[str, list[dict[str, np.ndarray]]]


def collect(root: str | None, n_jobs: int) -> tuple[Found, dict[str, np.ndarray]]:
    """What :func:`describe` finds in the images of each source, and their folds."""
    options = {name: value for name, value in PRESETS["best"].items() if name not in ("reject", "contour")}
    parts = [options, WEIGHTS["full"], list(FEATURES)]
    run = partial(jobs.run, "kmeans-presence", describe, parts=parts, suffix=".npz", n_jobs=n_jobs)

    busbra = datasets.load("bus-bra", root=root)
    busbra = busbra.subset(np.isin(busbra.folds(), (1, 2, 3, 4)))
    lesions = datasets.load("phantom", n=400, seed=11, scanner="mixed").lesions()
    normals = datasets.load("phantom", n=300, seed=12, scanner="mixed", kind="normal")
    crops, crop_folds = [], []
    for index, fold in enumerate(busbra.folds()):
        crop = beside(*busbra.load_native(index)[:2])
        if crop is not None:
            crops.append((crop, np.zeros(crop.shape, bool)))
            crop_folds.append(fold)
    found = {"busbra": run(spread(busbra)), "phantom": run(spread(lesions))}
    found |= {"normal phantom": run(spread(normals)), "crop": run(crops)}
    folds = {"busbra": busbra.folds(), "phantom": lesions.folds(), "normal phantom": normals.folds()}
    return found, folds | {"crop": np.array(crop_folds)}


def evaluate(found: Found, folds: dict[str, np.ndarray]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Dice and shares rejected at several thresholds, on held-out folds; weights fitted to all."""

    def rows(source: str, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, Dice and fold of what was found in a source; images without a candidate are left out."""
        kept = [(part, fold) for part, fold in zip(found[source], folds[source], strict=True) if len(part[what])]
        dice = np.concatenate([part["dice"] for part, _ in kept])
        return np.concatenate([part[what] for part, _ in kept]), dice, np.array([fold for _, fold in kept])

    chosen = {source: rows(source, "chosen") for source in found}
    hits = {f"{source} hit": tuple(part[chosen[source][1] > 0.5] for part in chosen[source]) for source in ("busbra", "phantom")}  # fmt: skip
    nothing = {
        "busbra, away": rows("busbra", "away"),
        "crop": chosen["crop"],
        "normal phantom": chosen["normal phantom"],
    }
    everything = hits | nothing | {"busbra": chosen["busbra"]}
    held_out = {name: np.full(len(part[0]), np.nan) for name, part in everything.items()}
    for fold in (1, 2, 3, 4, 5):
        others = [[t[f != fold] for t, _, f in side.values()] for side in (hits, nothing)]
        weights = fit(*others)
        for name, (table, _, of) in everything.items():
            held_out[name][of == fold] = chance(table[of == fold], weights)

    for name in nothing:
        for hit in hits:
            pair = held_out[hit], held_out[name]
            truth = np.repeat([1, 0], [len(part) for part in pair])
            print(f"area under the curve, {hit} against {name}: {roc_auc_score(truth, np.concatenate(pair)):.3f}")
    n_images = len(found["busbra"])
    table = pd.DataFrame(
        {
            "reject": level,
            "busbra_dice": chosen["busbra"][1][held_out["busbra"] >= level].sum() / n_images,
            "busbra_rejected": (held_out["busbra"] < level).mean(),
            **{f"{name.replace(', ', '_').replace(' ', '_')}_rejected": (held_out[name] < level).mean() for name in everything if name != "busbra"},
        }
        for level in np.arange(0, 81) / 100
    )  # fmt: skip
    cheap = table["busbra_dice"] >= table["busbra_dice"].iloc[0] - COST
    print({name: len(part[0]) for name, part in everything.items()})
    print(table.round(3).to_string())
    print(f"highest threshold that costs at most {COST} of Dice: {table.loc[cheap, 'reject'].max():.2f}")
    return table, fit([part[0] for part in hits.values()], [part[0] for part in nothing.values()])


def main() -> None:
    given = command_line(__doc__, "n_jobs", "root").parse_args()
    table, weights = evaluate(*collect(given.root, given.n_jobs))
    write_table(table.round(4), FIGURES / "kmeans_presence.csv")
    keep({"presence": weights})


if __name__ == "__main__":
    main()
