"""The weights that travel with the package are what their cards say."""

import json
from importlib import resources

import numpy as np
import pytest

from busutils import datasets, evaluation, models

pytestmark = pytest.mark.tf
FOLDER = resources.files("busutils.models.weights")


def test_every_file_of_weights_has_a_card_and_scores_and_is_small():
    assert "busi-light" in models.list_weights()
    sizes = []
    for name in models.list_weights():
        card = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
        assert "not a medical device" in card
        facts = models.weights_facts(name)
        assert (5 in np.ravel(facts["held_out"])) == (name != "phantom-light")
        assert f"`{facts['trained_on']}`" in card
        for scores in facts["scores"]:
            assert f"{scores['dice']:.3f} [{scores['dice_low']:.3f}, {scores['dice_high']:.3f}]" in card
        assert ("Fold 5 was held out" in card) == (name != "phantom-light")
        sizes.append(len((FOLDER / f"{name}.npz").read_bytes()))
    assert max(sizes) <= 14e6
    assert sum(sizes) <= 40e6


def test_loaded_weights_predict_at_once():
    images, _ = datasets.load("phantom", n=4, size=128).load_arrays(128)
    segmenter = models.load_weights("busi-light")
    masks = segmenter.predict(images)
    assert masks.shape == images.shape
    assert masks.dtype == bool
    assert 0.2 <= segmenter.threshold_ <= 0.8
    assert np.ptp(segmenter.predict_proba(images)) > 0.5


def test_weights_of_an_older_generator_are_marked_stale(monkeypatch):
    from busutils.models import weights

    facts = {"generator_version": -1}
    monkeypatch.setattr(weights.json, "loads", lambda _: facts)
    monkeypatch.setattr(weights.Segmenter, "load", lambda _: "loaded")
    with pytest.warns(UserWarning, match="train it again"):
        assert weights.load_weights("busi-light") == "loaded"


@pytest.mark.realdata
@pytest.mark.parametrize("name", models.list_weights())
def test_scores_on_the_held_out_fold_agree_with_the_card(name, data_root):
    scores = json.loads((FOLDER / f"{name}.json").read_text())["scores"]
    segmenter = models.load_weights(name)
    for about in scores:
        test = datasets.load(about["dataset"], root=data_root)
        if about["fold"]:
            _, test = test.split(about["fold"])
        summary = evaluation.summarise(evaluation.evaluate(segmenter, test)).iloc[0]
        assert summary["dice"] == pytest.approx(about["dice"], abs=0.001)
        assert summary["n"] == about["n"]
