import math

import numpy as np
import pytest

from busutils import explain, models

pytestmark = pytest.mark.tf


def test_feature_maps_are_the_layers_outputs(tiny_unet, discs):
    maps = explain.feature_maps(tiny_unet, discs[0][0], ["enc1", "bottleneck", "probability"])
    assert maps["enc1"].shape == (8, 32, 32)
    assert maps["bottleneck"].shape == (32, 8, 8)
    prob = tiny_unet.predict_proba(discs[0][:1])[0]
    np.testing.assert_allclose(maps["probability"][0], prob, atol=1e-5)
    assert (maps["enc1"] >= 0).all()


def test_channels_are_ranked_by_overlap():
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    noise = np.random.default_rng(0).random((8, 8))
    table = explain.rank_channels(np.stack([noise, mask + 0.1 * noise, -1.0 * mask + noise]), mask)
    assert table["channel"][0] == 1
    assert table["iou"][0] == 1
    with pytest.raises(ValueError, match="empty"):
        explain.rank_channels(noise[None], np.zeros((8, 8), bool))


def two_layer_network():
    """Logit = Σ w_c · A_c with 1×1 convolutions, so that the map has a closed form."""
    from busutils.models.engine import keras

    image = keras.Input((8, 8, 1))
    features = keras.layers.Conv2D(3, 1, use_bias=False, name="features")(image)
    logits = keras.layers.Conv2D(1, 1, use_bias=False, name="logits")(features)
    network = keras.Model(image, keras.layers.Activation("sigmoid", name="probability")(logits))
    network.get_layer("features").set_weights([np.array([[[[1.0, -2.0, 0.5]]]], "float32")])
    network.get_layer("logits").set_weights([np.array([[[[0.5], [0.25], [-1.0]]]], "float32")])
    segmenter = models.UNetSegmenter(size=8)
    segmenter.network_, segmenter.fitted_ = network, True
    return segmenter


def test_seg_grad_cam_agrees_with_its_closed_form():
    segmenter = two_layer_network()
    image = np.random.default_rng(0).integers(0, 255, (8, 8)).astype(np.uint8)
    region = np.zeros((8, 8), bool)
    region[2:5, 3:6] = True
    # d Σ_region logit / d A_c is w_c on the region's 9 pixels and 0 elsewhere; its mean over 64 pixels weighs channel c.
    weights = np.array([0.5, 0.25, -1.0]) * 9 / 64
    activations = image[..., None] * np.array([1.0, -2.0, 0.5])
    expected = np.maximum((activations * weights).sum(axis=-1), 0)
    cam = explain.seg_grad_cam(segmenter, image, layer="features", region=region)
    np.testing.assert_allclose(cam, expected, atol=1e-3)


def test_seg_grad_cam_agrees_with_finite_differences(tiny_unet, discs):
    """The channel weights, estimated without any gradient: raise one channel a little, see what the logits do."""
    from busutils.models.engine import keras

    image, mask = discs[0][0], discs[1][0]
    network = tiny_unet.network_
    batch = image[None, ..., None].astype("float32")
    bottleneck = network.get_layer("bottleneck").output
    skips = [network.get_layer(name).output for name in ("enc1", "enc2")]
    decoder = keras.Model([bottleneck, *skips], network.get_layer("logits").output)
    values = keras.Model(network.inputs, [bottleneck, *skips])(batch)
    features, rest = np.asarray(values[0]), [np.asarray(v) for v in values[1:]]
    weights = []
    for channel in range(features.shape[-1]):
        total = []
        for step in (1e-2, -1e-2):
            moved = features.copy()
            moved[..., channel] += step
            total.append(np.asarray(decoder([moved, *rest]))[0, ..., 0][mask].astype("float64").sum())
        weights.append((total[0] - total[1]) / 2e-2 / features[0, ..., 0].size)
    from busutils.datasets.pixels import resize_map

    expected = resize_map(np.maximum((features[0] * weights).sum(axis=-1), 0), (32, 32))
    cam = explain.seg_grad_cam(tiny_unet, image, layer="bottleneck", region=mask)
    assert np.corrcoef(cam.ravel(), expected.ravel())[0, 1] > 0.98


def test_seg_grad_cam_of_one_pixel_and_of_bad_requests(tiny_unet):
    image = np.full((100, 90), 100, np.uint8)
    region = np.zeros((100, 90), bool)
    region[50, 41] = True
    assert explain.seg_grad_cam(tiny_unet, image, region=region).shape == (100, 90)
    with pytest.raises(ValueError, match="no layer 'enc9'"):
        explain.seg_grad_cam(tiny_unet, image, layer="enc9")
    with pytest.raises(ValueError, match="at least one pixel"):
        explain.seg_grad_cam(tiny_unet, image, region=np.zeros((100, 90), bool))
    with pytest.raises(ValueError, match="no network"):
        explain.seg_grad_cam(models.KMeansSegmenter(), image)


def test_shuffling_weights_changes_predictions_and_leaves_the_original(tiny_unet, discs):
    images = discs[0][:4]
    before = tiny_unet.predict_proba(images)
    shuffled = explain.randomise(tiny_unet, "enc1_conv_a")
    assert np.abs(shuffled.predict_proba(images) - before).max() > 0.1
    np.testing.assert_array_equal(tiny_unet.predict_proba(images), before)
    with pytest.raises(ValueError, match="no layer"):
        explain.randomise(tiny_unet, "nope")


def test_energy_and_similarity():
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    assert explain.energy_inside(np.ones((4, 4)), mask) == 0.25
    assert explain.energy_inside(mask.astype(float), mask) == 1
    assert math.isnan(explain.energy_inside(np.zeros((4, 4)), mask))
    values = np.random.default_rng(0).random((9, 9))
    assert explain.map_similarity(values, -values) == pytest.approx(-1)
    assert math.isnan(explain.map_similarity(values, np.ones((9, 9))))
    step = np.zeros((20, 20), np.uint8)
    step[:, 10:] = 200
    assert explain.edge_map(step).argmax(axis=1) == pytest.approx(np.full(20, 9.5), abs=1)


def test_entropy_and_doubt():
    assert explain.entropy(np.array([[0.5]]))[0, 0] == 1
    assert explain.doubt(np.zeros((4, 4))) == 1
    sure, unsure = np.full((4, 4), 0.99), np.full((4, 4), 0.55)
    assert explain.doubt(sure) < explain.doubt(unsure) <= 1


def test_shaken_probabilities_of_a_symmetric_method_have_no_mirror_spread(discs):
    class Grey(models.Segmenter):
        supervised = False

        def __init__(self, size=32):
            self.size = size

        def _square_proba(self, squares):
            return (squares > 100).astype(np.float32)

    mean, spread = explain.shaken_proba(Grey(), [np.full((32, 32), 255, np.uint8)])
    assert mean[0].min() == 1
    assert spread[0].max() == 0


def test_risk_falls_with_coverage_if_doubt_knows_the_errors():
    dice = np.linspace(0, 1, 50)
    curve = explain.risk_coverage(1 - dice, dice)
    assert (np.diff(curve["risk"]) >= 0).all()
    assert curve["risk"].iloc[-1] == pytest.approx(1 - dice.mean())
    assert len(explain.risk_coverage([0.1, 0.2], [math.nan, 0.5])) == 1
