"""Fit the probability that the region chosen by `best` is a lesion, on BUS-BRA, folds 1 to 4, and on simulated images.

BUS-BRA has no normal images, so three substitutes show what is chosen where there is no lesion: the best-scored candidate
away from the lesion, the choice in crops beside the lesion, and the choice in simulated normal images. The positive
examples are chosen regions that hit a lesion, in BUS-BRA and in simulated images. For held-out folds and several
thresholds, prints and writes to figures/kmeans_presence.csv the Dice that BUS-BRA loses and the share of each substitute
that is rejected. The threshold in use is the highest that costs at most 0.01 of Dice. Writes the weights to
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

from busutils import datasets, jobs
from busutils.datasets import LesionDataset, resize_image
from busutils.models import KMeansSegmenter
from busutils.models.kmeans import PRESETS, WEIGHTS
from busutils.models.regions import FEATURES

COST = 0.01  # Dice that "nothing found" may cost on images that do show a lesion
AWAY = 0.05  # Dice below which a candidate has nothing to do with the lesion


def describe(item: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Features and Dice of the chosen region of one image, and of the best one away from its lesion."""
    image, mask = item
    done = KMeansSegmenter("best", reject=0.0, voters=1, contour="none")._run(image)
    if not done.get("regions"):
        return {"chosen": np.zeros((0, len(FEATURES))), "away": np.zeros((0, len(FEATURES))), "dice": np.zeros(0)}
    table = np.stack([done["features"][name] for name in FEATURES], axis=1)
    dice = candidate_dice(done["regions"], mask) if mask.any() else np.zeros(len(table))
    chosen, order = int(done["scores"].argmax()), np.argsort(-done["scores"], kind="stable")
    return {"chosen": table[[chosen]], "away": table[order][dice[order] < AWAY][:1], "dice": dice[[chosen]]}


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


def main() -> None:
    parser = command_line(__doc__, "n_jobs", "root")
    given = parser.parse_args()
    options = {name: value for name, value in PRESETS["best"].items() if name not in ("reject", "contour", "voters")}
    parts = [options, WEIGHTS["full"], list(FEATURES)]
    run = partial(jobs.run, "kmeans-presence", describe, parts=parts, suffix=".npz", n_jobs=given.n_jobs)

    busbra = datasets.load("bus-bra", root=given.root)
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
    folds |= {"crop": np.array(crop_folds)}

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
        for level in np.arange(0, 0.81, 0.02)
    )  # fmt: skip
    cheap = table["busbra_dice"] >= table["busbra_dice"].iloc[0] - COST
    print({name: len(part[0]) for name, part in everything.items()})
    print(table.round(3).to_string())
    print(f"highest threshold that costs at most {COST} of Dice: {table.loc[cheap, 'reject'].max():.2f}")
    write_table(table.round(4), FIGURES / "kmeans_presence.csv")
    weights = fit([part[0] for part in hits.values()], [part[0] for part in nothing.values()])
    keep({"presence": weights})


if __name__ == "__main__":
    main()
