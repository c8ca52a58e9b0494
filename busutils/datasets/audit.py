"""Near-copies, contradictory labels, broken pairs and burnt-in marks of an image set, as tables.

Near-copies are found in two steps. Small grey thumbnails (whole frame, and parts of it for crops) give each image a few
candidates: by all dot products for small sets, by sign-of-projection hashes (locality-sensitive hashing, Charikar 2002)
for large ones, so that time grows as n log n. Each candidate pair is then registered: the speckle and edges of both
frames (band-passed, local contrast normalised) are cross-correlated over all shifts, at equal height and at equal pixel
size. Another frame of another patient shares no speckle, however alike the layers look.
"""

from __future__ import annotations

import base64
import html
import io
import os
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import fft, ndimage
from tqdm import tqdm

from busutils.datasets.lesions import LesionDataset, read_record
from busutils.datasets.pixels import DatasetError, PixelSource, open_picture, read_image, resize_image

#: Pairs that register at least this well are near-copies (chosen on BUSI: every pair above it was looked at).
SAME_SCENE = 0.355
#: Pairs above this are the same picture, perhaps with other marks on it.
SAME_PICTURE = 0.85

_THUMB = 16
_HEIGHT = 112  # rows of the registered frames
_ROOM = (192, 288)  # with space to shift
_NATIVE = 5  # the second registration shrinks both frames by this factor, whatever their height
_FAIR_AREA = 9000  # pixels of a registered frame below which chance matches grow
_EXACT_BELOW = 4096  # all dot products are quicker than hashes up to here
_TABLES = 32
_WINDOW = 8
_TINY = 0.001  # a lesion below this share of its image is called tiny
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


def candidate_pairs(
    vectors: np.ndarray, *, neighbours: int = 10, seed: int = 0, exact_below: int = _EXACT_BELOW
) -> np.ndarray:
    """Find pairs of alike vectors in n log n time.

    Parameters
    ----------
    vectors : (N, D) float32 ndarray
        Rows of unit length.
    neighbours : int
        Pairs kept for each row.
    seed : int
        For the hashes of large sets.
    exact_below : int
        Sets smaller than this are compared in full.

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
    if n < exact_below:
        near = np.zeros((n, min(neighbours, n - 1)), int)
        for start in range(0, n, 512):
            likeness = vectors[start : start + 512] @ vectors.T
            rows = np.arange(len(likeness))
            likeness[rows, start + rows] = -np.inf
            near[start : start + 512] = np.argpartition(-likeness, near.shape[1] - 1, axis=1)[:, : near.shape[1]]
        pairs = np.stack([np.repeat(np.arange(n), near.shape[1]), near.ravel()], axis=1)
        return np.unique(np.sort(pairs, axis=1), axis=0)
    # Signs around the mean direction fill the buckets evenly; a common background would crowd them into one.
    centred = _unit(vectors - vectors.mean(axis=0))
    bits = int(np.ceil(np.log2(n / 4)))
    rng = np.random.default_rng(seed)
    found, scores = [], []
    for _ in range(_TABLES):
        planes = rng.normal(size=(centred.shape[1], bits)).astype(np.float32)
        code = (centred @ planes > 0) @ (1 << np.arange(bits))
        order = np.argsort(code, kind="stable")
        for step in range(1, _WINDOW + 1):
            same = np.flatnonzero(code[order[:-step]] == code[order[step:]])
            a, b = order[same], order[same + step]
            for part in range(0, len(a), 65536):
                i, j = a[part : part + 65536], b[part : part + 65536]
                likeness = np.einsum("nd,nd->n", centred[i], centred[j])
                keep = likeness > 0.5
                found.append(np.sort(np.stack([i[keep], j[keep]], axis=1), axis=1))
                scores.append(likeness[keep])
    pairs, first = np.unique(np.concatenate(found), axis=0, return_index=True)
    if len(pairs) == 0:
        return np.zeros((0, 2), int)
    likeness = np.concatenate(scores)[first]
    # A pair stays when it is among the best of either of its two images.
    both = np.concatenate([pairs[:, 0], pairs[:, 1]])
    order = np.lexsort((-np.tile(likeness, 2), both))
    starts = np.r_[0, np.flatnonzero(np.diff(both[order])) + 1]
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    keep = np.zeros(len(pairs), bool)
    keep[order[rank < neighbours] % len(pairs)] = True
    return pairs[keep]


def _frame(image: np.ndarray, scale: float) -> np.ndarray:
    """Band-pass a shrunk image, even out its local contrast, put it into a larger empty frame, take the spectrum."""
    shape = [max(8, round(side * scale)) for side in image.shape]
    small = resize_image(image, (min(shape[0], _ROOM[0]), min(shape[1], _ROOM[1]))).astype(np.float32)
    detail = ndimage.gaussian_filter(small, 0.8) - ndimage.gaussian_filter(small, 5)
    detail /= np.sqrt(ndimage.gaussian_filter(detail * detail, 8)) + 3
    detail = np.clip(detail, -2.5, 2.5)  # so that burnt-in text does not outweigh tissue
    detail[small < 3] *= 0.3
    # A small frame matches others by chance: it may only count less than its own area would let it.
    norm = np.linalg.norm(detail) * max(1.0, np.sqrt(_FAIR_AREA / detail.size))
    return fft.rfft2(detail / max(norm, 1e-6), s=_ROOM).astype(np.complex64)


class _Spectra:
    """Spectra of the images in turn, the last used kept: a large set would not fit into memory."""

    def __init__(self, images: Sequence[PixelSource | Path], keep: int = 1500) -> None:
        self.images, self.keep, self.held = images, keep, OrderedDict()

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index in self.held:
            self.held.move_to_end(index)
            return self.held[index]
        image = read_image(self.images[index])
        made = _frame(image, _HEIGHT / image.shape[0]), _frame(image, 1 / _NATIVE)
        self.held[index] = made
        if len(self.held) > self.keep:
            self.held.popitem(last=False)
        return made


def registration_score(first: np.ndarray, second: np.ndarray) -> float:
    """Tell how well two images match after the best shift.

    Parameters
    ----------
    first, second : (H, W) uint8 ndarray

    Returns
    -------
    float
        Largest cross-correlation of speckle and edges over all shifts, at equal height or equal pixel size: 1 for
        the same picture, about 0.13 for unlike ones.
    """
    spectra = [(_frame(image, _HEIGHT / image.shape[0]), _frame(image, 1 / _NATIVE)) for image in (first, second)]
    return max(float(fft.irfft2(np.conj(a) * b, s=_ROOM).max()) for a, b in zip(*spectra, strict=True))


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Parameters
    ----------
    name : str
        Name of the set.
    pairs : DataFrame
        Near-copies, best match first: id_a, id_b, label_a, label_b, group_a, group_b, score, kind
        (``same picture``, ``same scene``), labels_differ, groups_differ.
    images : DataFrame
        One row an image: id, label, lesion_share, n_masks, bright_marks (pixels), colour_share, findings.
    groups : Series
        Group of every id after near-copies are joined with the groups the set has.
    n_candidates : int
        Pairs that were registered.
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
        """Write the pairs as CSV.

        Parameters
        ----------
        path : path

        Returns
        -------
        Path
        """
        return _write(Path(path), self.pairs.to_csv(index=False))

    def write_html(self, path: str | os.PathLike, *, side: int = 320) -> Path:
        """Write a page of the pairs for a person to look through.

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
            small.save(buffer, "PNG")
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            return f'<img alt="{html.escape(id_)}" src="data:image/png;base64,{data}">'

        rows = [
            f"<section><h2>{html.escape(row.id_a)} | {html.escape(row.id_b)}</h2><p>{html.escape(row.kind)}, score "
            f"{row.score:.3f}; {row.label_a} | {row.label_b}</p>{picture(row.id_a)} {picture(row.id_b)}</section>"
            for row in self.pairs.itertuples()
        ]
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Near-copies in {html.escape(self.name)}'
            "</title><style>body{font-family:sans-serif;background:#222;color:#eee}h2{font-size:1rem}"
            f"</style><h1>{len(rows)} near-copies in {html.escape(self.name)}</h1>{''.join(rows)}</html>"
        )
        return _write(Path(path), page)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(fresh, path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
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
        first, second = sorted((lead(groups[a]), lead(groups[b])), key=rank.get)
        leads[second] = first
    return [lead(group) for group in groups]


def _look_at(record) -> tuple[np.ndarray, dict]:
    """Thumbnails and findings of one image."""
    try:
        image, mask = read_record(record)
    except DatasetError as err:
        nothing = {"lesion_share": np.nan, "bright_marks": 0, "colour_share": 0.0}
        row = {"id": record.id, "label": record.label, "n_masks": len(record.masks), **nothing}
        return np.zeros((4, _THUMB * _THUMB), np.float32), {**row, "findings": f"broken: {err}"}
    findings = []
    share = float(mask.mean())
    if record.label != "normal":
        findings += ["empty mask"] if share == 0 else ["tiny mask"] if share < _TINY else []
    elif share > 0:
        findings.append("normal with a lesion")
    # Burnt-in text and calipers: nearly white, far above what surrounds them.
    grey = image.astype(np.float32)
    marks = int(((grey > 225) & (grey - ndimage.uniform_filter(grey, 15) > 110)).sum())
    if marks >= 40:
        findings.append("bright marks")
    colour = 0.0
    if not isinstance(record.image, PixelSource):
        with open_picture(record.image) as picture:
            if picture.mode not in ("1", "L", "LA", "I", "I;16"):
                rgb = np.asarray(picture.convert("RGB")).astype(np.int16)
                colour = float((np.ptp(rgb, axis=2) > 30).mean())
    if colour > 0.0005:
        findings.append("colour overlay")
    row = {
        "id": record.id,
        "label": record.label,
        "n_masks": len(record.masks),
        "lesion_share": share,
        "bright_marks": marks,
        "colour_share": colour,
        "findings": "; ".join(findings),
    }
    return thumbnails(image), row


def audit(
    dataset: LesionDataset,
    *,
    threshold: float = SAME_SCENE,
    neighbours: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> AuditReport:
    """Look for near-copies, contradictory labels, odd masks and burnt-in marks.

    Parameters
    ----------
    dataset : LesionDataset
        To check across sets, pass :func:`busutils.datasets.concatenate` of them.
    threshold : float
        Pairs that register at least this well are near-copies.
    neighbours : int
        Candidates of each image, for each kind of thumbnail.
    seed : int
        For the hashes of large sets.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    AuditReport
    """
    n = len(dataset)
    bar = {"disable": not progress, "leave": False}
    with ThreadPoolExecutor(_WORKERS) as pool:
        seen = list(tqdm(pool.map(_look_at, dataset.records), total=n, desc="reading", **bar))
    small = np.stack([thumbs for thumbs, _ in seen], axis=1) if n else np.zeros((4, 0, _THUMB * _THUMB), np.float32)
    images = pd.DataFrame([row for _, row in seen])
    parts = [candidate_pairs(vectors, neighbours=neighbours, seed=seed) for vectors in small]
    # Parts of one frame against the whole of another: a crop kept only the left, or the right.
    for part in (1, 2, 3):
        both = candidate_pairs(np.concatenate([small[0], small[part]]), neighbours=neighbours, seed=seed) % max(n, 1)
        parts.append(np.sort(both[both[:, 0] != both[:, 1]], axis=1))
    pairs = np.unique(np.concatenate(parts), axis=0)
    broken = images["findings"].str.startswith("broken").to_numpy() if n else np.zeros(0, bool)
    pairs = pairs[~(broken[pairs].any(axis=1))] if len(pairs) else pairs
    score = _register([record.image for record in dataset], pairs, bar)
    close = np.flatnonzero(score >= threshold)
    close = close[np.argsort(-score[close], kind="stable")]
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
                "score": round(float(score[k]), 4),
                "kind": "same picture" if score[k] >= SAME_PICTURE else "same scene",
                "labels_differ": a.label != b.label,
                "groups_differ": a.group != b.group,
            }
        )
    columns = ["id_a", "id_b", "label_a", "label_b", "group_a", "group_b"]
    columns += ["score", "kind", "labels_differ", "groups_differ"]
    groups = pd.Series(join_groups(dataset.groups.tolist(), pairs[close]), index=dataset.ids, dtype=object)
    table = pd.DataFrame(rows, columns=columns)
    return AuditReport(dataset.name, table, images, groups, len(pairs), dataset)


def _register(images: Sequence, pairs: np.ndarray, bar: dict) -> np.ndarray:
    """Registration score of every pair, the spectra of an image used for all its pairs in turn."""
    spectra = _Spectra(images)
    score = np.zeros(len(pairs), np.float32)
    starts = np.flatnonzero(np.r_[True, np.diff(pairs[:, 0]) > 0]) if len(pairs) else []
    for start, stop in tqdm(list(zip(starts, [*starts[1:], len(pairs)], strict=True)), desc="comparing", **bar):
        own = spectra(int(pairs[start, 0]))
        others = [spectra(int(other)) for other in pairs[start:stop, 1]]
        for way in (0, 1):
            product = np.conj(own[way]) * np.stack([other[way] for other in others])
            best = fft.irfft2(product, s=_ROOM, workers=_WORKERS).reshape(len(others), -1).max(axis=1)
            score[start:stop] = np.maximum(score[start:stop], best)
    return score
