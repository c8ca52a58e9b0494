"""Feature maps of a trained U-Net, network dissection of its channels, and receptive fields of its levels."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from busutils import metrics
from busutils.io import resize_image, resize_map
from busutils.models.segmenter import Segmenter, check_images


def network_of(segmenter: Segmenter) -> Any:
    """Network of a segmenter; an error if it has none."""
    network = segmenter.network_
    if network is None:
        raise ValueError(f"a {type(segmenter).__name__} has no network to look into: give a fitted UNetSegmenter")
    return network


def layer_of(network: Any, name: str) -> Any:
    """Layer by name; an error that lists the layers if there is none of that name."""
    names = [layer.name for layer in network.layers]
    if name not in names:
        levels = _levels(names)
        others = [n for n in names if n not in levels]
        raise ValueError(
            f"the network has no layer {name!r}: choose a level ({', '.join(levels)}) or a layer ({', '.join(others)})"
        )
    return network.get_layer(name)


def _levels(names: Sequence[str]) -> list[str]:
    down = sorted(n for n in names if n.startswith("enc") and n[3:].isdigit())
    up = sorted((n for n in names if n.startswith("dec") and n[3:].isdigit()), reverse=True)
    return [*down, *(n for n in names if n == "bottleneck"), *up]


def levels_of(segmenter: Segmenter) -> list[str]:
    """Names of a network's levels, from the image to the mask.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network.

    Returns
    -------
    list of str
        ``enc1 … bottleneck … dec1``: each a layer that :func:`feature_maps` can be asked for.

    Raises
    ------
    ValueError
        If the segmenter has no network.
    """
    return _levels([layer.name for layer in network_of(segmenter).layers])


def tensorflow_for(method: str) -> Any:
    """TensorFlow; an error if Keras runs on another backend, since gradient methods need it."""
    from busutils.models.backend import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"{method} needs Keras' TensorFlow backend, this is {backend}: set KERAS_BACKEND=tensorflow, or use occlusion"
        )
    import tensorflow as tf

    return tf


def part_of(network: Any, ends: Sequence[str], start: str | None = None) -> Any:
    """Model from the network's input, or from the output of a layer, to a dict of layers' outputs; kept for the next call.

    Building one anew for every image would cost more than the image.
    """
    from busutils.models.backend import keras

    parts = _PARTS.setdefault(network, {})
    if (start, *ends) not in parts:
        first = network.inputs[0] if start is None else layer_of(network, start).output
        parts[start, *ends] = keras.Model(first, {name: layer_of(network, name).output for name in ends})
    return parts[start, *ends]


_PARTS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def standardised(network: Any, batch: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Images after the network's first step, and that step's name (none if the network has no such step).

    The step gives every image zero mean and unit variance, so that every grey value influences every output. After it,
    a pixel influences its receptive field only.
    """
    name = "standardise"
    if not any(layer.name == name for layer in network.layers):
        return batch, None
    return np.asarray(part_of(network, [name]).predict_on_batch(batch)[name], np.float32), name


def batch_of(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
    """One image as the network takes it, ``(1, S, S, 1)`` float32."""
    (image,) = check_images([image])
    return resize_image(image, segmenter.size)[None, ..., None].astype(np.float32)


def feature_maps(segmenter: Segmenter, image: np.ndarray, layers: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Outputs of layers for one image.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network.
    image : (H, W) uint8 ndarray
        Any size.
    layers : sequence of str, optional
        Names, such as ``"enc1"``, ``"bottleneck"``, ``"dec1"``; every level by default, see :func:`levels_of`.

    Returns
    -------
    dict of str to (C, h, w) float32 ndarray
        One map a channel, at the layer's own size.

    Raises
    ------
    ValueError
        If the segmenter has no network or the network no such layer.
    """
    layers = levels_of(segmenter) if layers is None else layers
    values = part_of(network_of(segmenter), layers).predict_on_batch(batch_of(segmenter, image))
    return {name: np.moveaxis(np.asarray(values[name])[0], -1, 0).astype(np.float32) for name in layers}


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


def dissect(
    segmenter: Segmenter,
    images: Sequence[np.ndarray],
    structures: Sequence[Mapping[str, np.ndarray]],
    layers: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Which structure each channel detects: network dissection over several images.

    Every map is enlarged to its image. One cut a channel and structure leaves as many pixels over all images as the
    structure has; the IoU of both says how well they match. A channel need not respond in images without the structure.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network.
    images : sequence of (H, W) uint8 ndarray
        Images.
    structures : sequence of mapping of str to (H, W) bool ndarray
        Mask of each structure, image by image, as from :func:`busutils.phantom.structures`. A structure
        that no image shows is left out.
    layers : sequence of str, optional
        Every level by default.

    Returns
    -------
    pandas.DataFrame
        ``layer, channel, structure, iou, chance``; the last is the IoU of as many random pixels.

    Raises
    ------
    ValueError
        If the segmenter has no network, the network no such layer, or images and structures differ in number or shape.

    References
    ----------
    Bau et al. 2017, Network dissection, CVPR, doi:10.1109/CVPR.2017.354.
    """
    images = check_images(images)
    if len(images) != len(structures) or any(
        mask.shape != image.shape for image, masks in zip(images, structures, strict=True) for mask in masks.values()
    ):
        raise ValueError("give one set of structures an image, each mask as large as its image")
    truths = {}
    for name in dict.fromkeys(name for masks in structures for name in masks):
        parts = [masks.get(name, np.zeros(i.shape, bool)).ravel() for i, masks in zip(images, structures, strict=True)]
        if any(part.any() for part in parts):
            truths[name] = np.concatenate(parts)
    shares = np.array([truth.mean() for truth in truths.values()])
    layers = levels_of(segmenter) if layers is None else layers
    found = [feature_maps(segmenter, image, layers) for image in images]
    rows = []
    for layer in layers:
        for channel in range(len(found[0][layer])):
            values = np.concatenate(
                [resize_map(maps[layer][channel], i.shape).ravel() for maps, i in zip(found, images, strict=True)]
            )
            cuts = np.quantile(values, 1 - shares)
            for (name, truth), share, cut in zip(truths.items(), shares, cuts, strict=True):
                iou = metrics.iou(truth[None], values[None] > cut, empty=0.0)
                rows.append((layer, channel, name, iou, share / (2 - share)))
    return pd.DataFrame(rows, columns=["layer", "channel", "structure", "iou", "chance"])


def receptive_field(segmenter: Segmenter, images: Sequence[np.ndarray], *, layer: str = "dec1") -> np.ndarray:
    """Effective receptive field: how strongly the centre of a layer depends on every pixel.

    The mean, over images, of the magnitude of a gradient: that of the summed channels at the layer's central place with
    respect to the standardised image.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network, on the TensorFlow backend.
    images : sequence of (H, W) uint8 ndarray
        Images.
    layer : str, default "dec1"
        The layer whose central position is used.

    Returns
    -------
    (S, S) float32 ndarray
        At the network's size, summing to one (all zero if nothing reaches the layer).

    Raises
    ------
    ValueError
        If the segmenter has no network, or the network no such layer.
    RuntimeError
        If Keras runs on another backend than TensorFlow.

    References
    ----------
    Luo et al. 2016, Understanding the effective receptive field in deep convolutional neural networks, NeurIPS,
    arXiv:1701.04128.
    """
    tf = tensorflow_for("the measured receptive field")
    network = network_of(segmenter)
    layer_of(network, layer)
    total = np.zeros((segmenter.size, segmenter.size))
    for image in check_images(images):
        pixels, name = standardised(network, batch_of(segmenter, image))
        start = tf.constant(pixels)
        with tf.GradientTape() as tape:
            tape.watch(start)
            values = part_of(network, [layer], name)(start, training=False)[layer]
            place = tf.reduce_sum(tf.cast(values[0, values.shape[1] // 2, values.shape[2] // 2], tf.float32))
        total += np.abs(tape.gradient(place, start)[0, ..., 0].numpy())
    return (total / total.sum() if total.any() else total).astype(np.float32)


def receptive_fields(
    segmenter: Segmenter, images: Sequence[np.ndarray], layers: Sequence[str] | None = None, *, share: float = 0.95
) -> pd.DataFrame:
    """Compare the theoretical receptive field of each level with the effective one.

    Parameters
    ----------
    segmenter, images
        As in :func:`receptive_field`.
    layers : sequence of str, optional
        Levels; all of them by default.
    share : float, default 0.95
        Part of the measured field that the square has to hold.

    Returns
    -------
    pandas.DataFrame
        ``level``; ``in_theory``, the side of the square that one value can depend on; ``measured``, the side of the
        smallest square round the middle that holds `share` of the dependence. In pixels of the network's input.

    Raises
    ------
    ValueError, RuntimeError
        As :func:`receptive_field`.
    """
    from busutils.models.unet import describe

    theory = describe(network_of(segmenter)).set_index("level")["receptive_field"]
    rows = []
    for layer in levels_of(segmenter) if layers is None else layers:
        field = receptive_field(segmenter, images, layer=layer)
        _, height, width, _ = layer_of(network_of(segmenter), layer).output.shape
        # The pixels that the central place covers, and from there outwards in all directions.
        middle = [(n // 2 + 0.5) * segmenter.size / n - 0.5 for n in (height, width)]
        away = [np.abs(np.arange(segmenter.size) - m) for m in middle]
        distance = np.maximum.outer(*away).ravel()
        order = np.argsort(distance, kind="stable")
        held = np.cumsum(field.ravel()[order])
        radius = distance[order][np.searchsorted(held, min(share, held[-1]))] if field.any() else 0
        rows.append((layer, int(theory[layer]), round(2 * radius + 1)))
    return pd.DataFrame(rows, columns=["level", "in_theory", "measured"])
