import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from busutils import datasets, evaluation, models


@pytest.fixture(scope="module")
def phantoms():
    return datasets.load("phantom", n=24, size=64)


class Truth(models.Segmenter):
    """Draws the masks it was shown."""

    def __init__(self, size=64):
        self.size = size

    def _fit(self, images, masks, **options):
        self.known_ = {image.tobytes(): mask for image, mask in zip(images, masks, strict=True)}

    def _square_proba(self, squares):
        return np.stack([self.known_[square.tobytes()].astype(np.float32) for square in squares])


class Nothing(models.Segmenter):
    """Draws nothing."""

    supervised = False

    def __init__(self, size=64):
        self.size = size

    def _square_proba(self, squares):
        return np.zeros(squares.shape)


def test_one_row_an_image_with_the_contract_s_columns(phantoms):
    truth = Truth().fit(*phantoms.load_arrays(64))
    table = evaluation.evaluate(truth, phantoms, 64)
    assert list(table["id"]) == list(phantoms.ids)
    assert list(table.columns[:4]) == ["id", "label", "group", "source"]
    assert {"dice", "iou", "precision", "recall", "hd95"} <= set(table)
    lesions = table[table["label"] != "normal"]
    assert (lesions["dice"] == 1).all()
    assert (lesions["hd95"] == 0).all()
    assert table.loc[table["label"] == "normal", "dice"].isna().all()


def test_native_scores_stand_beside_the_headline(phantoms):
    table = evaluation.evaluate(models.KMeansSegmenter("textbook", size=64), phantoms, 32, native=True)
    assert {"dice_native", "iou_native", "hd95_native"} <= set(table)
    assert not np.allclose(table["dice_native"].dropna(), table["dice"].dropna())


def test_summary_leaves_normals_out_of_the_mean_and_gives_the_specificity_on_them(phantoms):
    n_normal = int((phantoms.labels == "normal").sum())
    silent = evaluation.summarise(evaluation.evaluate(Nothing(), phantoms, 64)).iloc[0]
    assert silent["n"] == len(phantoms) - n_normal
    assert silent["n_normal"] == n_normal
    assert silent["dice"] == 0
    assert silent["missed"] == 1
    assert silent["normal_specificity"] == 1
    assert silent["iou"] <= silent["dice"]
    loud = evaluation.summarise(evaluation.evaluate(models.KMeansSegmenter(size=64), phantoms, 64)).iloc[0]
    assert loud["normal_specificity"] == 0


def test_an_empty_set_is_refused(phantoms):
    with pytest.raises(evaluation.EvaluationError, match="empty"):
        evaluation.evaluate(Nothing(), phantoms.subset(np.zeros(len(phantoms), bool)))


def test_methods_are_compared_on_the_same_images(phantoms):
    table = evaluation.compare_methods({"a": Nothing(), "b": models.KMeansSegmenter(size=64)}, phantoms, 64)
    assert table.groupby("method", sort=False).size().tolist() == [24, 24]
    summary = evaluation.summarise(table, ["method", "label"])
    assert set(summary["label"]) == {"benign", "malignant", "normal"}


def write_masks(folder, dataset, value=255, size=None, suffix=""):
    _, masks = dataset.load_arrays(64)
    for record, mask in zip(dataset, masks, strict=True):
        picture = Image.fromarray(np.uint8(value) * mask)
        picture = picture.resize((size, size), 0) if size else picture
        picture.save(folder / f"{record.id}{suffix}.png")


@pytest.mark.parametrize("options", [{}, {"value": 1}, {"size": 128}, {"suffix": "_mask"}])
def test_masks_of_any_program_are_scored(phantoms, tmp_path, options):
    write_masks(tmp_path, phantoms, **options)
    table = evaluation.evaluate_masks(tmp_path, phantoms, 64)
    assert (table.loc[table["label"] != "normal", "dice"] == 1).all()
    assert (table.loc[table["label"] == "normal", "pred_area"] == 0).all()


def test_a_folder_that_leaves_images_out_is_refused(phantoms, tmp_path):
    with pytest.raises(evaluation.EvaluationError, match="no folder"):
        evaluation.evaluate_masks(tmp_path / "nowhere", phantoms)
    write_masks(tmp_path, phantoms)
    gone = phantoms[3].id
    (tmp_path / f"{gone}.png").unlink()
    with pytest.raises(evaluation.EvaluationError, match=f"1 of 24 images .{gone}"):
        evaluation.evaluate_masks(tmp_path, phantoms)
    (tmp_path / f"{gone}.png").write_bytes(b"no picture")
    with pytest.raises(evaluation.EvaluationError, match="not a picture"):
        evaluation.evaluate_masks(tmp_path, phantoms)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda mask: Image.fromarray(np.arange(64, dtype=np.uint8).repeat(64).reshape(64, 64)),
            "64 grey levels up to 63",
        ),
        (lambda mask: Image.fromarray(mask).resize((64, 32)), "has 64 x 32 pixels .* its image 64 x 64"),
        (
            lambda mask: Image.merge(
                "LA",
                [
                    Image.fromarray(mask),
                    Image.fromarray(np.uint8(255) * (np.arange(64) > 0) * np.ones((64, 1), np.uint8)),
                ],
            ),
            "transparent in places",
        ),
    ],
)
def test_a_picture_that_may_mean_another_mask_is_refused(phantoms, tmp_path, spoil, message):
    write_masks(tmp_path, phantoms)
    chosen = next(record for record in phantoms if record.label != "normal")
    path = tmp_path / f"{chosen.id}.png"
    spoil(np.asarray(Image.open(path))).save(path)
    with pytest.raises(evaluation.EvaluationError, match=message):
        evaluation.evaluate_masks(tmp_path, phantoms, 64)


def test_a_grey_mask_ends_at_middle_grey(phantoms, tmp_path):
    """Not at half of its own brightest pixel: what is faint is no lesion."""
    lesions = phantoms.lesions()
    write_masks(tmp_path, lesions)
    for path in tmp_path.iterdir():
        Image.fromarray(110 + np.asarray(Image.open(path), np.uint8) // 3).save(path)
    assert (evaluation.evaluate_masks(tmp_path, lesions, 64)["dice"] == 1).all()


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "float"])
def test_probability_maps_are_cut_at_one_half_whatever_their_format(phantoms, tmp_path, kind):
    lesions = phantoms.lesions()
    _, masks = lesions.load_arrays(64)
    probs = 0.2 + 0.55 * masks + np.random.default_rng(0).uniform(0, 0.2, masks.shape)
    for record, prob in zip(lesions, probs, strict=True):
        if kind == "float":
            Image.fromarray(prob.astype(np.float32)).save(tmp_path / f"{record.id}.tif")
        else:
            full, dtype = (255, np.uint8) if kind == "8 bits" else (65535, np.uint16)
            Image.fromarray(np.rint(full * prob).astype(dtype)).save(tmp_path / f"{record.id}.png")
    assert (evaluation.evaluate_masks(tmp_path, lesions, 64)["dice"] == 1).all()


def test_the_mask_is_scored_where_the_image_lies_beside_it(phantoms, tmp_path):
    write_masks(tmp_path, phantoms, suffix="_mask")
    for record in phantoms:
        Image.fromarray(record.image.read()).save(tmp_path / f"{record.id}.png")
    assert (evaluation.evaluate_masks(tmp_path, phantoms.lesions(), 64)["dice"] == 1).all()


def test_bootstrap_resamples_groups_not_images():
    rng = np.random.default_rng(0)
    values = rng.normal(0.7, 0.1, 40)
    copied, groups = np.repeat(values, 25), np.repeat(np.arange(40), 25)
    alone = evaluation.bootstrap_mean(values)
    grouped = evaluation.bootstrap_mean(copied, groups)
    blind = evaluation.bootstrap_mean(copied)
    assert grouped.mean == pytest.approx(alone.mean)
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert blind.high - blind.low < 0.4 * (grouped.high - grouped.low)


def test_bootstrap_interval_agrees_with_the_normal_theory():
    values = np.random.default_rng(1).normal(0, 1, 400)
    interval = evaluation.bootstrap_mean(values, n_boot=4000)
    half = 1.96 * values.std(ddof=1) / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.015)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.015)


def test_undefined_scores_leave_the_mean():
    assert evaluation.bootstrap_mean([1.0, math.nan, 0.0]).mean == 0.5
    assert all(math.isnan(v) for v in evaluation.bootstrap_mean([math.nan]))
    assert math.isnan(evaluation.bootstrap_mean([0.5, 0.7], ["a", "a"]).low)
    with pytest.raises(ValueError, match="2 values but 1 groups"):
        evaluation.bootstrap_mean([1.0, 2.0], ["a"])


def test_comparison_agrees_with_scipy():
    rng = np.random.default_rng(2)
    first, second = rng.random(30), rng.random(30)
    result = evaluation.compare(first, second)
    assert result.p_value == pytest.approx(stats.wilcoxon(first - second).pvalue)
    assert result.difference.mean == pytest.approx((first - second).mean())
    opposite = evaluation.compare(second, first)
    assert opposite.effect == pytest.approx(-result.effect)
    same = evaluation.compare(first, first)
    assert same.effect == 0
    assert math.isnan(same.p_value)
    with pytest.raises(ValueError, match="same images"):
        evaluation.compare(first, second[:-1])


def test_a_perfectly_calibrated_map_has_no_calibration_error():
    rng = np.random.default_rng(0)
    prob = rng.random((200, 200))
    mask = rng.random((200, 200)) < prob
    table = evaluation.reliability([mask], [prob])
    assert evaluation.expected_calibration_error(table) < 0.02
    sure = evaluation.reliability([mask], [(prob > 0.5).astype(float)])
    assert evaluation.expected_calibration_error(sure) > 0.2
    assert table["n"].sum() == mask.size
    with pytest.raises(ValueError, match="as many"):
        evaluation.reliability([mask], [])


def test_intervals_cover_the_chance_of_training_too():
    """Three trainings that differ by far more than the images do: only their own spread makes the interval honest."""
    rng = np.random.default_rng(3)
    images = rng.normal(0.7, 0.01, 200)
    values = np.concatenate([images - 0.1, images, images + 0.1])
    groups = np.tile(np.arange(200), 3)
    blind = evaluation.bootstrap_mean(values, groups)
    honest = evaluation.bootstrap_mean(values, groups, trainings=np.repeat(["a", "b", "c"], 200))
    assert honest.mean == pytest.approx(blind.mean)
    assert honest.high - honest.low > 10 * (blind.high - blind.low)
    assert honest.high - honest.low == pytest.approx(
        0.2, abs=0.02
    )  # from three times the worst to three times the best
    table = pd.DataFrame({"dice": values, "iou": values, "mask_area": 1, "pred_area": 1, "group": groups, "id": groups})
    with_seeds = evaluation.summarise(table.assign(seed=np.repeat([0, 1, 2], 200)))
    assert with_seeds.loc[0, "n"] == 200
    assert with_seeds.loc[0, "dice_high"] - with_seeds.loc[0, "dice_low"] > 0.1
    with pytest.raises(ValueError, match="600 values but 2 trainings"):
        evaluation.bootstrap_mean(values, groups, trainings=[1, 2])
