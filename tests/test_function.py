"""FunctionSegmenter: a function of one's own among the methods."""

import numpy as np
import pytest

from busutils import datasets, evaluation
from busutils.errors import BusutilsError
from busutils.models import FunctionSegmenter


def test_a_function_is_scored_as_any_method():
    images = datasets.load("phantom?n=6&size=64")
    table = evaluation.evaluate(FunctionSegmenter(lambda squares: np.ones(squares.shape), size=32), images, 64)
    _, masks = images.load_arrays(64)
    assert (table["pred_area"] == 1).all()
    assert table["precision"].fillna(0).to_numpy() == pytest.approx(masks.mean(axis=(1, 2)), abs=1e-6)


def test_probabilities_are_cut_at_the_threshold():
    ramp = FunctionSegmenter(lambda squares: squares / 255, size=16)
    image = np.full((1, 16, 16), 100, np.uint8)
    assert not ramp.predict(image).any()
    ramp.threshold_ = 0.3
    assert ramp.predict(image).all()


def test_a_wrong_shape_is_refused():
    with pytest.raises(BusutilsError, match=r"maps of shape \(2, 8, 8\), got \(2,\)"):
        FunctionSegmenter(lambda squares: squares.mean(axis=(1, 2)), size=8).predict(np.zeros((2, 8, 8), np.uint8))


def test_a_function_is_not_saved(tmp_path):
    with pytest.raises(BusutilsError, match="cannot be saved"):
        FunctionSegmenter(np.zeros_like).save(tmp_path / "f.npz")
    assert not list(tmp_path.iterdir())
