"""Self-checking exercises: say what is wrong, not what the answer is."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

from busutils import metrics

__all__ = [
    "ExerciseError",
    "check_dice",
    "check_edit",
    "check_likeness",
    "check_mask",
    "check_number",
    "check_split",
]


class ExerciseError(AssertionError):
    """What is wrong with an answer."""


def _say_right(text: str) -> None:
    print(f"✓ {text}")


def check_number(answer: Any, expected: float, *, tolerance: float = 1e-3, hint: str = "") -> None:
    """Check a number; ``None`` means that the exercise is still to be done.

    Examples
    --------
    >>> check_number(0.5001, 0.5)
    ✓ right
    """
    if answer is None:
        print("· to be done: replace None by your answer")
        return
    if isinstance(answer, bool) or not isinstance(answer, numbers.Real | np.generic):
        raise ExerciseError(f"the answer must be one number, got {type(answer).__name__}")
    if not abs(float(answer) - expected) <= tolerance:
        way = "too large" if float(answer) > expected else "too small"
        raise ExerciseError(f"{float(answer):.4g} is {way}" + (f": {hint}" if hint else ""))
    _say_right("right")


def check_dice(function: Callable[[np.ndarray, np.ndarray], float] | None) -> None:
    """Check a student's Dice on masks that catch the usual mistakes.

    Examples
    --------
    >>> check_dice(lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum()))
    ✓ your Dice agrees on all masks
    """
    if function is None:
        print("· to be done: write the function and hand it over")
        return
    rng = np.random.default_rng(0)
    mask, pred = rng.random((8, 8)) < 0.4, rng.random((8, 8)) < 0.4
    cases = [
        (mask, mask, "two equal masks"),
        (mask, ~mask, "two masks without a common pixel"),
        (mask, pred, "two masks that overlap in part"),
        (mask[:4], pred[:4], "masks that are not square"),
    ]
    for first, second, name in cases:
        got, expected = function(first.copy(), second.copy()), metrics.dice(first, second)
        if got is None or np.ndim(got) != 0:
            raise ExerciseError(f"{name}: the result must be one number for the image, got {type(got).__name__}")
        if abs(float(got) - expected) > 1e-9:
            if abs(float(got) - metrics.iou(first, second)) < 1e-9:
                raise ExerciseError(f"{name}: that is the IoU; what does Dice divide by?")
            if abs(float(got) - metrics.accuracy(first, second)) < 1e-9:
                raise ExerciseError(f"{name}: that is the accuracy; background pixels must not count")
            raise ExerciseError(f"{name}: got {float(got):.3f}, which is not the Dice")
    _say_right("your Dice agrees on all masks")


def check_mask(answer: Any, image: np.ndarray) -> None:
    """Check that an answer is a mask of an image: its form, not its quality."""
    if answer is None:
        print("· to be done: replace None by your mask")
        return
    answer = np.asarray(answer)
    if answer.dtype != bool:
        raise ExerciseError(f"a mask is boolean, got {answer.dtype}: compare with a threshold")
    if answer.shape != image.shape:
        raise ExerciseError(f"the mask has shape {answer.shape}, its image {image.shape}")
    _say_right("this is a mask of the image")


def check_split(train_groups: Any, test_groups: Any) -> None:
    """Check that no group stands on both sides of a split.

    Examples
    --------
    >>> check_split(["a", "b"], ["c"])
    ✓ no group is on both sides
    """
    if train_groups is None or test_groups is None:
        print("· to be done: replace None by the groups of your split")
        return
    common = set(map(str, train_groups)) & set(map(str, test_groups))
    if common:
        raise ExerciseError(f"{len(common)} groups are on both sides, among them {sorted(common)[0]!r}")
    if not len(train_groups) or not len(test_groups):
        raise ExerciseError("one side of the split is empty")
    _say_right("no group is on both sides")


def check_likeness(function: Callable[[np.ndarray, np.ndarray], float | None], images: np.ndarray) -> None:
    """Check a likeness of two images that is to find mirrored copies as well.

    Parameters
    ----------
    function : callable
        Takes two (H, W) arrays and returns a number, 1 for copies.
    images : (N, H, W) ndarray
        The first two are to show different scenes.
    """
    first, second = images[0], images[1]
    pairs = {"itself": first, "its mirror image": first[:, ::-1], "an image of another scene": second}
    got = {name: function(first.copy(), other.copy()) for name, other in pairs.items()}
    if got["itself"] is None:
        print("· to be done: replace None by the likeness")
        return
    for name in ("itself", "its mirror image"):
        if not abs(float(got[name]) - 1) < 1e-6:
            raise ExerciseError(f"the likeness of an image and {name} must be 1, got {float(got[name]):.3f}")
    if float(got["an image of another scene"]) > 0.99:
        raise ExerciseError("two images of different scenes count as copies, too")
    _say_right("mirrored copies are found, strangers are not")


def check_edit(answer: Any, image: np.ndarray, where: np.ndarray) -> None:
    """Check that an image was changed in one place only, and there became brighter.

    Parameters
    ----------
    answer : (H, W) uint8 ndarray or None
        The changed image.
    image : (H, W) uint8 ndarray
        As it was.
    where : (H, W) bool ndarray
        The pixels that may change.
    """
    if answer is None:
        print("· to be done: replace None by the changed image")
        return
    answer = np.asarray(answer)
    if answer.shape != image.shape or answer.dtype != image.dtype:
        raise ExerciseError(f"the image must stay {image.dtype} of {image.shape}, got {answer.dtype} of {answer.shape}")
    if outside := int((answer != image)[~where].sum()):
        raise ExerciseError(f"{outside} pixels changed that were to stay: work on a copy, and index with the mask")
    if not answer[where].mean() > image[where].mean():
        raise ExerciseError("the place is no brighter than before")
    _say_right("changed in this place only, and brighter")
