"""Exported networks, and the engines that run them."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from busutils import datasets, evaluation, models
from busutils.app import engines

ENGINES_OF = {".onnx": ["onnx", "openvino"], ".xml": ["openvino"]}
CASES = [(ending, engine) for ending, able in ENGINES_OF.items() for engine in able]


@pytest.fixture(scope="session")
def cut(tiny_unet):
    """A U-Net with views and a confidence that drops some regions."""
    segmenter = copy.deepcopy(tiny_unet).set_params(views=4)
    segmenter.min_confidence_ = 0.9
    return segmenter


@pytest.fixture(scope="session")
def ensemble(tiny_unet):
    other = copy.deepcopy(tiny_unet)
    other.network_.set_weights([0.8 * w for w in other.network_.get_weights()])
    made = models.EnsembleSegmenter(changes={"size": 32, "filters": (8, 16, 32)}, members=2)
    made.members_, made.fitted_ = [tiny_unet, other], True
    made._combine_thresholds()
    return made


@pytest.fixture(scope="session")
def exported(cut, tmp_path_factory):
    """Exports of one U-Net by their ending."""
    from busutils.app.export import export_network

    needs("onnxruntime", "tf2onnx")
    folder = tmp_path_factory.mktemp("exports")
    endings = [".onnx"] + [".xml"] * engines._installed("openvino")
    return {ending: export_network(cut, folder / f"unet{ending}") for ending in endings}


@pytest.fixture(scope="session")
def with_encoder(tiny_unet):
    made = models.UNetSegmenter(size=32, filters=(4, 8, 8, 8, 8), encoder="efficientnet-lite0", views=2)
    made.network_, made.history_, made.fitted_ = made._build(), pd.DataFrame(), True
    made.threshold_ = 0.12  # of random weights
    return made


def needs(*packages):
    for package in packages:
        pytest.importorskip(package, reason="the extras 'export' and 'openvino' are not installed")


def assert_alike(segmenter, exported, images):
    for ours, theirs in zip(segmenter.predict_proba(images), exported.predict_proba(images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for ours, theirs in zip(segmenter.predict(images), exported.predict(images), strict=True):
        assert (ours != theirs).mean() < 0.002


@pytest.mark.tf
@pytest.mark.parametrize(("ending", "engine"), CASES)
def test_an_exported_network_gives_the_same_masks(ending, engine, cut, exported, discs):
    needs(engines._PACKAGES[engine])
    images = [image[: 20 + index] for index, image in enumerate(discs[0][:10])]
    segmenter = engines.load_segmenter(str(exported[ending]), engine, streams=2)
    assert engines.engine_of(segmenter) == engine
    assert engines.content_of(segmenter) == engines.content_of(cut)
    assert_alike(cut, segmenter, images)
    assert_alike(cut, pickle.loads(pickle.dumps(segmenter)), images[:2])
    alone = segmenter.predict_proba(images[3:4])[0]
    np.testing.assert_array_equal(alone, segmenter.predict_proba(images)[3])  # whatever is beside it


@pytest.mark.tf
@pytest.mark.parametrize("which", ["ensemble", pytest.param("with_encoder", marks=pytest.mark.slow)])
def test_ensembles_and_encoders_are_exported(which, discs, tmp_path, request):
    from busutils.app.export import export_network

    needs("onnxruntime", "tf2onnx")
    segmenter = request.getfixturevalue(which)
    path = export_network(segmenter, tmp_path / "network.onnx")
    for engine in ENGINES_OF[".onnx"]:
        if engines._installed(engines._PACKAGES[engine]):
            assert_alike(segmenter, engines.load_segmenter(str(path), engine), list(discs[0][:6]))


@pytest.mark.tf
def test_half_precision_is_exported_as_single(discs, tmp_path):
    from busutils.app.export import OnnxSegmenter, export_network

    needs("onnxruntime", "tf2onnx")
    settings = {"size": 32, "filters": (4, 8)}
    half = models.UNetSegmenter(**settings, precision="mixed_float16")
    half.network_, half.history_, half.fitted_ = half._build(), pd.DataFrame(), True
    single = models.UNetSegmenter(**settings)
    single._set_arrays(half._arrays())
    single.fitted_ = True
    assert_alike(single, OnnxSegmenter(str(export_network(half, tmp_path / "half.onnx"))), list(discs[0][:4]))


@pytest.mark.tf
@pytest.mark.parametrize(("ending", "engine"), CASES)
def test_an_exported_network_runs_where_there_is_no_keras(ending, engine, cut, exported, discs, tmp_path):
    needs(engines._PACKAGES[engine])
    np.save(tmp_path / "images.npy", discs[0][:5])
    code = f"""
import sys
for name in ("keras", "tensorflow", "onnx", "tf2onnx"):
    sys.modules[name] = None
import numpy as np
from busutils.app.engines import load_segmenter
segmenter = load_segmenter({str(exported[ending])!r}, {engine!r})
np.save({str(tmp_path / "masks.npy")!r}, segmenter.predict(np.load({str(tmp_path / "images.npy")!r})))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (np.load(tmp_path / "masks.npy") != cut.predict(discs[0][:5])).mean() < 0.002


@pytest.mark.tf
def test_weights_are_exported_once_and_then_need_no_keras(tiny_unet, discs, tmp_path, monkeypatch):
    needs("onnxruntime", "tf2onnx")
    monkeypatch.setenv("BUSUTILS_CACHE_DIR", str(tmp_path / "cache"))
    path = str(tiny_unet.save(tmp_path / "mine.npz"))
    first = engines.load_segmenter(path, "onnx")
    assert_alike(tiny_unet, first, list(discs[0][:3]))
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("Keras was asked"))
    again = engines.load_segmenter(path, "onnx")
    np.testing.assert_array_equal(again.predict_proba(discs[0][:3]), first.predict_proba(discs[0][:3]))
    # The first of those that are installed.
    present = [e for e in engines.ENGINES if engines._installed(engines._PACKAGES[e])]
    assert engines.engine_of(engines.load_segmenter(path)) == present[0]
    monkeypatch.undo()
    assert engines.engine_of(engines.load_segmenter(path, "keras")) == "keras"


@pytest.mark.parametrize("content", [b"", b"no network", json.dumps({"size": 3}).encode()])
@pytest.mark.parametrize(("ending", "engine"), CASES)
def test_a_damaged_export_is_one_sentence(ending, engine, content, tmp_path):
    needs(engines._PACKAGES[engine])
    (tmp_path / f"bad{ending}").write_bytes(content)
    with pytest.raises(models.WeightsError, match="export it again"):
        engines.load_segmenter(str(tmp_path / f"bad{ending}"), engine)
    with pytest.raises(models.WeightsError, match="check the path"):
        engines.load_segmenter(str(tmp_path / f"none{ending}"), engine)


def test_what_has_no_network_cannot_be_exported(tmp_path):
    from busutils.app.export import export_network

    with pytest.raises(ValueError, match="no network to export"):
        export_network(models.KMeansSegmenter("best"), tmp_path / "a.onnx")


@pytest.mark.tf
@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("weights", ["busi-light", "busi-encoder"])
def test_exports_draw_real_images_as_keras_does(weights, data_root, tmp_path):
    _, test = datasets.load("busi", root=data_root).split(5)
    means = {}
    for engine in engines.ENGINES:
        if engines._installed(engines._PACKAGES[engine]):
            table = evaluation.evaluate(engines.load_segmenter(weights, engine), test)
            means[engine] = table["dice"].mean()
    assert len(means) > 1
    assert max(means.values()) - min(means.values()) <= 0.002
