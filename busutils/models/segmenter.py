"""What every method that draws a lesion can do: fit, predict, save, load.

A :class:`Segmenter` is a scikit-learn estimator of images: parameters in ``__init__`` only, ``get_params``,
``set_params`` and ``clone`` work. It takes a stack or a list of images of any size and gives maps of the same
sizes; the network's square is its own business.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy import ndimage
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from busutils.errors import BusutilsError
from busutils.io import resize_image, resize_map
from busutils.jobs import atomic_path

__all__ = ["FORMAT_VERSION", "Segmenter", "WeightsError", "check_images", "clean_mask", "read_archive"]

FORMAT_VERSION = 1
# Of files that are loaded: larger ones would take memory before they turn out to be damaged.
MAX_BYTES, MAX_HEADER_BYTES, MAX_SIZE = 2**31, 2**24, 4096

Images = np.ndarray | Sequence[np.ndarray]


class WeightsError(BusutilsError):
    """A file of saved weights that cannot be used, and why."""


def check_images(images: Images) -> list[np.ndarray]:
    """Turn a stack or a list of images into a list, or say in one sentence what is wrong with them.

    Parameters
    ----------
    images : (N, H, W) uint8 ndarray or sequence of (H, W) uint8 ndarray
        Grey images.

    Returns
    -------
    list of (H, W) uint8 ndarray

    Raises
    ------
    ValueError
        If an image is not two-dimensional, not uint8 or has no pixel.

    Examples
    --------
    >>> len(check_images(np.zeros((3, 8, 8), np.uint8)))
    3
    """
    if isinstance(images, np.ndarray) and images.ndim == 2 and images.dtype != object:
        raise BusutilsError("images must be a stack (N, H, W) or a list of images: for a single one give image[None]")
    checked = []
    for index, image in enumerate(images):
        image = np.asarray(image)
        if image.ndim != 2:
            raise BusutilsError(f"image {index} must be grey with shape (H, W), got {image.shape}")
        if image.dtype != np.uint8:
            raise BusutilsError(
                f"image {index} must be uint8 (0 to 255), got {image.dtype}: rescale and convert it first"
            )
        if image.size == 0:
            raise BusutilsError(f"image {index} has no pixel: shape {image.shape}")
        checked.append(image)
    return checked


def check_masks(masks: Images, images: list[np.ndarray]) -> list[np.ndarray]:
    """Check that there is one boolean mask of the right size for every image; return them as a list."""
    if len(masks) != len(images):
        raise BusutilsError(f"{len(images)} images but {len(masks)} masks: give one mask an image")
    for index, (mask, image) in enumerate(zip(masks, images, strict=True)):
        if np.asarray(mask).dtype != bool or np.shape(mask) != image.shape:
            raise BusutilsError(
                f"mask {index} must be boolean with its image's shape {image.shape}, "
                f"got {np.asarray(mask).dtype} {np.shape(mask)}"
            )
    return [np.asarray(mask) for mask in masks]


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill what the background cannot reach from the image's edge; labelling is faster than scipy's growing inwards."""
    background, _ = ndimage.label(~np.pad(mask, 1))
    return background[1:-1, 1:-1] != 1


def clean_mask(mask: np.ndarray, *, min_area: float = 0.0, largest: bool = False, fill: bool = True) -> np.ndarray:
    """Post-process a mask: fill holes, drop small regions, optionally keep the largest region only.

    Parameters
    ----------
    mask : (H, W) bool ndarray
        A thresholded prediction.
    min_area : float, default 0
        Regions smaller than this share of the image are dropped.
    largest : bool, default False
        Keep only the largest region. Wrong for images with several lesions.
    fill : bool, default True
        Fill holes: a lesion has none.

    Returns
    -------
    (H, W) bool ndarray

    Examples
    --------
    >>> mask = np.zeros((10, 10), bool)
    >>> mask[1:5, 1:5] = True
    >>> mask[2, 2] = False
    >>> mask[8, 8] = True
    >>> clean_mask(mask, min_area=0.02).sum()
    np.int64(16)
    """
    cleaned = np.zeros(mask.shape, bool)
    if not mask.any():
        return cleaned
    # Holes and regions lie within the lesions' bounding box, which is a small part of most images.
    box = tuple(
        slice(line.argmax(), line.size - line[::-1].argmax()) for line in (np.any(mask, axis=1), np.any(mask, axis=0))
    )
    part = fill_holes(mask[box]) if fill else mask[box]
    if min_area > 0 or largest:
        regions, _ = ndimage.label(part, structure=np.ones((3, 3)))
        areas = np.bincount(regions.ravel())
        keep = areas >= max(min_area * mask.size, 1)
        keep[0] = False
        if largest:
            keep &= np.arange(len(areas)) == 1 + areas[1:].argmax()
        part = keep[regions]
    cleaned[box] = part
    return cleaned


class Segmenter(BaseEstimator):
    """Base of all methods that draw a lesion.

    A subclass sets `supervised`, and writes ``_fit(images, masks, **options)`` and ``_square_proba(squares)``. It may
    choose `threshold_`, which is saved with it, replace `postprocess`, and keep fitted arrays, which ``_arrays`` and
    ``_set_arrays`` save and load. Parameters named in ``__init__`` are the configuration. An entry in ``models.METHODS``
    makes it known to benchmarks and to files. A subclass needs a parameter ``size``: the square, in pixels, it works on. Everything else that a caller
    may ask for stands here with a default.

    Attributes
    ----------
    supervised : bool
        Whether :meth:`fit` needs masks.
    thread_safe : bool
        Whether threads may call :meth:`predict` at the same time.
    runtime : str
        What computes the network: one of :data:`busutils.models.runtimes.RUNTIMES`; empty where there is no network.
    network_ : keras.Model or None
        The trained network, where Keras runs one.
    min_area : float
        Predicted regions smaller than this share of the image are dropped.
    provenance : dict
        What shaped this method, saved with it; empty where nobody said so. ``sets``: names of the sets it was trained on;
        ``folds``: of each, the fold that was left out, or None; ``seed`` and ``recipe`` of the training.
    """

    supervised: ClassVar[bool] = True
    thread_safe: ClassVar[bool] = False
    runtime: str = ""
    _classes: ClassVar[dict[str, type[Segmenter]]] = {}

    size: int
    min_area: float = 0.0
    network_: Any = None
    fitted_: bool = False
    _provenance: Mapping[str, Any] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Segmenter._classes[cls.__name__] = cls

    # -- fitting and predicting ------------------------------------------------------------------------------

    def fit(
        self,
        images: Images,
        masks: Images | None = None,
        *,
        groups: Sequence[Any] | None = None,
        sources: Sequence[Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> Self:
        """Learn from images, and from masks where the method is a supervised one.

        Parameters
        ----------
        images : (N, H, W) uint8 ndarray or sequence of (H, W) uint8 ndarray
            Training images.
        masks : boolean arrays of the images' shapes, optional
            Reference masks. An unsupervised method never looks at them; a supervised one requires them.
        groups : (N,) sequence, optional
            Group of every image, such as its patient: a method that sets images aside keeps a group on one side.
        sources : (N,) sequence, optional
            The set that every image comes from: a method may balance the sets.
        checkpoint : path-like, optional
            File that holds a long training while it runs; the same call takes it up again.
        progress : bool, default False
            Show a progress bar, if fitting takes long.

        Returns
        -------
        Segmenter
            Itself. A method that has no use for an option ignores it.

        Raises
        ------
        ValueError
            If the images or masks are malformed, or masks are missing where they are needed.
        """
        images = check_images(images)
        if not images:
            raise BusutilsError("cannot fit on no image at all: check the subset you selected")
        if self.supervised and masks is None:
            raise BusutilsError(f"{type(self).__name__} learns from masks: call fit(images, masks)")
        for name, values in (("groups", groups), ("sources", sources)):
            if values is not None and len(values) != len(images):
                raise BusutilsError(f"{len(images)} images but {len(values)} {name}: give one of the {name} an image")
        seen = check_masks(masks, images) if self.supervised and masks is not None else None
        self._fit(images, seen, groups=groups, sources=sources, checkpoint=checkpoint, progress=progress)
        self.fitted_ = True
        return self

    def check_settings(self) -> None:
        """Refuse settings with which :meth:`fit` or :meth:`predict` could only fail.

        Raises
        ------
        ValueError
            If a setting is out of its range.
        """

    def predict_proba(self, images: Images) -> np.ndarray | list[np.ndarray]:
        """Probability, pixel by pixel, that it belongs to a lesion.

        Parameters
        ----------
        images : (N, H, W) uint8 ndarray or sequence of (H, W) uint8 ndarray
            Images of any sizes.

        Returns
        -------
        (N, H, W) float32 ndarray or list of (H, W) float32 ndarray
            In [0, 1], in the form and sizes of the input. Methods without a notion of probability give 0 and 1.

        Raises
        ------
        ValueError
            If the images are malformed.
        sklearn.exceptions.NotFittedError
            If the method was neither fitted nor loaded.
        """
        checked = check_images(images)
        self._check_fitted()
        maps: list[np.ndarray] = []
        # Blocks keep the memory flat however many images there are.
        for start in range(0, len(checked), 64):
            block = checked[start : start + 64]
            squares = np.stack([resize_image(image, self.size) for image in block])
            probs = np.asarray(self._square_proba(squares), dtype=np.float32)
            maps += [np.clip(resize_map(prob, image.shape), 0, 1) for prob, image in zip(probs, block, strict=True)]
        return self._like(images, maps, np.float32)

    def predict(self, images: Images) -> np.ndarray | list[np.ndarray]:
        """Masks of the lesions: the probability at or above `threshold_`, post-processed.

        Parameters
        ----------
        images : (N, H, W) uint8 ndarray or sequence of (H, W) uint8 ndarray
            Images of any sizes.

        Returns
        -------
        (N, H, W) bool ndarray or list of (H, W) bool ndarray
            In the form and sizes of the input. An empty mask says that nothing was found.
        """
        return self.masks_from(self.predict_proba(images))

    def masks_from(self, probs: np.ndarray | Sequence[np.ndarray]) -> np.ndarray | list[np.ndarray]:
        """Turn probability maps of this method into masks, as :meth:`predict` does.

        Parameters
        ----------
        probs : (N, H, W) float ndarray or sequence of (H, W) float ndarray
            What :meth:`predict_proba` returned.

        Returns
        -------
        boolean arrays of the same form and sizes.
        """
        masks = [self.postprocess(np.asarray(prob) >= self.threshold_) for prob in probs]
        return self._like(probs, masks, bool)

    @staticmethod
    def _like(given: Any, results: list[np.ndarray], dtype: Any) -> np.ndarray | list[np.ndarray]:
        if isinstance(given, np.ndarray) and given.dtype != object:
            return np.stack(results) if results else np.zeros(given.shape, dtype)
        return results

    @property
    def threshold_(self) -> float:
        """Probability from which a pixel counts as lesion; chosen on validation groups where the method learns it."""
        return float(self.__dict__.get("_threshold", 0.5))

    @threshold_.setter
    def threshold_(self, value: float) -> None:
        self._threshold = float(value)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What shaped this method, see the attributes of :class:`Segmenter`."""
        return self._provenance

    @provenance.setter
    def provenance(self, value: Mapping[str, Any]) -> None:
        self._provenance = dict(value)

    @property
    def init_file(self) -> Path | None:
        """File of the weights that a training begins with, if any: their content shapes the result."""
        return None

    def postprocess(self, mask: np.ndarray) -> np.ndarray:
        """Turn a thresholded probability map into the mask that :meth:`predict` gives.

        Parameters
        ----------
        mask : (H, W) bool ndarray
            Where the probability reaches the threshold.

        Returns
        -------
        (H, W) bool ndarray
            Without holes, and without regions below `min_area`.
        """
        return clean_mask(mask, min_area=self.min_area)

    # -- what a subclass writes ------------------------------------------------------------------------------

    def _fit(self, images: list[np.ndarray], masks: list[np.ndarray] | None, **options: Any) -> None:
        raise NotImplementedError

    def _square_proba(self, squares: np.ndarray) -> np.ndarray:
        """Probability maps (N, size, size) of square images (N, size, size) uint8."""
        raise NotImplementedError

    def _arrays(self) -> dict[str, np.ndarray]:
        return {}

    def _set_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        if arrays:
            raise WeightsError(f"{type(self).__name__} has no weights, but the file holds {len(arrays)} arrays")

    def _state(self) -> dict[str, Any]:
        """Small fitted values beside the arrays, as JSON."""
        state: dict[str, Any] = {"threshold": self.threshold_}
        return {**state, "provenance": dict(self._provenance)} if self._provenance else state

    def _set_state(self, state: dict[str, Any]) -> None:
        self.threshold_ = state.get("threshold", 0.5)
        if state.get("min_confidence", state.get("confidence")):
            raise WeightsError("the file drops regions by a minimum confidence, as version 0.1 did: train it again")
        self.provenance = state.get("provenance", {})

    def _check_fitted(self) -> None:
        if self.supervised and not self.fitted_:
            raise NotFittedError(f"this {type(self).__name__} was not fitted: call fit(images, masks) or load(path)")

    # -- saving and loading ----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> Path:
        """Write the segmenter to one file: weights as arrays, configuration as JSON, no pickle.

        Parameters
        ----------
        path : path-like
            Usually ends in ``.npz``.
        half : bool, default False
            Keep weights as float16: half the size, and a difference in Dice far below 0.001. An array with values beyond
            the range of float16 stays as it is.

        Returns
        -------
        pathlib.Path
            The file. It is whole, or it is not there.
        """
        self._check_fitted()
        header = {
            "format": FORMAT_VERSION,
            "class": type(self).__name__,
            "params": self.get_params(deep=False),
            "state": self._state(),
        }
        arrays = self._arrays()
        if half:
            arrays = {k: _halved(v) if v.dtype == np.float32 else v for k, v in arrays.items()}
        path = Path(path)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **{"header": np.array(json.dumps(header)), **arrays})  # type: ignore[arg-type]
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Segmenter:
        """Read a segmenter that :meth:`save` wrote.

        Parameters
        ----------
        path : path-like
            The file.

        Returns
        -------
        Segmenter
            Of the class that was saved, ready to predict.

        Raises
        ------
        WeightsError
            If there is no such file, it is not a segmenter's, it is damaged or of a newer format, or it holds a
            method other than `cls`.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise WeightsError(f"there is no weights file {path}: check the path")
        try:
            return cls._from_archive(path, *read_archive(path))
        except (WeightsError, ImportError):
            raise
        except Exception as error:  # what a damaged file makes fail cannot be listed
            wrong = f"{path} is not a file of saved weights, or is damaged: give one that Segmenter.save wrote"
            raise WeightsError(wrong) from error

    @classmethod
    def _from_archive(cls, path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Segmenter:
        if header["format"] > FORMAT_VERSION:
            raise WeightsError(f"{path} has format {header['format']}, newer than {FORMAT_VERSION}: update busutils")
        from busutils import models

        if header["class"] in models.METHODS.values():
            getattr(models, header["class"])  # its import makes the class known
        if header["class"] not in Segmenter._classes:
            raise WeightsError(
                f"{path} holds an unknown method {header['class']!r}: import its module first, or use the version of "
                "busutils that wrote it"
            )
        subclass = Segmenter._classes[header["class"]]
        if not issubclass(subclass, cls):
            raise WeightsError(
                f"{path} holds a {header['class']}, not a {cls.__name__}: load it with busutils.models.load"
            )
        if unknown := sorted(set(header["params"]) - set(subclass._get_param_names())):
            raise WeightsError(f"{path} has unknown settings {', '.join(unknown)}: it was written by another version")
        # JSON has no tuples; scikit-learn wants parameters kept as they came.
        segmenter = subclass(**{name: tuple(v) if isinstance(v, list) else v for name, v in header["params"].items()})
        with contextlib.suppress(WeightsError):  # the weights that the training began with may be gone by now
            segmenter.check_settings()
        segmenter._check_bounds()  # before memory is taken; and again what the file's state says
        arrays = {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in arrays.items()}
        segmenter._set_arrays(arrays)
        segmenter._set_state(header["state"])
        if not all(np.isfinite(values).all() for values in arrays.values()):
            raise WeightsError(f"{path} holds weights that are no finite numbers: train or save it again")
        segmenter._check_bounds()
        segmenter.fitted_ = True
        return segmenter

    def _check_bounds(self) -> None:
        """Refuse what a file says of size and thresholds, where memory would not suffice or nothing would be found."""
        if not isinstance(self.size, int) or not 1 <= self.size <= MAX_SIZE:
            raise WeightsError(f"the size must be a whole number from 1 to {MAX_SIZE}, the file says {self.size!r}")
        shares = {"threshold": self.threshold_, "min_area": self.min_area}
        for name, value in shares.items():
            if not 0 <= value <= 1:  # nor is NaN
                raise WeightsError(f"{name} must lie in [0, 1], the file says {value!r}")


def read_archive(path: Path, only: str = "") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a saved segmenter, whose sizes are looked at before memory is taken.

    Parameters
    ----------
    path : Path
        A file of :meth:`Segmenter.save`.
    only : str, optional
        Read this array alone, such as ``"header"``.

    Returns
    -------
    header : dict
    arrays : dict of str to ndarray

    Raises
    ------
    Exception
        Of many classes, if the file is damaged; :meth:`Segmenter.load` makes one of them.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
            raise WeightsError(f"{path} unpacks to more than {MAX_BYTES / 2**30:g} GiB: it is no file of saved weights")
        for entry in archive.infolist():
            if only and entry.filename != f"{only}.npy":
                continue
            with archive.open(entry) as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise BusutilsError(f"{entry.filename} is written in another way than by numpy.savez")
                shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
                if dtype.hasobject or math.prod(shape) * dtype.itemsize != entry.file_size - file.tell():
                    raise BusutilsError(f"{entry.filename} has another size than it says")
                if entry.filename == "header.npy" and entry.file_size > MAX_HEADER_BYTES:
                    raise BusutilsError("the header is too long")
                values = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if by_column else "C")
            arrays[entry.filename.removesuffix(".npy")] = values
    return json.loads(str(arrays.pop("header"))), arrays


def _halved(values: np.ndarray) -> np.ndarray:
    return values if np.abs(values).max(initial=0) > np.finfo(np.float16).max else values.astype(np.float16)
