"""What training minimises: cross-entropy plus the Dice loss of every image on its own."""

from __future__ import annotations

import math

from busutils.models.engine import keras

__all__ = ["bce_dice_loss", "dice_loss", "presence_loss"]

ops = keras.ops


def dice_loss(mask, prob, smooth: float = 1.0):
    """One minus the soft Dice overlap, image by image.

    Pooling the pixels of a whole batch, as ``keras.losses.Dice`` does by default, lets large lesions drown small ones.

    Parameters
    ----------
    mask, prob : (N, H, W, 1) tensor
        Reference (0 or 1) and predicted probability.
    smooth : float, default 1
        Added to both parts of the fraction, in pixels: an empty prediction of an empty mask then costs nothing, where
        the bare fraction would be 0/0.

    Returns
    -------
    (N,) tensor
        One loss an image, in [0, 1].
    """
    mask = ops.cast(mask, prob.dtype)
    overlap = ops.sum(mask * prob, axis=(1, 2, 3))
    total = ops.sum(mask, axis=(1, 2, 3)) + ops.sum(prob, axis=(1, 2, 3))
    return 1 - (2 * overlap + smooth) / (total + smooth)


def presence_loss(mask, prob, share: float = 0.001):
    """Cross-entropy of one question: is there a lesion at all? The answer is the mean of the surest pixels.

    On a normal image the Dice loss of a large false lesion is flat, and the cross-entropy of its pixels is shared among
    all pixels; this term falls on those that decide whether anything is drawn.

    Parameters
    ----------
    mask, prob : (N, H, W, 1) tensor
        Reference (0 or 1) and predicted probability.
    share : float, default 0.001
        Of the pixels, the surest.

    Returns
    -------
    (N,) tensor
        One loss an image.
    """
    prob = ops.cast(prob, "float32")
    n_pixels = math.prod(prob.shape[1:])
    surest, _ = ops.top_k(ops.reshape(prob, (-1, n_pixels)), max(round(share * n_pixels), 1))
    shown = ops.cast(ops.any(mask > 0, axis=(1, 2, 3)), "float32")
    return ops.binary_crossentropy(shown, ops.mean(surest, axis=1))


def bce_dice_loss(mask, prob):
    """Binary cross-entropy (steady gradients everywhere) plus Dice loss (blind to the size of the background).

    Parameters
    ----------
    mask, prob : (N, H, W, 1) tensor
        Reference (0 or 1) and predicted probability.

    Returns
    -------
    (N,) tensor
        One loss an image.
    """
    prob = ops.cast(prob, "float32")
    mask = ops.cast(mask, "float32")
    bce = ops.mean(ops.binary_crossentropy(mask, prob), axis=(1, 2, 3))
    return bce + dice_loss(mask, prob)
