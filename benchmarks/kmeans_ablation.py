"""Measure what each step of K-Means contributes: all lesion images of BUSI, and STU, scored at 256².

Nothing is tuned here: all constants and weights were chosen before, on BUS-BRA's folds 1 to 4 and on simulated images
(kmeans_weights.py, kmeans_constants.py, kmeans_presence.py). BUSI was scored seven times: four times for the first version,
once for the trees and the vote, once, on 507 random images of 780, for a rejection that was fitted to a part of its images,
and once for this table. The ranking was fitted to candidates of exact K-Means after all steps of `best`, so other
clusterers, and `best` without one step, are at a disadvantage and reject more. "rules" uses the same candidates with
hand-set rules; the difference to "best" is learned from BUS-BRA's masks.

Peers come from their libraries: multi-Otsu (scikit-image) and fuzzy c-means (scikit-fuzzy). Multi-Otsu maximises the
variance between classes, which is the same as minimising the inertia: its thresholds equal those of exact K-Means up to its
256 bins. Five classes take it seconds an image, so both are shown with three and four. Finished parts are cached, so a
stopped run can be resumed. Writes figures/kmeans_ablation.csv, one row for each variant, set and part of the set, and the
picture.

Needs: pip install scikit-fuzzy
Usage: BUSUTILS_DATA_DIR=FOLDER python benchmarks/kmeans_ablation.py [--n-jobs N] [--only NAME …]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from _common import FIGURES, command_line, write_picture, write_table

from busutils import datasets, jobs, metrics
from busutils.evaluation import compare, evaluate, summarise
from busutils.models import ConstantMaskSegmenter, KMeansSegmenter
from busutils.models.kmeans import PRESETS, WEIGHTS, kmeans_1d
from busutils.models.regions import FEATURES, oracle


class FuzzySegmenter(KMeansSegmenter):
    """Fuzzy c-means of scikit-fuzzy (exponent 2), started from the exact clusters, on about 4000 pixels."""

    def _thresholds(self, flat: np.ndarray, k: int) -> np.ndarray:
        from skfuzzy import cmeans

        exact = kmeans_1d(flat, k).centres
        some = flat.ravel()[:: max(1, flat.size // 4096)].astype(float)
        start = 1 / ((some - exact[:, None]) ** 2 + 1)
        if len(exact) < 2:
            return np.zeros(0)
        centres = cmeans(some[None], len(exact), 2, error=1e-2, maxiter=100, init=start / start.sum(axis=0))[0]
        centres = np.sort(centres.ravel())
        # A pixel goes to its strongest membership, which is its nearest centre.
        return (centres[1:] + centres[:-1]) / 2


class OtsuSegmenter(KMeansSegmenter):
    """Multi-Otsu of scikit-image."""

    def _thresholds(self, flat: np.ndarray, k: int) -> np.ndarray:
        from skimage.filters import threshold_multiotsu

        return threshold_multiotsu(flat, k) if len(np.unique(flat)) > k else kmeans_1d(flat, k).thresholds


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
    "rules": KMeansSegmenter("rules"),
    "best": KMeansSegmenter("best"),
    "best, never reject": KMeansSegmenter("best", reject=0.0),
    "best, no trees": KMeansSegmenter("best", weights=WEIGHTS["full"]),
    "best, plain ranking": KMeansSegmenter("best", weights="plain"),
    "best, no vote": KMeansSegmenter("best", voters=1),
    "best, no contour": KMeansSegmenter("best", contour="none"),
    "best, hull": KMeansSegmenter("best", contour="hull"),
    "best, one background": KMeansSegmenter("best", background=50.0),
    "best, no background": KMeansSegmenter("best", background=0.0),
    "best, no median": KMeansSegmenter("best", median=0),
    "best, one opening": KMeansSegmenter("best", openings=(4,)),
    "best, fuzzy c-means": FuzzySegmenter("best"),
    "best, k = 3, 4": KMeansSegmenter("best", k=(3, 4)),
    "best, multi-Otsu 3, 4": OtsuSegmenter("best", k=(3, 4)),
}


def ceiling(dataset: datasets.LesionDataset) -> pd.DataFrame:
    """Scores of the candidate of `best` that fits the reference best: no method, it looks at the mask."""
    segmenter = KMeansSegmenter("best", reject=0.0)
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
    """What a result depends on, beside presets, weights and code: method, set and options."""
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


# The table has all; the picture shows these.
DRAWN = (
    "constant mask", "textbook", "+ median", "+ background", "+ choice by score", "improved", "rules", "best",
    "best, never reject", "best, no background", "best, no median", "best, no vote", "best, no contour", "oracle",
)  # fmt: skip


def draw(table: pd.DataFrame, path: Path) -> None:
    import matplotlib.pyplot as plt

    keys = [key for key in ("busi", "stu") if (table["dataset"] == key).any()]
    methods = [name for name in DRAWN if name in set(table["method"])]
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
    write_picture(figure, path, dpi=130)


def main() -> None:
    parser = command_line(__doc__, "n_jobs", "draw")
    parser.add_argument("--only", nargs="+", help="these variants, without writing figures")
    given = parser.parse_args()
    if given.draw:
        draw(pd.read_csv(FIGURES / "kmeans_ablation.csv"), FIGURES / "kmeans_ablation.png")
        return
    names = given.only or ["constant mask", *VARIANTS, "oracle"]
    tasks = [task(name, key) for name in names for key in ("busi", "stu")]
    # The weights are part of what a kept result depends on, and so are the presets.
    results = jobs.run(
        "kmeans-ablation",
        score,
        tasks,
        parts=[PRESETS, WEIGHTS, list(FEATURES)],
        suffix=".csv",
        n_jobs=given.n_jobs,
        progress=True,
    )
    table = summary({(name, key): result for (name, key, _), result in zip(tasks, results, strict=True)})
    shown = table[table["part"] == "all"]
    print(
        shown[["dataset", "method", "dice", "dice_low", "dice_high", "missed", "normal_specificity"]]
        .round(3)
        .to_string()
    )
    if not given.only:
        write_table(table.round(4), FIGURES / "kmeans_ablation.csv")
        draw(table, FIGURES / "kmeans_ablation.png")


if __name__ == "__main__":
    main()
