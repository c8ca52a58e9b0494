"""Feature maps and Seg-Grad-CAM of a trained U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from busutils import metrics
from busutils.datasets.pixels import resize_image, resize_map, resize_mask
from busutils.models.segmenter import Segmenter, check_images

__all__ = ["feature_maps", "rank_channels", "seg_grad_cam"]


def _network(segmenter: Segmenter) -> Any:
    network = getattr(segmenter, "network_", None)
    if network is None:
        raise ValueError(f"a {type(segmenter).__name__} has no network to look into: give a fitted UNetSegmenter")
    return network


def _layer(network: Any, name: str) -> Any:
    names = [layer.name for layer in network.layers]
    if name not in names:
        levels = [n for n in names if n == "bottleneck" or n.removeprefix("enc").removeprefix("dec").isdigit()]
        raise ValueError(
            f"the network has no layer {name!r}: choose one of {', '.join(levels)} or another layer's name"
        )
    return network.get_layer(name)


def _batch(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
    (image,) = check_images([image])
    return resize_image(image, segmenter.size)[None, ..., None].astype(np.float32)


def feature_maps(segmenter: Segmenter, image: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Outputs of layers for one image.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network.
    image : (H, W) uint8 ndarray
        Any size.
    layers : sequence of str
        Names, such as ``"enc1"``, ``"bottleneck"``, ``"dec1"``.

    Returns
    -------
    dict of str to (C, h, w) float32 ndarray
        One map a channel, at the layer's own size.

    Raises
    ------
    ValueError
        If the segmenter has no network or the network no such layer.
    """
    from busutils.models.engine import keras

    network = _network(segmenter)
    outputs = [_layer(network, name).output for name in layers]
    values = keras.Model(network.inputs, outputs).predict_on_batch(_batch(segmenter, image))
    return {
        name: np.moveaxis(np.asarray(value)[0], -1, 0).astype(np.float32)
        for name, value in zip(layers, values, strict=True)
    }


def rank_channels(maps: np.ndarray, mask: np.ndarray) -> pd.DataFrame:
    """Rank channels by how well their strongest responses match a mask (network dissection).

    Every map is enlarged to the mask and cut so that as many pixels remain as the mask has; the IoU of both says how
    much the channel acts as a detector of it.

    Parameters
    ----------
    maps : (C, h, w) float ndarray
        From :func:`feature_maps`.
    mask : (H, W) bool ndarray
        Lesion, shadow, or any other structure; not empty.

    Returns
    -------
    pandas.DataFrame
        ``channel, iou``, best first.

    Raises
    ------
    ValueError
        If the mask is empty.

    References
    ----------
    Bau et al. 2017, Network dissection, CVPR, doi:10.1109/CVPR.2017.354.

    Examples
    --------
    >>> mask = np.eye(4, dtype=bool)
    >>> rank_channels(np.stack([1.0 - mask, mask * 1.0]), mask)["channel"].tolist()
    [1, 0]
    """
    share = mask.mean()
    if not share:
        raise ValueError("the mask is empty: there is nothing a channel could match")
    scores = []
    for values in maps:
        large = resize_map(values, mask.shape)
        strong = large > np.quantile(large, 1 - share)
        scores.append(metrics.iou(mask, strong, empty=0.0))
    table = pd.DataFrame({"channel": range(len(maps)), "iou": scores})
    return table.sort_values("iou", ascending=False, kind="stable", ignore_index=True)


def seg_grad_cam(
    segmenter: Segmenter, image: np.ndarray, *, layer: str = "bottleneck", region: np.ndarray | None = None
) -> np.ndarray:
    """Seg-Grad-CAM: which places of a layer raise the logits of a set of pixels.

    The layer's channels are weighted by the mean gradient of the region's summed logits, added, and cut below zero.
    Logits are used because the sigmoid's slope vanishes where the network is sure.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network, on the TensorFlow engine.
    image : (H, W) uint8 ndarray
        Any size.
    layer : str, default "bottleneck"
        Whose activations are weighted.
    region : (H, W) bool ndarray, optional
        Pixels that are asked about: one, a part, or the whole prediction (default; the whole image if nothing was
        predicted).

    Returns
    -------
    (H, W) float32 ndarray
        Not negative, in the units of the logits; all zero if nothing raises them.

    Raises
    ------
    ValueError
        If the segmenter has no network, the network no such layer, or `region` no pixel.
    RuntimeError
        If Keras runs on another engine than TensorFlow.

    References
    ----------
    Vinogradova, Dibrov, Myers 2020, AAAI student abstract, arXiv:2002.11434.
    """
    from busutils.models.engine import keras

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Seg-Grad-CAM needs Keras' TensorFlow engine, this is {keras.backend.backend()}: set KERAS_BACKEND=tensorflow"
        )
    import tensorflow as tf

    network = _network(segmenter)
    if region is None:
        region = segmenter.predict([image])[0]
        region = region if region.any() else np.ones(image.shape, bool)
    if region.shape != image.shape or not region.any():
        raise ValueError(f"region must mark at least one pixel of the image {image.shape}")
    pixels = resize_mask(region, segmenter.size)
    if not pixels.any():  # a single pixel may fall between the coarser ones
        rows, columns = np.nonzero(region)
        scale = segmenter.size / np.array(image.shape)
        pixels[int(rows[0] * scale[0]), int(columns[0] * scale[1])] = True

    model = keras.Model(network.inputs, [_layer(network, layer).output, network.get_layer("logits").output])
    with tf.GradientTape() as tape:
        activations, logits = model(tf.constant(_batch(segmenter, image)), training=False)
        total = tf.reduce_sum(tf.boolean_mask(tf.cast(logits[0, ..., 0], tf.float32), pixels))
    gradients = tape.gradient(total, activations)
    weights = tf.reduce_mean(tf.cast(gradients, tf.float32), axis=(1, 2))[0]
    cam = tf.nn.relu(tf.reduce_sum(tf.cast(activations[0], tf.float32) * weights, axis=-1))
    return resize_map(cam.numpy(), image.shape)
