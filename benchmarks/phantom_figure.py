"""Draw the gallery of simulated images: three scanners by six kinds of lesion.

    python benchmarks/phantom_figure.py [--out figures] [--seed 12]

Each column is one anatomy, each row one scanner: within a column only the scanner changes.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from _common import command_line

from busutils import phantom

KINDS = [kind for kind in phantom.KINDS if kind != "normal"]


def draw(out: Path, seed: int, indices: list[int]) -> Path:
    """Write ``phantom_gallery.png`` and the CSV that says what it shows."""
    figure, axes = plt.subplots(
        len(phantom.PRESETS), len(KINDS), figsize=(13, 2.3 * len(phantom.PRESETS)), layout="constrained"
    )
    rows = []
    for row, scanner in zip(axes, phantom.PRESETS, strict=True):
        for axis, kind, index in zip(row, KINDS, indices, strict=True):
            made = phantom.simulate(index, seed=seed, scanner=scanner, kind=kind)
            depth, width = made.scene.depth, made.scene.width
            extent = (0, width, depth, 0)
            axis.imshow(made.image, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
            axis.contour(
                made.mask, levels=[0.5], colors="#ffd400", linewidths=0.8, extent=(0, width, 0, depth), origin="lower"
            )
            axis.set_box_aspect(1)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_ylim(depth, 0)
            if scanner == next(iter(phantom.PRESETS)):
                axis.set_title(f"{kind} ({made.label})", fontsize=9)
            # Pixels are not square: one arm of the corner mark for each direction.
            axis.plot([width - 1, width - 11], [depth - 1.5] * 2, color="white", linewidth=2)
            axis.plot([width - 1, width - 1], [depth - 1.5, depth - 11.5], color="white", linewidth=2)
            rows.append({"scanner": scanner, "kind": kind, "index": index, "seed": seed, "label": made.label})
            rows[-1] |= made.descriptors | {
                "area_percent": round(100 * made.mask.mean(), 2),
                "depth_mm": round(depth, 1),
                "width_mm": round(width, 1),
                "generator_version": made.generator_version,
            }
        row[0].set_ylabel(scanner, fontsize=10)
    figure.suptitle(
        f"Simulated B-mode images (generator {phantom.GENERATOR_VERSION}): "
        "truth in yellow, white arms 10 mm, one anatomy a column",
        fontsize=10,
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / "phantom_gallery.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    pd.DataFrame(rows).to_csv(out / "phantom_gallery.csv", index=False)
    return path


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--indices", type=int, nargs=len(KINDS), default=[21, 1, 20, 24, 4, 5])
    options = parser.parse_args()
    draw(options.out, options.seed, options.indices)


if __name__ == "__main__":
    main()
