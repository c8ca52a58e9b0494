"""Image, K-Means, U-Net and uncertainty on two simulated images: the first picture of the README.

Writes figures/front.png. Usage: python tools/front_picture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

from busutils import datasets, explain, jobs, metrics, models
from busutils.plotting.style import PREDICTION, TRUTH

FIGURES = Path(__file__).parents[1] / "figures"
SCENES = "phantom?n=40&seed=21"
SHOWN = [32, 9]  # one that the network draws well, one of which it is not sure


def draw() -> plt.Figure:
    """One row an image; the reference is yellow, what a method draws is cyan."""
    images, masks = datasets.load(SCENES).lesions().subset(SHOWN).load_arrays(256)
    network = models.load_weights("phantom-light")
    probs = network.predict_proba(images)
    drawn = {
        "K-Means": models.KMeansSegmenter("improved").predict(images),
        "U-Net": network.masks_from(probs),
    }
    figure, grid = plt.subplots(len(images), 4, figsize=(11, 2.9 * len(images)), layout="constrained")
    for row, panels in enumerate(grid):
        for panel, (name, preds) in zip(panels[1:3], drawn.items(), strict=True):
            score = metrics.dice(masks[row], preds[row])
            panel.set_title(f"{name}, Dice {score:.2f}")
            panel.contour(preds[row], [0.5], colors=PREDICTION, linewidths=1.6)
        for panel in panels:
            panel.imshow(images[row], cmap="gray", vmin=0, vmax=255, zorder=-1)
            panel.set_axis_off()
        for panel in panels[:3]:
            panel.contour(masks[row], [0.5], colors=TRUTH, linewidths=1.2)
        heat = panels[3].imshow(explain.entropy(probs[row]), cmap="magma", vmin=0, vmax=1, alpha=0.75)
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
