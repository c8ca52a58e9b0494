"""Figures: one function per kind, each returns the Figure. Colour-blind safe, perceptual colour maps only."""

from busutils.plotting.images import (
    activation_levels,
    heat_overlay,
    image_grid,
    masks_grid,
    network_levels,
    overlay,
    receptive_fields,
)
from busutils.plotting.scores import (
    dataset_overview,
    forest_plot,
    histogram_1d,
    reliability_diagram,
    score_matrix,
    score_strips,
)
from busutils.plotting.style import COLOURS, LINES, METHOD_ORDER, colour_of

__all__ = [
    "COLOURS",
    "LINES",
    "METHOD_ORDER",
    "activation_levels",
    "colour_of",
    "dataset_overview",
    "forest_plot",
    "heat_overlay",
    "histogram_1d",
    "image_grid",
    "masks_grid",
    "network_levels",
    "overlay",
    "receptive_fields",
    "reliability_diagram",
    "score_matrix",
    "score_strips",
]
