"""Compare pictures with the committed ones: same size, and similar grey values after both are shrunk.

``python tools/compare_figures.py FOLDER`` compares each picture in FOLDER with the one of the same name in ``figures/``.
Fonts and versions of the drawing library move single pixels. So both pictures are shrunk to a sixth before the largest
difference is taken: a moved bar, another number or a missing curve still exceeds it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

FIGURES = Path(__file__).parents[1] / "figures"
SHRINK = 6
TOLERANCE = 40  # grey values of 255


def find_difference(committed: Path, drawn: Path) -> str:
    """What tells two pictures apart, as one sentence; empty if they agree."""
    with Image.open(committed) as one, Image.open(drawn) as other:
        if one.size != other.size:
            return (
                f"{drawn.name} is {other.width} × {other.height} pixels, the committed one {one.width} × {one.height}"
            )
        small = [np.asarray(image.convert("L").reduce(SHRINK), dtype=float) for image in (one, other)]
    worst = np.abs(small[0] - small[1]).max()
    if worst > TOLERANCE:
        return f"{drawn.name} differs from the committed one by {worst:.0f} grey values; {TOLERANCE} are allowed"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    drawn = [path for path in sorted(folder.glob("*.png")) if (FIGURES / path.name).exists()]
    if not drawn:
        parser.error(f"{folder} holds no picture that has a namesake in figures/")
    found = [fault for path in drawn if (fault := find_difference(FIGURES / path.name, path))]
    print("\n".join(found) or f"{len(drawn)} pictures agree with the committed ones")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
