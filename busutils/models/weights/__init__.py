"""Trained weights that travel with the package, each with a card that says what it may be used for."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from busutils.models.segmenter import Segmenter, WeightsError
from busutils.phantom import GENERATOR_VERSION

__all__ = ["list_weights", "load_weights", "weights_facts", "weights_file"]

_FOLDER = Path(__file__).parent


def list_weights() -> list[str]:
    """Names of the trained weights in the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.npz"))


def weights_file(name: str) -> Path:
    """File of shipped weights, or the path itself where the name is none of theirs.

    What is computed with weights depends on this file's content, not on its name.
    """
    return _FOLDER / f"{name}.npz" if name in list_weights() else Path(name)


def weights_facts(name: str) -> dict[str, Any]:
    """What is known about shipped weights, for programs; the card beside them is for people.

    Parameters
    ----------
    name : str
        One of :func:`list_weights`.

    Returns
    -------
    dict
        ``trained_on``: sets, joined by `` + ``; ``held_out``: the fold that was left out of each, or None; a list with
        one entry a set where they differ;
        ``generator_version`` of simulated images; ``scores``: one entry a test set.

    Raises
    ------
    WeightsError
        If there are no weights of that name.
    """
    if name not in list_weights():
        raise WeightsError(f"there are no weights {name!r}: choose one of {', '.join(list_weights()) or '(none yet)'}")
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def load_weights(name: str) -> Segmenter:
    """Return a trained segmenter from the package, with its Keras network; see :func:`busutils.models.load`.

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

    Warns
    -----
    UserWarning
        If they were trained on phantoms of another generator version than this package's.
    """
    from busutils.models.runtimes import load

    weights_facts(name)
    return load(name, "keras")


def warn_of_other_generator(name: str) -> None:
    """Warn if shipped weights were trained on phantoms of another generator version than this package's."""
    made_with = weights_facts(name).get("generator_version")
    if made_with is not None and made_with != GENERATOR_VERSION:
        warnings.warn(
            f"{name} was trained on phantoms of generator {made_with}, this is {GENERATOR_VERSION}: train it again",
            stacklevel=4,
        )
