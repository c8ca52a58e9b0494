"""Record and LesionDataset: images with masks, labels and groups, their arrays and their folds."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from busutils.datasets import cache, splits
from busutils.errors import BusutilsError
from busutils.io import (
    DatasetError,
    DatasetWarning,
    PixelSource,
    read_image,
    read_mask,
    resize_image,
    resize_mask,
    sizes_agree,
)

LABELS = ("benign", "malignant", "normal", "unknown")

# Decoding releases the interpreter lock, so a few threads keep the cores of a small machine busy.
_READERS = 4
# A subset smaller than this share of its set is read by itself instead of filling the cache for the whole
# set.
_WORTH_CACHING = 0.25
# A mask above this share of its image is probably inverted.
_LARGE = 0.9


@dataclass(frozen=True)
class Record:
    """One image of a set, with its masks and what is known about it.

    Parameters
    ----------
    id : str
        File name without suffix, unique within its set.
    image : Path or PixelSource
        Where the pixels come from: a file, or an object with ``read()`` (simulated and raw-data images).
    masks : tuple of Path or PixelSource
        One entry a mask file; they are joined. Empty means that no pixel is lesion.
    label : {'benign', 'malignant', 'normal', 'unknown'}
    group : str
        Images that must stay on one side of a split share it: a patient, a case, or near-duplicates of one scene.
    source : str
        Key of the set the image comes from.
    spacing : (float, float), optional
        Height and width of a pixel, (dy, dx) in mm, where known.
    notes : tuple of str
        What a user should know about this image.
    extras : mapping
        Further descriptors by name: BI-RADS category, device, shape, margin, posterior feature …
    """

    id: str
    image: Path | PixelSource
    masks: tuple[Path | PixelSource, ...]
    label: str
    group: str
    source: str
    spacing: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)

    def __post_init__(self) -> None:
        if self.label not in LABELS:
            raise BusutilsError(f"label of {self.id!r} is {self.label!r}; it must be one of {', '.join(LABELS)}.")


def read_record(record: Record, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read one record, all its masks joined.

    Parameters
    ----------
    record : Record
    size : int, optional
        Side of the square that image and mask are resized to; by default they keep the size of the image file.

    Returns
    -------
    image : (H, W) uint8 ndarray
    mask : (H, W) bool ndarray
        At the size of the image, whatever the size of the mask files.

    Raises
    ------
    DatasetError
        If a file is broken, or a mask has the size of another picture.
    """
    image = read_image(record.image)
    height, width = image.shape
    shape = (height, width) if size is None else (size, size)
    mask = np.zeros(shape, bool)
    for source in record.masks:
        level = read_mask(source)
        if not sizes_agree(level.shape, image.shape):
            name = source if isinstance(source, Path) else f"a mask of {record.id}"
            raise DatasetError(
                f"{name} has {level.shape[0]} x {level.shape[1]} pixels (height x width) but its image has "
                f"{height} x {width}; the mask belongs to another picture: replace it or take the image out."
            )
        mask |= resize_mask(level, shape, image.shape)
    return image if size is None else resize_image(image, shape), mask


def looks_inverted(masks: np.ndarray) -> np.ndarray:
    """Find masks that cover more than 90 % of their image or all of its edge, as if black meant lesion.

    Parameters
    ----------
    masks : (N, H, W) bool ndarray

    Returns
    -------
    (N,) bool ndarray
    """
    edge = (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1])
    around = np.all([side.all(axis=1) for side in edge], axis=0)
    return around | (np.count_nonzero(masks, axis=(1, 2)) > _LARGE * masks.shape[1] * masks.shape[2])


class LesionDataset:
    """An ordered set of breast-ultrasound images with masks, labels and groups.

    Parameters
    ----------
    records : iterable of Record
    name : str
        What tables and figures call the set.
    key : str, optional
        Key of the catalogue, by which shipped folds are found; ``name`` when left out.
    warnings : iterable of str
        What the reader had to say about the set.
    folds : (N,) int ndarray, optional
        Fold of every record, where it is not found by key and group, see :meth:`folds`.

    Raises
    ------
    DatasetError
        If an id occurs twice.

    Examples
    --------
    >>> from busutils import datasets
    >>> phantoms = datasets.load("phantom", n=6, size=64)
    >>> images, masks = phantoms.load_arrays(32)
    >>> images.shape, masks.dtype
    ((6, 32, 32), dtype('bool'))
    """

    def __init__(
        self,
        records: Iterable[Record],
        *,
        name: str,
        key: str | None = None,
        warnings: Iterable[str] = (),
        folds: np.ndarray | None = None,
    ) -> None:
        self.records: tuple[Record, ...] = tuple(records)
        self.name = name
        self.key = key or name
        self.warnings = tuple(warnings)
        # The set that this one was taken from, and the positions of its records there.
        self._whole: LesionDataset = self
        self._index = np.arange(len(self.records))
        self._folds = folds
        twice = [id_ for id_, count in Counter(record.id for record in self.records).items() if count > 1]
        if twice:
            raise DatasetError(
                f"{name}: id {twice[0]!r} occurs more than once ({len(twice)} such ids); rename the files."
            )

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    def __repr__(self) -> str:
        counts = Counter(record.label for record in self.records)
        parts = ", ".join(f"{counts[label]} {label}" for label in LABELS if counts[label])
        return f"<LesionDataset {self.name}: {len(self)} images ({parts or 'empty'})>"

    @property
    def ids(self) -> np.ndarray:
        """Ids of the records, (N,) str."""
        return np.array([record.id for record in self.records], dtype=str)

    @property
    def labels(self) -> np.ndarray:
        """Labels of the records, (N,) str."""
        return np.array([record.label for record in self.records], dtype=str)

    @property
    def groups(self) -> np.ndarray:
        """Groups of the records, (N,) str."""
        return np.array([record.group for record in self.records], dtype=str)

    @property
    def sources(self) -> np.ndarray:
        """Key of the set that each record comes from, (N,) str."""
        return np.array([record.source for record in self.records], dtype=str)

    def subset(self, mask_or_ids: Sequence | np.ndarray, *, name: str | None = None) -> LesionDataset:
        """Take some of the records; they keep the fold numbers they have in this set.

        Parameters
        ----------
        mask_or_ids : (N,) bool, or sequence of str, or sequence of int
            Which records: a mask over all of them, ids, or positions. Ids and positions set the order.
        name : str, optional
            Name of the subset; by default the name of this set.

        Returns
        -------
        LesionDataset

        Raises
        ------
        KeyError
            If an id is not in the set.
        BusutilsError
            If a mask has another length than the set.
        """
        chosen = np.asarray(mask_or_ids)
        if chosen.size == 0 and chosen.dtype != bool:
            index = np.zeros(0, int)
        elif chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise BusutilsError(f"the mask has shape {chosen.shape}, the set has {len(self)} records.")
            index = np.flatnonzero(chosen)
        elif np.issubdtype(chosen.dtype, np.integer):
            index = np.arange(len(self))[chosen]
        else:
            place = {record.id: i for i, record in enumerate(self.records)}
            missing = [id_ for id_ in chosen.tolist() if id_ not in place]
            if missing:
                raise KeyError(f"{self.name} has no image {missing[0]!r} ({len(missing)} ids not found).")
            index = np.array([place[id_] for id_ in chosen.tolist()])
        records = [self.records[i] for i in index]
        folds = None if self._folds is None else self._folds[index]
        part = LesionDataset(records, name=name or self.name, key=self.key, warnings=self.warnings, folds=folds)
        part._whole, part._index = self._whole, self._index[index]
        return part

    def lesions(self) -> LesionDataset:
        """Take all records but the normal ones.

        Returns
        -------
        LesionDataset
        """
        return self.subset(self.labels != "normal")

    def table(self) -> pd.DataFrame:
        """Describe the records: one row an image, columns id, label, group, fold, source, masks, extras.

        Returns
        -------
        DataFrame
        """
        rows = [
            {
                "id": record.id,
                "label": record.label,
                "group": record.group,
                "source": record.source,
                "n_masks": len(record.masks),
                "dy_mm": record.spacing[0] if record.spacing else None,
                "dx_mm": record.spacing[1] if record.spacing else None,
                "notes": "; ".join(record.notes),
                **record.extras,
            }
            for record in self.records
        ]
        columns = ["id", "label", "group", "source", "n_masks", "dy_mm", "dx_mm", "notes"]
        table = pd.DataFrame(rows, columns=None if rows else columns)
        try:
            fold: Any = self.folds()
        except DatasetError:  # the table shows the images that the shipped folds do not list
            fold = pd.NA
        table.insert(3, "fold", fold)
        return table

    def load_native(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read one image and its joined mask at the size of the image file.

        Parameters
        ----------
        index : int
            Position in the set.

        Returns
        -------
        image : (H, W) uint8 ndarray
        mask : (H, W) bool ndarray

        Raises
        ------
        DatasetError
            If a file is broken, or a mask has the size of another picture.
        """
        return read_record(self.records[index])

    def load_arrays(self, size: int = 256, *, use_cache: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Read every image and mask, squeezed into one square.

        The arrays are kept in the user's cache (see :func:`busutils.datasets.cache_info`) and made again when
        a file has changed its size or date.

        Parameters
        ----------
        size : int
            Side of the square in pixels.
        use_cache : bool
            ``False`` reads the files and leaves the cache alone.

        Returns
        -------
        images : (N, size, size) uint8 ndarray
        masks : (N, size, size) bool ndarray

        Raises
        ------
        DatasetError
            If a file is broken, a mask has the size of another picture or may mean two things, or no mask of the set shows
            a lesion.

        Warns
        -----
        DatasetWarning
            If masks look inverted: they cover more than 90 % of their image, or all of its edge.
        """
        images, masks = self._cached_arrays(int(size)) if use_cache else self._read_all(int(size))
        self._check_masks(masks)
        return images, masks

    def _cached_arrays(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        sides = {getattr(record.image, "side", None) for record in self.records}
        if len(sides) == 1 and (side := sides.pop()) not in (None, size):
            # Simulating takes longer than resizing: a simulated set is made once, at its own size.
            images, masks = self._cached_arrays(side)
            return (
                np.stack([resize_image(image, size) for image in images]),
                np.stack([resize_mask(mask, size) for mask in masks]),
            )
        whole = self._whole
        entry = cache.entry_of(whole.records, size)
        if entry is None or not (entry.exists() or len(self) >= _WORTH_CACHING * len(whole)):
            return self._read_all(size)
        try:
            images, masks = cache.load_or_make(entry, lambda: whole._read_all(size))
        except DatasetError:
            if whole is self:
                raise
            return self._read_all(size)  # the broken file may not be in this subset
        return (images, masks) if whole is self else (images[self._index], masks[self._index])

    def _check_masks(self, masks: np.ndarray) -> None:
        """Refuse a set whose masks are all empty; warn of masks that look inverted."""
        lesions = np.array([record.label != "normal" and bool(record.masks) for record in self.records], bool)
        # A subset may hold empty masks only: the whole set decides.
        if lesions.any() and not masks[lesions].any() and not self._whole._has_lesion():
            raise DatasetError(
                f"{self.name}: no mask shows a lesion: are they the right files? If all images are normal, label them so."
            )
        large = np.flatnonzero(looks_inverted(masks))
        if large.size:
            named = ", ".join(self.ids[large[:5]]) + (" …" if large.size > 5 else "")
            warnings.warn(
                f"{self.name}: {large.size} masks cover more than {_LARGE:.0%} of their image or all of its edge ({named}): "
                "if black means lesion there, invert them.",
                DatasetWarning,
                stacklevel=3,
            )

    def _has_lesion(self) -> bool:
        for record in self.lesions():
            with contextlib.suppress(DatasetError):  # a broken file may not be in the subset that asks
                if read_record(record)[1].any():
                    return True
        return False

    def _read_all(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        images = np.zeros((len(self), size, size), np.uint8)
        masks = np.zeros((len(self), size, size), bool)

        def read_into(position: int) -> None:
            images[position], masks[position] = read_record(self.records[position], size)

        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(read_into, range(len(self))))
        return images, masks

    def folds(self) -> np.ndarray:
        """Fold number of every record, 1 to 5; a group is never in two folds.

        An adopted set has its own. Where ``folds/<key>.csv`` is shipped the numbers come from there, by id (fold 5 is the one that shipped weights
        never saw); else from the name of the group alone (:func:`busutils.datasets.fold_of_group`), so that a set that
        grows keeps the folds it has.

        Returns
        -------
        (N,) int ndarray

        Raises
        ------
        DatasetError
            If folds are shipped for the set but do not list one of its images.
        """
        if self._folds is not None:
            return self._folds.copy()
        shipped = splits.shipped_folds(self.key)
        if shipped is None:
            return np.array([splits.fold_of_group(group) for group in self.groups], int)
        unlisted = self.ids[~np.isin(self.ids, shipped.index)].tolist()
        if unlisted:
            named = ", ".join(unlisted[:5]) + (" …" if len(unlisted) > 5 else "")
            raise DatasetError(
                f"{self.name}: the shipped folds do not list {len(unlisted)} of {len(self)} images ({named}): take them out, "
                "or load the images with the key 'folder'."
            )
        return shipped.loc[self.ids, "fold"].to_numpy(int)

    def split(self, fold: int) -> tuple[LesionDataset, LesionDataset]:
        """Split into train and test: the test part is one fold.

        Parameters
        ----------
        fold : int
            1 to 5.

        Returns
        -------
        train, test : LesionDataset

        Raises
        ------
        LeakError
            If a group has images on both sides.
        BusutilsError
            If no record is in that fold.

        Examples
        --------
        >>> from busutils import datasets
        >>> train, test = datasets.load("phantom", n=20, size=32).split(5)
        >>> len(train) + len(test), bool(set(train.groups) & set(test.groups))
        (20, False)
        """
        folds = self.folds()
        if not (folds == fold).any():
            raise BusutilsError(
                f"{self.name} has no fold {fold!r}; folds here: {', '.join(map(str, np.unique(folds)))}."
            )
        train, test = self.subset(folds != fold), self.subset(folds == fold)
        splits.check_no_leak(train.groups, test.groups)
        return train, test


def concatenate(*datasets: LesionDataset, name: str | None = None) -> LesionDataset:
    """Join sets; ids and groups get the key of their set in front, so that none meet by chance.

    Parameters
    ----------
    *datasets : LesionDataset
        Sets of different keys.
    name : str, optional
        By default the names joined by ``+``.

    Returns
    -------
    LesionDataset
        Every record keeps the fold number it has in its own set.

    Raises
    ------
    DatasetError
        If an id occurs twice, as when a set is joined with itself.
    """
    records = [
        replace(record, id=f"{part.key}:{record.id}", group=f"{part.key}:{record.group}")
        for part in datasets
        for record in part
    ]
    warnings = [warning for part in datasets for warning in part.warnings]
    folds = np.concatenate([part.folds() for part in datasets]) if datasets else None
    return LesionDataset(records, name=name or "+".join(part.name for part in datasets), warnings=warnings, folds=folds)
