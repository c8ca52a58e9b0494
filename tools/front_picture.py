"""Image, K-Means, U-Net and uncertainty on two simulated images: the first picture of the README.

Writes figures/front.png. Usage: python tools/front_picture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from busutils import datasets, explain, jobs, metrics, models
from busutils.plotting.style import PREDICTION, TRUTH

FIGURES = Path(__file__).parents[1] / "figures"
SCENES = "phantom?n=40&seed=21"


def draw() -> plt.Figure:
    """One row an image; the reference is yellow, what a method draws is cyan.

    Shown are the image with the median difference in Dice between the methods, and the one whose likely pixels have the
    largest mean entropy.
    """
    images, masks = datasets.load(SCENES).lesions().load_arrays(256)
    network = models.load_weights("phantom-light")
    probs = network.predict_proba(images)
    drawn = {
        "K-Means, best": models.KMeansSegmenter("best").predict(images),
        "U-Net": network.masks_from(probs),
    }
    scores = {
        name: np.array([metrics.dice(*pair) for pair in zip(masks, preds, strict=True)])
        for name, preds in drawn.items()
    }
    typical = np.argsort(scores["U-Net"] - scores["K-Means, best"])[len(images) // 2]
    uncertain = np.argmax([explain.entropy(p)[p >= 0.1].mean() if (p >= 0.1).any() else 0 for p in probs])
    shown = [typical, uncertain]
    figure, grid = plt.subplots(2, 4, figsize=(11, 5.8), layout="constrained")
    for image, panels in zip(shown, grid, strict=True):
        for panel, (name, preds) in zip(panels[1:3], drawn.items(), strict=True):
            panel.set_title(f"{name}: Dice {scores[name][image]:.2f}")
            panel.contour(preds[image], [0.5], colors=PREDICTION, linewidths=1.6)
        for panel in panels:
            panel.imshow(images[image], cmap="gray", vmin=0, vmax=255, zorder=-1)
            panel.set_axis_off()
        for panel in panels[:3]:
            panel.contour(masks[image], [0.5], colors=TRUTH, linewidths=1.2)
        heat = panels[3].imshow(explain.entropy(probs[image]), cmap="magma", vmin=0, vmax=1, alpha=0.75)
        panels[0].set_title("simulated image, true outline")
        panels[3].set_title("uncertainty of the U-Net")
    figure.colorbar(heat, ax=grid[:, 3].tolist(), label="entropy (bit)", shrink=0.7)
    return figure


def main() -> None:
    figure = draw()
    with jobs.atomic_path(FIGURES / "front.png") as temporary:
        figure.savefig(temporary, dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
