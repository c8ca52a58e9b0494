"""Each method against an independent calculation: closed form, finite differences, or a property it must have."""

import numpy as np
import pytest
from test_explain import two_layer_network

from busutils import explain, models
from busutils.evaluation import contour_band, expected_calibration_error, fit_temperature, reliability, with_temperature

pytestmark = pytest.mark.tf

WEIGHTS = np.array([0.5, 0.25, -1.0])
RESPONSES = np.array([1.0, -2.0, 0.5])


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 255, (8, 8)).astype(np.uint8)


@pytest.fixture
def square():
    region = np.zeros((8, 8), bool)
    region[2:5, 3:6] = True
    return region


def test_hires_cam_agrees_with_its_closed_form(noise, square):
    # d Σ_region logit / d A_c is w_c inside the region and 0 outside: nothing lights up outside it.
    expected = np.maximum((noise[..., None] * RESPONSES * WEIGHTS).sum(axis=-1), 0) * square
    cam = explain.hires_cam(two_layer_network(), noise, layer="features", region=square)
    np.testing.assert_allclose(cam, expected, atol=1e-3)


def test_gradients_of_the_input_agree_with_their_closed_form(noise, square):
    found = explain.input_gradients(two_layer_network(), noise, region=square)
    np.testing.assert_allclose(found, square * (RESPONSES @ WEIGHTS), atol=1e-6)


def test_gradients_of_the_input_agree_with_finite_differences(tiny_unet, discs):
    from busutils.models.backend import keras

    image, mask = discs[0][3], discs[1][3]
    found = explain.input_gradients(tiny_unet, image, region=mask)
    logits = keras.Model(tiny_unet.network_.inputs, tiny_unet.network_.get_layer("logits").output)
    pairs = []
    for row, column in np.random.default_rng(0).integers(4, 28, (12, 2)):
        total = []
        for step in (0.5, -0.5):
            moved = image[None, ..., None].astype("float32")
            moved[0, row, column] += step
            total.append(np.asarray(logits(moved))[0, ..., 0][mask].astype("float64").sum())
        pairs.append((found[row, column], total[0] - total[1]))
    first, second = np.transpose(pairs)
    assert np.corrcoef(first, second)[0, 1] > 0.98
    assert np.polyfit(second, first, 1)[0] == pytest.approx(1, abs=0.1)


def test_integrated_gradients_of_a_linear_network_are_its_terms(noise, square):
    found = explain.integrated_gradients(two_layer_network(), noise, region=square, steps=3)
    np.testing.assert_allclose(found, noise * square * (RESPONSES @ WEIGHTS), rtol=1e-4, atol=1e-3)


def test_integrated_gradients_add_up_to_the_change_of_the_logits(tiny_unet, discs):
    from busutils.models.backend import keras

    image, mask = discs[0][0], discs[1][0]
    found = explain.integrated_gradients(tiny_unet, image, region=mask, steps=128)
    logits = keras.Model(tiny_unet.network_.inputs, tiny_unet.network_.get_layer("logits").output)
    here, even = (
        np.asarray(logits(x[None, ..., None].astype("float32")))[0, ..., 0][mask].sum()
        for x in (image, np.full_like(image, 90))
    )
    assert found.sum() == pytest.approx(here - even, rel=0.05)


def test_a_network_with_an_encoder_is_explained_alike():
    from busutils.models.unet import unet

    segmenter = models.UNetSegmenter(size=64, encoder="efficientnet-lite0", filters=(4, 4, 4, 4, 4))
    segmenter.network_ = unet(64, filters=(4, 4, 4, 4, 4), encoder="efficientnet-lite0")
    segmenter.fitted_ = True
    image = np.random.default_rng(0).integers(0, 255, (50, 70)).astype(np.uint8)
    region = np.zeros(image.shape, bool)
    region[20:30, 30:40] = True
    assert explain.seg_grad_cam(segmenter, image, layer="dec1", region=region).shape == image.shape
    assert explain.integrated_gradients(segmenter, image, region=region, steps=2).shape == (64, 64)
    means, spreads = explain.dropout_proba(segmenter, [image], samples=2)
    assert means[0].shape == spreads[0].shape == image.shape


class Reads(models.Segmenter):
    """Its probability is the grey value of the image's left half, over 255; the right half does not matter to it."""

    supervised = False

    def __init__(self, size: int = 32) -> None:
        self.size = size

    def _fit(self, images, masks, **options):
        pass

    def _square_proba(self, squares):
        half = squares.shape[2] // 2
        level = squares[:, :, :half].mean(axis=(1, 2)) / 255
        return np.broadcast_to(level[:, None, None], squares.shape).astype(np.float32)


def test_occlusion_finds_the_part_that_matters_to_any_segmenter():
    image = np.full((32, 32), 40, np.uint8)
    image[12:16, 4:8] = 255  # blurring the window spreads it out, and takes its light away
    image[12:16, 24:28] = 255
    fall = explain.occlusion(Reads().fit([image]), image, region=np.ones(image.shape, bool), window=0.125, overlap=1)
    assert fall[12:16, 4:8].min() > 0
    assert fall[12:16, 4:8].min() == pytest.approx(fall.max())
    assert np.abs(fall[:, 16:]).max() == 0
    with pytest.raises(ValueError, match="window"):
        explain.occlusion(Reads().fit([image]), image, window=0.001)


def test_a_map_of_the_truth_deletes_faster_than_its_reverse(tiny_unet, discs):
    image, mask = discs[0][1], discs[1][1]
    good = explain.deletion_insertion(tiny_unet, image, mask.astype(float), mask)
    bad = explain.deletion_insertion(tiny_unet, image, 1.0 - mask, mask)
    assert good["deleted"].mean() < bad["deleted"].mean()
    assert good["inserted"].mean() > bad["inserted"].mean()
    assert good["deleted"][0] == pytest.approx(good["inserted"].iloc[-1])


def test_cams_do_not_survive_shuffled_weights(tiny_unet, discs):
    images, region = discs[0][:2], discs[1][0]

    def cam(segmenter, image):
        return explain.seg_grad_cam(segmenter, image, layer="dec1", region=region)

    for layer in ("dec1", "enc1"):
        shuffled = explain.randomise(tiny_unet, layer)
        alike = [explain.map_similarity(cam(tiny_unet, image), cam(shuffled, image)) for image in images]
        assert not (np.array(alike) > 0.95).all()


def test_dropped_channels_spread_probabilities_and_leave_batch_statistics(tiny_unet, discs):
    before = [np.array(w) for w in tiny_unet.network_.get_weights()]
    means, spreads = explain.dropout_proba(tiny_unet, discs[0][:2], rate=0.5, samples=6)
    again, _ = explain.dropout_proba(tiny_unet, discs[0][:2], rate=0.5, samples=6)
    np.testing.assert_array_equal(means[0], again[0])
    assert spreads[0].max() > 0.01
    for first, second in zip(before, tiny_unet.network_.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    # Spread comes from dropping alone: without it, the mean is the prediction itself.
    none, still = explain.dropout_proba(tiny_unet, discs[0][:1], rate=0.0, samples=2)
    np.testing.assert_allclose(none[0], tiny_unet.predict_proba(discs[0][:1])[0], atol=1e-4)
    assert still[0].max() < 1e-6
    with pytest.raises(ValueError, match="rate"):
        explain.dropout_proba(tiny_unet, discs[0][:1], rate=1.0)


def test_a_band_of_two_contours():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    band = contour_band(mask, mask, radius=3)
    assert not band[20, 20]
    assert not band[0, 0]
    assert band[20, 10:13].all()
    assert band[20, 7:10].all()
    assert not band[20, 6]
    assert not band[20, 13]
    assert not contour_band(~mask & mask, mask & ~mask).any()
    assert (contour_band(mask, np.roll(mask, 8, 1), radius=3) & ~band).any()


def test_temperature_mends_what_is_too_sure():
    rng = np.random.default_rng(0)
    honest = rng.uniform(0.02, 0.98, (4, 60, 60))
    masks = rng.random(honest.shape) < honest
    boastful = with_temperature(honest, 1 / 3)
    temperature = fit_temperature(masks, boastful)
    assert temperature == pytest.approx(3, rel=0.05)
    mended = with_temperature(boastful, temperature)
    assert expected_calibration_error(reliability(masks, mended)) < 0.02
    assert expected_calibration_error(reliability(masks, boastful)) > 0.1
    assert ((mended >= 0.5) == (boastful >= 0.5)).all()
    with pytest.raises(ValueError, match="positive"):
        with_temperature(honest, 0)
