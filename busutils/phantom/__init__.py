"""Simulated B-mode images of the breast with exact lesion masks.

>>> from busutils import phantom
>>> phantom.simulate(0, size=64).label
'benign'
"""

from busutils.phantom.scanner import MIXED, PRESETS, Scanner
from busutils.phantom.simulator import GENERATOR_VERSION, Phantom, label_of_index, scene_of, simulate, structures
from busutils.phantom.tissue import KINDS, Scene

__all__ = [
    "GENERATOR_VERSION",
    "KINDS",
    "MIXED",
    "PRESETS",
    "Phantom",
    "Scanner",
    "Scene",
    "label_of_index",
    "scene_of",
    "simulate",
    "structures",
]
