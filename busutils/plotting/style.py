"""Colours: one a method everywhere, and the two contours."""

from __future__ import annotations

__all__ = ["COLOURS", "METHOD_ORDER", "PREDICTION", "TRUTH", "colour_of"]

TRUTH = "#ffd21f"  # yellow
PREDICTION = "#27d7f2"  # cyan

# Okabe & Ito's colours, told apart by readers with any colour vision.
COLOURS = {
    "constant mask": "#999999",
    "K-Means, textbook": "#e69f00",
    "K-Means, improved": "#d55e00",
    "K-Means, best": "#cc79a7",
    "U-Net": "#0072b2",
    "U-Net, encoder": "#009e73",
    "benign": "#0072b2",
    "malignant": "#d55e00",
    "normal": "#999999",
    "unknown": "#000000",
}
METHOD_ORDER = tuple(COLOURS)[:6]
_OTHERS = ("#56b4e9", "#882255", "#000000")  # without the yellow, which fades on white


def colour_of(name: str, position: int = 0) -> str:
    """Colour of a method or class; names without one get a spare colour by position."""
    return COLOURS.get(name, _OTHERS[position % len(_OTHERS)])
