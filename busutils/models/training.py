"""Training the U-Net: the recipe, and how a stopped training is taken up again.

All chance comes from ``(seed, epoch, step)``, never from a generator that has been running: an epoch that was
interrupted is done again and ends in the same weights.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from busutils import jobs, metrics
from busutils.errors import BusutilsError
from busutils.io import resize_image, resize_mask
from busutils.models.augment import augment_batch, strengths
from busutils.models.segmenter import VIEWS, Segmenter, WeightsError, mean_of_views

__all__ = ["PRESETS", "UNetSegmenter", "validation_groups"]

logger = logging.getLogger(__name__)

RECIPE_VERSION = 2  # raised when the same settings would train other weights

LIGHT = (16, 32, 64, 128, 256)  # 1.9 million weights

PRESETS: dict[str, dict[str, Any]] = {
    "light": {},
    "encoder": {"size": 256, "encoder": "efficientnet-lite0", "learning_rate": 1e-3, "views": 4},
    # 31 million weights, as in the paper of 2015.
    "classic": {"filters": (64, 128, 256, 512, 1024)},
}

THRESHOLDS = np.round(np.arange(0.2, 0.801, 0.05), 2)
CONFIDENCES = np.round([*np.arange(0, 0.9, 0.02), *np.arange(0.9, 0.9951, 0.005)], 3)
TOLERANCE = 0.005  # of mean Dice on validation lesions, that a quieter answer on normal images may cost


def validation_groups(groups: Sequence[Any], fraction: float, seed: int) -> np.ndarray:
    """Set aside whole groups until they hold a share of the images.

    Parameters
    ----------
    groups : (N,) sequence
        Group of every image; near-duplicates share one.
    fraction : float
        Share of the images to set aside, in [0, 1).
    seed : int
        Which groups.

    Returns
    -------
    (N,) bool ndarray
        True for validation images.

    Examples
    --------
    >>> validation_groups(["a", "a", "b", "b"], 0.5, seed=0).sum()
    np.int64(2)
    """
    groups = np.asarray(groups)
    chosen = np.zeros(len(groups), bool)
    order = np.random.default_rng([seed, 1]).permutation(np.unique(groups))
    for group in order:
        if chosen.sum() >= fraction * len(groups):
            break
        chosen |= groups == group
    return chosen


def mean_dice(masks: np.ndarray, probs: np.ndarray, threshold: float) -> float:
    """Mean per-image Dice of the images that show a lesion."""
    values = [metrics.dice(m, p >= threshold) for m, p in zip(masks, probs, strict=True) if m.any()]
    return float(np.mean(values)) if values else math.nan


class UNetSegmenter(Segmenter):
    """A U-Net trained with augmentation; epoch, threshold and minimum confidence are chosen on validation groups.

    Parameters
    ----------
    size : int, default 128
        Side of the network's square, in pixels.
    filters : tuple of int
        Channels at every level, see :func:`busutils.models.unet.unet`.
    encoder : str or None
        Take a contracting path that was trained on ImageNet: ``efficientnet-lite0``, or a class of ``keras.applications``
        whose weights Keras downloads; see :mod:`busutils.models.encoder`. The size must be a multiple of 32.
    encoder_rate : float, default 0.25
        Learning rate of the encoder's weights, as a share of the others'.
    start : str or None
        Weights to begin with: a name from :func:`busutils.models.list_weights` or a file, of the same network. The
        default is chance, and ImageNet for the encoder.
    dropout : float, default 0
        At the bottleneck.
    epochs : int, default 40
        Passes over the training images.
    batch_size : int, default 8
        Images a step.
    learning_rate : float, default 2e-3
        Peak rate of AdamW, reached after a warm-up of one epoch and lowered along a cosine.
    augmentation : float or pair of float, default 1
        Strength of the random changes, or of those of geometry and of grey values, see
        :func:`busutils.models.augment.augment`; 0 switches them off.
    validation_fraction : float, default 0.15
        Share of the images, in whole groups, on which the epoch and the threshold are chosen. With 0 the last epoch and
        a threshold of one half are taken.
    min_area : float, default 0.002
        Smaller predicted regions, as a share of the image, are dropped.
    views : {1, 2, 4}
        Test-time views that a probability is the mean of: the image; with its mirror image; both also shrunk to 85 %.
    precision : str, default "float32"
        Keras' dtype policy; ``mixed_bfloat16`` halves the time on processors that know the format.
    seed : int, default 0
        Of weights, validation groups, order and augmentation.

    Attributes
    ----------
    network_ : keras.Model
        The trained network.
    threshold_ : float
        Chosen on the validation groups.
    min_confidence_ : float
        Regions that the network is less sure of are dropped. The largest value that costs the validation lesions at most
        0.005 of mean Dice; 0 if the validation groups hold no normal image to gain by it.
    history_ : pandas.DataFrame
        One row an epoch: ``epoch, loss, val_dice, seconds``.

    Examples
    --------
    >>> UNetSegmenter(epochs=3).get_params()["epochs"]
    3
    """

    supervised: ClassVar[bool] = True
    runtime = "keras"

    def __init__(
        self,
        *,
        size: int = 128,
        filters: tuple[int, ...] = LIGHT,
        encoder: str | None = None,
        encoder_rate: float = 0.25,
        start: str | None = None,
        dropout: float = 0.0,
        epochs: int = 40,
        batch_size: int = 8,
        learning_rate: float = 2e-3,
        augmentation: float | tuple[float, float] = 1.0,
        validation_fraction: float = 0.15,
        min_area: float = 0.002,
        views: int = 1,
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        self.size = size
        self.filters = filters
        self.encoder = encoder
        self.encoder_rate = encoder_rate
        self.start = start
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.augmentation = augmentation
        self.validation_fraction = validation_fraction
        self.min_area = min_area
        self.views = views
        self.precision = precision
        self.seed = seed

    @classmethod
    def preset(cls, name: str, **changes: Any) -> UNetSegmenter:
        """Return settings by name: ``light`` (the defaults), ``encoder`` (pretrained, 256²) or ``classic`` (of 2015).

        Parameters
        ----------
        name : str
            One of the three.
        **changes
            Settings that differ from the preset's.

        Returns
        -------
        UNetSegmenter

        Raises
        ------
        ValueError
            If there is no such preset.

        Examples
        --------
        >>> UNetSegmenter.preset("encoder", epochs=5).size
        256
        """
        if name not in PRESETS:
            raise BusutilsError(f"unknown preset {name!r} of the U-Net: choose one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    @property
    def init_file(self) -> Path | None:
        """File of the weights that a training begins with, or None for chance or ImageNet."""
        from busutils.models.weights import weights_file

        return None if self.start is None else weights_file(self.start)

    def check_settings(self) -> None:
        """Refuse settings that a training could only fail with, before it has taken an hour.

        Raises
        ------
        ValueError
            If a setting is out of its range; the network's own are checked when it is built.
        """
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BusutilsError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.views not in VIEWS:
            raise BusutilsError(f"views must be one of {', '.join(map(str, VIEWS))}, got {self.views}")
        if not 0 <= self.validation_fraction < 1:
            raise BusutilsError(
                f"validation_fraction is a share of the images, 0 or more and below 1, got {self.validation_fraction}"
            )
        if not self.learning_rate > 0:
            raise BusutilsError(f"learning_rate must be above 0, got {self.learning_rate}")
        strengths(self.augmentation)
        if self.init_file is not None and not self.init_file.is_file():
            from busutils.models.weights import list_weights

            shipped = ", ".join(list_weights())
            raise WeightsError(f"there are no weights {self.start} to start from: name a file, or one of {shipped}")

    def _build(self) -> Any:
        from busutils.models.engine import precision
        from busutils.models.unet import unet

        with precision(self.precision):
            return unet(self.size, filters=self.filters, encoder=self.encoder, dropout=self.dropout, seed=self.seed)

    def _starting_network(self) -> Any:
        network = self._build()
        if self.init_file is not None:
            before = Segmenter.load(self.init_file)
            weights = before.network_.get_weights() if before.network_ is not None else []
            if [w.shape for w in weights] != [tuple(w.shape) for w in network.weights]:
                raise WeightsError(
                    f"{self.start} holds another network than the one to be trained: give equal settings"
                )
            network.set_weights(weights)
        elif self.encoder is not None:
            from busutils.models.encoder import load_imagenet

            load_imagenet(network, self.encoder)
        return network

    def _fit(
        self,
        images: list[np.ndarray],
        masks: list[np.ndarray] | None,
        *,
        groups: Sequence[Any] | None = None,
        sources: Sequence[Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> None:
        """Train; see :meth:`Segmenter.fit`.

        ``groups`` keeps near-duplicates on one side of the validation split (every image is its own group by default).
        ``checkpoint`` is a file that holds the training after every epoch; the same call takes it up again.
        """
        assert masks is not None
        self.check_settings()
        groups = np.arange(len(images)) if groups is None else np.asarray(groups)
        squares = np.stack([resize_image(image, self.size) for image in images])
        truths = np.stack([resize_mask(mask, self.size) for mask in masks])
        held_out = validation_groups(groups, self.validation_fraction, self.seed)
        if held_out.all():
            raise BusutilsError("no image is left to train on: there are too few groups for this validation_fraction")
        self.validation_ = held_out
        Training(self, squares[~held_out], truths[~held_out], squares[held_out], truths[held_out]).run(
            checkpoint, progress
        )

    def _square_proba(self, squares: np.ndarray) -> np.ndarray:
        return mean_of_views(lambda view: network_proba(self.network_, view), squares, self.views)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {f"w{index:04d}": value for index, value in enumerate(self.network_.get_weights())}

    def _set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        # Known before anything is built: every level convolves its own channels, by windows of 3 x 3.
        widths = self.filters if self.encoder is None else self.filters[:-1]
        if 9 * sum(width**2 for width in widths) > sum(values.size for values in arrays.values()):
            raise WeightsError("the file holds fewer weights than the network that it describes: it is damaged")
        network = self._build()
        weights = [arrays[name] for name in sorted(arrays)]
        expected = [tuple(weight.shape) for weight in network.weights]
        if [weight.shape for weight in weights] != expected:
            raise WeightsError("the weights do not fit the network that the file describes: it is damaged")
        network.set_weights(weights)
        self.network_ = network

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "history": self.history_.to_dict("records")}

    def _set_state(self, state: dict[str, Any]) -> None:
        super()._set_state(state)
        self.history_ = pd.DataFrame(state.get("history", []))

    def __getstate__(self) -> dict[str, Any]:
        # scikit-learn's clone and joblib copy estimators; a network travels as its arrays.
        state = super().__getstate__()
        if "network_" in state:
            state = {**state, "network_": self._arrays()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.get("network_")
        super().__setstate__({k: v for k, v in state.items() if k != "network_"})
        if arrays is not None:
            self._set_arrays(arrays)


def network_proba(network: Any, squares: np.ndarray, *, batch: int = 8) -> np.ndarray:
    """Probability maps of square images, in batches of one size so that the graph is traced once.

    Parameters
    ----------
    network : keras.Model
        From ``(batch, S, S, 1)`` grey values to probabilities.
    squares : (N, S, S) uint8 ndarray
        Images.
    batch : int, default 8
        Images a call.

    Returns
    -------
    (N, S, S) float32 ndarray
    """
    probs = np.empty(squares.shape, np.float32)
    batch = 1 if len(squares) == 1 else batch
    for start in range(0, len(squares), batch):
        part = squares[start : start + batch]
        padded = np.zeros((batch, *squares.shape[1:], 1), np.float32)
        padded[: len(part), ..., 0] = part
        probs[start : start + len(part)] = np.asarray(network.predict_on_batch(padded))[: len(part), ..., 0]
    return probs


def choose_cutoffs(segmenter: UNetSegmenter, images: np.ndarray, masks: np.ndarray) -> None:
    """Choose the threshold, then the minimum confidence, of a trained segmenter on validation images.

    Parameters
    ----------
    segmenter : UNetSegmenter
        Its `threshold_` and `min_confidence_` are set.
    images : (N, S, S) uint8 ndarray
        Validation images at the network's size; none of them leaves the defaults.
    masks : (N, S, S) bool ndarray
        Their lesions.
    """
    segmenter.threshold_, segmenter.min_confidence_ = 0.5, 0.0
    shown = masks.any(axis=(1, 2))
    if not shown.any():
        return
    probs = segmenter._square_proba(images)
    scores = np.array([mean_dice(masks, probs, threshold) for threshold in THRESHOLDS])
    # The middle of the best ones, not the first: the curve is flat, and its edge is chance.
    segmenter.threshold_ = float(np.median(THRESHOLDS[scores >= scores.max() - 0.002]))
    if shown.all():
        return
    scores = np.empty(len(CONFIDENCES))
    for index, segmenter.min_confidence_ in enumerate(CONFIDENCES):
        predicted = segmenter.masks_from(probs[shown])
        scores[index] = np.mean([metrics.dice(m, p) for m, p in zip(masks[shown], predicted, strict=True)])
    segmenter.min_confidence_ = float(CONFIDENCES[scores >= scores[0] - TOLERANCE].max())


class Training:
    """One run of the recipe: network, optimiser and the best weights so far, all of which a checkpoint holds."""

    def __init__(
        self,
        segmenter: UNetSegmenter,
        images: np.ndarray,
        masks: np.ndarray,
        val_images: np.ndarray,
        val_masks: np.ndarray,
    ) -> None:
        from busutils.models.engine import across_devices

        self.segmenter = segmenter
        self.images, self.masks = images, masks
        self.val_images, self.val_masks = val_images, val_masks
        self.steps = math.ceil(len(images) / segmenter.batch_size)
        with across_devices():
            self._prepare()
        self.history: list[dict[str, float]] = []
        self.best: list[np.ndarray] = self.network.get_weights()
        self.best_dice = -math.inf

    def _prepare(self) -> None:
        """Build the network and its optimiser."""
        from busutils.models.encoder import names_of_encoder
        from busutils.models.engine import keras
        from busutils.models.losses import bce_dice_loss
        from busutils.models.optimizer import RatedAdamW

        segmenter = self.segmenter
        self.network = segmenter._starting_network()
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.01 * segmenter.learning_rate,
            decay_steps=max(self.steps * (segmenter.epochs - 1), 1),
            alpha=0.01,
            warmup_target=segmenter.learning_rate,
            warmup_steps=self.steps,
        )
        # Averaging the weights over about one epoch makes the validation score, and so the choice by it, less jumpy. Keras
        # puts the average in place of the weights at the end of every call of fit, here of every epoch: the next epoch
        # begins from the average, as the slow weights of Lookahead do (Zhang et al. 2019, arXiv:1907.08610).
        self.optimizer = RatedAdamW(
            rate,
            dict.fromkeys(names_of_encoder(self.network), segmenter.encoder_rate) if segmenter.encoder else {},
            weight_decay=1e-4,
            use_ema=True,
            ema_momentum=1 - 1 / max(self.steps, 2),
        )

        self.network.compile(self.optimizer, loss=bce_dice_loss)
        self.optimizer.build(self.network.trainable_variables)

    def run(self, checkpoint: str | os.PathLike[str] | None, progress: bool) -> None:
        """Train from the start or from the checkpoint to the last epoch, and fit the segmenter with the result."""
        from tqdm import tqdm

        path = None if checkpoint is None else Path(checkpoint)
        if path is not None and path.exists():
            self._restore(path)
        segmenter = self.segmenter
        with tqdm(
            total=segmenter.epochs,
            initial=len(self.history),
            desc="training",
            unit="epoch",
            disable=not progress,
        ) as bar:
            for epoch in range(len(self.history), segmenter.epochs):
                self._epoch(epoch)
                bar.set_postfix(loss=self.history[-1]["loss"], val_dice=self.history[-1]["val_dice"])
                bar.update()
                if path is not None:
                    self._save(path)
        self.network.set_weights(self.best)
        segmenter.network_ = self.network
        segmenter.history_ = pd.DataFrame(self.history)
        segmenter.fitted_ = True
        choose_cutoffs(segmenter, self.val_images, self.val_masks)

    def _epoch(self, epoch: int) -> None:
        start = time.perf_counter()
        self._seed_dropout(epoch)
        fit = self.network.fit(self._batches(epoch), initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0)
        dice = math.nan
        if len(self.val_images):
            dice = mean_dice(self.val_masks, network_proba(self.network, self.val_images), 0.5)
        if math.isnan(dice) or dice > self.best_dice:
            self.best = self.network.get_weights()
            self.best_dice = dice if not math.isnan(dice) else -math.inf
        self.history.append(
            {
                "epoch": epoch + 1,
                "loss": float(fit.history["loss"][0]),
                "val_dice": dice,
                "seconds": time.perf_counter() - start,
            }
        )

    def _batches(self, epoch: int) -> Any:
        from busutils.models.engine import keras

        training, segmenter = self, self.segmenter
        augmented = any(strengths(segmenter.augmentation))
        order = np.random.default_rng([segmenter.seed, epoch]).permutation(len(self.images))
        # All batches have one size, or the graph would be traced twice: the last is filled up from the first.
        order = np.resize(order, self.steps * segmenter.batch_size)

        class Batches(keras.utils.PyDataset):
            def __len__(self) -> int:
                return training.steps

            def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
                chosen = order[step * segmenter.batch_size : (step + 1) * segmenter.batch_size]
                images, masks = training.images[chosen], training.masks[chosen]
                if augmented:
                    rng = np.random.default_rng([segmenter.seed, epoch, step])
                    images, masks = augment_batch(images, masks, rng, strength=segmenter.augmentation)
                return images[..., None].astype(np.float32), masks[..., None].astype(np.float32)

        return Batches()

    def _seed_dropout(self, epoch: int) -> None:
        for layer in self.network.layers:
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:
                generator.state.assign(np.array([self.segmenter.seed, epoch + 1], dtype="uint32"))

    # -- checkpoints -----------------------------------------------------------------------------------------

    def _identity(self) -> str:
        return jobs.content_key(
            RECIPE_VERSION, self.segmenter, self.images, self.masks, self.val_images, self.val_masks
        )

    def _variables(self) -> list[Any]:
        return [*self.network.weights, *self.optimizer.variables]

    def _save(self, path: Path) -> None:
        header = {"identity": self._identity(), "history": self.history, "best_dice": self.best_dice}
        arrays = {f"v{i:04d}": np.asarray(variable) for i, variable in enumerate(self._variables())}
        arrays |= {f"b{i:04d}": value for i, value in enumerate(self.best)}
        with jobs.atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)

    def _restore(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            header = json.loads(str(arrays["header"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{path} is not a training checkpoint: delete it or name another file") from error
        if header["identity"] != self._identity():
            raise WeightsError(
                f"{path} belongs to a training with other images or settings: delete it or name another file"
            )
        for index, variable in enumerate(self._variables()):
            variable.assign(arrays[f"v{index:04d}"])
        self.best = [arrays[name] for name in sorted(arrays) if name.startswith("b")]
        self.history, self.best_dice = header["history"], header["best_dice"]
        logger.info("%s: taken up after epoch %d", path, len(self.history))
