"""Compare simulated with real images in numbers: grey levels, contrast, texture, edges, difficulty for K-Means.

    BUSUTILS_DATA_DIR=DIR python benchmarks/phantom_realism.py [--n 300] [--out figures]

Writes ``phantom_realism.csv`` (one row for each measure, label and set: mean, median, 10th and 90th percentile),
``phantom_realism_histogram.csv`` (share of pixels for each grey level) and ``phantom_realism_depth.csv`` (mean grey
level over depth). Only numbers are written, no pixels of the real set. All images are resized to 256 x 256 pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from _common import command_line
from scipy import ndimage

from busutils import datasets
from busutils.models import KMeansSegmenter

SIZE = 256


def measure(image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Measures of one image, grey levels in 0..255, lengths in pixels of the 256-pixel square."""
    grey = image.astype(np.float32)
    fine = grey - ndimage.gaussian_filter(grey, 6)
    spread = np.sqrt(ndimage.gaussian_filter(fine * fine, 6))
    texture = np.where(spread > 1, fine / np.maximum(spread, 1), 0)
    power = float((texture * texture).mean())

    def correlation(down: int, across: int) -> float:
        return float((texture[: SIZE - down, : SIZE - across] * texture[down:, across:]).mean()) / power

    row = {
        "mean grey level": grey.mean(),
        "standard deviation of grey levels": grey.std(),
        "5th percentile": np.percentile(grey, 5),
        "95th percentile": np.percentile(grey, 95),
        "top quarter minus bottom quarter": grey[: SIZE // 4].mean() - grey[-SIZE // 4 :].mean(),
        "texture: standard deviation": fine.std(),
        "texture: axial correlation at 1 px": correlation(1, 0),
        "texture: axial correlation at 2 px": correlation(2, 0),
        "texture: lateral correlation at 1 px": correlation(0, 1),
        "texture: lateral correlation at 2 px": correlation(0, 2),
        "texture: lateral correlation at 5 px": correlation(0, 5),
        "edge strength: mean axial difference": np.abs(np.diff(grey, axis=0)).mean(),
        "edge strength: mean lateral difference": np.abs(np.diff(grey, axis=1)).mean(),
    }
    inside = ndimage.binary_erosion(mask, iterations=3)
    ring = ndimage.binary_dilation(mask, iterations=12) & ~ndimage.binary_dilation(mask, iterations=2)
    if not inside.any() or not ring.any():
        return row
    rows, columns = np.nonzero(mask)
    slope = ndimage.gaussian_gradient_magnitude(grey, 1.5)
    border = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
    below, beside = np.zeros((2, SIZE, SIZE), bool)
    low, high = np.percentile(columns, [20, 80]).astype(int)
    half = max((columns.max() - columns.min()) // 2, 1)
    band = slice(rows.max() + 3, rows.max() + 25)
    below[band, low : high + 1] = True
    beside[band, max(0, columns.min() - half) : columns.min()] = True
    beside[band, columns.max() : columns.max() + half] = True
    row |= {
        "lesion: area in percent": 100 * mask.mean(),
        "lesion: depth of the centre": rows.mean() / SIZE,
        "lesion: height": (np.ptp(rows) + 1) / SIZE,
        "lesion: width": (np.ptp(columns) + 1) / SIZE,
        "lesion: grey level inside": grey[inside].mean(),
        "lesion: standard deviation inside": grey[inside].std(),
        "lesion: surround minus inside": grey[ring].mean() - grey[inside].mean(),
        "lesion: border slope over mean slope": slope[border].mean() / max(slope.mean(), 1e-6),
    }
    if below.any() and beside.any():
        row["lesion: below minus beside"] = grey[below].mean() - grey[beside].mean()
    return row


def kmeans_dice(images: np.ndarray, masks: np.ndarray) -> Iterable[tuple[str, np.ndarray]]:
    """Per-image Dice of the textbook and the improved K-Means."""
    for preset in ("textbook", "improved"):
        drawn = KMeansSegmenter(preset=preset).fit(images).predict(images)
        total = drawn.sum((1, 2)) + masks.sum((1, 2))
        yield f"K-Means {preset}: Dice", 2 * (drawn & masks).sum((1, 2)) / np.maximum(total, 1)


def main(out: Path, n: int) -> None:
    """Measure every set and write the three tables."""
    real = datasets.load("busi")
    sets = {"busi": real.subset(np.linspace(0, len(real) - 1, min(n, len(real))).astype(int))}
    for scanner in ("clinic", "portable", "highend"):
        sets[f"phantom-{scanner}"] = datasets.load("phantom", n=n, seed=7, scanner=scanner)
    tables, histogram, depth = [], {}, {}
    for name, dataset in sets.items():
        images, masks = dataset.load_arrays(SIZE, use_cache=False)
        each = pd.DataFrame([measure(i, m) for i, m in zip(images, masks, strict=True)])
        lesions = masks.any((1, 2))
        for column, scores in kmeans_dice(images[lesions], masks[lesions]):
            each.loc[lesions, column] = scores
        histogram[name] = np.bincount(images.ravel(), minlength=256) / images.size
        depth[name] = images.mean((0, 2))
        for label in ("all", "benign", "malignant", "normal"):
            rows = each if label == "all" else each[dataset.labels == label]
            summary = pd.DataFrame(
                {
                    "n": rows.count(),
                    "mean": rows.mean(),
                    "median": rows.median(),
                    "p10": rows.quantile(0.1),
                    "p90": rows.quantile(0.9),
                }
            )
            tables.append(summary.rename_axis("measure").reset_index().assign(set=name, label=label))
    out.mkdir(parents=True, exist_ok=True)
    table = pd.concat(tables)[["measure", "label", "set", "n", "mean", "median", "p10", "p90"]]
    table[table["n"] > 0].sort_values(["measure", "label", "set"]).round(3).to_csv(
        out / "phantom_realism.csv", index=False
    )
    pd.DataFrame(histogram).rename_axis("grey_level").round(6).to_csv(out / "phantom_realism_histogram.csv")
    pd.DataFrame(depth).rename_axis("row_of_256").round(2).to_csv(out / "phantom_realism_depth.csv")


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--n", type=int, default=300, help="images a set")
    parser.add_argument("--out", type=Path, default=Path("figures"))
    options = parser.parse_args()
    main(options.out, options.n)
