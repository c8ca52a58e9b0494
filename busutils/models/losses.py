"""Training losses: binary cross-entropy plus the soft Dice loss of each image."""

from __future__ import annotations

from busutils.models.backend import keras

__all__ = ["bce_dice_loss", "dice_loss"]

ops = keras.ops

EMPTY_SMOOTH = 0.005  # share of the image


def dice_loss(mask, prob, smooth: float = 1.0):
    """One minus the soft Dice overlap, image by image.

    Pooling the pixels of a whole batch, as ``keras.losses.Dice`` does by default, lets large lesions drown small ones.

    Parameters
    ----------
    mask, prob : (N, H, W, 1) tensor
        Reference (0 or 1) and predicted probability.
    smooth : float, default 1
        Added to numerator and denominator, in pixels, where the mask shows a lesion. Where the mask is empty, half a
        per cent of the image is added instead: with one pixel the loss of any false-positive region is close to 1
        whatever its size, and its gradient close to 0.

    Returns
    -------
    (N,) tensor
        One loss an image, in [0, 1].
    """
    mask = ops.cast(mask, prob.dtype)
    area = ops.sum(mask, axis=(1, 2, 3))
    overlap = ops.sum(mask * prob, axis=(1, 2, 3))
    total = area + ops.sum(prob, axis=(1, 2, 3))
    smooth = ops.where(area > 0, smooth, EMPTY_SMOOTH * mask.shape[1] * mask.shape[2])
    return 1 - (2 * overlap + smooth) / (total + smooth)


def bce_dice_loss(mask, prob):
    """Binary cross-entropy (steady gradients everywhere) plus Dice loss (independent of the size of the background).

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
