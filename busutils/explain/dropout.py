"""The one Keras layer of this package, apart so that reading uncertainty from probabilities needs no Keras."""

from __future__ import annotations

from typing import Any

from busutils.models.backend import keras

__all__ = ["AlwaysDropout"]


class AlwaysDropout(keras.layers.SpatialDropout2D):
    """Dropout of whole channels that stays on when a network predicts."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Drop channels, whatever `training` says."""
        return super().call(inputs, training=True)
