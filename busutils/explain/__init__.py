"""What a network looks at, whether such pictures can be believed, and how uncertain a mask is.

Gradient methods need Keras' TensorFlow engine and say so on another.
"""

from busutils.explain.activation import (
    dissect,
    feature_maps,
    levels_of,
    rank_channels,
    receptive_field,
    receptive_fields,
)
from busutils.explain.attribution import hires_cam, input_gradients, integrated_gradients, occlusion, seg_grad_cam
from busutils.explain.sanity import (
    context_test,
    deletion_insertion,
    edge_map,
    energy_inside,
    map_similarity,
    randomisation_curve,
    randomise,
    with_calipers,
    without_shadow,
)
from busutils.explain.uncertainty import (
    dropout_proba,
    ensemble_proba,
    entropy,
    mean_entropy,
    risk_coverage,
    tta_proba,
)

__all__ = [
    "context_test",
    "deletion_insertion",
    "dissect",
    "dropout_proba",
    "edge_map",
    "energy_inside",
    "ensemble_proba",
    "entropy",
    "feature_maps",
    "hires_cam",
    "input_gradients",
    "integrated_gradients",
    "levels_of",
    "map_similarity",
    "mean_entropy",
    "occlusion",
    "randomisation_curve",
    "randomise",
    "rank_channels",
    "receptive_field",
    "receptive_fields",
    "risk_coverage",
    "seg_grad_cam",
    "tta_proba",
    "with_calipers",
    "without_shadow",
]
