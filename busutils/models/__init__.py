"""Methods that draw a lesion: K-Means and U-Net behind the same calls.

Networks load Keras only when they are used; importing this module does not.
"""

from __future__ import annotations

import importlib
from typing import Any

from busutils.models.segmenter import Segmenter, WeightsError, clean_mask

#: Methods by the ``kind`` that names them in a benchmark's description, and their classes.
METHODS = {"constant": "ConstantMaskSegmenter", "kmeans": "KMeansSegmenter", "unet": "UNetSegmenter"}

# Name → module: imported when first asked for, so that K-Means never pays for Keras.
_LAZY = {
    "ConstantMaskSegmenter": "busutils.models.constant",
    "FunctionSegmenter": "busutils.models.function",
    "KMeansSegmenter": "busutils.models.kmeans",
    "UNetSegmenter": "busutils.models.training",
    "RUNTIMES": "busutils.models.runtimes",
    "RuntimeNotAvailable": "busutils.models.runtimes",
    "export_network": "busutils.models.export",
    "fit_on": "busutils.models.fitting",
    "load": "busutils.models.runtimes",
    "runtime_name": "busutils.models.runtimes",
    "load_weights": "busutils.models.weights",
    "list_weights": "busutils.models.weights",
    "weights_facts": "busutils.models.weights",
}

__all__ = [*_LAZY, "METHODS", "Segmenter", "WeightsError", "clean_mask"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
