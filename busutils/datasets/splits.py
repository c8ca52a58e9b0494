"""Folds that keep groups together, and the refusal of splits that do not."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Sequence
from importlib import resources

import numpy as np
import pandas as pd

from busutils.errors import BusutilsError

# Steps of this share of a turn spread any run of numbers evenly (and independently of the class mix of the phantoms).
_STEP = int((math.sqrt(3) - 1) * 2**64)


class LeakError(BusutilsError):
    """A group has images on both sides of a split."""


def grouped_folds(
    groups: Sequence | np.ndarray, labels: Sequence | np.ndarray, *, n_folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Deal groups to folds so that sizes and label shares stay even.

    Groups are dealt largest first (ties in an order drawn from ``seed``), each to the fold where the counts
    of all labels stay most even: the greedy rule of scikit-learn's ``StratifiedGroupKFold``, with counts
    measured against what a fold should hold, so that rare labels weigh as much as common ones.

    Parameters
    ----------
    groups : (N,) sequence
        Images that must stay together share a group.
    labels : (N,) sequence
        Class of each image.
    n_folds : int
    seed : int

    Returns
    -------
    (N,) int ndarray
        1 to ``n_folds``. With fewer groups than folds the last folds are empty.

    Raises
    ------
    ValueError
        If lengths differ or ``n_folds`` is below two.

    Examples
    --------
    >>> grouped_folds(["a", "a", "b", "c"], ["benign"] * 4, n_folds=2)
    array([1, 1, 2, 2])
    """
    groups, labels = np.asarray(groups), np.asarray(labels)
    if groups.shape != labels.shape or groups.ndim != 1:
        raise BusutilsError(f"groups and labels must have one length, got {groups.shape} and {labels.shape}.")
    if n_folds < 2:
        raise BusutilsError(f"n_folds must be at least 2, got {n_folds}.")
    if groups.size == 0:
        return np.zeros(0, int)
    _, group_of = np.unique(groups, return_inverse=True)
    classes, class_of = np.unique(labels, return_inverse=True)
    counts = np.zeros((group_of.max() + 1, classes.size))
    np.add.at(counts, (group_of, class_of), 1)
    want = counts.sum(axis=0) / n_folds
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    held = np.zeros((n_folds, classes.size))
    fold_of = np.zeros(len(counts), int)
    for group in order:
        # Uneven = squared excess over the wanted count, by label and for the whole fold.
        after = held + counts[group]
        gain = (((after - want) / want) ** 2 - ((held - want) / want) ** 2).sum(axis=1)
        total = want.sum()
        gain += ((after.sum(axis=1) - total) / total) ** 2 - ((held.sum(axis=1) - total) / total) ** 2
        fold_of[group] = np.argmin(gain)
        held[fold_of[group]] += counts[group]
    return fold_of[group_of] + 1


def fold_of_group(group: str, *, n_folds: int = 5) -> int:
    """Fold of a group from its name alone: the same whatever other groups a set holds.

    The last number in the name steps through the folds, so that groups that are numbered in a row are spread evenly; the
    rest of the name sets where the steps begin. Names without a number are spread by chance.

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


@functools.cache
def _shipped(key: str) -> pd.DataFrame | None:
    file = resources.files("busutils.datasets") / "folds" / f"{key}.csv"
    if not file.is_file():
        return None
    with file.open("r", encoding="utf-8") as stream:
        return pd.read_csv(stream, dtype={"id": str, "label": str, "group": str, "fold": int}).set_index("id")


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
    table = _shipped(key)
    return None if table is None else table.copy()
