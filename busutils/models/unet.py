"""The U-Net, on one screen: from scratch, or with a pretrained encoder.

References
----------
Ronneberger, Fischer, Brox 2015, U-Net: convolutional networks for biomedical image segmentation, MICCAI,
doi:10.1007/978-3-319-24574-4_28. This one pads its convolutions, so that a mask is as large as its image, and adds
batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167), as nearly all users do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pandas as pd

from busutils.errors import BusutilsError
from busutils.models.backend import keras

__all__ = ["describe", "unet"]

layers = keras.layers

HEAD_CHANNELS = 8  # of the thin level at full resolution


def _conv(x, filters: int, name: str, step: str, seeds: Iterator[int], *, strides: int = 1, kernel: int = 3):
    """Convolution, batch normalisation, ReLU; the last one of a level bears the level's name."""
    initializer = keras.initializers.HeNormal(seed=next(seeds))
    x = layers.Conv2D(
        filters, kernel, strides, "same", use_bias=False, kernel_initializer=initializer, name=f"{name}_conv_{step}"
    )(x)
    x = layers.BatchNormalization(name=f"{name}_norm_{step}")(x)
    return layers.ReLU(name=name if step == "b" else f"{name}_relu_{step}")(x)


def _block(x, filters: int, name: str, seeds: Iterator[int], *, strides: int = 1):
    return _conv(_conv(x, filters, name, "a", seeds, strides=strides), filters, name, "b", seeds)


def unet(
    size: int = 160,
    *,
    filters: Sequence[int] = (16, 32, 64, 128, 256),
    encoder: str | None = None,
    halve: bool = True,
    dropout: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    """Build a U-Net for grey images.

    Parameters
    ----------
    size : int, default 160
        Side of the square input in pixels; a multiple of the coarsest level's stride.
    filters : sequence of int
        Channels at every level, from the finest to the bottleneck. With an encoder, those of the decoder's levels at
        strides 2, 4, 8 and 16; the bottleneck is the encoder's own, and the last entry is not used.
    encoder : str or None
        ``efficientnet-lite0`` replaces the contracting path; its ImageNet weights are filled in by
        :func:`busutils.models.encoder.load_imagenet`.
    halve : bool, default True
        Halve the image in the first convolution, so that the levels have strides 2, 4, 8 …, and draw the contour in a
        thin last level at full resolution. That saves three quarters of the computation. An encoder always halves. With
        False and ``filters=(64, 128, 256, 512, 1024)`` it is the network of the 2015 paper (31 million weights).
    dropout : float, default 0
        Share of the bottleneck's channels dropped in training.
    seed : int, default 0
        Of the initial weights and of the dropout.

    Returns
    -------
    keras.Model
        From grey values in [0, 255], ``(N, size, size, 1)``, to probabilities of the same shape. The outputs of the
        levels are called ``enc1 … bottleneck … dec1`` (``enc0`` and ``dec0`` at full resolution), the last layers ``logits`` and ``probability``.

    Raises
    ------
    ValueError
        If the size cannot be halved often enough, or the encoder is unknown.
    """
    n_levels = len(filters)
    if encoder not in (None, "efficientnet-lite0"):
        raise BusutilsError(f"unknown encoder {encoder!r}: choose efficientnet-lite0, or None for a U-Net from scratch")
    if encoder is not None and n_levels != 5:
        raise BusutilsError(f"a U-Net with this encoder has 5 levels, but filters has {n_levels} entries")
    if n_levels < 2:
        raise BusutilsError(f"a U-Net needs at least 2 levels, but filters has {n_levels} entries")
    halve = halve or encoder is not None
    stride = 2 ** (n_levels if halve else n_levels - 1)
    if size % stride:
        raise BusutilsError(f"this U-Net of {n_levels} levels needs a size divisible by {stride}, got {size}")
    seeds = itertools.count(1000 * seed)
    image = keras.Input((size, size, 1), name="image")
    # Zero mean and unit variance image by image: gain and exposure differ between scanners.
    grey = layers.GroupNormalization(1, center=False, scale=False, dtype="float32", name="standardise")(image)

    names = [*(f"enc{level}" for level in range(1, n_levels)), "bottleneck"]
    if encoder is None:
        x, features = grey, []
        for level, (name, width) in enumerate(zip(names, filters, strict=True)):
            if level:
                x = layers.MaxPooling2D(name=f"down{level}")(x)
            x = _block(x, width, name, seeds, strides=2 if halve and not level else 1)
            features.append(x)
    else:
        from busutils.models.encoder import lite0

        features = [layers.Identity(name=name)(feature) for name, feature in zip(names, lite0(grey), strict=True)]

    *skips, x = features
    if dropout:
        x = layers.SpatialDropout2D(dropout, seed=next(seeds), name="dropout")(x)
    for level in range(n_levels - 1, 0, -1):
        x = layers.UpSampling2D(interpolation="bilinear", name=f"up{level}")(x)
        x = layers.Concatenate(name=f"skip{level}")([skips[level - 1], x])
        x = _block(x, filters[level - 1], f"dec{level}", seeds)
    if halve:
        x = _conv(x, HEAD_CHANNELS, "dec0", "a", seeds, kernel=1)
        x = layers.UpSampling2D(interpolation="bilinear", name="up0")(x)
        x = layers.Concatenate(name="skip0")([_conv(grey, HEAD_CHANNELS, "enc0", "b", seeds), x])
        x = _conv(x, HEAD_CHANNELS, "dec0", "b", seeds)

    # Lesions cover a small share of an image: starting from that share spares the first epoch.
    prior = keras.initializers.Constant(-2.0)
    glorot = keras.initializers.GlorotUniform(seed=next(seeds))
    x = layers.Conv2D(1, 1, kernel_initializer=glorot, bias_initializer=prior, dtype="float32", name="logits")(x)
    return keras.Model(image, layers.Activation("sigmoid", dtype="float32", name="probability")(x), name="unet")


def describe(network: keras.Model) -> pd.DataFrame:
    """Table of a network's levels, read from its layers.

    Parameters
    ----------
    network : keras.Model
        What :func:`unet` built.

    Returns
    -------
    pandas.DataFrame
        One row a level: ``level, height, width, channels, weights, receptive_field``; the last is the side, in input
        pixels, of the square that one value can see in theory. ``weights`` counts those since the level before.
    """
    field: dict[str, int] = {}  # receptive field
    step: dict[str, int] = {}  # stride
    before: dict[str, set[str]] = {}  # all layers that a layer rests on
    for layer in network.layers:
        sources = [tensor._keras_history.operation.name for tensor in _inputs(layer)]
        reach = max((field[name] for name in sources), default=1)
        stride = max((step[name] for name in sources), default=1)
        if isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            reach += (layer.kernel_size[0] - 1) * stride
            stride *= layer.strides[0]
        elif isinstance(layer, layers.MaxPooling2D):
            reach += (layer.pool_size[0] - 1) * stride
            stride *= layer.strides[0]
        elif isinstance(layer, layers.UpSampling2D):
            # Linear interpolation looks at one coarse neighbour more.
            reach += stride
            stride //= layer.size[0]
        field[layer.name], step[layer.name] = reach, stride
        before[layer.name] = {layer.name}.union(*(before[name] for name in sources))

    levels = [name for name in before if name == "bottleneck" or (name[:3] in ("enc", "dec") and name[3:].isdigit())]
    rows, counted = [], set[str]()
    for name in sorted(levels, key=lambda name: len(before[name])):
        _, height, width, channels = network.get_layer(name).output.shape
        weights = sum(network.get_layer(new).count_params() for new in before[name] - counted)
        rows.append((name, height, width, channels, weights, field[name]))
        counted |= before[name]
    return pd.DataFrame(rows, columns=["level", "height", "width", "channels", "weights", "receptive_field"])


def _inputs(layer) -> list:
    if isinstance(layer, layers.InputLayer):
        return []
    return layer.input if isinstance(layer.input, list) else [layer.input]
