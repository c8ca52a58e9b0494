"""Folds that keep groups together, and the refusal of splits that do not."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from importlib import resources

import numpy as np
import pandas as pd

from busutils.errors import BusutilsError

# Steps of this share of a turn spread any run of numbers evenly (and independently of the class mix of the phantoms).
_STEP = int((math.sqrt(3) - 1) * 2**64)


class LeakError(BusutilsError):
    """A group has images on both sides of a split."""


def fold_of_group(group: str, *, n_folds: int = 5) -> int:
    """Fold of a group from its name alone: the same whatever other groups a set holds.

    The last number in the name steps through the folds, so that groups with consecutive numbers are spread evenly; the
    rest of the name sets the first step. Names without a number are spread at random, by their hash.

    Parameters
    ----------
    group : str
    n_folds : int

    Returns
    -------
    int
        1 to ``n_folds``.

    Examples
    --------
    >>> [fold_of_group(f"case{number}") for number in range(1, 8)]
    [3, 2, 5, 4, 3, 1, 5]
    """
    parts = re.fullmatch(r"(.*?)(\d*)(\D*)", str(group), re.DOTALL)
    assert parts is not None  # any text is three such parts
    before, number, after = parts.groups()
    start = int.from_bytes(hashlib.sha256(f"{before}#{after}".encode()).digest()[:8], "big")
    return ((start + int(number or 0) * _STEP) % 2**64 * n_folds >> 64) + 1


def join_groups(groups: Iterable[str], pairs: Iterable[Sequence[int]]) -> list[str]:
    """Join groups that a pair connects; the joined group has the name of its first member.

    Parameters
    ----------
    groups : sequence of str
        Group of each image.
    pairs : (M, 2) sequence of int
        Positions of images that belong together.

    Returns
    -------
    list of str

    Examples
    --------
    >>> join_groups(["a", "b", "c", "d"], [(2, 1)])
    ['a', 'b', 'b', 'd']
    """
    joined = list(groups)
    rank = {group: place for place, group in reversed(list(enumerate(joined)))}
    for a, b in pairs:
        first, second = sorted((joined[a], joined[b]), key=rank.__getitem__)
        joined = [first if group == second else group for group in joined]
    return joined


def check_no_leak(groups_train: Sequence | np.ndarray, groups_test: Sequence | np.ndarray) -> None:
    """Refuse a split with a group on both sides.

    Parameters
    ----------
    groups_train, groups_test : sequence
        Groups of the images on either side.

    Raises
    ------
    LeakError
        If they share a group; the message names some.

    Examples
    --------
    >>> check_no_leak(["a", "b"], ["c"])
    >>> check_no_leak(["a", "b"], ["b"])
    Traceback (most recent call last):
    ...
    busutils.datasets.splits.LeakError: 1 group is on both sides of the split (b): split by group, as
    LesionDataset.split does.
    """
    shared = sorted(set(np.asarray(groups_train).tolist()) & set(np.asarray(groups_test).tolist()), key=str)
    if shared:
        named = ", ".join(map(str, shared[:5])) + (" …" if len(shared) > 5 else "")
        what = "1 group is" if len(shared) == 1 else f"{len(shared)} groups are"
        raise LeakError(f"{what} on both sides of the split ({named}): split by group, as LesionDataset.split does.")


def shipped_folds(key: str) -> pd.DataFrame | None:
    """Folds that come with the package.

    Parameters
    ----------
    key : str
        Key of the catalogue.

    Returns
    -------
    DataFrame or None
        Columns label, group, fold, indexed by id; ``None`` where no folds are shipped for the set.
    """
    file = resources.files("busutils.datasets") / "folds" / f"{key}.csv"
    if not file.is_file():
        return None
    with file.open("r", encoding="utf-8") as stream:
        return pd.read_csv(stream, dtype={"id": str, "label": str, "group": str, "fold": int}).set_index("id")
