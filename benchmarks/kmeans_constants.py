"""Choose filter, background and area limits of `best` on BUS-BRA, folds 1 to 4, and on nothing else.

Each is varied around its value in the previous version (the first row of each kind). For every setting the linear weights
of the choice are fitted again. The Dice is measured on held-out folds and compared with those values image by image, before
the vote and the contour. The best of many settings is partly luck, so the winning filter, a median of 5 pixels, was
measured again on images that had not been used to choose it; `best` uses it. Writes figures/kmeans_constants.csv.

Usage: python benchmarks/kmeans_constants.py [--root FOLDER] [--images 600] [--n-jobs N]
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from _common import FIGURES, command_line, write_table
from kmeans_weights import best_of, candidate_dice, fit

from busutils import datasets, jobs
from busutils.evaluation import compare
from busutils.models import KMeansSegmenter
from busutils.models.kmeans import PRESETS
from busutils.models.regions import FEATURES

IN_USE = {"median": 9, "background": 50.0, "areas": (0.003, 0.5)}
FILTERS = [
    (9, 50.0),
    (0, 50.0),
    (5, 50.0),
    (13, 50.0),
    (9, 25.0),
    (9, 35.0),
    (9, 70.0),
    (9, 100.0),
    (5, 35.0),
    (13, 70.0),
]
AREAS = [(0.003, 0.5), (0.0015, 0.5), (0.006, 0.5), (0.003, 0.3), (0.003, 0.7)]
WIDEST = (0.0015, 0.7)


def describe(item: tuple[np.ndarray, np.ndarray], median: int, background: float) -> dict[str, np.ndarray]:
    """Features of all candidates of one image within the widest limits, and the Dice of each."""
    image, mask = item
    segmenter = KMeansSegmenter(
        "best", median=median, background=background, areas=WIDEST, reject=0.0, voters=1, contour="none"
    )
    done = segmenter._run(image)
    regions = done.get("regions", [])
    if not regions:
        return {"features": np.zeros((0, len(FEATURES))), "dice": np.zeros(0)}
    features = np.stack([done["features"][name] for name in FEATURES], axis=1)
    return {"features": features, "dice": candidate_dice(regions, mask)}


def held_out(parts: list[dict[str, np.ndarray]], areas: tuple[float, float], folds: np.ndarray) -> np.ndarray:
    """Dice of the candidate chosen in each image by weights that were fitted on the other folds."""
    image = np.repeat(np.arange(len(parts)), [len(part["dice"]) for part in parts])
    table = np.concatenate([part["features"] for part in parts])
    dice = np.concatenate([part["dice"] for part in parts])
    area = np.exp(table[:, list(FEATURES).index("log_area")])
    # A whisker of room: a limit met exactly must not hang on the last digit of a logarithm.
    allowed = (area >= areas[0] * (1 - 1e-9)) & (area <= areas[1] * (1 + 1e-9))
    image, table, dice = image[allowed], table[allowed], dice[allowed]
    reached = np.zeros(len(parts))
    for fold in np.unique(folds):
        test = folds[image] == fold
        weights = fit(table[~test], dice[~test], image[~test], 1e-4)
        row = np.flatnonzero(test)[best_of(table[test] @ weights, image[test])]
        reached[image[row]] = dice[row]
    return reached


def main() -> None:
    parser = command_line(__doc__, "n_jobs", "root")
    parser.add_argument("--images", type=int, default=600, help="only so many, evenly spread")
    given = parser.parse_args()
    dataset = datasets.load("bus-bra", root=given.root)
    dataset = dataset.subset(np.isin(dataset.folds(), (1, 2, 3, 4)))
    spread = np.linspace(0, len(dataset) - 1, min(given.images, len(dataset)), dtype=int)
    chosen = np.isin(np.arange(len(dataset)), spread)
    # No patient is on both sides.
    rest = dataset.subset(~chosen & ~np.isin(dataset.groups, dataset.groups[chosen]))
    dataset = dataset.subset(chosen)
    folds, groups = dataset.folds(), dataset.groups
    pairs = list(zip(*dataset.load_arrays(256), strict=True))
    run = partial(jobs.run, n_jobs=given.n_jobs, suffix=".npz")
    others = [PRESETS["best"][name] for name in ("k", "openings")]

    def described(images: list[tuple[np.ndarray, np.ndarray]], median: int, background: float) -> list[dict]:
        step = partial(describe, median=median, background=background)
        return run("kmeans-constants", step, images, parts=[median, background, WIDEST, others, list(FEATURES)])

    reached: dict[tuple[str, str], np.ndarray] = {}
    for median, background in FILTERS:
        parts = described(pairs, median, background)
        reached["filter", f"median {median}, sigma {background:g}"] = held_out(parts, IN_USE["areas"], folds)
        if (median, background) == (IN_USE["median"], IN_USE["background"]):
            for areas in AREAS:
                reached["areas", f"{areas[0]:g} to {areas[1]:g}"] = held_out(parts, areas, folds)
    winner = max(FILTERS, key=lambda pair: reached["filter", f"median {pair[0]}, sigma {pair[1]:g}"].mean())
    groups_of = {"filter": groups, "areas": groups, "filter, again": rest.groups}
    if len(rest):
        again = list(zip(*rest.load_arrays(256), strict=True))
        for median, background in dict.fromkeys([FILTERS[0], winner]):
            dice = held_out(described(again, median, background), IN_USE["areas"], rest.folds())
            reached["filter, again", f"median {median}, sigma {background:g}"] = dice

    rows = []
    first: dict[str, np.ndarray] = {}
    for (what, setting), dice in reached.items():
        base = first.setdefault(what, dice)
        pair = compare(dice, base, groups_of[what])
        rows.append({"what": what, "setting": setting, "n": len(dice), "dice": dice.mean(), "minus_in_use": pair.difference.mean,
                     "low": pair.difference.low, "high": pair.difference.high})  # fmt: skip
    table = pd.DataFrame(rows)
    print(table.round(4).to_string())
    write_table(table.round(4), FIGURES / "kmeans_constants.csv")


if __name__ == "__main__":
    main()
