import itertools

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans

from busutils import datasets, metrics
from busutils.models import KMeansSegmenter, load
from busutils.models.kmeans import (
    PRESETS,
    TREES,
    WEIGHTS,
    flatten_background,
    kmeans_1d,
    speckle_filter,
    vote_weights,
)
from busutils.models.regions import (
    FEATURES,
    Trees,
    candidate_regions,
    oracle,
    random_walker_contour,
    region_features,
    score_regions,
)

RNG = np.random.default_rng


def ellipse(shape, cy, cx, ry, rx):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1


def scene(seed=0, side=256):
    """A dark lesion in a bright layer, a darker shadow at one side, darkening with depth, noise."""
    rng = RNG(seed)
    image = 170 - 90 * np.linspace(0, 1, side)[:, None] * np.ones(side)
    mask = ellipse((side, side), 0.42 * side, 0.5 * side, 0.13 * side, 0.2 * side)
    image[mask] -= 55
    image[:, : int(0.12 * side)] -= 70
    image += rng.normal(0, 12, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), mask


# -- exact clustering ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_kmeans_1d_is_the_best_of_all_partitions(k):
    rng = RNG(k)
    for _ in range(5):
        levels = np.sort(rng.choice(256, 8, replace=False))
        counts = np.zeros(256)
        counts[levels] = rng.integers(1, 20, 8)
        best = np.inf
        for cuts in itertools.combinations(range(1, 8), k - 1):
            inertia = 0.0
            for part in np.split(levels, cuts):
                mean = np.average(part, weights=counts[part])
                inertia += float(counts[part] @ (part - mean) ** 2)
            best = min(best, inertia)
        assert kmeans_1d(counts, k).inertia == pytest.approx(best, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_kmeans_1d_is_never_worse_than_lloyd(k):
    image = (RNG(k).beta(1.5, 3, (64, 64)) * 255).astype(np.uint8)
    lloyd = KMeans(k, n_init=10, random_state=0).fit(image.reshape(-1, 1).astype(float))
    assert kmeans_1d(image, k).inertia <= lloyd.inertia_ * (1 + 1e-9)


@pytest.mark.parametrize("k", [2, 3])
def test_exact_kmeans_is_multi_otsu(k):
    # Least inertia within the classes is largest variance between them.
    from skimage.filters import threshold_multiotsu

    image = speckle_filter(scene(4, 64)[0], 5)
    ours, otsu = kmeans_1d(image, k).thresholds, threshold_multiotsu(image, classes=k)
    for mine, theirs in zip(ours, otsu, strict=True):
        assert ((image <= mine) == (image <= theirs)).all()


def test_kmeans_1d_result_is_consistent():
    image = RNG(0).integers(0, 256, (50, 40), dtype=np.uint8)
    centres, thresholds, inertia = kmeans_1d(image, 4)
    labels = np.searchsorted(thresholds, image, side="left")
    assert (np.diff(centres) > 0).all() and (np.diff(thresholds) > 0).all()
    np.testing.assert_allclose(centres, [image[labels == i].mean() for i in range(4)])
    assert inertia == pytest.approx(((image - centres[labels]) ** 2).sum())
    # Histogram or image: the same.
    again = kmeans_1d(np.bincount(image.ravel(), minlength=256), 4)
    np.testing.assert_array_equal(again.thresholds, thresholds)


def test_kmeans_1d_with_fewer_levels_than_clusters():
    centres, thresholds, inertia = kmeans_1d(np.array([[5, 5, 9]], np.uint8), 4)
    assert (centres.tolist(), thresholds.tolist(), inertia) == ([5.0, 9.0], [5.0], 0.0)


@pytest.mark.parametrize(
    ("values", "k", "message"),
    [
        (np.zeros((4, 4), np.uint8), 0, "at least 1"),
        (np.zeros((4, 4)), 2, "uint8"),
        (np.zeros(256), 2, "no pixel"),
        (np.zeros((2, 2, 2), np.uint8), 2, "histogram"),
    ],
)
def test_kmeans_1d_says_what_is_wrong(values, k, message):
    with pytest.raises(ValueError, match=message):
        kmeans_1d(values, k)


# -- clustering of vectors -----------------------------------------------------------------------------------


# -- filters -------------------------------------------------------------------------------------------------


def test_speckle_filter_smooths_and_keeps_the_edge():
    image = np.full((60, 60), 60, np.uint8)
    image[:, 30:] = 180
    noisy = np.clip(image + RNG(0).normal(0, 25, image.shape), 0, 255).astype(np.uint8)
    filtered = speckle_filter(noisy, 9).astype(float)
    assert filtered[:, :22].std() < noisy[:, :22].std() / 3
    assert filtered[:, 33].mean() - filtered[:, 26].mean() > 90
    assert filtered.shape == image.shape


def test_median_is_the_median():
    image = RNG(3).integers(0, 256, (20, 20), dtype=np.uint8)
    assert speckle_filter(image, 5)[10, 7] == np.median(image[8:13, 5:10])


def test_background_subtraction_removes_depth_and_keeps_the_lesion():
    image, mask = scene()
    flat = flatten_background(speckle_filter(image), 50).astype(float)
    outside = ~mask
    outside[:, :60] = False
    top, bottom = flat[20:60][outside[20:60]].mean(), flat[180:220][outside[180:220]].mean()
    raw_top, raw_bottom = image[20:60][outside[20:60]].mean(), image[180:220][outside[180:220]].mean()
    assert abs(top - bottom) < abs(raw_top - raw_bottom) / 3
    assert flat[mask].mean() < flat[outside].mean() - 20
    assert flatten_background(image, 0) is not image


# -- candidates, features, score -----------------------------------------------------------------------------


def test_candidates_are_the_connected_dark_parts_with_holes_filled():
    image = np.full((100, 100), 200, np.uint8)
    image[10:30, 10:30] = 50
    image[15:20, 15:20] = 200
    image[60:80, 40:90] = 100
    image[95, 95] = 0
    regions = candidate_regions(image, [60, 120])
    assert sorted(region.area for region in regions) == [400, 1000]
    assert {region.mask()[17, 17] for region in regions if region.area == 400} == {np.True_}


def test_opening_parts_a_bridge():
    image = np.full((100, 100), 200, np.uint8)
    image[20:50, 20:50] = 50
    image[20:50, 60:90] = 50
    image[34:36, 50:60] = 50
    assert len(candidate_regions(image, [60], openings=(0,))) == 1
    assert len(candidate_regions(image, [60], openings=(3,))) == 2


def test_contrast_and_edges_of_a_square():
    image = np.full((100, 100), 150.0)
    image[40:60, 40:60] = 50
    image[0:10, 20:30] = 50
    regions = candidate_regions(image, [60])
    features = region_features(regions, image, image)
    assert list(features) == list(FEATURES)
    inner = [region.top for region in regions].index(40)
    for name in ("contrast", "contrast_top", "contrast_bottom", "contrast_sides"):
        assert features[name][inner] == pytest.approx(1.0)
    assert features["leak"][inner] == 0
    assert features["log_area"][inner] == pytest.approx(np.log(0.04))
    assert features["depth"][inner] == pytest.approx(0.5)
    assert features["off_centre_squared"][inner] == pytest.approx(0)
    assert features["touches"].tolist() == [0, 1] if inner == 0 else [1, 0]
    assert features["touch_top"].max() == pytest.approx(0.1)


def test_features_are_finite_on_a_region_as_large_as_its_box_allows():
    image = np.zeros((16, 16))
    regions = candidate_regions(image, [0], max_area=1.0)
    assert all(np.isfinite(values).all() for values in region_features(regions, image, image).values())


def test_features_of_a_region_do_not_depend_on_the_others():
    image = speckle_filter(scene(side=96)[0], 5)
    regions = candidate_regions(image, kmeans_1d(image, 4).thresholds)
    together = region_features(regions, image, image)
    assert len(regions) > 1
    for index, region in enumerate(regions):
        for name, values in region_features([region], image, image).items():
            assert values == pytest.approx(together[name][index]), name
    assert {name: values.shape for name, values in region_features([], image, image).items()} == dict.fromkeys(
        FEATURES, (0,)
    )


def test_the_ring_ends_where_the_image_does():
    image = np.full((100, 100), 150.0)
    image[:20, 40:60] = 50
    image[20:23, 40:60] = 100
    [region] = candidate_regions(image, [60])
    features = region_features([region], image, image)
    # Above there is nothing to compare with; below are three rows of 100 next to the region, then 150.
    assert features["contrast_top"] == pytest.approx(0)
    assert 0 < features["contrast_bottom"] < features["contrast_sides"] == pytest.approx(1)


def test_score_refuses_an_unknown_feature():
    with pytest.raises(ValueError, match="no such feature: colour"):
        score_regions({"depth": np.zeros(2)}, {"colour": 1.0})


def test_every_weight_names_a_feature():
    assert set(WEIGHTS) == {"rules", "plain", "full", "presence"}
    for weights in WEIGHTS.values():
        assert set(weights) <= {*FEATURES, "intercept"}


def test_oracle_is_at_least_as_good_as_the_choice():
    image, mask = scene()
    done = KMeansSegmenter("best", contour="none").steps(image)
    best = max(metrics.dice(mask, candidate) for candidate in done["candidates"])
    assert best >= metrics.dice(mask, done["chosen"])
    regions = candidate_regions(done["flattened"], kmeans_1d(done["flattened"], 3).thresholds, openings=(3,))
    index, score = oracle(regions, mask)
    assert score == max(metrics.dice(mask, region.mask()) for region in regions)
    assert metrics.dice(mask, regions[index].mask()) == score
    assert oracle([], mask) == (-1, 0.0)
    assert np.isnan(oracle(regions, np.zeros_like(mask))[1])


def test_random_walker_moves_the_contour_to_the_edge():
    truth = ellipse((256, 256), 128, 128, 40, 50)
    image = np.where(truth, 60.0, 140.0) + RNG(0).normal(0, 4, truth.shape)
    rough = ellipse((256, 256), 128, 128, 36, 46)
    refined = random_walker_contour(image, rough)
    assert metrics.dice(truth, refined) > max(0.97, metrics.dice(truth, rough))
    assert not random_walker_contour(image, np.zeros_like(rough)).any()
    flat = random_walker_contour(np.full(rough.shape, 7.0), rough)
    np.testing.assert_array_equal(flat, rough)


# -- the segmenter -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_no_way_to_see_the_truth(preset):
    class Trap:
        def __getattr__(self, name):
            raise AssertionError(f"looked at the masks: {name}")

        def __len__(self):
            raise AssertionError("looked at the masks")

        __iter__ = __array__ = __getitem__ = __len__

    image, _ = scene(side=64)
    segmenter = KMeansSegmenter(preset, size=64)
    before = segmenter.predict(image[None])
    assert segmenter.fit(image[None], Trap()) is segmenter
    np.testing.assert_array_equal(segmenter.predict(image[None]), before)


def test_textbook_is_the_darker_of_two_clusters():
    image, _ = scene()
    pred = KMeansSegmenter("textbook").predict(image[None])[0]
    labels = KMeans(2, n_init=3, random_state=0).fit(image.reshape(-1, 1)[::7].astype(float))
    between = labels.cluster_centers_.mean()
    assert (pred == (image <= between)).mean() > 0.98


def test_each_preset_beats_the_one_before_on_depth_and_shadow():
    pairs = [scene(seed) for seed in range(3)]
    images, masks = np.stack([image for image, _ in pairs]), [mask for _, mask in pairs]
    scores = {
        preset: np.mean(
            [metrics.dice(m, p) for m, p in zip(masks, KMeansSegmenter(preset).predict(images), strict=True)]
        )
        for preset in PRESETS
    }
    assert scores["textbook"] < 0.45
    assert scores["improved"] > 0.85
    assert scores["best"] > 0.9
    assert scores["rules"] > 0.8


def test_improved_beats_the_textbook_on_simulated_images():
    images, masks = datasets.load("phantom", n=24, seed=3, size=128).lesions().load_arrays(128)
    means = [
        np.mean(
            [metrics.dice(m, p) for m, p in zip(masks, KMeansSegmenter(preset, size=128).predict(images), strict=True)]
        )
        for preset in ("textbook", "improved", "best")
    ]
    assert means[0] + 0.1 < min(means[1:])


def test_every_option_changes_the_result_or_is_checked():
    images = datasets.load("phantom", n=3, seed=5, size=128).lesions().load_arrays(128)[0]
    base = KMeansSegmenter("best", size=128)
    reference = base.predict_proba(images)
    changes = {
        "median": 0,
        "background": 0.0,
        "k": (2,),
        "choice": "cluster",
        "openings": (24,),
        "areas": (0.2, 0.5),
        "voters": 1,
        "contour": "none",
        "reject": 1.0,
    }
    for name, value in changes.items():
        changed = clone(base).set_params(**{name: value}).predict_proba(images)
        assert (changed != reference).any(), name


def test_rejection_is_an_empty_mask():
    image, _ = scene()
    assert not KMeansSegmenter("best", reject=1.0).predict(image[None]).any()
    assert KMeansSegmenter("best", reject=0.0).predict(image[None]).any()
    # What was chosen does not depend on whether it is believed.
    sure, all_in = (KMeansSegmenter("best", reject=reject).steps(image)["chosen"] for reject in (0.05, 0.0))
    np.testing.assert_array_equal(sure, all_in)


def test_rejection_judges_all_that_vote():
    image, _ = scene()
    done = KMeansSegmenter("best", reject=0.0)._run(image)
    voters = np.argsort(-done["scores"], kind="stable")[: PRESETS["best"]["voters"]]
    weights = vote_weights(done["scores"][voters])
    mean = {name: np.array([np.average(v[voters], weights=weights)]) for name, v in done["features"].items()}
    [chance] = score_regions(mean, WEIGHTS["presence"])
    for reject, found in ((0.99 * chance, True), (chance + 0.01 * (1 - chance), False)):
        assert KMeansSegmenter("best", reject=reject).predict(image[None]).any() == found


def test_a_lower_score_has_a_smaller_vote():
    weights = vote_weights(np.array([1.0, 0.9, 0.9, 0.5, 0.0]))
    assert weights[0] == 1 and weights[1] == weights[2] > weights[3] > weights[4] == 0
    assert vote_weights(np.array([0.5, 1 / 3]))[1] == pytest.approx(0.5**3.3)


def test_rejection_tells_normal_from_lesion_images():
    lesions = datasets.load("phantom", n=24, seed=21, size=128).lesions().load_arrays(128)[0]
    normals = datasets.load("phantom", n=20, seed=22, size=128, kind="normal").load_arrays(128)[0]
    segmenter = KMeansSegmenter("best", size=128, reject=0.5)
    kept = [np.mean([pred.any() for pred in segmenter.predict(images)]) for images in (lesions, normals)]
    assert kept[0] > kept[1] + 0.3


def test_own_weights_and_own_feature():
    class WithCorner(KMeansSegmenter):
        def _features(self, regions, flat, filtered):
            corner = np.array([-(region.top + region.left) for region in regions], float)
            return {**super()._features(regions, flat, filtered), "corner": corner}

    image = np.full((256, 256), 150, np.uint8)
    image[20:60, 20:60] = 40
    image[120:180, 100:180] = 40
    pred = WithCorner("improved", background=0.0, weights={"corner": 1.0}).predict(image[None])[0]
    assert pred[40, 40] and not pred[150, 140]
    largest = KMeansSegmenter("improved", background=0.0, weights={"log_area": 1.0})
    assert largest.predict(image[None])[0][150, 140]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "magic"}, "preset must be one of textbook, rules, improved, best"),
        ({"choice": "luck"}, "choice must be one of"),
        ({"contour": "snake"}, "contour must be one of"),
        ({"voters": 0}, "voters must be at least 1"),
        ({"background": ()}, "background needs at least one"),
        ({"background": "wide"}, "background must be a number"),
        ({"median": float("nan")}, "median must be a number"),
        ({"k": (1,)}, "from 2 up"),
        ({"k": ()}, "from 2 up"),
        ({"weights": "mine"}, "weights must be one of"),
        ({"areas": (0.5, 0.1)}, "two rising shares"),
        ({"areas": (0.1, 1.5)}, "two rising shares"),
        ({"areas": (0.1,)}, "two rising shares"),
        ({"size": 4}, "at least 8"),
    ],
)
def test_a_wrong_option_is_one_clear_error(options, message):
    segmenter = KMeansSegmenter(**{"preset": "best", **options})
    with pytest.raises(ValueError, match=message):
        segmenter.predict(np.zeros((1, 16, 16), np.uint8))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("value", [0, 97, 255])
def test_a_flat_image_shows_nothing(preset, value):
    assert not KMeansSegmenter(preset).predict(np.full((1, 64, 48), value, np.uint8)).any()


ODD = {
    "black": np.zeros((60, 50), np.uint8),
    "white": np.full((60, 50), 255, np.uint8),
    "tiny": RNG(0).integers(0, 256, (8, 8), dtype=np.uint8),
    "nearly black": np.eye(8, dtype=np.uint8),
    "one pixel": np.array([[7]], np.uint8),
    "one row": RNG(1).integers(0, 256, (1, 300), dtype=np.uint8),
    "stripes": np.tile(np.array([[0, 255]], np.uint8), (40, 20)),
    "one dark pixel": np.where(np.arange(4096) == 2000, 0, 90).reshape(64, 64).astype(np.uint8),
}


@pytest.mark.parametrize("options", [{}, {"contour": "none", "voters": 3}], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
def test_odd_images_get_an_answer(preset, options):
    preds = KMeansSegmenter(preset, size=64, **options).predict(list(ODD.values()))
    for (name, image), pred in zip(ODD.items(), preds, strict=True):
        assert pred.shape == image.shape and pred.dtype == bool, name
        if np.ptp(image) == 0:
            assert not pred.any(), name


@pytest.mark.parametrize("preset", PRESETS)
def test_a_huge_image_gets_an_answer_of_its_size(preset):
    image, mask = scene()
    huge = np.kron(image, np.ones((16, 16), np.uint8))[:4000, :4000]
    segmenter = KMeansSegmenter(preset)
    [pred] = segmenter.predict([huge])
    assert pred.shape == (4000, 4000)
    truth = np.kron(mask, np.ones((16, 16), bool))[:4000, :4000]
    assert metrics.dice(truth, pred) > {"textbook": 0.2, "rules": 0.8, "improved": 0.8, "best": 0.85}[preset]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full((1, 8, 8), np.nan), "uint8.*float64: rescale and convert"),
        (np.zeros((8, 8), np.uint8), "image\\[None\\]"),
        (np.zeros((1, 0, 8), np.uint8), "no pixel"),
        (np.zeros((1, 8, 8, 3), np.uint8), "must be grey"),
    ],
    ids=["nan", "no stack", "empty", "colour"],
)
def test_images_that_are_none_are_refused(preset, bad, message):
    with pytest.raises(ValueError, match=message):
        KMeansSegmenter(preset).predict(bad)


@pytest.mark.parametrize("size", [64, 128, 512])
def test_the_answer_hardly_depends_on_the_working_size(size):
    image, mask = scene()
    assert metrics.dice(mask, KMeansSegmenter("best", size=size).predict(image[None])[0]) > 0.85


def test_input_is_left_as_it_was():
    image, _ = scene()
    kept = image.copy()
    KMeansSegmenter("best").predict(image[None])
    KMeansSegmenter("best").steps(image)
    np.testing.assert_array_equal(image, kept)


def test_steps_lead_to_the_prediction():
    image, _ = scene()
    segmenter = KMeansSegmenter("best")
    done = segmenter.steps(image)
    np.testing.assert_array_equal(done["refined"], segmenter.predict(image[None])[0])
    assert (np.diff(done["scores"]) <= 0).all()
    assert len(done["candidates"]) == len(done["scores"]) > 1
    np.testing.assert_array_equal(done["candidates"][0], done["chosen"])
    assert set(np.unique(done["clusters"])) == set(range(7))


def test_save_and_load_keep_every_option(tmp_path):
    image, _ = scene()
    segmenter = KMeansSegmenter("best", k=(3, 4), openings=(2,), weights={"contrast": 1.0}, reject=0.1)
    again = load(segmenter.save(tmp_path / "kmeans.npz"))
    assert again.get_params() == segmenter.get_params()
    np.testing.assert_array_equal(again.predict(image[None]), segmenter.predict(image[None]))


# -- what is learned, and what is not ------------------------------------------------------------------------


def test_only_a_learned_ranking_names_the_sets_it_was_fitted_on():
    for preset, options in (("textbook", {}), ("rules", {}), ("best", {"weights": {"contrast": 1.0}, "reject": 0.0})):
        assert KMeansSegmenter(preset, **options).provenance["sets"] == []
    for preset in ("improved", "best"):
        assert "bus-bra" in KMeansSegmenter(preset).provenance["sets"]


def test_trees_answer_as_the_library_that_grew_them():
    from sklearn.ensemble import HistGradientBoostingRegressor

    table = RNG(0).normal(size=(400, len(FEATURES)))
    wanted = np.where(table[:, 3] > 0, 1.0, -1.0) * table[:, 5]
    model = HistGradientBoostingRegressor(max_iter=1, learning_rate=1.0, max_leaf_nodes=6).fit(table, wanted)
    nodes = model._predictors[0][0].nodes
    leaf = nodes["is_leaf"].astype(bool)
    tree = Trees(
        np.where(leaf, -1, nodes["feature_idx"])[None],
        nodes["num_threshold"][None],
        nodes["left"].astype(int)[None],
        nodes["right"].astype(int)[None],
        np.where(leaf, nodes["value"], 0)[None],
    )
    found = tree.sum(dict(zip(FEATURES, table.T, strict=True)))
    np.testing.assert_allclose(found, model.predict(table) - wanted.mean(), atol=1e-6)
    # Added to a score, they change which region is chosen.
    features = dict.fromkeys(FEATURES, np.array([-1.0, 1.0]))
    assert np.ptp(score_regions(features, {}, tree)) > 0


def test_the_shipped_trees_are_whole_and_small():
    trees = TREES
    assert all(part.shape == trees.feature.shape for part in trees)
    assert -1 <= trees.feature.min() <= trees.feature.max() < len(FEATURES)
    inner = trees.feature >= 0
    assert (trees.left[inner] < trees.feature.shape[1]).all() and (trees.right[inner] > 0).all()
    assert all(np.isfinite(part).all() for part in trees)


def test_several_backgrounds_give_more_candidates():
    image, _ = scene()
    counts = [len(KMeansSegmenter("best", background=sigmas).steps(image)["scores"]) for sigmas in (50.0, (50.0, 20.0))]
    assert counts[0] < counts[1]


def test_candidates_that_agree_outvote_the_best_one():
    image, mask = scene()
    alone = KMeansSegmenter("best", voters=1, contour="none").steps(image)
    np.testing.assert_array_equal(alone["refined"], alone["chosen"])
    for contour in ("none", "hull", "walker"):
        assert metrics.dice(mask, KMeansSegmenter("best", contour=contour).predict(image[None])[0]) > 0.85


def test_steps_tell_the_chance_that_decides_on_rejection():
    image = datasets.load("phantom?n=4&size=128").lesions().load_arrays(128)[0][0]
    chance = float(KMeansSegmenter("best", reject=0.0).steps(image)["presence"])
    assert 0 < chance < 1
    for reject, kept in ((0.99 * chance, True), (min(1.01 * chance, 1.0), False)):
        assert KMeansSegmenter("best", reject=reject).steps(image)["chosen"].any() == kept
    assert np.isnan(KMeansSegmenter("textbook").steps(image)["presence"])
    assert KMeansSegmenter("best").steps(np.full((64, 64), 90, np.uint8))["presence"] == 0
