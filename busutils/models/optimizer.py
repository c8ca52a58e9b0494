"""AdamW with a rate of its own for some of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from busutils.models.backend import keras

__all__ = ["LayerwiseAdamW"]


class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW in which the weights of some layers learn at a share of the common rate.

    A pretrained encoder has little to learn; at the full rate it forgets (Amiri, Brooks & Rivaz 2020,
    doi:10.1109/TUFFC.2020.3015081, fine-tune it rather than freeze it). The decay of the weights, which AdamW keeps apart
    from the gradient's step, is that of the common rate everywhere.

    Parameters
    ----------
    learning_rate : float or keras schedule
        The common rate.
    shares : mapping of str to float
        Layer's name → share of the common rate.
    **options
        Of :class:`keras.optimizers.AdamW`.
    """

    def __init__(self, learning_rate: Any, shares: Mapping[str, float], **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.shares = dict(shares)

    def build(self, variables: Any) -> None:
        """Prepare for the weights that will be trained; called by Keras."""
        super().build(variables)
        self._shares = [self.shares.get(variable.path.rpartition("/")[0], 1.0) for variable in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Change one weight; called by Keras."""
        share = self._shares[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate if share == 1.0 else learning_rate * share)
