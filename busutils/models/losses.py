"""What training minimises: cross-entropy plus the Dice loss of every image on its own."""

from __future__ import annotations

from busutils.models.engine import keras

__all__ = ["bce_dice_loss", "dice_loss"]

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
