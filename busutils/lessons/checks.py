"""Self-checking exercises: each check says what is wrong with an answer, but never gives the answer away."""

from __future__ import annotations

import functools
import itertools
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from busutils import metrics


class ExerciseError(AssertionError):
    """What is wrong with an answer."""


class _ToBeDone(Exception):
    """Raised where an answer is still ``None``."""


def _exercise(*, to_do: str = "replace None by your answer", right: str = "right") -> Callable[[Callable], Callable]:
    """Turn a function that raises :class:`ExerciseError` for a wrong answer into a check that prints the result.

    A check passes over exercises that are still to be done: an argument, or a value of a mapping, is ``None``.
    """

    def decorate(judge: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(judge)
        def check(*args: Any, **options: Any) -> None:
            try:
                for argument in (*args, *options.values()):
                    _require_done(argument)
                judge(*args, **options)
            except _ToBeDone:
                print(f"· to be done: {to_do}")
            else:
                print(f"✓ {right}")

        return check

    return decorate


def _require_done(answer: Any) -> None:
    if answer is None or (isinstance(answer, Mapping) and any(part is None for part in answer.values())):
        raise _ToBeDone


def _number(answer: Any, prefix: str = "") -> float:
    """Read an answer as one number."""
    if isinstance(answer, bool) or not isinstance(answer, numbers.Real | np.number):
        raise ExerciseError(f"{prefix}the answer must be one number, got {type(answer).__name__}")
    return float(answer)


def _judge_number(
    answer: float, expected: float, mistakes: Mapping[str, float], otherwise: str, *, tolerance: float = 2e-3
) -> None:
    """Compare a number with the right one and with those that common mistakes lead to: message → wrong number."""
    if abs(answer - expected) <= tolerance:
        return
    for message, wrong in mistakes.items():
        if abs(answer - wrong) <= tolerance:
            raise ExerciseError(message)
    raise ExerciseError(otherwise)


@_exercise()
def check_number(answer: Any, expected: float, *, tolerance: float = 1e-3, hint: str = "") -> None:
    """Check a number; ``None`` means that the exercise is still to be done.

    Examples
    --------
    >>> check_number(0.5001, 0.5)
    ✓ right
    """
    answer = _number(answer)
    comparison = "too large" if answer > expected else "too small"
    message = f"{answer:.4g} is {comparison}" + (f": {hint}" if hint else "")
    _judge_number(answer, expected, {}, message, tolerance=tolerance)


@_exercise(to_do="let the function return your number instead of None", right="your Dice agrees on all masks")
def check_dice(function: Callable[[np.ndarray, np.ndarray], float | None]) -> None:
    """Check a student's Dice on masks that reveal common mistakes; one that returns ``None`` is still to be done.

    Examples
    --------
    >>> check_dice(lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum()))
    ✓ your Dice agrees on all masks
    """
    if not callable(function):
        raise ExerciseError("pass the function itself: its name, without brackets")
    rng = np.random.default_rng(0)
    mask, pred = rng.random((8, 8)) < 0.4, rng.random((8, 8)) < 0.4
    cases = {
        "two equal masks": (mask, mask),
        "two masks without a common pixel": (mask, ~mask),
        "two masks that overlap in part": (mask, pred),
        "masks that are not square": (mask[:4], pred[:4]),
    }
    for name, (first, second) in cases.items():
        answer: Any = function(first.copy(), second.copy())
        _require_done(answer)
        if np.ndim(answer) != 0:
            raise ExerciseError(f"{name}: the result must be one number for the image, got {type(answer).__name__}")
        mistakes = {
            f"{name}: that is the IoU; what does Dice divide by?": metrics.iou(first, second),
            f"{name}: that is the accuracy; background pixels must not count": metrics.accuracy(first, second),
        }
        otherwise = f"{name}: got {float(answer):.3f}, which is not the Dice"
        _judge_number(float(answer), metrics.dice(first, second), mistakes, otherwise, tolerance=1e-9)


@_exercise(to_do="replace None by your mask", right="this is a mask of the image")
def check_mask(answer: Any, image: np.ndarray, *, below: float | None = None) -> None:
    """Check that an answer is a mask of an image: its type and shape, and its pixels if they follow from a threshold.

    Parameters
    ----------
    answer : (H, W) bool ndarray or None
        The student's mask.
    image : (H, W) uint8 ndarray
        Its image.
    below : float, optional
        The mask should hold exactly the pixels below this grey value; by default any mask of the image is right.

    Examples
    --------
    >>> image = np.array([[20, 60], [90, 10]], np.uint8)
    >>> check_mask(image < 60, image, below=60)
    ✓ this is a mask of the image
    """
    answer = np.asarray(answer)
    if answer.dtype != bool:
        raise ExerciseError(f"a mask is boolean, got {answer.dtype}: compare with a threshold")
    if answer.shape != image.shape:
        raise ExerciseError(f"the mask has shape {answer.shape}, its image {image.shape}")
    if below is None or np.array_equal(answer, image < below):
        return
    if np.array_equal(answer, image >= below) or np.array_equal(answer, image > below):
        raise ExerciseError("the mask holds the bright pixels: lesions are darker than the tissue around them")
    if np.array_equal(answer, image <= below):
        raise ExerciseError(f"the mask holds pixels of exactly {below}, which are not below it")
    raise ExerciseError(
        f"{int((answer != (image < below)).sum())} pixels are on the wrong side of the threshold {below}"
    )


@_exercise(
    to_do="replace None by the groups of your split", right="every group is on one side, about a quarter in the test"
)
def check_split(train_groups: Any, test_groups: Any, groups: Any) -> None:
    """Check that a split puts every group of a set on one side, and about a quarter of them into the test part.

    Parameters
    ----------
    train_groups, test_groups : sequence of str or None
        The student's groups.
    groups : sequence of str
        Group of every image of the set.

    Examples
    --------
    >>> check_split(["a", "b", "c"], ["d"], ["a", "b", "c", "d", "d"])
    ✓ every group is on one side, about a quarter in the test
    """
    train, test, known = (set(map(str, part)) for part in (train_groups, test_groups, groups))
    if not train or not test:
        raise ExerciseError("one side of the split is empty")
    if unknown := (train | test) - known:
        raise ExerciseError(f"the set has no group {min(unknown)!r}: choose from np.unique(images.groups)")
    if common := train & test:
        raise ExerciseError(f"{len(common)} groups are on both sides, among them {min(common)!r}")
    if lost := known - train - test:
        raise ExerciseError(f"{len(lost)} groups are on neither side, among them {min(lost)!r}")
    share = len(test) / len(known)
    if not 0.2 <= share <= 0.3:
        raise ExerciseError(f"{share:.0%} of the groups are in the test part, not about a quarter")


@_exercise(to_do="replace None by the similarity", right="mirrored duplicates are found, other scenes are not")
def check_similarity(function: Callable[[np.ndarray, np.ndarray], float | None], images: np.ndarray) -> None:
    """Check a similarity of two images that should find mirrored duplicates as well.

    Parameters
    ----------
    function : callable
        Takes two (H, W) arrays and returns a number, 1 for duplicates.
    images : (N, H, W) ndarray
        The first two show different scenes.
    """
    first, second = images[0], images[1]
    for name, other in {"itself": first, "its mirror image": first[:, ::-1]}.items():
        answer: Any = function(first.copy(), other.copy())
        _require_done(answer)
        if not abs(float(answer) - 1) < 1e-6:
            raise ExerciseError(f"the similarity of an image and {name} must be 1, got {float(answer):.3f}")
    answer = function(first.copy(), second.copy())
    _require_done(answer)
    if float(answer) > 0.99:
        raise ExerciseError("two images of different scenes count as duplicates, too")


@_exercise(to_do="replace None by the changed image", right="changed in this place only, and brighter")
def check_edit(answer: Any, image: np.ndarray, where: np.ndarray) -> None:
    """Check that an image was changed in one place only, and became brighter there.

    Parameters
    ----------
    answer : (H, W) uint8 ndarray or None
        The changed image.
    image : (H, W) uint8 ndarray
        The original.
    where : (H, W) bool ndarray
        The pixels that may change.
    """
    answer = np.asarray(answer)
    if answer.shape != image.shape or answer.dtype != image.dtype:
        raise ExerciseError(f"the image must stay {image.dtype} of {image.shape}, got {answer.dtype} of {answer.shape}")
    if outside := int((answer != image)[~where].sum()):
        raise ExerciseError(f"{outside} pixels changed outside the area: work on a copy, and index with the mask")
    if not answer[where].mean() > image[where].mean():
        raise ExerciseError("the area is no brighter than before")


@_exercise(
    to_do="replace None by the masks",
    right="each mask is the darkest part of its image, the smaller the more clusters there are",
)
def check_clusters(drawn: Mapping[int, Any], images: np.ndarray) -> None:
    """Check masks that should hold the darkest of several clusters of grey values.

    Parameters
    ----------
    drawn : mapping of int to (N, H, W) bool ndarray or None
        Number of clusters → masks of the images.
    images : (N, H, W) uint8 ndarray
        The images.
    """
    shares = []
    for k in sorted(drawn):
        masks = np.asarray(drawn[k])
        if masks.dtype != bool or masks.shape != images.shape:
            raise ExerciseError(f"{k} clusters: needs boolean masks {images.shape}, got {masks.dtype} {masks.shape}")
        for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
            if not mask.any() or mask.all():
                raise ExerciseError(f"{k} clusters: the mask of image {i} is empty or full")
            if image[mask].max() >= image[~mask].min():
                raise ExerciseError(f"{k} clusters: in image {i} a pixel outside the mask is as dark as one inside")
        shares.append(float(masks.mean()))
    if any(more >= fewer for fewer, more in itertools.pairwise(shares)):
        raise ExerciseError("the darkest cluster does not shrink as their number grows: does k reach the segmenter?")


@_exercise(to_do="replace None by the mean Dice", right="these are the mean Dices")
def check_mean_dice(answers: Mapping[Any, Any], drawn: Mapping[Any, Any], masks: np.ndarray) -> None:
    """Check mean Dices by name: each image is scored by itself, and the mean is taken last.

    Parameters
    ----------
    answers : mapping
        Name → mean Dice, or None.
    drawn : mapping
        Name → the (N, H, W) bool masks that are scored.
    masks : (N, H, W) bool ndarray
        The reference, each with a lesion.
    """
    for name, answer in answers.items():
        _judge_mean_dice(str(name), answer, drawn[name], masks)


def _judge_mean_dice(name: str, answer: Any, preds: np.ndarray, masks: np.ndarray) -> None:
    answer = _number(answer, f"{name}: ")
    pairs = list(zip(masks, preds, strict=True))
    scores = [metrics.dice(mask, pred) for mask, pred in pairs]
    mistakes = {
        f"{name}: all pixels were pooled; score each image, then take the mean": metrics.dice(
            np.concatenate(list(masks)), np.concatenate(list(preds))
        ),
        f"{name}: that is the mean IoU": float(np.mean([metrics.iou(mask, pred) for mask, pred in pairs])),
        f"{name}: that is the median": float(np.median(scores)),
    }
    otherwise = f"{name}: {answer:.3f} is not the mean Dice on its images with a lesion"
    _judge_number(answer, float(np.mean(scores)), mistakes, otherwise)


@_exercise(
    to_do="train the network, then replace None by its mean Dice", right="a new network, and these are its mean Dices"
)
def check_network(network: Any, answers: Mapping[str, Any], sets: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Check that a network is a new one, and the mean Dices that its student gives for some sets.

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
    if not hasattr(network, "predict"):
        raise ExerciseError(f"pass the trained network, got {type(network).__name__}")
    for name, other in known.items():
        if network is other:
            raise ExerciseError(f"this is the lesson's {name!r}: train another one")
    if missing := sorted(set(sets) - set(answers)):
        raise ExerciseError(f"the mean Dice on {missing[0]!r} is missing")
    for name, images in sets.items():
        pixels, masks = images.lesions().load_arrays(256)
        _judge_mean_dice(name, answers[name], network.predict(pixels), masks)


def _own_names(values: np.ndarray) -> set[str]:
    """Names without the key that datasets.concatenate puts before them."""
    return {str(value).split(":", 1)[-1] for value in values}


@_exercise(
    to_do="replace None by the training sets", right="the training sets grow as asked, and no test image is in them"
)
def check_enlarged(sets: Mapping[int, Any], train: Any, other: Any, tests: Mapping[str, Any]) -> None:
    """Check training sets that were enlarged by some images of another set.

    Parameters
    ----------
    sets : mapping of int to LesionDataset or None
        Number of added images → the whole training set.
    train, other : LesionDataset
        The original training images, and those to add from.
    tests : mapping of str to LesionDataset
        Sets that are kept for the test.
    """
    for number, enlarged in sets.items():
        if not hasattr(enlarged, "ids"):
            raise ExerciseError(f"{number} images: needs a set of images, got {type(enlarged).__name__}")
        ids, groups = _own_names(enlarged.ids), _own_names(enlarged.groups)
        for name, test in tests.items():
            if shared := groups & _own_names(test.groups):
                raise ExerciseError(f"{number} images: {len(shared)} groups of the test set {name!r} are in training")
        if lost := len(_own_names(train.ids) - ids):
            raise ExerciseError(f"{number} images: {lost} of the first training images are gone")
        added = ids - _own_names(train.ids)
        if strange := added - _own_names(other.ids):
            raise ExerciseError(f"{number} images: {min(strange)!r} is in neither of the two sets")
        if len(added) != number:
            raise ExerciseError(f"{number} images: {len(added)} were added")


@_exercise()
def check_mean_iou(answer: Any, *, accuracy: float, precision: float, recall: float) -> None:
    """Check the mean of the lesion's and the background's IoU, from three scores of the same counts."""
    answer = _number(answer)
    # In units of the lesion's pixels; the errors are the share 1 - accuracy of all pixels.
    false_positives = recall * (1 - precision) / precision
    errors = 1 - recall + false_positives
    lesion = recall / (1 + false_positives)
    true_negatives = errors / (1 - accuracy) - 1 - false_positives
    background = true_negatives / (true_negatives + errors)
    mistakes = {
        "that is the lesion's IoU alone: the mean of the two is asked for": lesion,
        "that is the background's IoU alone: the mean of the two is asked for": background,
    }
    otherwise = f"{answer:.4g} is not the mean of the two IoUs: repeat the calculation above with these scores"
    _judge_number(answer, (lesion + background) / 2, mistakes, otherwise)


@_exercise()
def check_near_duplicates(answer: Any, groups: np.ndarray, test: np.ndarray) -> None:
    """Check the share of test images that have another image of their group outside the test.

    Parameters
    ----------
    answer : float or None
        The share.
    groups : (N,) ndarray
        Group of every image.
    test : (M,) int ndarray
        Positions of the test images.
    """
    answer = _number(answer)
    rest = np.setdiff1d(np.arange(len(groups)), test)
    _, group_index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    mistakes = {
        "near-duplicates within the test part do not leak: look among the rest only": (
            (counts[group_index][test] > 1).mean()
        ),
        "that is the share of the rest: the share of the *test* images is asked for": (
            np.isin(groups[rest], groups[test]).mean()
        ),
    }
    otherwise = f"{answer:.4g} is not that share: np.isin compares groups; leaky.groups has one an image"
    _judge_number(answer, np.isin(groups[test], groups[rest]).mean(), mistakes, otherwise, tolerance=1e-3)


@_exercise()
def check_area(answer: Any, *, pixels: int, width_px: int, width_mm: float) -> None:
    """Check an area in mm² of so many square pixels, in an image of known width.

    Examples
    --------
    >>> check_area(25.0, pixels=100, width_px=20, width_mm=10)
    ✓ right
    """
    answer, side = _number(answer), width_mm / width_px
    expected = pixels * side**2
    mistakes = {"that multiplies by a pixel's side: an area needs its height and its width": pixels * side}
    otherwise = f"{answer:.4g} mm² is not the area: how many mm² has one pixel?"
    _judge_number(answer, expected, mistakes, otherwise, tolerance=2e-3 * expected)


@_exercise(to_do="replace None by the names of the files", right="these are the files that a person must look at")
def check_review(answer: Any, table: pd.DataFrame, limit: float) -> None:
    """Check the files of a table of predictions that a person must look at.

    Parameters
    ----------
    answer : sequence of str or None
        Their names: files with an error, an empty mask, or too high an uncertainty.
    table : pandas.DataFrame
        With columns ``file, area_px, uncertainty, error``; an ``error`` may be empty or ``nan``.
    limit : float
        Of the uncertainty, in bits.
    """
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise ExerciseError(f"the answer must be a list of names, got {type(answer).__name__}")
    named = set(map(str, answer))
    if unknown := named - set(table["file"]):
        raise ExerciseError(f"the table has no file {min(unknown)!r}")
    reasons = {
        "an error": table["error"].fillna("") != "",
        "an empty mask": table["area_px"] == 0,
        f"an uncertainty above {limit}": table["uncertainty"] > limit,
    }
    for reason, found in reasons.items():
        if missing := set(table.loc[found, "file"]) - named:
            raise ExerciseError(f"files with {reason}: {len(missing)} missing")
    needed = set(table.loc[np.logical_or.reduce(list(reasons.values())), "file"])
    if spare := named - needed:
        raise ExerciseError(f"{len(spare)} of these files have a mask, no error and a low uncertainty")


@_exercise(to_do="replace None by the name of a map", right="its share inside is the largest")
def check_largest_share(answer: Any, maps: Mapping[str, np.ndarray], mask: np.ndarray) -> None:
    """Check which of some maps has the largest share inside a lesion.

    Parameters
    ----------
    answer : str or None
        A key of the maps.
    maps : mapping of str to (H, W) float ndarray
        Maps of one image, not negative.
    mask : (H, W) bool ndarray
        The lesion.

    Examples
    --------
    >>> lesion = np.eye(2, dtype=bool)
    >>> check_largest_share("sharp", {"flat": np.ones((2, 2)), "sharp": np.eye(2)}, lesion)
    ✓ its share inside is the largest
    """
    if answer not in maps:
        raise ExerciseError(f"the answer must be one of {list(maps)}, got {answer!r}")
    inside = {name: values[mask].sum() / values.sum() if values.any() else 0.0 for name, values in maps.items()}
    if inside[answer] < max(inside.values()):
        raise ExerciseError(
            f"another map has a larger share inside than {answer!r}: divide by the sum of the whole map"
        )


@_exercise(right="one pixel in the lesion, one outside, and this is the similarity of their maps")
def check_two_pixels(
    answer: Any, inside: Any, outside: Any, mask: np.ndarray, map_of: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Check two regions of one pixel each, and the rank correlation of their maps.

    Parameters
    ----------
    answer : float or None
        The similarity.
    inside, outside : (H, W) bool ndarray or None
        A pixel of the lesion, and one of the background.
    mask : (H, W) bool ndarray
        The lesion.
    map_of : callable
        From a region to its map.
    """
    from busutils.explain import map_similarity  # a lesson without networks does without it

    answer = _number(answer)
    for name, region, place in (("lesion", inside, mask), ("background", outside, ~mask)):
        region = np.asarray(region)
        if region.dtype != bool or region.shape != mask.shape:
            raise ExerciseError(f"{name}: a region is a boolean mask of the image, got {region.dtype} {region.shape}")
        if (n := int(region.sum())) != 1:
            raise ExerciseError(f"{name}: the region must hold one pixel, it has {n}")
        if not (region & place).any():
            raise ExerciseError(f"{name}: the pixel lies on the other side of the lesion's contour")
    expected = map_similarity(map_of(np.asarray(inside)), map_of(np.asarray(outside)))
    if not np.isclose(answer, expected, atol=2e-3, equal_nan=True):
        raise ExerciseError(f"{answer:.3f} is not the map_similarity of the maps of these two pixels")


@_exercise(to_do="replace None by the calibration errors", right="these are the errors of the scenes with an odd index")
def check_temperatures(
    answers: Mapping[str, Any], masks: list[np.ndarray], probs: list[np.ndarray], other: float
) -> None:
    """Check the calibration errors with a temperature fitted on every other image, and with another temperature.

    Parameters
    ----------
    answers : mapping of str to float or None
        The expected calibration error with the own temperature, then with the other.
    masks, probs : list of bool and of float ndarray
        References and probabilities, image by image.
    other : float
        The other temperature.
    """
    from busutils import evaluation  # it imports scikit-learn

    def error(temperature: float, part: slice) -> float:
        changed = [evaluation.with_temperature(prob, temperature) for prob in probs[part]]
        return evaluation.expected_calibration_error(evaluation.reliability(masks[part], changed))

    even, odd, whole = slice(0, None, 2), slice(1, None, 2), slice(None)
    own = evaluation.fit_temperature(masks[even], probs[even])
    for (name, answer), temperature in zip(answers.items(), (own, other), strict=True):
        answer, expected = _number(answer, f"{name}: "), error(temperature, odd)
        mistakes = {
            f"{name}: that is the error of the scenes that served for the fit": error(temperature, even),
            f"{name}: that is the error of all scenes": error(temperature, whole),
            f"{name}: that is the error without any temperature": error(1.0, odd),
        }
        otherwise = f"{name}: {answer:.3f} is not the error: fit on [::2], apply with_temperature and test on [1::2]"
        _judge_number(answer, expected, mistakes, otherwise, tolerance=1e-3)


@_exercise(
    to_do="save and load the network, then replace None by the share",
    right="a network of half precision, and the share of pixels that it changes",
)
def check_changed_pixels(answer: Any, light: Any, network: Any, images: np.ndarray) -> None:
    """Check a network that was stored with half precision, and the share of pixels whose mask it changes.

    Parameters
    ----------
    answer : float or None
        The share.
    light, network : Segmenter
        The one of half precision (or None), and the original.
    images : (N, H, W) uint8 ndarray
        Images.
    """
    answer = _number(answer)
    if not hasattr(light, "network_"):
        raise ExerciseError(f"pass the network that was loaded again, got {type(light).__name__}")
    weights = [w for w in light.network_.get_weights() if np.abs(w).max(initial=0) <= np.finfo(np.float16).max]
    if any((w != w.astype(np.float16)).any() for w in weights):  # save() keeps larger ones as they are
        raise ExerciseError("this network's weights are not of half precision: save it with half=True")
    changed = np.asarray(light.predict(images)) != np.asarray(network.predict(images))
    mistakes = {
        "that is the number of pixels: divide by that of all pixels": float(changed.sum()),
        "that is a percentage: give a share": 100 * float(changed.mean()),
    }
    otherwise = f"{answer:.3g} is not the share of pixels: compare both masks with != and take the mean"
    _judge_number(answer, float(changed.mean()), {} if not changed.any() else mistakes, otherwise, tolerance=1e-7)


def _smallest_handed_over(uncertainty: np.ndarray, dice: np.ndarray, gain: float = 0.05) -> float:
    """Share of the most uncertain images without which the mean Dice is larger by a gain."""
    ordered = np.asarray(dice)[np.argsort(uncertainty, kind="stable")]
    for gone in range(len(ordered)):
        if ordered[: len(ordered) - gone].mean() >= ordered.mean() + gain:
            return gone / len(ordered)
    return 1.0


# Exercises whose answer is one number: how it is computed, its tolerance, and a hint for wrong answers.
_ANSWERS: dict[str, tuple[Callable[..., float], float, str]] = {
    "00.3": (lambda mask: (~mask).mean(), 1e-3, "which pixels does an empty mask get right?"),
    "01.2": (lambda areas: np.max(areas), 1e-3, "the areas are shares of the image, computed above"),
    "02.3": (lambda box, image: (box.mean() - image.mean()) / 100, 1e-3, "box below minus the image's mean, over 100"),
    "03.1": (
        lambda: 1 + 4 * (1 + 1) + 1 + 4 * (2 + 2),
        1e-3,
        "a 5×5 convolution adds four pixels, measured in pixels of its own level; pooling adds one",
    ),
    "04.1": (lambda row: 100 * (row[0] - np.min(row)), 0.5, "in-domain minus the worst, times 100"),
    "06.1": (lambda: -0.2 * np.log2(0.2) - 0.8 * np.log2(0.8), 5e-3, "two terms: one for yes, one for no"),
    "06.2": (_smallest_handed_over, 5e-3, "hand over one image more or less, and look at the mean of the rest"),
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
    >>> check_answer("00.3", 0.75, np.eye(4, dtype=bool))
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
