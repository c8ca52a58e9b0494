import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from busutils import metrics
from busutils.models import ConstantMaskSegmenter, load


@pytest.fixture
def training():
    rng = np.random.default_rng(0)
    masks = np.zeros((12, 64, 64), bool)
    for mask in masks:
        y, x = rng.integers(14, 22, 2)
        mask[y : y + 24, x : x + 24] = True
    return np.zeros(masks.shape, np.uint8), masks


def mean_dice(masks, drawn):
    return float(np.mean([metrics.dice(mask, drawn) for mask in masks]))


def test_every_image_gets_the_same_mask_whatever_it_shows(training):
    fitted = ConstantMaskSegmenter(size=64).fit(*training)
    noise = np.random.default_rng(1).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    preds = fitted.predict(noise)
    assert preds.any()
    assert (preds == fitted.predict(training[0][:1])).all()


def test_threshold_is_the_best_one_on_the_training_masks(training):
    images, masks = training
    fitted = ConstantMaskSegmenter(size=64).fit(images, masks)
    reached = mean_dice(masks, fitted.predict(images[:1])[0])
    for level in np.linspace(0.02, 1, 50):
        assert mean_dice(masks, fitted.mean_mask_ >= level) <= reached + 1e-9


def test_images_without_lesion_do_not_dilute_the_mean(training):
    images, masks = training
    fitted = ConstantMaskSegmenter(size=64).fit(images, masks)
    with_normals = ConstantMaskSegmenter(size=64).fit(
        np.concatenate([images, images]), np.concatenate([masks, np.zeros_like(masks)])
    )
    np.testing.assert_array_equal(with_normals.mean_mask_, fitted.mean_mask_)


def test_it_is_supervised(training):
    images, masks = training
    with pytest.raises(NotFittedError):
        ConstantMaskSegmenter(size=64).predict(images)
    with pytest.raises(ValueError, match="learns from masks"):
        ConstantMaskSegmenter(size=64).fit(images)
    with pytest.raises(ValueError, match="no training mask shows a lesion"):
        ConstantMaskSegmenter(size=64).fit(images, np.zeros_like(masks))


def test_save_load_and_clone(training, tmp_path):
    images, masks = training
    fitted = ConstantMaskSegmenter(size=64).fit(images, masks)
    again = load(fitted.save(tmp_path / "constant.npz"))
    assert again.threshold_ == fitted.threshold_
    np.testing.assert_array_equal(again.predict(images), fitted.predict(images))
    assert clone(fitted).get_params() == {"size": 64}


def test_other_sizes_get_the_mask_stretched(training):
    fitted = ConstantMaskSegmenter(size=64).fit(*training)
    wide, small = fitted.predict([np.zeros((64, 128), np.uint8), np.zeros((32, 32), np.uint8)])
    assert wide.shape == (64, 128) and small.shape == (32, 32)
    assert wide.mean() == pytest.approx(small.mean(), abs=0.03)
