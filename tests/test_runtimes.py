"""Exported networks, what runs them, and the one way to load a method."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from busutils import datasets, evaluation, metrics, models
from busutils.errors import BusutilsError
from busutils.models import runtimes


@pytest.fixture(scope="session")
def cut(tiny_unet):
    """A U-Net with test-time augmentation and a minimum area that drops some regions."""
    return copy.deepcopy(tiny_unet).set_params(tta="mirror", min_area=0.02)


@pytest.fixture(scope="session")
def exported(cut, tmp_path_factory):
    """Export of a U-Net."""
    needs("onnxruntime", "tf2onnx")
    return models.export_network(cut, tmp_path_factory.mktemp("exports") / "unet.onnx")


@pytest.fixture(scope="session")
def with_encoder(tiny_unet):
    made = models.UNetSegmenter(size=32, filters=(4, 8, 8, 8, 8), encoder="efficientnet-lite0", tta="mirror")
    made.network_, made.history_, made.fitted_ = made._build(), pd.DataFrame(), True
    made.threshold_ = 0.12  # of random weights
    return made


def needs(*packages):
    for package in packages:
        pytest.importorskip(package, reason="the extra 'export' is not installed")


def assert_alike(segmenter, exported, images):
    for ours, theirs in zip(segmenter.predict_proba(images), exported.predict_proba(images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for ours, theirs in zip(segmenter.predict(images), exported.predict(images), strict=True):
        assert (ours != theirs).mean() < 0.002


@pytest.mark.tf
def test_an_exported_network_gives_the_same_masks(cut, exported, discs):
    images = [image[: 20 + index] for index, image in enumerate(discs[0][:10])]
    segmenter = models.load(exported, streams=2)
    assert segmenter.runtime == "onnx"
    assert runtimes.content_of(segmenter) == runtimes.content_of(cut)
    assert_alike(cut, segmenter, images)
    assert_alike(cut, pickle.loads(pickle.dumps(segmenter)), images[:2])
    alone = segmenter.predict_proba(images[3:4])[0]
    np.testing.assert_array_equal(alone, segmenter.predict_proba(images)[3])  # whatever is beside it


@pytest.mark.tf
@pytest.mark.slow
def test_encoders_are_exported(with_encoder, discs, tmp_path):
    needs("onnxruntime", "tf2onnx")
    path = models.export_network(with_encoder, tmp_path / "network.onnx")
    assert_alike(with_encoder, models.load(path), list(discs[0][:6]))


@pytest.mark.tf
def test_an_export_with_a_minimum_confidence_is_refused(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(exported))
    (entry,) = (entry for entry in model.metadata_props if entry.key == "busutils")
    entry.value = json.dumps(json.loads(entry.value) | {"min_confidence": 0.9})
    onnx.save(model, str(tmp_path / "old.onnx"))
    with pytest.raises(models.WeightsError, match="export it again"):
        models.load(tmp_path / "old.onnx")


@pytest.mark.tf
def test_half_precision_is_exported_as_single(discs, tmp_path):
    needs("onnxruntime", "tf2onnx")
    settings = {"size": 32, "filters": (4, 8)}
    half = models.UNetSegmenter(**settings, precision="mixed_float16")
    half.network_, half.history_, half.fitted_ = half._build(), pd.DataFrame(), True
    single = models.UNetSegmenter(**settings)
    single._set_arrays(half._arrays())
    single.fitted_ = True
    assert_alike(single, models.load(str(models.export_network(half, tmp_path / "half.onnx"))), list(discs[0][:4]))


@pytest.mark.tf
def test_an_exported_network_runs_where_there_is_no_keras(cut, exported, discs, tmp_path):
    np.save(tmp_path / "images.npy", discs[0][:5])
    code = f"""
import sys
for name in ("keras", "tensorflow", "onnx", "tf2onnx"):
    sys.modules[name] = None
import numpy as np
from busutils import models
segmenter = models.load({str(exported)!r})
np.save({str(tmp_path / "masks.npy")!r}, segmenter.predict(np.load({str(tmp_path / "images.npy")!r})))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (np.load(tmp_path / "masks.npy") != cut.predict(discs[0][:5])).mean() < 0.002


@pytest.mark.tf
def test_weights_are_exported_once_and_then_need_no_keras(tiny_unet, discs, tmp_path, monkeypatch):
    needs("onnxruntime", "tf2onnx")
    monkeypatch.setenv("BUSUTILS_CACHE_DIR", str(tmp_path / "cache"))
    path = str(tiny_unet.save(tmp_path / "mine.npz"))
    first = models.load(path, "onnx")
    assert_alike(tiny_unet, first, list(discs[0][:3]))
    with monkeypatch.context() as patch:
        patch.setattr(models.Segmenter, "load", lambda *_: pytest.fail("Keras was asked"))
        again = models.load(path)
    assert again.runtime == "onnx"
    np.testing.assert_array_equal(again.predict_proba(discs[0][:3]), first.predict_proba(discs[0][:3]))
    [kept] = (tmp_path / "cache" / "exports").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])  # a damaged one is made anew
    np.testing.assert_array_equal(models.load(path).predict(discs[0][:3]), first.predict(discs[0][:3]))
    assert models.load(path, "keras").runtime == "keras"


@pytest.mark.parametrize("content", [b"", b"no network", json.dumps({"size": 3}).encode()])
def test_a_damaged_export_is_one_sentence(content, tmp_path):
    needs("onnxruntime")
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(models.WeightsError, match="export it again"):
        models.load(tmp_path / "bad.onnx")
    with pytest.raises(models.WeightsError, match="check the path"):
        models.load(tmp_path / "none.onnx")


def test_runtimes_are_refused_in_one_sentence(tmp_path, discs, monkeypatch):
    constant = models.ConstantMaskSegmenter(size=32).fit(*discs).save(tmp_path / "constant.npz")
    for method in ("kmeans-best", constant):
        with pytest.raises(models.RuntimeNotAvailable, match="leave it to auto"):
            models.load(method, "onnx")
        assert models.load(method).runtime == models.runtime_name(models.load(method)) == ""
    with pytest.raises(models.RuntimeNotAvailable, match="no runtime 'fast'"):
        models.load("kmeans-best", "fast")
    with pytest.raises(models.RuntimeNotAvailable, match="cannot run"):
        models.load("a.onnx", "keras")
    with pytest.raises(models.WeightsError, match="kmeans-best"):
        models.load("nothing")
    monkeypatch.setattr(runtimes, "_installed", lambda *_: False)
    with pytest.raises(models.RuntimeNotAvailable, match=r'pip install "busutils\[export\]"'):
        models.load("busi-light", "onnx")
    with pytest.raises(models.RuntimeNotAvailable, match=r'pip install "busutils\[tf\]"'):
        models.load("busi-light")


@pytest.mark.tf
def test_whole_numbers_of_8_bits_draw_nearly_the_same_in_a_quarter_of_the_space(discs, tmp_path):
    needs("onnxruntime", "tf2onnx")
    images, masks = discs
    trained = models.UNetSegmenter(size=32, filters=(16, 32, 64), epochs=14).fit(images, masks)
    paths = [
        models.export_network(trained, tmp_path / f"{precision}.onnx", precision=precision, images=images[:8])
        for precision in ("float32", "int8")
    ]
    assert paths[1].stat().st_size < 0.5 * paths[0].stat().st_size
    whole, small = map(models.load, paths)
    assert runtimes.content_of(whole) != runtimes.content_of(small)
    assert (
        np.mean([metrics.dice(a, b) for a, b in zip(whole.predict(images), small.predict(images), strict=True)]) > 0.95
    )
    with pytest.raises(ValueError, match="precision must be"):
        models.export_network(trained, tmp_path / "a.onnx", precision="int4")


def test_what_has_no_network_cannot_be_exported(tmp_path):
    with pytest.raises(ValueError, match="no network to export"):
        models.export_network(models.KMeansSegmenter("best"), tmp_path / "a.onnx")


@pytest.mark.tf
@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("weights", ["busi-light", "busi-encoder"])
def test_exports_draw_real_images_as_keras_does(weights, data_root, tmp_path):
    _, test = datasets.load("busi", root=data_root).split(5)
    means = {}
    for runtime in models.RUNTIMES:
        table = evaluation.evaluate(models.load(weights, runtime), test)
        means[runtime] = table["dice"].mean()
    assert len(means) > 1
    assert max(means.values()) - min(means.values()) <= 0.002


def test_a_network_run_by_onnx_is_not_saved_without_its_weights(exported, tmp_path):
    with pytest.raises(BusutilsError, match="copy that file"):
        models.load(exported).save(tmp_path / "empty.npz")
    assert not (tmp_path / "empty.npz").exists()
