"""What a network looks at, whether such pictures can be believed, and when to doubt a mask.

Gradient methods need Keras' TensorFlow engine and say so on another.
"""

from busutils.explain.activation import feature_maps, rank_channels, seg_grad_cam
from busutils.explain.sanity import edge_map, energy_inside, map_similarity, randomise
from busutils.explain.uncertainty import doubt, entropy, risk_coverage, shaken_proba

__all__ = [
    "doubt",
    "edge_map",
    "energy_inside",
    "entropy",
    "feature_maps",
    "map_similarity",
    "randomise",
    "rank_channels",
    "risk_coverage",
    "seg_grad_cam",
    "shaken_proba",
]
