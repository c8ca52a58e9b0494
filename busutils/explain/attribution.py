"""Attribution maps of a mask: Seg-Grad-CAM, HiRes-CAM, gradients, integrated gradients, occlusion.

Gradient methods need Keras' TensorFlow backend; occlusion works with any segmenter.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from scipy import ndimage

from busutils.explain.activation import batch_of, network_of, part_of, standardised, tensorflow_for
from busutils.io import resize_map, resize_mask
from busutils.models.segmenter import Segmenter, check_images


def _region(segmenter: Segmenter, image: np.ndarray, region: np.ndarray | None) -> np.ndarray:
    """Pixels to be explained: the given ones, else the prediction, else all."""
    if region is None:
        region = segmenter.predict([image])[0]
        region = region if region.any() else np.ones(image.shape, bool)
    if region.shape != image.shape or not region.any():
        raise ValueError(f"region must mark at least one pixel of the image {image.shape}")
    return region


def _region_weights(segmenter: Segmenter, image: np.ndarray, region: np.ndarray | None) -> np.ndarray:
    """The region at the network's size, 1 inside and 0 outside."""
    region, size = _region(segmenter, image, region), segmenter.size
    weights = resize_mask(region, size).astype(np.float32)
    if not weights.any():  # a single pixel may fall between the coarser ones
        row, column = np.argwhere(region)[0] * size // region.shape
        weights[row, column] = 1
    return weights


def _gradients(network: Any, tf: Any, layer: str | None, start: str | None = None) -> Any:
    """Compiled function from an input to the activations of a layer and the gradient of weighted logits there.

    Without a `layer`, those of the input itself: the network's, or the output of the layer `start`. Compiled, the
    gradients of the weights, which are not needed, are never computed. Kept as long as the network.
    """
    compiled = _COMPILED.setdefault(network, {})
    if (layer, start) not in compiled:
        model = part_of(network, ["logits"] if layer is None else ["logits", layer], start)

        @tf.function(reduce_retracing=True)
        def run(inputs: Any, weights: Any) -> tuple[Any, Any]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(inputs)
                outputs = model(inputs, training=False)
                total = tf.reduce_sum(tf.cast(outputs["logits"][..., 0], tf.float32) * weights)
            activations = inputs if layer is None else outputs[layer]
            gradient = tape.gradient(total, activations)
            if gradient is None:
                raise ValueError(f"layer {layer!r} comes after the logits: choose an earlier one")
            return tf.cast(activations, tf.float32), tf.cast(gradient, tf.float32)

        compiled[layer, start] = run
    return compiled[layer, start]


_COMPILED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def _layer_gradients(
    segmenter: Segmenter, image: np.ndarray, layer: str | None, region: np.ndarray | None, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Activations of a layer (or the input), and the gradient of the region's summed logits there; both ``(h, w, C)``."""
    tf = tensorflow_for(method)
    run = _gradients(network_of(segmenter), tf, layer)
    weights = _region_weights(segmenter, image, region)
    activations, gradients = run(tf.constant(batch_of(segmenter, image)), tf.constant(weights))
    return activations[0].numpy(), gradients[0].numpy()


def seg_grad_cam(
    segmenter: Segmenter, image: np.ndarray, *, layer: str = "bottleneck", region: np.ndarray | None = None
) -> np.ndarray:
    """Seg-Grad-CAM: which positions of a layer raise the logits of a set of pixels.

    The layer's channels are weighted by the mean gradient of the region's summed logits, added, and cut below zero.
    Logits are used because the sigmoid saturates where the network is confident.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network, on the TensorFlow backend.
    image : (H, W) uint8 ndarray
        Any size.
    layer : str, default "bottleneck"
        Whose activations are weighted.
    region : (H, W) bool ndarray, optional
        Pixels to be explained: one, a part, or the whole prediction (default; the whole image if nothing was
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
        If Keras runs on another backend than TensorFlow.

    References
    ----------
    Vinogradova, Dibrov, Myers 2020, AAAI student abstract, arXiv:2002.11434.
    """
    activations, gradients = _layer_gradients(segmenter, image, layer, region, "Seg-Grad-CAM")
    cam = np.maximum((activations * gradients.mean(axis=(0, 1))).sum(axis=-1), 0)
    return resize_map(cam, image.shape)


def hires_cam(
    segmenter: Segmenter, image: np.ndarray, *, layer: str = "bottleneck", region: np.ndarray | None = None
) -> np.ndarray:
    """HiRes-CAM: as Seg-Grad-CAM, but every position of a channel is weighted by its own gradient.

    Averaging a channel's gradient over all positions can highlight a position where the layer is active although the
    region's logits do not depend on it. HiRes-CAM cannot.

    Parameters
    ----------
    segmenter, image, layer, region
        As in :func:`seg_grad_cam`.

    Returns
    -------
    (H, W) float32 ndarray
        Not negative, in the units of the logits.

    Raises
    ------
    ValueError, RuntimeError
        As :func:`seg_grad_cam`.

    References
    ----------
    Draelos, Carin 2020, arXiv:2011.08891.
    """
    activations, gradients = _layer_gradients(segmenter, image, layer, region, "HiRes-CAM")
    return resize_map(np.maximum((activations * gradients).sum(axis=-1), 0), image.shape)


def input_gradients(segmenter: Segmenter, image: np.ndarray, *, region: np.ndarray | None = None) -> np.ndarray:
    """Gradient of the region's summed logits with respect to every pixel.

    A change of one pixel also moves the mean and the spread that the network standardises the image with, so that no
    pixel is without influence. :func:`busutils.explain.receptive_field` leaves that step out.

    Parameters
    ----------
    segmenter, image, region
        As in :func:`seg_grad_cam`.

    Returns
    -------
    (S, S) float32 ndarray
        At the network's size, logits per grey value, with sign.

    Raises
    ------
    ValueError, RuntimeError
        As :func:`seg_grad_cam`.
    """
    _, gradient = _layer_gradients(segmenter, image, None, region, "the gradient of the input")
    return gradient[..., 0]


def integrated_gradients(
    segmenter: Segmenter, image: np.ndarray, *, region: np.ndarray | None = None, steps: int = 32
) -> np.ndarray:
    """Integrated gradients of the region's summed logits, from an image of even grey to this one.

    The path runs through standardised images, from zero. A path through grey values would be constant, since the
    network standardises each image first.

    Parameters
    ----------
    segmenter, image, region
        As in :func:`seg_grad_cam`.
    steps : int, default 32
        Points of the path, the middles of as many equal parts.

    Returns
    -------
    (S, S) float32 ndarray
        At the network's size, with sign. The sum is the region's summed logits less those of the even image, up to the
        error of the steps.

    Raises
    ------
    ValueError, RuntimeError
        As :func:`seg_grad_cam`.

    References
    ----------
    Sundararajan, Taly, Yan 2017, ICML, arXiv:1703.01365.
    """
    tf = tensorflow_for("integrated gradients")
    network = network_of(segmenter)
    weights = _region_weights(segmenter, image, region)
    end, name = standardised(network, batch_of(segmenter, image))
    run = _gradients(network, tf, None, name)
    total = np.zeros(weights.shape, np.float32)
    for share in ((np.arange(steps) + 0.5) / steps).astype(np.float32):
        _, gradient = run(tf.constant(share * end), tf.constant(weights))
        total += gradient.numpy()[0, ..., 0]
    return total / steps * end[0, ..., 0]


def occlusion(
    segmenter: Segmenter,
    image: np.ndarray,
    *,
    region: np.ndarray | None = None,
    window: float = 0.125,
    overlap: int = 2,
) -> np.ndarray:
    """How much the region's mean probability falls when a part of the image is blurred away.

    Needs no gradient and no network, so that it explains K-Means, too.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one, of any kind.
    image, region
        As in :func:`seg_grad_cam`.
    window : float, default 0.125
        Sides of the part, as shares of the image's.
    overlap : int, default 2
        A window moves by its side over this number.

    Returns
    -------
    (H, W) float32 ndarray
        Mean fall over the windows that cover a pixel, in [-1, 1]; negative where blurring raises the probability.

    Raises
    ------
    ValueError
        If the region has no pixel, or a window would be smaller than a pixel or larger than the image.
    """
    (image,) = check_images([image])
    region = _region(segmenter, image, region)
    sides = [round(window * length) for length in image.shape]
    if min(sides) < 1 or not 0 < window <= 1 or overlap < 1:
        raise ValueError(f"window must be a share of the image that holds a pixel, and overlap at least 1: {window}")
    # Blurred over more than the window: a grey patch would be an object of its own.
    blurred = ndimage.gaussian_filter(image, [side / 2 for side in sides], mode="nearest")
    corners = [sorted({*range(0, n - s, max(s // overlap, 1)), n - s}) for n, s in zip(image.shape, sides, strict=True)]
    places = [np.s_[row : row + sides[0], column : column + sides[1]] for row in corners[0] for column in corners[1]]
    before = float(segmenter.predict_proba([image])[0][region].mean())
    fall, times = np.zeros(image.shape), np.zeros(image.shape)
    for start in range(0, len(places), 16):
        part = places[start : start + 16]
        changed = np.repeat(image[None], len(part), axis=0)
        for copy, place in zip(changed, part, strict=True):
            copy[place] = blurred[place]
        for place, prob in zip(part, segmenter.predict_proba(changed), strict=True):
            fall[place] += before - float(prob[region].mean())
            times[place] += 1
    return (fall / times).astype(np.float32)
