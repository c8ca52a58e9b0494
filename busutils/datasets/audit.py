"""Audit of an image set: near-duplicates, contradictory labels, broken files and burnt-in marks, as tables.

Near-duplicates are found in three steps. Small grey thumbnails (of the whole frame, and of parts of it for crops) give
each image a few candidates by their dot products. Each candidate pair is then registered at a quarter of the size, and
where that matches, at full size: the speckle and edges of both frames (band-passed, local contrast normalised) are
cross-correlated over all shifts, at equal height and at equal pixel size. Frames of different patients share no speckle,
however similar their layers look.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy import fft, ndimage
from tqdm import tqdm

from busutils.datasets import splits
from busutils.datasets.lesions import LesionDataset, Record, read_record
from busutils.io import DatasetError, PixelSource, open_picture, read_image, resize_image
from busutils.jobs import atomic_path

#: Pairs with at least this similarity are near-duplicates (chosen on BUSI, where every pair above it was inspected).
SAME_SCENE = 0.355
#: Pairs above this are the same image, perhaps with other marks on it.
SAME_IMAGE = 0.85

_THUMB = 16
# Pairs below this at a quarter of the size are not near-duplicates: the weakest copy in BUSI has 0.53, simulated copies
# that were cropped and stretched have 0.38 and more.
_NEAR = 0.38
_STRETCHED_NEAR = 0.55  # the same after stretching: unrelated images reach 0.45
_STRETCHED_SCENE = 0.45  # the best of many stretches fits unrelated images better than one shift does; copies reach 0.6
_STRETCHES = (0.86, 0.93, 1.0, 1.075, 1.16)
_KEPT = 500  # images whose spectra are kept while their pairs are registered
_TINY = 0.001  # a lesion below this share of its image is called tiny
# Thresholds set on simulated images with and without calipers and text.
_BURNT_STEP, _BURNT_LEVEL, _BURNT_PX = 80, 180, 12
# Channels of a grey picture are equal, or differ by a little after JPEG; the thin box of a Doppler window differs by more.
_COLOURED, _COLOURED_PX = 20, 50
_WORKERS = 2


def thumbnails(image: np.ndarray) -> np.ndarray:
    """Shrink an image, and the parts of it that a crop may have kept, to small squares.

    Parameters
    ----------
    image : (H, W) uint8 ndarray

    Returns
    -------
    (4, 256) float32 ndarray
        Whole frame; middle of the frame; left and right part at the aspect ratio 4 : 5.
    """
    height, width = image.shape
    top, side = height // 10, width // 10
    narrow = max(1, min(width, int(height * 1.1)))
    middle = image[top : height - top, side : width - side]
    parts = (image, middle, image[:, :narrow], image[:, width - narrow :])
    small = [resize_image(part, _THUMB).ravel() for part in parts]
    rows = np.stack(small).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def candidate_pairs(vectors: np.ndarray, *, neighbours: int = 10) -> np.ndarray:
    """Find the pairs of most similar vectors by comparing all with all.

    Parameters
    ----------
    vectors : (N, D) float32 ndarray
        Rows of unit length.
    neighbours : int
        Pairs kept for each row.

    Returns
    -------
    (M, 2) int ndarray
        Positions, the smaller first, each pair once, sorted.

    Examples
    --------
    >>> candidate_pairs(np.array([[1, 0], [0, 1], [0.99, 0.1]], np.float32), neighbours=1)
    array([[0, 2],
           [1, 2]])
    """
    n = len(vectors)
    if n < 2:
        return np.zeros((0, 2), int)
    near = np.zeros((n, min(neighbours, n - 1)), int)
    for start in range(0, n, 512):
        similarity = vectors[start : start + 512] @ vectors.T
        rows = np.arange(len(similarity))
        similarity[rows, start + rows] = -np.inf
        near[start : start + 512] = np.argpartition(-similarity, near.shape[1] - 1, axis=1)[:, : near.shape[1]]
    pairs = np.stack([np.repeat(np.arange(n), near.shape[1]), near.ravel()], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


class _Grid(NamedTuple):
    """How frames are made ready for registration."""

    rows: int  # height of both frames, the first time
    shrink: int  # factor by which both frames are made smaller, the second time, whatever their height
    room: tuple[int, int]  # with space to shift
    blurs: tuple[float, float, float]  # finest and coarsest detail kept, neighbourhood of the local contrast
    fair_area: int  # pixels of a frame below which chance matches grow


_FINE = _Grid(112, 5, (192, 288), (0.8, 5, 8), 9000)
_COARSE = _Grid(28, 20, (48, 72), (0.5, 2.5, 4), 560)


def _detail(image: np.ndarray, scale: tuple[float, float], grid: _Grid) -> np.ndarray:
    """Speckle and edges of a shrunk image: int8, local contrast evened out."""
    fine, coarse, around = grid.blurs
    sides = zip(image.shape, scale, grid.room, strict=True)
    small = resize_image(image, tuple(min(max(8, round(side * by)), room) for side, by, room in sides))
    small = small.astype(np.float32)
    detail = ndimage.gaussian_filter(small, fine) - ndimage.gaussian_filter(small, coarse)
    detail /= np.sqrt(ndimage.gaussian_filter(detail * detail, around)) + 3
    detail = np.clip(detail, -2.5, 2.5)  # so that burnt-in text does not outweigh tissue
    detail[small < 3] *= 0.3
    return np.rint(detail * 50).astype(np.int8)


def _details(image: np.ndarray, grid: _Grid) -> list[np.ndarray]:
    """Speckle and edges at the grid's height, and at its pixel size."""
    return [_detail(image, (by, by), grid) for by in (grid.rows / image.shape[0], 1 / grid.shrink)]


def _spectra(details: Sequence[np.ndarray], grid: _Grid) -> np.ndarray:
    """Spectra (N, rows, columns) complex64 of details in a larger empty frame."""
    frames = np.zeros((len(details), *grid.room), np.float32)
    for frame, detail in zip(frames, details, strict=True):
        # A small frame matches others by chance: it may only count less than its own area would let it.
        norm = np.linalg.norm(detail.astype(np.float32)) * max(1.0, np.sqrt(grid.fair_area / detail.size))
        frame[: detail.shape[0], : detail.shape[1]] = detail / max(norm, 1e-6)
    return fft.rfft2(frames)


def _best_match(first: np.ndarray, second: np.ndarray, grid: _Grid) -> np.ndarray:
    """Largest cross-correlation over all shifts, for each pair of spectra."""
    return fft.irfft2(np.conj(first) * second, s=grid.room).max(axis=(-2, -1))


def stretched_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Similarity of two images when one was cut out of the other's scene and stretched.

    Height and width of the second are stretched apart from each other, by up to a sixth: coarsely at a quarter of the
    size, and where that matches, finely at full size.

    Parameters
    ----------
    first, second : (H, W) uint8 ndarray

    Returns
    -------
    float
        Largest cross-correlation over all stretches and shifts; 0 where the coarse search found nothing.
    """
    at = (1.0, 1.0)
    for grid, steps in ((_COARSE, _STRETCHES), (_FINE, (0.97, 1.0, 1.03))):
        by = grid.rows / first.shape[0]
        own = _spectra([_detail(first, (by, by), grid)], grid)
        by = grid.rows / second.shape[0]
        stretches = [(at[0] * high, at[1] * wide) for high in steps for wide in steps]
        others = [_detail(second, (by * high, by * wide), grid) for high, wide in stretches]
        scores = _best_match(own, _spectra(others, grid), grid)
        if grid is _COARSE and scores.max() < _STRETCHED_NEAR:
            return 0.0
        at = stretches[int(scores.argmax())]
    return float(scores.max())


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Parameters
    ----------
    pairs : DataFrame
        Near-duplicates, best match first: id_a, id_b, label_a, label_b, group_a, group_b, similarity, kind
        (``same image``, ``same scene``), labels_differ, groups_differ.
    images : DataFrame
        One row an image: id, label, lesion_share, n_masks, burnt_px (edges of text and calipers),
        colour_share, findings.
    groups : Series
        Group of every id after near-duplicates are joined with the groups the set has.
    n_candidates : int
        Pairs that were compared.
    dataset : LesionDataset
        The audited set.
    """

    pairs: pd.DataFrame
    images: pd.DataFrame
    groups: pd.Series
    n_candidates: int
    dataset: LesionDataset

    @property
    def problems(self) -> pd.DataFrame:
        """Rows of ``images`` with a finding."""
        return self.images[self.images["findings"] != ""].reset_index(drop=True)

    def write_csv(self, path: str | os.PathLike) -> Path:
        """Write the pairs as CSV, and what was found in single images as a second CSV beside it.

        Parameters
        ----------
        path : path
            Of the pairs; ``pairs.csv`` gets ``pairs_images.csv`` beside it.

        Returns
        -------
        Path
        """
        path = Path(path)
        for place, table in ((path.with_name(f"{path.stem}_images{path.suffix}"), self.images), (path, self.pairs)):
            with atomic_path(place) as fresh:
                table.to_csv(fresh, index=False)
        return path

    def write_html(self, path: str | os.PathLike) -> Path:
        """Write a page that shows the pairs, and lists the findings of single images.

        The page holds small copies of the images: keep it where the licence of the set allows.

        Parameters
        ----------
        path : path

        Returns
        -------
        Path
        """

        def picture(id_: str) -> str:
            small = Image.fromarray(read_image(self.dataset.subset([id_])[0].image))
            small.thumbnail((320, 320))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG")
            return f'<img src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'

        pairs = self.pairs.map(lambda value: html.escape(str(value)))
        pairs["image_a"], pairs["image_b"] = self.pairs["id_a"].map(picture), self.pairs["id_b"].map(picture)
        with pd.option_context("display.max_colwidth", None):
            tables = pairs.to_html(escape=False) + self.problems.to_html()
        title = f"Near-duplicates in {html.escape(self.dataset.name)}"
        with atomic_path(path) as fresh:
            page = f'<!doctype html><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>{tables}'
            fresh.write_text(page, encoding="utf-8")
        return Path(path)


def burnt_in(image: np.ndarray) -> np.ndarray:
    """Find the edges of burnt-in text and calipers.

    A drawn stroke rises from one pixel to the next; an echo, however bright, is as wide as the scanner's pulse and beam.
    The corners are left out: the scanner's own orientation mark sits there in most images of some sets.

    Parameters
    ----------
    image : (H, W) uint8 ndarray

    Returns
    -------
    (H, W) bool ndarray

    Examples
    --------
    >>> image = np.full((64, 64), 60, np.uint8)
    >>> image[20:30, 32] = 235
    >>> int(burnt_in(image).sum())
    10
    """
    step = np.diff(image.astype(np.int16), axis=1)
    edge = np.zeros(image.shape, bool)
    edge[:, 1:] = step > _BURNT_STEP
    edge[:, :-1] |= step < -_BURNT_STEP
    corner = min(image.shape) // 16
    for rows in (slice(corner), slice(image.shape[0] - corner, None)):
        edge[rows, :corner] = edge[rows, image.shape[1] - corner :] = False
    return edge & (image > _BURNT_LEVEL)


def _colour_share(source: Path | PixelSource) -> float:
    """Share of coloured pixels of a picture; 0 where they are too few to be an overlay."""
    if isinstance(source, PixelSource):
        return 0.0
    with open_picture(source) as picture:
        if picture.mode in ("1", "L", "LA", "I", "I;16"):
            return 0.0
        rgb = np.asarray(picture.convert("RGB")).astype(np.int16)
    coloured = np.ptp(rgb, axis=2) > _COLOURED
    return float(coloured.mean()) if coloured.sum() >= _COLOURED_PX else 0.0


def _look_at(record: Record) -> tuple[np.ndarray, np.ndarray | None, dict]:
    """Thumbnails, spectra at a quarter of the size and findings of one image; no spectra where it cannot be read."""
    row = {"id": record.id, "label": record.label, "n_masks": len(record.masks)}
    try:
        image, mask = read_record(record)
    except DatasetError as err:
        row |= {"lesion_share": np.nan, "burnt_px": 0, "colour_share": 0.0, "findings": f"broken: {err}"}
        return np.zeros((4, _THUMB * _THUMB), np.float32), None, row
    share, marks, colour = float(mask.mean()), int(burnt_in(image).sum()), _colour_share(record.image)
    is_normal = record.label == "normal"
    findings = {
        "empty mask": not is_normal and share == 0,
        "tiny mask": not is_normal and 0 < share < _TINY,
        "normal with a lesion": is_normal and share > 0,
        "burnt-in marks": marks >= _BURNT_PX,
        "colour overlay": colour > 0,
    }
    found = "; ".join(name for name, is_found in findings.items() if is_found)
    row |= {"lesion_share": share, "burnt_px": marks, "colour_share": colour, "findings": found}
    return thumbnails(image), _spectra(_details(image, _COARSE), _COARSE), row


def _candidates(thumbs: np.ndarray) -> np.ndarray:
    """Pairs (M, 2) of images whose thumbnails (N, 4, D) are similar, in whole or in part."""
    n = len(thumbs)
    parts = [candidate_pairs(thumbs[:, part]) for part in range(4)]
    # Parts of one frame against the whole of another: a crop kept only the left, or the right.
    for part in (1, 2, 3):
        both = candidate_pairs(np.concatenate([thumbs[:, 0], thumbs[:, part]])) % max(n, 1)
        parts.append(np.sort(both[both[:, 0] != both[:, 1]], axis=1))
    return np.unique(np.concatenate(parts), axis=0)


def audit(dataset: LesionDataset, *, progress: bool = False) -> AuditReport:
    """Look for near-duplicates, contradictory labels, odd masks and burnt-in marks.

    Parameters
    ----------
    dataset : LesionDataset
        To check across sets, pass :func:`busutils.datasets.concatenate` of them.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    AuditReport
    """
    bar = {"disable": not progress, "leave": False}
    with ThreadPoolExecutor(_WORKERS) as pool:
        seen = list(tqdm(pool.map(_look_at, dataset), total=len(dataset), desc="reading", **bar))
    thumbs = np.array([thumb for thumb, _, _ in seen], np.float32).reshape(-1, 4, _THUMB * _THUMB)
    candidates = _candidates(thumbs)

    @functools.lru_cache(_KEPT)
    def frame(index: int) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(dataset[index].image)
        by = min(1.0, 1.5 * _FINE.rows / image.shape[0])
        small = resize_image(image, (max(1, round(image.shape[0] * by)), max(1, round(image.shape[1] * by))))
        return _spectra(_details(image, _FINE), _FINE), small

    found = []
    for a, b in tqdm(candidates.tolist(), desc="comparing", **bar):
        first, second = seen[a][1], seen[b][1]
        if first is None or second is None or _best_match(first, second, _COARSE).max() < _NEAR:
            continue
        score = _register(frame(a), frame(b))
        if score >= SAME_SCENE:
            found.append((score, a, b))
    found.sort(key=lambda pair: -pair[0])
    columns = ["id_a", "id_b", "label_a", "label_b", "group_a", "group_b", "similarity"]
    rows = []
    for score, a, b in found:
        one, other = dataset[a], dataset[b]
        rows.append((one.id, other.id, one.label, other.label, one.group, other.group, round(score, 4)))
    pairs = pd.DataFrame(rows, columns=columns)
    pairs["kind"] = ["same image" if score >= SAME_IMAGE else "same scene" for score, _, _ in found]
    pairs["labels_differ"] = pairs["label_a"] != pairs["label_b"]
    pairs["groups_differ"] = pairs["group_a"] != pairs["group_b"]
    images = pd.DataFrame([row for _, _, row in seen])
    joined = splits.join_groups(dataset.groups.tolist(), [pair[1:] for pair in found])
    groups = pd.Series(joined, index=dataset.ids, dtype=object)
    return AuditReport(pairs, images, groups, len(candidates), dataset)


def _register(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    """Similarity of two frames (spectra, shrunk image): after a shift, or where that fails, after a stretch.

    It is 1 for the same image and about 0.13 for unrelated ones.
    """
    shifted = float(_best_match(first[0], second[0], _FINE).max())
    if shifted >= SAME_SCENE:
        return shifted
    stretched = stretched_similarity(first[1], second[1])
    return stretched if stretched >= _STRETCHED_SCENE else shifted
