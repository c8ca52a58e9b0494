"""What each step of K-Means is worth: all lesion images of BUSI, and STU, scored at 256².

Nothing is tuned here: every option was fixed before, on BUS-BRA. Finished parts are kept, so that a stopped run goes
on where it was. Multi-Otsu is not among the variants: it maximises the variance between classes, which is
to minimise the inertia, so that its thresholds are those of exact K-Means. Writes
figures/kmeans_ablation.csv, one row a variant, set and part of the set, and the picture.

Usage: BUSUTILS_DATA_DIR=FOLDER python benchmarks/kmeans_ablation.py [--n-jobs N] [--only NAME …]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from busutils import datasets, jobs, metrics
from busutils.evaluation import compare, evaluate, summarise
from busutils.models import ConstantMaskSegmenter, KMeansSegmenter
from busutils.models.kmeans import PRESETS, WEIGHTS, kmeans_1d
from busutils.models.regions import FEATURES, oracle

FIGURES = Path(__file__).parents[1] / "figures"


class FuzzySegmenter(KMeansSegmenter):
    """Fuzzy c-means on the histogram (Bezdek 1981, exponent 2); grey levels go to their strongest membership."""

    def _thresholds(self, flat: np.ndarray, k: int) -> np.ndarray:
        counts = np.bincount(flat.ravel(), minlength=256).astype(float)
        levels = np.arange(256.0)
        centres = kmeans_1d(flat, k).centres
        for _ in range(100):
            near = 1 / ((levels - centres[:, None]) ** 2 + 1e-9)
            weight = (near / near.sum(axis=0)) ** 2 * counts
            moved = weight @ levels / weight.sum(axis=1)
            if np.abs(moved - centres).max() < 1e-3:
                break
            centres = moved
        centres = np.sort(centres)
        return (centres[1:] + centres[:-1]) / 2


class SuperpixelSegmenter(KMeansSegmenter):
    """K-Means on the means of 400 SLIC superpixels (scikit-image) instead of pixels."""

    def _thresholds(self, flat: np.ndarray, k: int) -> np.ndarray:
        from skimage.segmentation import slic

        parts = slic(flat, n_segments=400, compactness=10, channel_axis=None, start_label=0)
        sizes = np.bincount(parts.ravel())
        means = np.bincount(parts.ravel(), weights=flat.ravel().astype(float)) / sizes
        return kmeans_1d(means[parts].round().astype(np.uint8), k).thresholds


# From the textbook up, one step more each; then "best" with one step less or another in its place.
STEPS = {"median": 9, "background": 50.0}
VARIANTS: dict[str, KMeansSegmenter] = {
    "textbook": KMeansSegmenter("textbook"),
    "textbook, 3 clusters": KMeansSegmenter("textbook", k=(3,)),
    "+ median": KMeansSegmenter("textbook", median=9),
    "+ background": KMeansSegmenter("textbook", **STEPS),
    "+ largest part": KMeansSegmenter("textbook", **STEPS, choice="largest", openings=(4,)),
    "+ choice by score": KMeansSegmenter("textbook", **STEPS, choice="score", openings=(4,)),
    "improved": KMeansSegmenter("improved"),
    "best": KMeansSegmenter("best"),
    "best, plain score": KMeansSegmenter("best", weights="plain", reject=0.0),
    "best, no median": KMeansSegmenter("best", median=0),
    "best, no background": KMeansSegmenter("best", background=0.0),
    "best, one opening": KMeansSegmenter("best", openings=(4,)),
    "best, no contour": KMeansSegmenter("best", contour="none"),
    "best, hull": KMeansSegmenter("best", contour="hull"),
    "best, never reject": KMeansSegmenter("best", reject=0.0),
    "best, fuzzy c-means": FuzzySegmenter("best"),
    "best, SLIC": SuperpixelSegmenter("best"),
}


def ceiling(dataset: datasets.LesionDataset) -> pd.DataFrame:
    """Scores of the candidate of `best` that fits the reference best: no method, it looks at the mask."""
    segmenter = KMeansSegmenter("best", contour="none")
    rows = []
    for record, image, mask in zip(dataset, *dataset.load_arrays(256), strict=True):
        regions = segmenter._run(image).get("regions", [])
        small = datasets.resize_mask(mask, 128)
        index, _ = oracle(regions, small)
        pred = datasets.resize_mask(regions[index].mask(), 256) if index >= 0 else np.zeros_like(mask)
        rows.append({"id": record.id, "label": record.label, "group": record.group, **metrics.scores(mask, pred)})
    return pd.DataFrame(rows)


def constant(dataset: datasets.LesionDataset, busi: datasets.LesionDataset) -> pd.DataFrame:
    """Scores of the constant mask: across the folds of BUSI, or fitted on BUSI for another set."""
    if dataset.key != busi.key:
        lesions = busi.lesions()
        return evaluate(ConstantMaskSegmenter().fit(*lesions.load_arrays(256)), dataset)
    tables = []
    for fold in np.unique(busi.folds()):
        train, test = busi.split(int(fold))
        tables.append(evaluate(ConstantMaskSegmenter().fit(*train.lesions().load_arrays(256)), test))
    return pd.concat(tables, ignore_index=True)


def task(name: str, key: str) -> tuple[str, str, dict[str, object]]:
    """All that a result depends on, beside the presets: method, set and options."""
    return name, key, VARIANTS[name].get_params() if name in VARIANTS else {}


def score(item: tuple[str, str, dict[str, object]]) -> pd.DataFrame:
    name, key, _ = item
    dataset = datasets.load(key)
    if name == "constant mask":
        return constant(dataset, datasets.load("busi"))
    if name == "oracle":
        return ceiling(dataset.lesions())
    return evaluate(VARIANTS[name], dataset)


def summary(tables: dict[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    rows = []
    for (name, key), table in tables.items():
        table = table.assign(lesion=table["mask_area"] > 0)
        size = pd.cut(table["mask_area"], [0, 0.03, 0.1, 1], labels=["small", "medium", "large"]).astype(object)
        parts = {"all": table}
        parts |= {label: table[table["label"] == label] for label in ("benign", "malignant")}
        parts |= {f"{label} (area)": table[size == label] for label in ("small", "medium", "large")}
        for part, chosen in parts.items():
            if not chosen["lesion"].any():
                continue
            row = summarise(chosen, scores=("dice", "iou", "hd95")).iloc[0].to_dict()
            other = tables.get(("best", key))
            if other is not None and name != "best":
                both = chosen[chosen["lesion"]].merge(other[["id", "dice"]], on="id", suffixes=("", "_best"))
                pair = compare(both["dice"], both["dice_best"], both["group"].to_numpy())
                row |= {
                    f"minus_best{end}": value for end, value in zip(("", "_low", "_high"), pair.difference, strict=True)
                }
            rows.append({"dataset": key, "method": name, "part": part, **row})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, path: Path) -> None:
    import matplotlib.pyplot as plt

    keys = [key for key in ("busi", "stu") if (table["dataset"] == key).any()]
    methods = list(dict.fromkeys(table["method"]))
    figure, axes = plt.subplots(
        1, len(keys), figsize=(5.2 * len(keys), 0.3 * len(methods) + 1.4), sharey=True, squeeze=False
    )
    for axis, key in zip(axes[0], keys, strict=True):
        here = table[table["dataset"] == key]
        for part, colour, shift in (
            ("all", "black", 0.0),
            ("benign", "#0072b2", -0.22),
            ("malignant", "#d55e00", 0.22),
        ):
            rows = here[here["part"] == part].set_index("method").reindex(methods)
            place = np.arange(len(methods)) + shift
            error = np.abs(rows[["dice_low", "dice_high"]].to_numpy().T - rows["dice"].to_numpy())
            if rows["dice"].notna().any():
                axis.errorbar(
                    rows["dice"],
                    place,
                    xerr=error,
                    fmt="o",
                    ms=4 if part == "all" else 3,
                    lw=1,
                    color=colour,
                    label=part,
                )
        n = int(here.loc[here["part"] == "all", "n"].max())
        axis.set(title=f"{key.upper()}, {n} lesion images", xlabel="mean Dice, 95 % interval over groups", xlim=(0, 1))
        axis.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(loc="upper right", fontsize=8)
    figure.tight_layout()
    with jobs.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--n-jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="these variants, without writing figures")
    given = parser.parse_args()
    names = given.only or ["constant mask", *VARIANTS, "oracle"]
    tasks = [task(name, key) for name in names for key in ("busi", "stu")]
    # The weights are part of what a kept result depends on, and so are the presets.
    results = jobs.run(
        "kmeans-ablation",
        score,
        tasks,
        parts=[PRESETS, WEIGHTS, list(FEATURES)],
        ending=".csv",
        n_jobs=given.n_jobs,
        progress=True,
    )
    table = summary({(name, key): result for (name, key, _), result in zip(tasks, results, strict=True)})
    shown = table[table["part"] == "all"]
    print(shown[["dataset", "method", "dice", "dice_low", "dice_high", "missed", "false_alarms"]].round(3).to_string())
    if not given.only:
        with jobs.atomic_path(FIGURES / "kmeans_ablation.csv") as temporary:
            table.round(4).to_csv(temporary, index=False)
        draw(table, FIGURES / "kmeans_ablation.png")


if __name__ == "__main__":
    main()
