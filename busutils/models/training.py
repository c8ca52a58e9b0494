"""Training the U-Net: the recipe, and how a stopped training is resumed.

All randomness comes from ``(seed, epoch, step)``, never from a generator that has been running: an epoch that was
interrupted is repeated and ends in the same weights.
"""

from __future__ import annotations

import functools
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
from busutils.models.segmenter import Segmenter, WeightsError
from busutils.models.tta import TTA, mean_over_tta

__all__ = ["PRESETS", "UNetSegmenter", "validation_groups"]

logger = logging.getLogger(__name__)

RECIPE_VERSION = 4  # raised when the same settings would train other weights

LIGHT = (16, 32, 64, 128, 256)  # 1.9 million weights

PRESETS: dict[str, dict[str, Any]] = {
    "light": {},
    "encoder": {"size": 224, "encoder": "efficientnet-lite0", "batch_size": 16, "learning_rate": 1e-3, "tta": "mirror"},
    # 31 million weights, as in the paper of 2015.
    "classic": {"size": 128, "filters": (64, 128, 256, 512, 1024), "halve": False},
}

THRESHOLDS = np.round(np.arange(0.3, 0.701, 0.05), 2)
ENCODER_LR_SCALE = 0.3  # learning rate of pretrained weights, as a share of the others'


def validation_groups(groups: Sequence[Any] | np.ndarray, fraction: float, seed: int) -> np.ndarray:
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
    """A U-Net trained with augmentation; its threshold is chosen on validation groups.

    Parameters
    ----------
    size : int, default 160
        Side of the network's square, in pixels.
    filters : tuple of int
        Channels at every level, see :func:`busutils.models.unet.unet`.
    encoder : str or None
        ``efficientnet-lite0`` takes a contracting path that was trained on ImageNet, see :mod:`busutils.models.encoder`.
    halve : bool, default True
        Halve the image in the first convolution, see :func:`busutils.models.unet.unet`.
    init_weights : str or None
        Weights to begin with: a name from :func:`busutils.models.list_weights` or a file, of the same network. The
        default is random weights, and ImageNet's for the encoder.
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
    lesion_free : float, default 0.1
        Share of the lesion images of which only a part beside the lesion is shown, as one more normal image.
    validation_fraction : float, default 0.15
        Share of the images, in whole groups, on which the threshold is chosen. With 0 it is one half.
    min_area : float, default 0.002
        Smaller predicted regions, as a share of the image, are dropped.
    tta : {"none", "mirror"}
        Test-time augmentation, see :func:`busutils.models.tta.mean_over_tta`.
    precision : str, default "float32"
        Keras' dtype policy; ``mixed_bfloat16`` halves the time on processors that know the format.
    seed : int, default 0
        Of weights, validation groups, order and augmentation.

    Attributes
    ----------
    network_ : keras.Model
        The trained network. Its weights are a moving average over the training's last steps.
    threshold_ : float
        Chosen on the validation groups.
    history_ : pandas.DataFrame
        One row an epoch: ``epoch, loss, val_dice, seconds``; ``val_dice`` is that of the averaged weights.

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
        size: int = 160,
        filters: tuple[int, ...] = LIGHT,
        encoder: str | None = None,
        halve: bool = True,
        init_weights: str | None = None,
        dropout: float = 0.0,
        epochs: int = 40,
        batch_size: int = 8,
        learning_rate: float = 2e-3,
        augmentation: float | tuple[float, float] = 1.0,
        lesion_free: float = 0.1,
        validation_fraction: float = 0.15,
        min_area: float = 0.002,
        tta: str = "none",
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        self.size = size
        self.filters = filters
        self.encoder = encoder
        self.halve = halve
        self.init_weights = init_weights
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.augmentation = augmentation
        self.lesion_free = lesion_free
        self.validation_fraction = validation_fraction
        self.min_area = min_area
        self.tta = tta
        self.precision = precision
        self.seed = seed

    @classmethod
    def preset(cls, name: str, **changes: Any) -> UNetSegmenter:
        """Return settings by name: ``light`` (the defaults), ``encoder`` (pretrained) or ``classic`` (of 2015).

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
        224
        """
        if name not in PRESETS:
            raise BusutilsError(f"unknown preset {name!r} of the U-Net: choose one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    @property
    def init_file(self) -> Path | None:
        """File of the weights that a training begins with, or None for chance or ImageNet."""
        from busutils.models.weights import weights_file

        return None if self.init_weights is None else weights_file(self.init_weights)

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
        if self.tta not in TTA:
            raise BusutilsError(f"tta must be {' or '.join(TTA)}, got {self.tta!r}")
        if not 0 <= self.lesion_free < 1:
            raise BusutilsError(f"lesion_free is a share of the images, 0 or more and below 1, got {self.lesion_free}")
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
            raise WeightsError(
                f"there are no weights {self.init_weights} to start from: name a file, or one of {shipped}"
            )

    def _build(self) -> Any:
        from busutils.models.backend import precision
        from busutils.models.unet import unet

        with precision(self.precision):
            return unet(
                self.size,
                filters=self.filters,
                encoder=self.encoder,
                halve=self.halve,
                dropout=self.dropout,
                seed=self.seed,
            )

    def _starting_network(self) -> Any:
        network = self._build()
        if self.init_file is not None:
            before = Segmenter.load(self.init_file)
            weights = [] if before.network_ is None else before.network_.get_weights()
            if [w.shape for w in weights] != [tuple(w.shape) for w in network.weights]:
                raise WeightsError(
                    f"{self.init_weights} holds another network than the one to be trained: give equal settings"
                )
            network.set_weights(weights)
        elif self.encoder is not None:
            from busutils.models.encoder import load_imagenet

            load_imagenet(network)
        return network

    def _fit(  # type: ignore[override]
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
        Of several ``sources``, an epoch draws images in proportion to the square root of their sizes. ``checkpoint`` is a
        file that holds the training after every epoch; the same call resumes it.
        """
        assert masks is not None
        self.check_settings()
        groups = np.arange(len(images)) if groups is None else np.asarray(groups)
        held_out = validation_groups(groups, self.validation_fraction, self.seed)
        if held_out.all():
            raise BusutilsError("no image is left to train on: there are too few groups for this validation_fraction")
        self.validation_ = held_out
        Training(self, images, masks, held_out, sources).run(checkpoint, progress)

    def _square_proba(self, squares: np.ndarray) -> np.ndarray:
        return mean_over_tta(lambda copies: network_proba(self.network_, copies), squares, self.tta)

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


def choose_threshold(segmenter: UNetSegmenter, images: np.ndarray, masks: np.ndarray) -> float:
    """Highest threshold that costs at most 0.01 of the best mean Dice on validation images; one half without lesions.

    The curve is flat, so its peak is chance; a high threshold marks less in images without a lesion.

    Parameters
    ----------
    segmenter : UNetSegmenter
        A trained one.
    images : (N, S, S) uint8 ndarray
        Validation images at the network's size.
    masks : (N, S, S) bool ndarray
        Their lesions.

    Returns
    -------
    float
    """
    shown = masks.any(axis=(1, 2))
    if not shown.any():
        return 0.5
    probs = segmenter._square_proba(images[shown])
    scores = np.array([mean_dice(masks[shown], probs, threshold) for threshold in THRESHOLDS])
    return float(THRESHOLDS[scores >= scores.max() - 0.01].max())


class Training:
    """One run of the recipe: network, optimiser and the average of the weights, all of which a checkpoint holds."""

    def __init__(
        self,
        segmenter: UNetSegmenter,
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        held_out: np.ndarray,
        sources: Sequence[Any] | None = None,
    ) -> None:
        from busutils.models.backend import across_devices

        self.segmenter = segmenter
        self.images, self.masks, self.held_out = images, masks, held_out
        self.sources = np.zeros(len(images), int) if sources is None else np.asarray(sources)
        squares = np.stack([resize_image(image, segmenter.size) for image in images])
        truths = np.stack([resize_mask(mask, segmenter.size) for mask in masks])
        self.train = squares[~held_out], truths[~held_out]
        self.validation = squares[held_out], truths[held_out]
        self.steps = math.ceil((~held_out).sum() / segmenter.batch_size)
        # Averaging over a twentieth of all steps: the last ones take ever smaller steps around one point.
        self.momentum = 1 - 1 / max(2, 0.05 * self.steps * segmenter.epochs)
        self.history: list[dict[str, float]] = []
        with across_devices():
            self._prepare()
        self.average = [np.array(weight) for weight in self.network.get_weights()]

    def _prepare(self) -> None:
        from busutils.models.backend import keras
        from busutils.models.encoder import names_of_encoder
        from busutils.models.losses import bce_dice_loss
        from busutils.models.optimizer import LayerwiseAdamW

        segmenter = self.segmenter
        self.network = segmenter._starting_network()
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.01 * segmenter.learning_rate,
            decay_steps=max(self.steps * (segmenter.epochs - 1), 1),
            alpha=0.01,
            warmup_target=segmenter.learning_rate,
            warmup_steps=self.steps,
        )
        scales = dict.fromkeys(names_of_encoder(self.network), ENCODER_LR_SCALE) if segmenter.encoder else {}
        self.optimizer = LayerwiseAdamW(rate, scales, weight_decay=1e-4)
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
        self.network.set_weights(self.average)
        segmenter.network_ = self.network
        segmenter.history_ = pd.DataFrame(self.history)
        segmenter.fitted_ = True
        segmenter.threshold_ = choose_threshold(segmenter, *self.validation)

    def _epoch(self, epoch: int) -> None:
        from busutils.models.backend import keras

        start = time.perf_counter()
        self._seed_dropout(epoch)
        follow = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: self._follow(step))
        fit = self.network.fit(self._batches(epoch), epochs=1, shuffle=False, verbose=0, callbacks=[follow])
        dice = math.nan
        if self.held_out.any():
            weights = self.network.get_weights()
            self.network.set_weights(self.average)
            images, masks = self.validation
            dice = mean_dice(masks, network_proba(self.network, images), 0.5)
            self.network.set_weights(weights)
        self.history.append(
            {
                "epoch": epoch + 1,
                "loss": float(fit.history["loss"][0]),
                "val_dice": dice,
                "seconds": time.perf_counter() - start,
            }
        )

    def _follow(self, step: int) -> None:
        """Move the average towards the weights. It stays beside them: the training never sees it."""
        every = 4  # reading the weights takes time
        if step % every != every - 1 and step != self.steps - 1:
            return
        done = len(self.history) * self.steps + step + 1
        # In the first steps there is little to average over.
        momentum = min(self.momentum, done / (done + 9)) ** every
        for average, weight in zip(self.average, self.network.get_weights(), strict=True):
            average += (1 - momentum) * (weight - average)

    def _order(self, epoch: int) -> np.ndarray:
        """Training images of an epoch; of several sources in proportion to the square roots of their sizes."""
        rng = np.random.default_rng([self.segmenter.seed, epoch])
        n_draws = self.steps * self.segmenter.batch_size  # whole batches, or the graph would be traced twice
        names, sources = np.unique(self.sources[~self.held_out], return_inverse=True)
        shares = np.sqrt(np.bincount(sources))
        ends = np.round(np.cumsum(shares) / shares.sum() * n_draws).astype(int)
        drawn = [
            np.resize(rng.permutation(np.flatnonzero(sources == index)), n)
            for index, n in enumerate(np.diff(ends, prepend=0))
        ]
        return rng.permutation(np.concatenate(drawn)) if len(names) > 1 else drawn[0]

    def _batches(self, epoch: int) -> Any:
        from busutils.models.backend import keras

        training, segmenter = self, self.segmenter
        augmented = any(strengths(segmenter.augmentation)) or segmenter.lesion_free > 0
        order = self._order(epoch)
        all_images, all_masks = self.train

        class Batches(keras.utils.PyDataset):
            def __init__(self) -> None:
                super().__init__(workers=2)  # threads prepare the next batches while the network computes

            def __len__(self) -> int:
                return training.steps

            def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
                chosen = order[step * segmenter.batch_size : (step + 1) * segmenter.batch_size]
                images, masks = all_images[chosen], all_masks[chosen]
                if augmented:
                    rng = np.random.default_rng([segmenter.seed, epoch, step])
                    images, masks = augment_batch(
                        images, masks, rng, strength=segmenter.augmentation, lesion_free=segmenter.lesion_free
                    )
                return images[..., None].astype(np.float32), masks[..., None].astype(np.float32)

        return Batches()

    def _seed_dropout(self, epoch: int) -> None:
        for layer in self.network.layers:
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:
                generator.state.assign(np.array([self.segmenter.seed, epoch + 1], dtype="uint32"))

    # -- checkpoints -----------------------------------------------------------------------------------------

    @functools.cached_property
    def _identity(self) -> str:
        return jobs.content_key(
            RECIPE_VERSION, self.segmenter, list(self.images), list(self.masks), self.held_out, self.sources.tolist()
        )

    def _variables(self) -> list[Any]:
        return [*self.network.weights, *self.optimizer.variables]

    def _state(self) -> list[np.ndarray]:
        return [np.asarray(variable) for variable in self._variables()]

    def _set_state(self, values: Sequence[np.ndarray]) -> None:
        for variable, value in zip(self._variables(), values, strict=True):
            variable.assign(value)

    def _save(self, path: Path) -> None:
        header = {"identity": self._identity, "history": self.history}
        arrays = {f"v{i:04d}": value for i, value in enumerate(self._state())}
        arrays |= {f"a{i:04d}": value for i, value in enumerate(self.average)}
        with jobs.atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]

    def _restore(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            header = json.loads(str(arrays["header"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise WeightsError(f"{path} is not a training checkpoint: delete it or name another file") from error
        if header["identity"] != self._identity:
            raise WeightsError(
                f"{path} belongs to a training with other images or settings: delete it or name another file"
            )
        self._set_state([arrays[name] for name in sorted(arrays) if name.startswith("v")])
        self.average = [arrays[name] for name in sorted(arrays) if name.startswith("a")]
        self.history = header["history"]
        logger.info("%s: resumed after epoch %d", path, len(self.history))
