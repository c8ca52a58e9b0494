"""Trained weights that travel with the package, each with a card that says what it may be used for."""

from __future__ import annotations

from pathlib import Path

from busutils.models.segmenter import Segmenter, WeightsError

__all__ = ["list_weights", "load_weights"]

_FOLDER = Path(__file__).parent


def list_weights() -> list[str]:
    """Names of the trained weights in the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.npz"))


def load_weights(name: str) -> Segmenter:
    """Return a trained segmenter from the package.

    Parameters
    ----------
    name : str
        One of :func:`list_weights`.

    Returns
    -------
    Segmenter
        Ready to predict.

    Raises
    ------
    WeightsError
        If there are no weights of that name.
    """
    if name not in list_weights():
        raise WeightsError(f"there are no weights {name!r}: choose one of {', '.join(list_weights()) or '(none yet)'}")
    return Segmenter.load(_FOLDER / f"{name}.npz")
