import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from busutils import metrics

masks = arrays(bool, (7, 9))
pairs = st.tuples(masks, masks)


@given(pairs)
def test_iou_follows_from_dice(pair):
    dice, iou = metrics.dice(*pair), metrics.iou(*pair)
    if math.isnan(dice):
        assert math.isnan(iou)
    else:
        assert iou == pytest.approx(dice / (2 - dice))
        assert iou <= dice


@given(pairs)
def test_dice_is_symmetric_and_the_harmonic_mean_of_precision_and_recall(pair):
    mask, pred = pair
    dice = metrics.dice(mask, pred)
    assert dice == metrics.dice(pred, mask) or math.isnan(dice)
    precision, recall = metrics.precision(mask, pred), metrics.recall(mask, pred)
    if metrics.counts(mask, pred).tp:
        assert dice == pytest.approx(2 * precision * recall / (precision + recall))


@given(pairs)
def test_counts_cover_every_pixel_once(pair):
    assert sum(metrics.counts(*pair)) == pair[0].size


@given(pairs)
def test_distances_do_not_change_when_both_masks_are_mirrored(pair):
    mask, pred = pair
    for distance in (metrics.hd95, metrics.assd, metrics.nsd):
        mirrored = distance(mask[:, ::-1], pred[:, ::-1])
        assert distance(mask, pred) == pytest.approx(mirrored, nan_ok=True)


def test_what_an_empty_mask_means():
    empty, lesion = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    lesion[1, 1:3] = True
    diagonal = 5.0
    both = metrics.scores(empty, empty)
    assert all(math.isnan(both[name]) for name in ("dice", "iou", "precision", "recall", "hd95", "assd", "nsd"))
    assert both["accuracy"] == 1
    missed = metrics.scores(lesion, empty)
    assert (missed["dice"], missed["iou"], missed["recall"], missed["nsd"]) == (0, 0, 0, 0)
    assert math.isnan(missed["precision"])
    assert missed["hd95"] == missed["assd"] == diagonal
    alarm = metrics.scores(empty, lesion)
    assert (alarm["dice"], alarm["precision"], alarm["nsd"], alarm["hd95"]) == (0, 0, 0, diagonal)
    assert math.isnan(alarm["recall"])
    assert metrics.dice(empty, empty, empty=1.0) == 1.0


def test_hd95_of_a_shifted_square_is_the_shift():
    mask = np.zeros((40, 40), bool)
    mask[10:20, 10:20] = True
    assert metrics.hd95(mask, np.roll(mask, 4, axis=1)) == 4
    assert metrics.hd95(mask, np.roll(mask, 4, axis=1), spacing=0.5) == 2
    assert metrics.assd(mask, mask) == 0
    assert metrics.nsd(mask, np.roll(mask, 2, axis=1)) == 1


def test_hd95_forgives_a_speck_where_the_full_distance_does_not():
    mask = np.zeros((60, 60), bool)
    mask[5:45, 5:45] = True
    pred = mask.copy()
    pred[58, 58] = True  # one of 157 contour pixels
    assert metrics.hd95(mask, pred) == 0
    assert metrics.assd(mask, pred) > 0


def test_hd95_takes_the_worse_direction():
    mask = np.zeros((30, 60), bool)
    mask[10:20, 5:10] = True
    pred = mask.copy()
    pred[10:20, 40:45] = True
    assert metrics.hd95(mask, pred) > 30
    assert metrics.hd95(mask, pred) == metrics.hd95(pred, mask)


@pytest.mark.parametrize(
    ("mask", "pred", "words"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2), bool), "boolean"),
        (np.zeros((2, 2), bool), np.zeros((3, 2), bool), "differ in shape"),
        (np.zeros((1, 2, 2), bool), np.zeros((1, 2, 2), bool), "one image"),
        ([[True]], np.zeros((1, 1), bool), "boolean"),
    ],
)
def test_bad_input_is_refused_with_a_reason(mask, pred, words):
    for score in (metrics.dice, metrics.iou, metrics.hd95, metrics.nsd, metrics.accuracy):
        with pytest.raises(ValueError, match=words):
            score(mask, pred)


def test_scores_measure_distances_once(monkeypatch):
    rng = np.random.default_rng(0)
    mask, pred = (ndimage.gaussian_filter(rng.random((64, 80)), 6) > 0.5 for _ in range(2))
    calls = []
    transform = ndimage.distance_transform_edt
    with monkeypatch.context() as patch:
        patch.setattr(ndimage, "distance_transform_edt", lambda *a, **k: calls.append(1) or transform(*a, **k))
        row = metrics.scores(mask, pred, spacing=0.3)
    assert len(calls) == 2  # one for each mask
    assert row["hd95"] == metrics.hd95(mask, pred, spacing=0.3)
    assert row["assd"] == metrics.assd(mask, pred, spacing=0.3)
    assert row["nsd"] == metrics.nsd(mask, pred, tolerance=0.6, spacing=0.3)
