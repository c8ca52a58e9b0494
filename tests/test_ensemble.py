import numpy as np
import pytest

from busutils import models
from busutils.models.training import Training

pytestmark = pytest.mark.tf

CHANGES = {"size": 32, "filters": (4, 8, 16), "epochs": 3}


@pytest.fixture(scope="module")
def ensemble(discs):
    return models.EnsembleSegmenter(changes=CHANGES, members=2, seed=5).fit(*discs)


def test_members_differ_and_their_mean_answers(ensemble, discs):
    images, _ = discs
    maps = ensemble.member_proba(images[:6])
    assert maps.shape == (2, 6, 32, 32)
    assert np.abs(maps[0] - maps[1]).max() > 0.01
    np.testing.assert_allclose(ensemble.predict_proba(images[:6]), maps.mean(axis=0), atol=1e-6)
    alone = models.UNetSegmenter(**CHANGES, seed=5).fit(*discs)
    np.testing.assert_array_equal(alone.predict_proba(images[:6]), maps[0])
    assert ensemble.threshold_ == np.mean([member.threshold_ for member in ensemble.members_])


def test_it_is_saved_and_loaded(ensemble, discs, tmp_path):
    images, _ = discs
    loaded = models.load(ensemble.save(tmp_path / "e.npz"), "keras")
    np.testing.assert_array_equal(loaded.predict_proba(images[:4]), ensemble.predict_proba(images[:4]))
    assert loaded.threshold_ == ensemble.threshold_
    np.testing.assert_array_equal(loaded.predict(images), ensemble.predict(images))


def test_a_stopped_ensemble_does_not_train_finished_members_again(discs, tmp_path, monkeypatch):
    epoch, done = Training._epoch, []

    def stopped(self, number):
        if len(done) == 4:
            raise RuntimeError("power cut")
        done.append(number)
        epoch(self, number)

    monkeypatch.setattr(Training, "_epoch", stopped)
    settings = {"changes": CHANGES, "members": 2, "seed": 5}
    with pytest.raises(RuntimeError, match="power cut"):
        models.EnsembleSegmenter(**settings).fit(*discs, checkpoint=tmp_path / "c.npz")
    done.clear()
    models.EnsembleSegmenter(**settings).fit(*discs, checkpoint=tmp_path / "c.npz")
    assert done == [1, 2]
    assert not list(tmp_path.iterdir())


def test_an_ensemble_of_none_is_refused(discs):
    with pytest.raises(ValueError, match="at least one member"):
        models.EnsembleSegmenter(members=0).fit(*discs)


def test_trained_networks_are_joined(ensemble, discs, tmp_path):
    images, _ = discs
    joined = models.EnsembleSegmenter.of(ensemble.members_)
    np.testing.assert_array_equal(joined.predict(images[:4]), ensemble.predict(images[:4]))
    loaded = models.load(joined.save(tmp_path / "joined.npz"), "keras")
    np.testing.assert_array_equal(loaded.predict_proba(images[:4]), ensemble.predict_proba(images[:4]))
    alone = models.EnsembleSegmenter.of(ensemble.members_[1:])
    np.testing.assert_array_equal(alone.predict(images[:4]), ensemble.members_[1].predict(images[:4]))


def test_networks_of_different_kinds_are_not_joined(ensemble):
    other = models.UNetSegmenter(size=64, filters=(4, 8, 16), tta="mirror")
    with pytest.raises(ValueError, match="differ in size, tta"):
        models.EnsembleSegmenter.of([ensemble.members_[0], other])
    with pytest.raises(ValueError, match="at least one member"):
        models.EnsembleSegmenter.of([])
