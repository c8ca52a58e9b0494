"""Self-checking exercises: say what is wrong, not what the answer is."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from busutils import metrics

__all__ = [
    "QUIZ",
    "ExerciseError",
    "check_answer",
    "check_area",
    "check_clusters",
    "check_dice",
    "check_edit",
    "check_enlarged",
    "check_mask",
    "check_mean_dice",
    "check_mean_iou",
    "check_network",
    "check_number",
    "check_quiz",
    "check_refusal",
    "check_similarity",
    "check_split",
    "check_twins",
]


class ExerciseError(AssertionError):
    """What is wrong with an answer."""


def _say_right(text: str) -> None:
    print(f"✓ {text}")


def _to_be_done(text: str) -> None:
    print(f"· to be done: {text}")


def _number(answer: Any, what: str = "the answer") -> float:
    """Read an answer as one number."""
    if isinstance(answer, bool) or not isinstance(answer, numbers.Real | np.number):
        raise ExerciseError(f"{what} must be one number, got {type(answer).__name__}")
    return float(answer)


def check_number(answer: Any, expected: float, *, tolerance: float = 1e-3, hint: str = "") -> None:
    """Check a number; ``None`` means that the exercise is still to be done.

    Examples
    --------
    >>> check_number(0.5001, 0.5)
    ✓ right
    """
    if answer is None:
        _to_be_done("replace None by your answer")
        return
    answer = _number(answer)
    if not abs(answer - expected) <= tolerance:
        way = "too large" if answer > expected else "too small"
        raise ExerciseError(f"{answer:.4g} is {way}" + (f": {hint}" if hint else ""))
    _say_right("right")


def check_dice(function: Callable[[np.ndarray, np.ndarray], float | None]) -> None:
    """Check a student's Dice on masks that catch the usual mistakes; one that returns ``None`` is still to be done.

    Examples
    --------
    >>> check_dice(lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum()))
    ✓ your Dice agrees on all masks
    """
    if not callable(function):
        raise ExerciseError("hand over the function itself: its name, without brackets")
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
        if got is None:
            _to_be_done("let the function return your number instead of None")
            return
        if np.ndim(got) != 0:
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
        _to_be_done("replace None by your mask")
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
        _to_be_done("replace None by the groups of your split")
        return
    common = set(map(str, train_groups)) & set(map(str, test_groups))
    if common:
        raise ExerciseError(f"{len(common)} groups are on both sides, among them {sorted(common)[0]!r}")
    if not len(train_groups) or not len(test_groups):
        raise ExerciseError("one side of the split is empty")
    _say_right("no group is on both sides")


def check_similarity(function: Callable[[np.ndarray, np.ndarray], float | None], images: np.ndarray) -> None:
    """Check a similarity of two images that is to find mirrored duplicates as well.

    Parameters
    ----------
    function : callable
        Takes two (H, W) arrays and returns a number, 1 for duplicates.
    images : (N, H, W) ndarray
        The first two are to show different scenes.
    """
    first, second = images[0], images[1]
    pairs = {"itself": first, "its mirror image": first[:, ::-1], "an image of another scene": second}
    got: dict[str, Any] = {name: function(first.copy(), other.copy()) for name, other in pairs.items()}
    if got["itself"] is None:
        _to_be_done("replace None by the similarity")
        return
    for name in ("itself", "its mirror image"):
        if not abs(float(got[name]) - 1) < 1e-6:
            raise ExerciseError(f"the similarity of an image and {name} must be 1, got {float(got[name]):.3f}")
    if float(got["an image of another scene"]) > 0.99:
        raise ExerciseError("two images of different scenes count as duplicates, too")
    _say_right("mirrored duplicates are found, strangers are not")


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
        _to_be_done("replace None by the changed image")
        return
    answer = np.asarray(answer)
    if answer.shape != image.shape or answer.dtype != image.dtype:
        raise ExerciseError(f"the image must stay {image.dtype} of {image.shape}, got {answer.dtype} of {answer.shape}")
    if outside := int((answer != image)[~where].sum()):
        raise ExerciseError(f"{outside} pixels changed that were to stay: work on a copy, and index with the mask")
    if not answer[where].mean() > image[where].mean():
        raise ExerciseError("the place is no brighter than before")
    _say_right("changed in this place only, and brighter")


def check_clusters(drawn: Mapping[int, Any], images: np.ndarray) -> None:
    """Check masks that are to hold the darkest of several clusters of grey values.

    Parameters
    ----------
    drawn : mapping of int to (N, H, W) bool ndarray or None
        Number of clusters → masks of the images.
    images : (N, H, W) uint8 ndarray
        The images.
    """
    if any(masks is None for masks in drawn.values()):
        _to_be_done("replace None by the masks")
        return
    shares = []
    for k in sorted(drawn):
        masks = np.asarray(drawn[k])
        if masks.dtype != bool or masks.shape != images.shape:
            raise ExerciseError(
                f"{k} clusters: needs one boolean mask an image, {images.shape} in all, "
                f"got {masks.dtype} of {masks.shape}"
            )
        for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
            if not mask.any() or mask.all():
                raise ExerciseError(f"{k} clusters: the mask of image {i} is empty or full")
            if image[mask].max() >= image[~mask].min():
                raise ExerciseError(f"{k} clusters: in image {i} a pixel outside the mask is as dark as one inside")
        shares.append(float(masks.mean()))
    if any(more >= fewer for fewer, more in itertools.pairwise(shares)):
        raise ExerciseError("the darkest cluster does not shrink as their number grows: does k reach the segmenter?")
    _say_right("each mask is the darkest part of its image, the smaller the more clusters there are")


def check_mean_dice(answers: Mapping[Any, Any], drawn: Mapping[Any, Any], masks: np.ndarray) -> None:
    """Check mean Dices by name: every image has its own Dice, and the mean is taken last.

    Parameters
    ----------
    answers : mapping
        Name → mean Dice, or None.
    drawn : mapping
        Name → the (N, H, W) bool masks that are scored.
    masks : (N, H, W) bool ndarray
        The reference, each with a lesion.
    """
    if any(answer is None for answer in answers.values()) or any(part is None for part in drawn.values()):
        _to_be_done("replace None by the mean Dice")
        return
    for name, answer in answers.items():
        _judge_mean_dice(str(name), answer, drawn[name], masks)
    _say_right("these are the mean Dices")


def _judge_mean_dice(name: str, answer: Any, preds: np.ndarray, masks: np.ndarray) -> None:
    answer = _number(answer, f"{name}: the mean Dice")
    pairs = list(zip(masks, preds, strict=True))
    if abs(answer - np.mean([metrics.dice(mask, pred) for mask, pred in pairs])) <= 2e-3:
        return
    if abs(answer - metrics.dice(np.concatenate(list(masks)), np.concatenate(list(preds)))) <= 2e-3:
        raise ExerciseError(f"{name}: all pixels were pooled; score each image, then take the mean")
    if abs(answer - np.mean([metrics.iou(mask, pred) for mask, pred in pairs])) <= 2e-3:
        raise ExerciseError(f"{name}: that is the mean IoU")
    if abs(answer - np.median([metrics.dice(mask, pred) for mask, pred in pairs])) <= 2e-3:
        raise ExerciseError(f"{name}: that is the median")
    raise ExerciseError(f"{name}: {answer:.3f} is not the mean Dice on its images with a lesion")


def check_network(network: Any, answers: Mapping[str, Any], sets: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Check that a network is a new one, and that its mean Dices on some sets are those it has.

    Parameters
    ----------
    network : Segmenter or None
        The student's.
    answers : mapping of str to float
        Set → mean Dice over its images with a lesion.
    sets : mapping of str to LesionDataset
        The same names.
    known : mapping of str to Segmenter
        The lesson's own methods.
    """
    if network is None or any(answer is None for answer in answers.values()):
        _to_be_done("train the network, then replace None by its mean Dice")
        return
    if not hasattr(network, "predict"):
        raise ExerciseError(f"hand over the trained network, got {type(network).__name__}")
    for name, other in known.items():
        if network is other:
            raise ExerciseError(f"this is the lesson's {name!r}: train another one")
    if missing := sorted(set(sets) - set(answers)):
        raise ExerciseError(f"the mean Dice on {missing[0]!r} is missing")
    for name, images in sets.items():
        pixels, masks = images.lesions().load_arrays(256)
        _judge_mean_dice(name, answers[name], network.predict(pixels), masks)
    _say_right("a new network, and these are its mean Dices")


def _own_names(values: np.ndarray) -> set[str]:
    """Names without the key that datasets.concatenate puts before them."""
    return {str(value).split(":", 1)[-1] for value in values}


def check_enlarged(sets: Mapping[int, Any], train: Any, other: Any, tests: Mapping[str, Any]) -> None:
    """Check training sets that were enlarged by some images of another set.

    Parameters
    ----------
    sets : mapping of int to LesionDataset or None
        Number of added images → the whole training set.
    train, other : LesionDataset
        The training images, and those to draw from.
    tests : mapping of str to LesionDataset
        Sets that are kept for the test.
    """
    if any(enlarged is None for enlarged in sets.values()):
        _to_be_done("replace None by the training sets")
        return
    for number, enlarged in sets.items():
        if not hasattr(enlarged, "ids"):
            raise ExerciseError(
                f"{number} images: needs a set, as datasets.concatenate makes, not {type(enlarged).__name__}"
            )
        ids, groups = _own_names(enlarged.ids), _own_names(enlarged.groups)
        for name, test in tests.items():
            if shared := groups & _own_names(test.groups):
                raise ExerciseError(f"{number} images: {len(shared)} groups of the test set {name!r} are in training")
        if lost := len(_own_names(train.ids) - ids):
            raise ExerciseError(f"{number} images: {lost} of the first training images are gone")
        added = ids - _own_names(train.ids)
        if strange := added - _own_names(other.ids):
            raise ExerciseError(f"{number} images: {sorted(strange)[0]!r} is in neither of the two sets")
        if len(added) != number:
            raise ExerciseError(f"{number} images: {len(added)} were added")
    _say_right("the training sets grow as asked, and no test image is in them")


def check_mean_iou(answer: Any, *, accuracy: float, precision: float, recall: float) -> None:
    """Check the mean of lesion's and background's IoU, from three scores of the same counts."""
    if answer is None:
        _to_be_done("replace None by your answer")
        return
    answer = _number(answer)
    # In units of the lesion's pixels; the background is what makes the errors 1 - accuracy of the whole.
    false_positives = recall * (1 - precision) / precision
    errors = 1 - recall + false_positives
    lesion = recall / (1 + false_positives)
    rightly_empty = errors / (1 - accuracy) - 1 - false_positives
    background = rightly_empty / (rightly_empty + errors)
    if abs(answer - (lesion + background) / 2) <= 2e-3:
        _say_right("right")
        return
    for value, name in ((lesion, "the lesion's IoU alone"), (background, "the background's IoU alone")):
        if abs(answer - value) <= 2e-3:
            raise ExerciseError(f"that is {name}: the mean of the two is asked for")
    raise ExerciseError(f"{answer:.4g} is not the mean of the two IoUs: repeat the calculation above with these scores")


def check_twins(answer: Any, groups: np.ndarray, test: np.ndarray) -> None:
    """Check the share of test images with another image of their group outside the test.

    Parameters
    ----------
    answer : float or None
        The share.
    groups : (N,) ndarray
        Group of every image.
    test : (M,) int ndarray
        Positions of the test images.
    """
    if answer is None:
        _to_be_done("replace None by your answer")
        return
    answer = _number(answer)
    rest = np.setdiff1d(np.arange(len(groups)), test)
    if abs(answer - np.isin(groups[test], groups[rest]).mean()) <= 1e-3:
        _say_right("right")
        return
    _, where, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if abs(answer - (counts[where][test] > 1).mean()) <= 1e-3:
        raise ExerciseError("near-duplicates within the test part do not leak: look among the rest only")
    if abs(answer - np.isin(groups[rest], groups[test]).mean()) <= 1e-3:
        raise ExerciseError("that is the share of the rest: the share of the *test* images is asked for")
    raise ExerciseError(f"{answer:.4g} is not that share: np.isin compares groups; leaky.groups has one an image")


def check_area(answer: Any, *, pixels: int, width_px: int, width_mm: float) -> None:
    """Check an area in mm² of so many square pixels, in an image of known width.

    Examples
    --------
    >>> check_area(25.0, pixels=100, width_px=20, width_mm=10)
    ✓ right
    """
    if answer is None:
        _to_be_done("replace None by your answer")
        return
    answer, side = _number(answer), width_mm / width_px
    if abs(answer - pixels * side) <= 1e-3 * pixels * side:
        raise ExerciseError("that multiplies by a pixel's side: an area needs its height and its width")
    if abs(answer - pixels * side**2) > 2e-3 * pixels * side**2:
        raise ExerciseError(f"{answer:.4g} mm² is not the area: how many mm² has one pixel?")
    _say_right("right")


def check_refusal(status: Any) -> None:
    """Check the exit status of a command that was asked for something it cannot do."""
    if status is None:
        _to_be_done("replace None by what the call returned")
        return
    if status == 0:
        raise ExerciseError("0 tells a script that all went well: was the folder really missing?")
    if status == 1:
        raise ExerciseError("1 is the answer if some images of a folder failed; here there is no folder")
    if status != 2:  # as shells and argparse have it: the command was used wrongly
        raise ExerciseError(f"the command does not return {status!r}: hand over what the call gave back")
    _say_right("right")


def _smallest_handed_over(uncertainty: np.ndarray, dice: np.ndarray, gain: float = 0.01) -> float:
    """Share of the most uncertain images without which the mean Dice is larger by a gain."""
    ordered = np.asarray(dice)[np.argsort(uncertainty, kind="stable")]
    for gone in range(len(ordered)):
        if ordered[: len(ordered) - gone].mean() >= ordered.mean() + gain:
            return gone / len(ordered)
    return 1.0


# Exercises whose answer is one number: what it is computed from, its tolerance, and what helps who is wrong.
_ANSWERS: dict[str, tuple[Callable[..., float], float, str]] = {
    "00.3": (lambda mask: float((~mask).mean()), 1e-3, "which pixels does an empty mask get right?"),
    "01.2": (lambda areas: float(np.max(areas)), 1e-3, "the areas are shares of the image, computed above"),
    "02.3": (
        lambda box, image: float((box.mean() - image.mean()) / 100),
        1e-3,
        "box below minus the image's mean, over 100",
    ),
    "03.1": (
        lambda: 14.0,
        1e-3,
        "a 3×3 convolution adds two pixels, measured in pixels of its own level; pooling adds one",
    ),
    "04.1": (lambda row: float(100 * (row[0] - np.min(row))), 0.5, "in-domain minus the worst, times 100"),
    "05.1": (lambda mask: float(mask.mean()), 1e-3, "every pixel has the same energy"),
    "05.2": (lambda: 1.0, 1e-3, "how many pixels are set?"),
    "06.1": (lambda: float(-0.2 * np.log2(0.2) - 0.8 * np.log2(0.8)), 5e-3, "two terms: one for yes, one for no"),
    "06.2": (_smallest_handed_over, 5e-3, "hand over one image more or less, and look at the mean of the rest"),
    "06.3": (lambda: 0.75, 5e-3, "the logit of 0.9 is log 9; half of it is log 3"),
    "07.3": (lambda: 0.5, 0.05, "path.stat().st_size counts bytes"),
}


def check_answer(exercise: str, answer: Any, *given: Any) -> None:
    """Check the number that answers an exercise.

    Parameters
    ----------
    exercise : str
        Its number, such as ``"00.3"``.
    answer : float or None
        The student's number; ``None`` is still to be done.
    *given
        What the exercise starts from, such as a mask.

    Examples
    --------
    >>> check_answer("05.1", 0.25, np.eye(4, dtype=bool))
    ✓ right
    """
    expected, tolerance, hint = _ANSWERS[exercise]
    check_number(answer, expected(*given), tolerance=tolerance, hint=hint)


QUIZ = {"00": "AB", "01": "CBA", "02": "BCA", "03": "BAC", "04": "BAC", "05": "BCA", "06": "ACB", "07": "BAC"}
"""The right letters of each lesson's questions, in order."""


def check_quiz(lesson: str, **answers: str) -> None:
    """Say which answers to a lesson's questions are right; an empty one is still to be done.

    Examples
    --------
    >>> check_quiz("05", q1="B", q2="A", q3="")
    Q1 ✓ right
    Q2 ✗ think again
    Q3 · to be done
    """
    for right, (question, answer) in zip(QUIZ[lesson], answers.items(), strict=True):
        said = str(answer).strip().upper()
        print(question.upper(), "· to be done" if not said else "✓ right" if said == right else "✗ think again")
