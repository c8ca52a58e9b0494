"""Feature maps and attribution maps of a network, sanity checks of such maps, and the uncertainty of a mask.

Gradient methods need Keras' TensorFlow backend.
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
