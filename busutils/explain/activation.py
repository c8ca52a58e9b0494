"""Feature maps of a trained U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from busutils import metrics
from busutils.datasets.pixels import resize_image, resize_map
from busutils.models.segmenter import Segmenter, check_images

__all__ = ["feature_maps", "rank_channels"]


def network_of(segmenter: Segmenter) -> Any:
    """Network of a segmenter, or one sentence that it has none."""
    network = getattr(segmenter, "network_", None)
    if network is None:
        raise ValueError(f"a {type(segmenter).__name__} has no network to look into: give a fitted UNetSegmenter")
    return network


def layer_of(network: Any, name: str) -> Any:
    """Layer by name, or the list of those there are."""
    names = [layer.name for layer in network.layers]
    if name not in names:
        levels = [n for n in names if n == "bottleneck" or n.removeprefix("enc").removeprefix("dec").isdigit()]
        raise ValueError(
            f"the network has no layer {name!r}: choose one of {', '.join(levels)} or another layer's name"
        )
    return network.get_layer(name)


def batch_of(segmenter: Segmenter, image: np.ndarray) -> np.ndarray:
    """One image as the network takes it, ``(1, S, S, 1)`` float32."""
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

    network = network_of(segmenter)
    outputs = [layer_of(network, name).output for name in layers]
    values = keras.Model(network.inputs, outputs).predict_on_batch(batch_of(segmenter, image))
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
