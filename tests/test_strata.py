import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from busutils import datasets, evaluation
from busutils.evaluation import SIZE_BANDS, add_size_band

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
try:
    from strata import CONTRAST_BANDS, add_descriptors, lesion_contrast
finally:
    sys.path.pop(0)


@pytest.fixture(scope="module")
def disc():
    rows, columns = np.mgrid[:96, :96]
    return (rows - 40) ** 2 + (columns - 50) ** 2 < 20**2


def noisy(mask, inside, outside, spread=10.0):
    rng = np.random.default_rng(0)
    grey = np.where(mask, inside, outside) + spread * rng.standard_normal(mask.shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


def test_bands_of_size():
    banded = add_size_band(pd.DataFrame({"mask_area": [0.0, 0.03, 0.031, 0.5]}))
    assert banded["size"].isna().tolist() == [True, False, False, False]
    assert banded["size"].dropna().tolist() == list(SIZE_BANDS)


def test_contrast_grows_with_the_difference_of_grey_values(disc):
    values = [lesion_contrast(noisy(disc, 100 - d, 100 + d), disc) for d in (0, 5, 10, 20, 60)]
    assert values == sorted(values)
    assert values[0] < 0.15
    assert values[-1] == 1
    # Two normal distributions whose means are d standard deviations apart overlap by 2 Φ(-d/2).
    assert values[2] == pytest.approx(1 - 2 * 0.1587, abs=0.04)


def test_contrast_is_blind_to_the_sign_and_to_what_is_far_away(disc):
    image = noisy(disc, 90, 110)
    assert lesion_contrast(255 - image, disc) == pytest.approx(lesion_contrast(image, disc), abs=0.03)
    image[:, :5] = 0
    image[90:] = 255
    assert lesion_contrast(image, disc) == lesion_contrast(noisy(disc, 90, 110), disc)


def test_contrast_is_undefined_without_a_lesion_or_without_surroundings(disc):
    image = noisy(disc, 50, 150)
    assert np.isnan(lesion_contrast(image, np.zeros_like(disc)))
    assert np.isnan(lesion_contrast(image, np.ones_like(disc)))
    speck = np.zeros_like(disc)
    speck[40, 50] = True  # thinner than the rim
    assert 0 <= lesion_contrast(image, speck) <= 1


def test_descriptors_follow_the_images_whatever_the_order_of_the_rows():
    phantoms = datasets.load("phantom", n=6, size=96)
    ids = [f"phantom:{name}" for name in phantoms.ids]
    _, masks = phantoms.load_arrays(96)
    areas = masks.mean(axis=(1, 2))
    table = pd.DataFrame({"id": [*ids[::-1], "busi:benign (1)"], "mask_area": [*areas[::-1], 0.1]})
    told = add_descriptors(table, phantoms, 96)
    assert told["id"].tolist() == ids[::-1]
    for row in told.itertuples():
        image, mask = (part[list(phantoms.ids).index(row.id.split(":")[1])] for part in phantoms.load_arrays(96))
        value = lesion_contrast(image, mask)
        assert row.gcnr == value or np.isnan(value)
        if mask.any():
            low, high = ((-1, 0.55), (0.55, 0.75), (0.75, 1))[CONTRAST_BANDS.index(row.contrast)]
            assert low < value <= high
    assert set(told["scanner"]) == {"clinic"}
    assert tuple(told["contrast"].cat.categories) == CONTRAST_BANDS
    assert evaluation.add_size_band(told)["size"].equals(told["size"])


def test_descriptors_find_the_images_of_a_set_by_its_key():
    portable = datasets.load("phantom?n=4&size=64&scanner=portable")
    table = pd.DataFrame({"id": datasets.concatenate(portable).ids, "mask_area": 0.1})
    assert len(add_descriptors(table, portable, 64)) == 4


def test_a_table_of_other_images_is_refused():
    table = pd.DataFrame({"id": ["busi:benign (1)"], "mask_area": [0.1]})
    with pytest.raises(evaluation.EvaluationError, match="none of"):
        add_descriptors(table, datasets.load("phantom?n=2&size=64"), 64)
