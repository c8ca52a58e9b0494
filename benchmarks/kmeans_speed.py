"""Compare exact clustering with scikit-learn's, and measure the processor time of an image at each size.

For 100 images: inertia and time of :func:`busutils.models.kmeans.kmeans_1d` and of
``sklearn.cluster.KMeans(n_init=10)`` on the same pixels; then the time of each preset from 128² to 1024². Prints
ratios and milliseconds of processor time on one core; writes figures/kmeans_speed.csv.

Usage: OMP_NUM_THREADS=1 python benchmarks/kmeans_speed.py [--dataset busi] [--images 100]
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from _common import FIGURES, command_line, write_table
from sklearn.cluster import KMeans

from busutils import datasets
from busutils.models import KMeansSegmenter
from busutils.models.kmeans import PRESETS, kmeans_1d


def clustering(images: np.ndarray, k: int) -> dict[str, object]:
    """Times and inertias of both on the same images, one after the other."""
    exact_s, lloyd_s, worse, gain = [], [], 0, []
    for image in images:
        pixels = image.reshape(-1, 1).astype(np.float64)
        start = time.process_time()
        exact = kmeans_1d(image, k)
        middle = time.process_time()
        lloyd = KMeans(k, n_init=10, random_state=0).fit(pixels)
        lloyd_s.append(time.process_time() - middle)
        exact_s.append(middle - start)
        worse += exact.inertia > lloyd.inertia_ * (1 + 1e-9)
        gain.append(1 - exact.inertia / lloyd.inertia_)
    return {
        "what": f"clustering, k = {k}",
        "size": images.shape[1],
        "n": len(images),
        "ms": 1e3 * np.median(exact_s),
        "sklearn_ms": 1e3 * np.median(lloyd_s),
        "times_faster": sum(lloyd_s) / sum(exact_s),
        "higher_inertia": worse,
        "largest_gain": max(gain),
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--dataset", default="busi")
    parser.add_argument("--images", type=int, default=100)
    given = parser.parse_args()
    dataset = datasets.load(given.dataset)
    spread = np.linspace(0, len(dataset) - 1, given.images, dtype=int)
    dataset = dataset.subset(np.isin(np.arange(len(dataset)), spread))
    images = dataset.load_arrays(256)[0]
    rows = [clustering(images, k) for k in (2, 3, 5)]
    for size in (128, 256, 512, 1024):
        some = np.stack([datasets.resize_image(image, size) for image in images[:: max(1, len(images) // 20)]])
        for preset in PRESETS:
            segmenter = KMeansSegmenter(preset, size=size)
            segmenter.predict(some[:1])
            spent = []
            for image in some:
                start = time.process_time()
                segmenter.predict(image[None])
                spent.append(1e3 * (time.process_time() - start))
            rows.append(
                {"what": preset, "size": size, "n": len(some), "ms": np.median(spent), "slowest_ms": max(spent)}
            )
    table = pd.DataFrame(rows)
    print(table.round(2).to_string())
    write_table(table.round(4), FIGURES / "kmeans_speed.csv")


if __name__ == "__main__":
    main()
