"""Colours of methods, classes and contours, the same in every figure."""

from __future__ import annotations

TRUTH = "#ffd21f"  # yellow
PREDICTION = "#27d7f2"  # cyan

# Colour-blind safe palette of Okabe & Ito. The grey is dark, since deuteranopes confuse a light grey with the purple.
COLOURS = {
    "constant mask": "#707070",
    "K-Means, textbook": "#e69f00",
    "K-Means, improved": "#d55e00",
    "K-Means, best": "#cc79a7",
    "U-Net": "#0072b2",
    "U-Net, encoder": "#009e73",
    "benign": "#0072b2",
    "malignant": "#d55e00",
    "normal": "#707070",
    "unknown": "#000000",
}
METHOD_ORDER = tuple(COLOURS)[:6]
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000")  # curves that are told apart by their legend only
_OTHERS = ("#56b4e9", "#882255", "#000000")  # without the yellow, which fades on white


def colour_of(name: str, position: int = 0) -> str:
    """Colour of a method or class; names without one get a spare colour by position."""
    return COLOURS.get(name, _OTHERS[position % len(_OTHERS)])
