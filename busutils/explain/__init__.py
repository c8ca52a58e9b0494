"""What a network looks at, whether such pictures can be believed, and when to doubt a mask.

Gradient methods need Keras' TensorFlow engine and say so on another.
"""

from busutils.explain.activation import feature_maps, rank_channels
from busutils.explain.attribution import hires_cam, input_gradients, integrated_gradients, occlusion, seg_grad_cam
from busutils.explain.sanity import (
    deletion_insertion,
    edge_map,
    energy_inside,
    map_similarity,
    randomisation_curve,
    randomise,
)
from busutils.explain.uncertainty import doubt, dropout_proba, entropy, risk_coverage, shaken_proba

__all__ = [
    "deletion_insertion",
    "doubt",
    "dropout_proba",
    "edge_map",
    "energy_inside",
    "entropy",
    "feature_maps",
    "hires_cam",
    "input_gradients",
    "integrated_gradients",
    "map_similarity",
    "occlusion",
    "randomisation_curve",
    "randomise",
    "rank_channels",
    "risk_coverage",
    "seg_grad_cam",
    "shaken_proba",
]
