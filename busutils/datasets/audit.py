"""Near-duplicates, contradictory labels, broken pairs and burnt-in marks of an image set, as tables.

Near-duplicates are found in two steps. Small grey thumbnails (whole frame, and parts of it for crops) give each image a few
candidates by all dot products. Each candidate pair is then registered: the speckle and edges of both frames (band-passed, local contrast normalised) are cross-correlated over all shifts, at equal height and at equal pixel
size. Another frame of another patient shares no speckle, however alike the layers look. A registration at a quarter of
the size comes first: it is kept in memory for every image and leaves few pairs for which the files are read again.
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

from busutils.datasets.lesions import LesionDataset, Record, read_record
from busutils.io import DatasetError, PixelSource, open_picture, read_image, resize_image
from busutils.jobs import atomic_path

#: Pairs that register at least this well are near-duplicates (chosen on BUSI: every pair above it was looked at).
SAME_SCENE = 0.355
#: Pairs above this are the same image, perhaps with other marks on it.
SAME_IMAGE = 0.85

_THUMB = 16
# Pairs below this at a quarter of the size are no near-duplicates: BUSI's faintest copy has 0.53, simulated copies that were
# cut out and stretched have 0.38 and more.
_NEAR = 0.38
_STRETCHED_NEAR = 0.55  # the same after stretching: strangers reach 0.45
_STRETCHED_SCENE = 0.45  # the best of many stretches fits strangers better than one shift does; copies reach 0.6
_STRETCHES = (0.86, 0.93, 1.0, 1.075, 1.16)
_KEPT = 500  # images whose spectra are kept while their pairs are registered
_TINY = 0.001  # a lesion below this share of its image is called tiny
# Thresholds set on simulated images with and without calipers and text.
_BURNT_STEP, _BURNT_LEVEL, _BURNT_PX = 80, 180, 12
# Channels of a grey picture are equal, or differ by a little after JPEG; the thin box of a Doppler window differs by more.
_COLOURED, _COLOURED_PX = 20, 50
_WORKERS = 2


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


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
    parts = (
        image,
        image[top : height - top, side : width - side],
        image[:, :narrow],
        image[:, width - narrow :],
    )
    small = [resize_image(part if part.size else image, _THUMB).ravel() for part in parts]
    return _unit(np.stack(small).astype(np.float32))


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


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Similarity of two images after the best shift.

    Parameters
    ----------
    first, second : (H, W) uint8 ndarray

    Returns
    -------
    float
        Largest cross-correlation of speckle and edges over all shifts, at equal height or equal pixel size: 1 for
        the same image, about 0.13 for unlike ones.
    """
    one, other = (_spectra(_details(image, _FINE), _FINE) for image in (first, second))
    return float(_best_match(one, other, _FINE).max())


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
        As :func:`similarity`; 0 where the coarse search found nothing.
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
    name : str
        Name of the set.
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
    """

    name: str
    pairs: pd.DataFrame
    images: pd.DataFrame
    groups: pd.Series
    n_candidates: int
    dataset: LesionDataset

    @property
    def problems(self) -> pd.DataFrame:
        """Rows of ``images`` with a finding."""
        return self.images[self.images["findings"] != ""].reset_index(drop=True)

    def against(self, published: pd.DataFrame) -> dict[str, float]:
        """Compare with a list of groups.

        Parameters
        ----------
        published : DataFrame
            Columns id and group.

        Returns
        -------
        dict
            published (pairs of the list), found (of these), recall, beyond (pairs that the list does not hold).
        """
        listed = {
            tuple(sorted((a, b)))
            for _, part in published.groupby("group")
            for i, a in enumerate(part["id"])
            for b in part["id"].iloc[i + 1 :]
        }
        own = {tuple(sorted(pair)) for pair in self.pairs[["id_a", "id_b"]].itertuples(index=False, name=None)}
        found = len(own & listed)
        return {
            "published": len(listed),
            "found": found,
            "recall": found / max(len(listed), 1),
            "beyond": len(own - listed),
        }

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
        _write(path.with_name(f"{path.stem}_images{path.suffix}"), self.images.to_csv(index=False))
        return _write(path, self.pairs.to_csv(index=False))

    def write_html(self, path: str | os.PathLike, *, side: int = 320) -> Path:
        """Write a page of the pairs for a person to look through, and a list of what single images show.

        The page holds small copies of the images: keep it where the licence of the set allows.

        Parameters
        ----------
        path : path
        side : int
            Longest side of a picture, in pixels.

        Returns
        -------
        Path
        """
        place = {id_: i for i, id_ in enumerate(self.dataset.ids.tolist())}

        def picture(id_: str) -> str:
            small = Image.fromarray(read_image(self.dataset[place[id_]].image))
            small.thumbnail((side, side), Image.Resampling.BOX)
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=85)
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            return f'<img alt="{html.escape(id_)}" src="data:image/jpeg;base64,{data}">'

        def note(row) -> str:
            words = [row.kind, f"similarity {row.similarity:.2f}", f"{row.label_a} | {row.label_b}"]
            words += ["<b>labels differ</b>"] * row.labels_differ + ["<b>groups differ</b>"] * row.groups_differ
            return ", ".join(words)

        name = html.escape(self.name)
        rows = [
            f"<section><h2>{html.escape(row.id_a)} | {html.escape(row.id_b)}</h2><p>{note(row)}</p>"
            f"{picture(row.id_a)} {picture(row.id_b)}</section>"
            for row in self.pairs.itertuples()
        ]
        counts = self.images["findings"].str.split("; ").explode().value_counts() if len(self.images) else {}
        single = [f"<li>{n} {html.escape(what.split(':')[0])}</li>" for what, n in counts.items() if what]
        listed = [
            f"<tr><td>{html.escape(row.id)}</td><td>{row.label}</td><td>{html.escape(row.findings)}</td></tr>"
            for row in self.problems.itertuples()
        ]
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Near-duplicates in {name}</title><style>'
            "body{font-family:sans-serif;background:#222;color:#eee}h2{font-size:1rem}section{display:inline-block;"
            "margin:0 2rem 1rem 0}b{color:#fc6}td{padding-right:2rem}</style>"
            f"<h1>{len(rows)} near-duplicates in {name}</h1><p>Found in single images, listed below the pairs:</p>"
            f"<ul>{''.join(single) or '<li>nothing</li>'}</ul>{''.join(rows)}"
            f"<h1>Single images</h1><table>{''.join(listed)}</table></html>"
        )
        return _write(Path(path), page)


def _write(path: Path, text: str) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def join_groups(groups: Sequence[str], pairs: np.ndarray) -> list[str]:
    """Join groups that a pair connects; the joined group has the name of its first member.

    Parameters
    ----------
    groups : sequence of str
        Group of each image.
    pairs : (M, 2) int ndarray
        Positions of images that belong together.

    Returns
    -------
    list of str

    Examples
    --------
    >>> join_groups(["a", "b", "c", "d"], [(2, 1)])
    ['a', 'b', 'b', 'd']
    """
    rank = {group: place for place, group in reversed(list(enumerate(groups)))}
    leads = {group: group for group in groups}

    def lead(group: str) -> str:
        while leads[group] != group:
            group = leads[group]
        return group

    for a, b in pairs:
        first, second = sorted((lead(groups[a]), lead(groups[b])), key=rank.__getitem__)
        leads[second] = first
    return [lead(group) for group in groups]


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


def _look_at(record: Record) -> tuple[np.ndarray, list[np.ndarray] | None, dict]:
    """Thumbnails, small details and findings of one image; no details where it cannot be read."""
    try:
        image, mask = read_record(record)
    except DatasetError as err:
        nothing = {"lesion_share": np.nan, "burnt_px": 0, "colour_share": 0.0}
        row = {"id": record.id, "label": record.label, "n_masks": len(record.masks), **nothing}
        return np.zeros((4, _THUMB * _THUMB), np.float32), None, {**row, "findings": f"broken: {err}"}
    findings = []
    share = float(mask.mean())
    if record.label != "normal":
        findings += ["empty mask"] if share == 0 else ["tiny mask"] if share < _TINY else []
    elif share > 0:
        findings.append("normal with a lesion")
    marks = int(burnt_in(image).sum())
    if marks >= _BURNT_PX:
        findings.append("burnt-in marks")
    colour = 0.0
    if not isinstance(record.image, PixelSource):
        with open_picture(record.image) as picture:
            if picture.mode not in ("1", "L", "LA", "I", "I;16"):
                rgb = np.asarray(picture.convert("RGB")).astype(np.int16)
                coloured = np.ptp(rgb, axis=2) > _COLOURED
                colour = float(coloured.mean()) if coloured.sum() >= _COLOURED_PX else 0.0
    if colour > 0:
        findings.append("colour overlay")
    row = {
        "id": record.id,
        "label": record.label,
        "n_masks": len(record.masks),
        "lesion_share": share,
        "burnt_px": marks,
        "colour_share": colour,
        "findings": "; ".join(findings),
    }
    return thumbnails(image), _details(image, _COARSE), row


def _candidates(small: np.ndarray, *, neighbours: int) -> np.ndarray:
    """Pairs (M, 2) of images whose thumbnails (4, N, D) are alike, in whole or in part."""
    n = small.shape[1]
    parts = [candidate_pairs(vectors.astype(np.float32), neighbours=neighbours) for vectors in small]
    # Parts of one frame against the whole of another: a crop kept only the left, or the right.
    for part in (1, 2, 3):
        vectors = np.concatenate([small[0], small[part]]).astype(np.float32)
        both = candidate_pairs(vectors, neighbours=neighbours) % max(n, 1)
        parts.append(np.sort(both[both[:, 0] != both[:, 1]], axis=1))
    return np.unique(np.concatenate(parts), axis=0)


def audit(
    dataset: LesionDataset,
    *,
    threshold: float = SAME_SCENE,
    neighbours: int = 10,
    progress: bool = False,
) -> AuditReport:
    """Look for near-duplicates, contradictory labels, odd masks and burnt-in marks.

    Parameters
    ----------
    dataset : LesionDataset
        To check across sets, pass :func:`busutils.datasets.concatenate` of them.
    threshold : float
        Pairs that register at least this well are near-duplicates.
    neighbours : int
        Candidates of each image, for each kind of thumbnail.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    AuditReport
    """
    n = len(dataset)
    bar = {"disable": not progress, "leave": False}
    small = np.zeros((4, n, _THUMB * _THUMB), np.float16)  # half the memory of a large set
    details, rows = [], []
    with ThreadPoolExecutor(_WORKERS) as pool:
        seen = pool.map(_look_at, dataset.records)
        for place, (thumbs, detail, row) in enumerate(tqdm(seen, total=n, desc="reading", **bar)):
            small[:, place] = thumbs
            details.append(detail)
            rows.append(row)
    images = pd.DataFrame(rows)
    pairs = _candidates(small, neighbours=neighbours)
    n_candidates = len(pairs)
    broken = np.array([detail is None for detail in details], bool)
    pairs = _screen(details, pairs[~broken[pairs].any(axis=1)], bar)
    scores = _register([record.image for record in dataset], pairs, bar)
    close = np.flatnonzero(scores >= threshold)
    close = close[np.argsort(-scores[close], kind="stable")]
    rows = []
    for k in close:
        a, b = dataset[int(pairs[k, 0])], dataset[int(pairs[k, 1])]
        rows.append(
            {
                "id_a": a.id,
                "id_b": b.id,
                "label_a": a.label,
                "label_b": b.label,
                "group_a": a.group,
                "group_b": b.group,
                "similarity": round(float(scores[k]), 4),
                "kind": "same image" if scores[k] >= SAME_IMAGE else "same scene",
                "labels_differ": a.label != b.label,
                "groups_differ": a.group != b.group,
            }
        )
    columns = ["id_a", "id_b", "label_a", "label_b", "group_a", "group_b"]
    columns += ["similarity", "kind", "labels_differ", "groups_differ"]
    groups = pd.Series(join_groups(dataset.groups.tolist(), pairs[close]), index=dataset.ids, dtype=object)
    table = pd.DataFrame(rows, columns=columns)
    return AuditReport(dataset.name, table, images, groups, n_candidates, dataset)


def _screen(details: Sequence[list[np.ndarray]], pairs: np.ndarray, bar: dict) -> np.ndarray:
    """Leave out the pairs that do not even match at a quarter of the size."""

    def near(block: np.ndarray) -> np.ndarray:
        members, place = np.unique(block, return_inverse=True)
        first, second = place.reshape(block.shape).T
        score = np.zeros(len(block), np.float32)
        for way in (0, 1):
            spectra = _spectra([details[i][way] for i in members], _COARSE)
            score = np.maximum(score, _best_match(spectra[first], spectra[second], _COARSE))
        return block[score >= _NEAR]

    blocks = [pairs[start : start + 1024] for start in range(0, len(pairs), 1024)]
    with ThreadPoolExecutor(_WORKERS) as pool:
        kept = list(tqdm(pool.map(near, blocks), total=len(blocks), desc="comparing", **bar))
    return np.concatenate([np.zeros((0, 2), int), *kept])


def _register(images: Sequence, pairs: np.ndarray, bar: dict) -> np.ndarray:
    """Similarity of every pair after registration, the spectra of an image used for all its pairs in turn."""

    @functools.lru_cache(_KEPT)  # a large set would not fit into memory
    def frame(index: int) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(images[index])
        by = min(1.0, 1.5 * _FINE.rows / image.shape[0])
        small = resize_image(image, (max(1, round(image.shape[0] * by)), max(1, round(image.shape[1] * by))))
        return _spectra(_details(image, _FINE), _FINE), small

    def score(pair: np.ndarray) -> float:
        (first, small_first), (second, small_second) = frame(int(pair[0])), frame(int(pair[1]))
        shifted = float(_best_match(first, second, _FINE).max())
        if shifted >= SAME_SCENE:
            return shifted
        stretched = stretched_similarity(small_first, small_second)
        return stretched if stretched >= _STRETCHED_SCENE else shifted

    return np.array([score(pair) for pair in tqdm(pairs, desc="registering", **bar)], np.float32)
