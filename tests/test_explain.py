import math

import numpy as np
import pytest

from busutils import explain, models, phantom

pytestmark = pytest.mark.tf


def test_feature_maps_are_the_layers_outputs(tiny_unet, discs):
    maps = explain.feature_maps(tiny_unet, discs[0][0], ["enc1", "bottleneck", "probability"])
    assert maps["enc1"].shape == (8, 32, 32)
    assert maps["bottleneck"].shape == (32, 8, 8)
    prob = tiny_unet.predict_proba(discs[0][:1])[0]
    np.testing.assert_allclose(maps["probability"][0], prob, atol=1e-5)
    assert (maps["enc1"] >= 0).all()


def test_levels_run_from_the_image_to_the_mask(tiny_unet, discs):
    assert explain.levels_of(tiny_unet) == ["enc1", "enc2", "bottleneck", "dec2", "dec1"]
    assert list(explain.feature_maps(tiny_unet, discs[0][0])) == explain.levels_of(tiny_unet)


def test_dissection_finds_the_channel_of_each_structure():
    """The network's channels are 1, −2 and 0.5 times the grey value: the brightest pixels are channel 0's and 2's."""
    segmenter = two_layer_network()
    image = np.full((8, 8), 100, np.uint8)
    image[1:3, 1:3], image[5:7, 5:7] = 200, 20
    truths = [{"bright": image == 200, "dark": image == 20, "calipers": np.zeros((8, 8), bool)}]
    table = explain.dissect(segmenter, [image], truths, ["features"])
    iou = table.set_index(["structure", "channel"])["iou"]
    assert "calipers" not in set(table["structure"])
    assert (iou["bright", 0], iou["bright", 1], iou["dark", 1], iou["dark", 2]) == (1, 0, 1, 0)
    # 4 of 64 pixels at random: 4 · 4/64 common ones of 8 less these.
    assert table["chance"][0] == pytest.approx(0.25 / 7.75)
    # Judged over all images: a channel that also fires where the structure is missing loses.
    other = np.full((8, 8), 200, np.uint8)
    both = explain.dissect(segmenter, [image, other], [truths[0], {}], ["features"])
    assert both.set_index(["structure", "channel"]).loc[("bright", 0), "iou"] < 0.2
    with pytest.raises(ValueError, match="one set of structures"):
        explain.dissect(segmenter, [image], [], ["features"])


def test_phantoms_know_their_structures():
    cyst = phantom.simulate(0, kind="cyst", calipers=1.0)
    found = phantom.structures(cyst)
    assert (found["lesion"] == cyst.mask).all()
    assert (found["calipers"] == cyst.marks).all()
    assert found["enhancement"].any()
    assert not found["shadow"].any()
    rows, columns = np.nonzero(found["enhancement"])
    assert rows.min() > np.nonzero(cyst.mask)[0].min()
    assert set(columns) <= set(np.nonzero(cyst.mask)[1])
    # Its name is true: just below the lesion, it is brighter there than beside it.
    below = np.zeros(cyst.mask.shape, bool)
    bottom = np.nonzero(cyst.mask)[0].max() + 1
    below[bottom : bottom + 20] = True
    assert cyst.image[below & found["enhancement"]].mean() > cyst.image[below & ~found["enhancement"]].mean() + 5
    assert not any(mask.any() for mask in phantom.structures(phantom.simulate(0, kind="normal", size=64)).values())
    assert any(phantom.structures(phantom.simulate(i, kind="spiculated", size=64))["shadow"].any() for i in range(12))
    with pytest.raises(ValueError, match="near-duplicate"):
        phantom.structures(phantom.simulate(0, copy=1, size=64))


def convolutions():
    """Three 3×3 convolutions of ones: the gradient is a known pyramid, 7 pixels wide."""
    from busutils.models.backend import keras

    image = values = keras.Input((16, 16, 1))
    for name in ("enc1", "bottleneck", "dec1"):
        values = keras.layers.Conv2D(1, 3, padding="same", use_bias=False, name=name)(values)
    logits = keras.layers.Conv2D(1, 1, use_bias=False, name="logits")(values)
    network = keras.Model(image, keras.layers.Activation("sigmoid", name="probability")(logits))
    network.set_weights([np.ones(w.shape, "float32") for w in network.get_weights()])
    segmenter = models.UNetSegmenter(size=16)
    segmenter.network_, segmenter.fitted_ = network, True
    return segmenter


def test_the_receptive_field_agrees_with_its_closed_form():
    image = np.random.default_rng(0).integers(0, 255, (16, 16)).astype(np.uint8)
    one = np.convolve(np.convolve([1, 1, 1], [1, 1, 1]), [1, 1, 1])
    expected = np.zeros((16, 16))
    expected[5:12, 5:12] = np.outer(one, one) / one.sum() ** 2
    np.testing.assert_allclose(explain.receptive_field(convolutions(), [image]), expected, atol=1e-6)
    table = explain.receptive_fields(convolutions(), [image], share=1.0)
    assert table["in_theory"].tolist() == [3, 5, 7]
    assert table["measured"].tolist() == [3, 5, 7]
    assert explain.receptive_fields(convolutions(), [image], ["dec1"], share=0.85)["measured"][0] == 5


def test_no_pixel_outside_the_field_in_theory_is_felt(tiny_unet, discs):
    table = explain.receptive_fields(tiny_unet, discs[0][:3], ["enc1", "enc2"], share=1.0)
    assert (table["measured"] <= table["in_theory"] + 1).all()
    assert table["measured"].is_monotonic_increasing


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
    from busutils.models.backend import keras

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
    from busutils.models.backend import keras

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
    from busutils.io import resize_map

    expected = resize_map(np.maximum((features[0] * weights).sum(axis=-1), 0), (32, 32))
    cam = explain.seg_grad_cam(tiny_unet, image, layer="bottleneck", region=mask)
    assert np.corrcoef(cam.ravel(), expected.ravel())[0, 1] > 0.98


def test_seg_grad_cam_of_one_pixel_and_of_bad_requests(tiny_unet):
    image = np.full((100, 90), 100, np.uint8)
    region = np.zeros((100, 90), bool)
    region[50, 41] = True
    assert explain.seg_grad_cam(tiny_unet, image, region=region).shape == (100, 90)
    with pytest.raises(ValueError, match=r"no layer 'enc9'.*enc1, enc2, bottleneck, dec2, dec1.*enc1_conv_a.*logits"):
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


def test_entropy_and_uncertainty():
    assert explain.entropy(np.array([[0.5]]))[0, 0] == 1
    assert explain.mean_entropy(np.zeros((4, 4))) == 1
    sure, unsure = np.full((4, 4), 0.99), np.full((4, 4), 0.55)
    assert explain.mean_entropy(sure) < explain.mean_entropy(unsure) <= 1


def test_tta_probabilities_of_a_symmetric_method_have_no_mirror_spread(discs):
    class Grey(models.Segmenter):
        supervised = False

        def __init__(self, size=32):
            self.size = size

        def _square_proba(self, squares):
            return (squares > 100).astype(np.float32)

    mean, spread = explain.tta_proba(Grey(), [np.full((32, 32), 255, np.uint8)])
    assert mean[0].min() == 1
    assert spread[0].max() == 0


def test_risk_falls_with_coverage_if_uncertainty_knows_the_errors():
    dice = np.linspace(0, 1, 50)
    curve = explain.risk_coverage(1 - dice, dice)
    assert (np.diff(curve["risk"]) >= 0).all()
    assert curve["risk"].iloc[-1] == pytest.approx(1 - dice.mean())
    assert len(explain.risk_coverage([0.1, 0.2], [math.nan, 0.5])) == 1


def test_calipers_are_burnt_in_at_the_ends_of_the_lesion(discs):
    image, mask = np.full((64, 64), 60, np.uint8), np.zeros((64, 64), bool)
    mask[20:30, 10:50] = True
    marked = explain.with_calipers(image, mask)
    assert (image == 60).all()
    assert marked[24:26, 8:13].max() > 200
    assert marked[24:26, 47:52].max() > 200
    assert (marked[40:] == 60).all()
    np.testing.assert_array_equal(explain.with_calipers(image, ~mask & mask), image)


def test_a_shadow_of_known_depth_is_lifted():
    rng = np.random.default_rng(0)
    plain = np.clip(rng.normal(120, 12, (96, 96)), 0, 255).astype(np.uint8)
    mask = np.zeros((96, 96), bool)
    mask[20:40, 30:60] = True
    shadowed = plain.copy()
    shadowed[40:, 30:60] -= 40
    lifted = explain.without_shadow(shadowed, mask)
    assert np.abs(lifted.astype(int) - plain)[40:, 30:60].mean() < 4
    untouched = np.ones((96, 96), bool)
    untouched[40:, 30:60] = False
    np.testing.assert_array_equal(lifted[untouched], shadowed[untouched])
    np.testing.assert_array_equal(explain.without_shadow(plain, ~mask & mask), plain)
    np.testing.assert_array_equal(explain.without_shadow(plain, ~(~mask & mask)), plain)


def test_context_moves_a_method_that_reads_the_context():
    class BelowLeft(models.Segmenter):
        """Finds a lesion wherever the lowest rows are dark: it reads the shadow alone."""

        supervised = False

        def __init__(self, size=32):
            self.size = size

        def _fit(self, images, masks, **options):
            pass

        def _square_proba(self, squares):
            found = np.zeros(squares.shape, np.float32)
            dark = squares[:, -8:, 12:20].mean(axis=(1, 2)) < 60
            found[dark, 8:16, 12:20] = 1
            return found

    image, mask = np.full((32, 32), 100, np.uint8), np.zeros((32, 32), bool)
    mask[8:16, 12:20] = True
    image[8:, 12:20] = 20
    table = explain.context_test(BelowLeft().fit([image]), [image], [mask], explain.without_shadow)
    assert table.loc[0, ["dice_before", "dice_after", "agreement"]].tolist() == [1, 0, 0]
    assert table["area_change"][0] == -mask.mean()
    still = explain.context_test(BelowLeft().fit([image]), [image], [mask], lambda image, mask: image)
    assert still.loc[0, ["dice_after", "agreement", "area_change"]].tolist() == [1, 1, 0]


def test_an_ensemble_averages_and_tells_where_its_members_disagree():
    class Says(models.Segmenter):
        supervised = False

        def __init__(self, size=8, level=0.5):
            self.size, self.level = size, level

        def _fit(self, images, masks, **options):
            pass

        def _square_proba(self, squares):
            return np.full(squares.shape, self.level, np.float32)

    image = np.zeros((8, 10), np.uint8)
    members = [Says(level=level).fit([image]) for level in (0.2, 0.6)]
    means, spreads = explain.ensemble_proba(members, [image])
    np.testing.assert_allclose(means[0], 0.4, atol=1e-6)
    np.testing.assert_allclose(spreads[0], 0.2, atol=1e-6)
    with pytest.raises(ValueError, match="two members"):
        explain.ensemble_proba(members[:1], [image])


@pytest.mark.parametrize(
    "method",
    [explain.seg_grad_cam, explain.hires_cam, explain.input_gradients, explain.integrated_gradients],
)
def test_gradient_methods_say_that_they_need_tensorflow(method, tiny_unet, discs, monkeypatch):
    from busutils.models.backend import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match="needs Keras' TensorFlow backend, this is torch"):
        method(tiny_unet, discs[0][0], region=discs[1][0])
