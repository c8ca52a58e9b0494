"""Masks for image files: folders, lists and archives, in steps that can be stopped and taken up again."""

from __future__ import annotations

import contextlib
import functools
import glob
import io
import itertools
import logging
import os
import re
import threading
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import PIL.Image
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from busutils import jobs
from busutils.app.record import RECORD, PredictError, Record, Source, only_run, read_settings, source_of
from busutils.datasets import DatasetError
from busutils.explain.uncertainty import mean_entropy
from busutils.io import DICOM_SUFFIXES, PICTURE_SUFFIXES, Image, is_dicom, read_images
from busutils.models.runtimes import content_of, load
from busutils.models.segmenter import Segmenter

__all__ = ["PredictError", "Prediction", "describe", "find_images", "predict_files", "recorded_runtime"]

logger = logging.getLogger(__name__)

ENDINGS = PICTURE_SUFFIXES + DICOM_SUFFIXES

_READERS = 2
_FILES_AHEAD = 8
_BATCH = 8
_BATCH_PIXELS = 8_000_000  # a batch of larger images is closed earlier: probability maps take four bytes a pixel
_LONGEST_NAME = 160  # bytes; file systems take 255 for the whole name
_CYAN = (39, 215, 242)
_LOOKS_LIKE_A_FRAME = re.compile(r"_f\d{4,}$")
_LOOKS_LIKE_A_MASK = re.compile(r"(.+)_(mask|tumor|other)(_?\d+)?$")
_MASK_FOLDERS = {"mask", "masks", "gt", "groundtruth", "ground_truth", "label", "labels", "annotation", "annotations"}


@dataclass(frozen=True)
class Prediction:
    """What was found in one image: its row in ``predictions.csv``.

    ``area_px`` counts lesion pixels at the image's own size; ``top, left, bottom, right`` bound them (empty without a
    lesion); ``confidence`` is the mean probability inside the mask; ``uncertainty`` the mean entropy in bits of the
    pixels that may be lesion; ``frame`` counts from 1 in files that hold several images; ``longest_axis_px`` is the
    longest straight line across the largest region, from border to border; ``area_mm2`` and ``longest_axis_mm`` are
    given where the file tells the size of its pixels; ``error`` says why an image could not be used.
    """

    file: str
    mask: str = ""
    height: int | None = None
    width: int | None = None
    area_px: int | None = None
    area_share: float | None = None
    top: int | None = None
    left: int | None = None
    bottom: int | None = None
    right: int | None = None
    confidence: float | None = None
    uncertainty: float | None = None
    frame: int | None = None
    longest_axis_px: float | None = None
    area_mm2: float | None = None
    longest_axis_mm: float | None = None
    error: str = ""


_COLUMNS = [field.name for field in fields(Prediction)]


# -- finding files -------------------------------------------------------------------------------------------


def find_images(
    places: Iterable[str | os.PathLike[str]],
    *,
    recursive: bool = False,
    out: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Image files among files, folders and lists, in order, each once.

    Parameters
    ----------
    places : iterable of path-like
        Files; patterns such as ``*.png``; folders, where what has a known ending, or no ending but DICOM's mark, is
        taken, but not ``X_mask.png`` of an image X, subfolders of masks, or results of earlier runs; lists: ``.txt``
        files with the path of a file or folder on each line, as it would be typed.
    recursive : bool, default False
        Search folders of folders; by default they are searched one level deep. Hidden files are left out.
    out : path-like, optional
        Folder that results go to; it is not searched.

    Returns
    -------
    list of pathlib.Path
        A line of a list may name a file that is missing; reading it reports so.

    Raises
    ------
    PredictError
        If a place does not exist or is a searched `out`, or no image was found.
    """
    found: dict[Path, None] = {}
    results = None if out is None else Path(out).resolve()
    for place in itertools.chain.from_iterable(_expanded(Path(place)) for place in places):
        if place.suffix.lower() == ".txt" and place.is_file():
            with open(place, encoding="utf-8-sig", errors="surrogateescape") as lines:
                listed = [Path(line.strip()) for line in lines if line.strip()]
        else:
            listed = [place]
        for path in listed:
            if not os.path.isdir(path):
                found[path] = None
                continue
            searched = _search(path, recursive, results)
            if searched and results == path.resolve():
                raise PredictError(f"{path} holds the images, and results cannot go there too: give another --out")
            found.update(dict.fromkeys(searched))
    if not found:
        raise PredictError(f"no image was found: give files or folders with {', '.join(ENDINGS)}")
    return list(found)


def _search(folder: Path, recursive: bool, results: Path | None) -> list[Path]:
    found: list[Path] = []
    n_masks = 0
    for here, folders, names in os.walk(folder):
        here = Path(here)
        if here != folder and (here / RECORD).exists():
            logger.info("%s: left out, it holds results of an earlier run", here)
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if recursive and (here / f).resolve() != results and f[0] != ".")
        paths = [here / name for name in sorted(names) if name[0] != "."]
        paths = [p for p in paths if p.suffix.lower() in ENDINGS or (not p.suffix and is_dicom(p))]
        if here != folder and here.name.casefold() in _MASK_FOLDERS:
            n_masks += len(paths)
        else:
            found += paths
    stems = {path.stem for path in found}
    numbers = {stem.rpartition("_")[2] for stem in stems if not stem.startswith("mask_")}

    def is_mask(stem: str) -> bool:
        beside, before = _LOOKS_LIKE_A_MASK.match(stem), stem.removeprefix("mask_")
        return bool(beside and beside[1] in stems) or (before != stem and before in numbers)

    images = [path for path in found if not is_mask(path.stem)]
    n_masks += len(found) - len(images)
    if n_masks:
        logger.info("%s: left out %d masks of other images (X_mask.png of X.png, folders of masks)", folder, n_masks)
    return images


def _expanded(place: Path) -> list[Path]:
    """What a pattern such as ``*.png`` stands for, where the shell leaves it to the program."""
    if os.path.exists(place):
        return [place]
    matches = sorted(glob.glob(str(place)))
    if not matches:
        raise PredictError(f"there is no file or folder {place}: check the path")
    return [Path(match) for match in matches]


def _name_results(tasks: dict[str, _Task], known: dict[str, str]) -> None:
    """Name each file's results; no two are equal, even where upper and lower case are one."""
    counts = Counter(task.file.stem.casefold() for task in tasks.values())
    owners = {name.casefold(): path for path, name in known.items()}
    for path, (file, source) in tasks.items():
        name = file.stem
        if counts[name.casefold()] > 1 or _LOOKS_LIKE_A_FRAME.search(name):
            name = f"{file.parent.name}_{name}_{file.suffix[1:]}"
        name = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "_", name)
        name = known.get(path) or name.encode()[:_LONGEST_NAME].decode(errors="ignore")
        if owners.setdefault(name.casefold(), path) != path:
            name = f"{name}_{jobs.content_key(path)[:12]}"
            owners[name.casefold()] = path
        source.name = name


def _shown(text: str | os.PathLike[str]) -> str:
    """Text in one line of valid UTF-8: a row of the table is a line, which makes a torn one known."""
    text = os.fspath(text).encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda found: f"\\x{ord(found[0]):02x}", text)


# -- measuring and drawing -----------------------------------------------------------------------------------


def _longest_axis(mask: np.ndarray, spacing: tuple[float, float]) -> float:
    """Longest distance across the largest region of a mask that has one, in the unit of `spacing`."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    regions, n_regions = ndimage.label(mask, structure=np.ones((3, 3)))
    if n_regions > 1:
        mask = regions == 1 + np.bincount(regions.ravel())[1:].argmax()
    rows = np.flatnonzero(mask.any(axis=1))
    first, last = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([rows, first], axis=1), np.stack([rows, last], axis=1)])
    # A pixel reaches half its side beyond its centre.
    sides = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
    points = (ends[:, None] + sides).reshape(-1, 2)
    return float(pdist(points[ConvexHull(points).vertices] * spacing).max())


def describe(
    file: Path, mask_file: str, frame: Image, prob: np.ndarray, mask: np.ndarray, threshold: float
) -> Prediction:
    """Measure what was found in an image.

    Parameters
    ----------
    file : pathlib.Path
        Where the image came from.
    mask_file : str
        Name of its mask.
    frame : Image
        The image and the size of its pixels.
    prob : (H, W) float32 ndarray
        Probability map.
    mask : (H, W) bool ndarray
        The mask drawn from it.
    threshold : float
        The threshold.

    Returns
    -------
    Prediction
        A row of the table.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    found, area = len(rows) > 0, int(np.count_nonzero(mask))
    box = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if found else (None,) * 4
    top, left, bottom, right = (None if value is None else int(value) for value in box)
    spacing = frame.spacing
    return Prediction(
        file=_shown(file),
        mask=mask_file,
        height=mask.shape[0],
        width=mask.shape[1],
        area_px=area,
        area_share=round(area / mask.size, 6),
        top=top,
        left=left,
        bottom=bottom,
        right=right,
        confidence=round(float(prob[mask].mean()), 4) if found else None,
        uncertainty=round(mean_entropy(prob, threshold), 4),
        frame=frame.frame,
        longest_axis_px=round(_longest_axis(mask, (1, 1)), 2) if found else None,
        area_mm2=round(area * spacing[0] * spacing[1], 3) if spacing else None,
        longest_axis_mm=round(_longest_axis(mask, spacing), 3) if found and spacing else None,
    )


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Masks are long runs of one value, for which there is a strategy twice as fast, with smaller files.
    options = {"compress_type": zlib.Z_RLE} if pixels.ndim == 2 else {"compress_level": 3}
    PIL.Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) with a cyan line, two pixels wide, around the lesion."""
    picture = np.repeat(image[..., None], 3, axis=-1)
    picture[ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)] = _CYAN
    return picture


# -- predicting ----------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """A file to be segmented."""

    file: Path
    source: Source


class _Read(NamedTuple):
    """A frame of a file, or why there is none."""

    task: _Task
    got: Image | DatasetError


class _Made(NamedTuple):
    """A row, and the content of its files in the order in which to write them."""

    task: _Task
    row: Prediction
    files: dict[str, bytes]


def _read_ahead(tasks: Iterable[_Task], pool: ThreadPoolExecutor) -> Iterator[_Read]:
    """Frames of all files in order, or a file's error; the next files are read meanwhile, one frame of each."""
    todo = iter(tasks)
    waiting: deque[tuple[_Task, Iterator[Image], Future]] = deque()
    while True:
        for task in itertools.islice(todo, _FILES_AHEAD - len(waiting)):
            frames = read_images(task.file)
            waiting.append((task, frames, pool.submit(next, frames, None)))
        if not waiting:
            return
        task, frames, coming = waiting.popleft()
        try:
            while (frame := coming.result()) is not None:
                coming = pool.submit(next, frames, None)
                yield _Read(task, frame)
        except DatasetError as error:
            yield _Read(task, error)


def _batches(read: Iterable[_Read]) -> Iterator[list[_Read]]:
    batch: list[_Read] = []
    n_pixels = 0
    for item in read:
        batch.append(item)
        n_pixels += item.got.pixels.size if isinstance(item.got, Image) else 0
        if len(batch) >= _BATCH or n_pixels >= _BATCH_PIXELS:
            yield batch
            batch, n_pixels = [], 0
    if batch:
        yield batch


class _Worker:
    """Segments batches; calls may come from several threads."""

    def __init__(self, segmenter: Segmenter, overlay: bool) -> None:
        self.segmenter, self.overlay = segmenter, overlay
        # Keras spreads one call over all cores by itself.
        self.turn: Any = contextlib.nullcontext() if segmenter.thread_safe else threading.Lock()

    def segment(self, batch: Sequence[_Read]) -> list[_Made]:
        images = [item.got.pixels for item in batch if isinstance(item.got, Image)]
        with self.turn:
            probs = iter(self.segmenter.predict_proba(images) if images else [])
        return [
            self._finish(task, got, next(probs)) if isinstance(got, Image) else _failed(task, got)
            for task, got in batch
        ]

    def _finish(self, task: _Task, frame: Image, prob: np.ndarray) -> _Made:
        (mask,) = self.segmenter.masks_from([prob])
        number = "" if frame.frame is None else f"_f{frame.frame:04d}"
        name = f"{task.source.name}{number}"
        made = {f"{name}_overlay.png": _png(_outlined(frame.pixels, mask))} if self.overlay else {}
        made[f"{name}_mask.png"] = _png(np.uint8(255) * mask)
        row = describe(task.file, f"{name}_mask.png", frame, prob, mask, self.segmenter.threshold_)
        return _Made(task, row, made)

    def segment_files(self, tasks: Iterable[_Task]) -> Iterator[list[_Made]]:
        """Read, segment, measure and compress, all at the same time."""
        cores = joblib.cpu_count()
        with ThreadPoolExecutor(_READERS) as readers, ThreadPoolExecutor(cores) as segmenters:
            batches = _batches(_read_ahead(tasks, readers))
            yield from jobs.in_order(segmenters.submit, self.segment, batches, ahead=lambda: cores + 1)


def _failed(task: _Task, error: DatasetError) -> _Made:
    return _Made(task, Prediction(file=_shown(task.file), error=_shown(str(error))), {})


# -- on a cluster --------------------------------------------------------------------------------------------

_FILES_A_STEP = 8


class _Step(NamedTuple):
    """What a worker of a cluster is to do; it loads the weights itself, once."""

    weights: str
    runtime: str
    content: str
    overlay: bool
    folder: str  # in which relative paths are meant
    tasks: list[_Task]


@functools.lru_cache(maxsize=1)
def _worker(weights: str, runtime: str, content: str, overlay: bool) -> _Worker:
    segmenter = load(weights, runtime or "auto", streams=joblib.cpu_count())
    if content_of(segmenter) != content:
        raise PredictError(f"a worker of the cluster has other weights {weights} than this machine: make them equal")
    return _Worker(segmenter, overlay)


def _do_step(step: _Step) -> list[_Made]:
    with _LOADING:
        worker = _worker(step.weights, step.runtime, step.content, step.overlay)
    made = []
    for task in step.tasks:
        there = Path(step.folder, task.file)
        read = _read_here(task, there)
        for batch in _batches(read):
            made += worker.segment(batch)
    return made


_LOADING = threading.Lock()


def _read_here(task: _Task, there: Path) -> Iterator[_Read]:
    try:
        for frame in read_images(there):
            yield _Read(task, frame)
    except DatasetError as error:
        yield _Read(task, DatasetError(str(error).replace(str(there), str(task.file))))


def _segment_on(client: Any, tasks: Iterable[_Task], step: _Step) -> Iterator[list[_Made]]:
    todo = iter(tasks)
    steps = iter(lambda: step._replace(tasks=list(itertools.islice(todo, _FILES_A_STEP))), step._replace(tasks=[]))
    submit = functools.partial(client.submit, pure=False)
    # What a worker had under way when it died is given to another one by the cluster.
    return jobs.in_order(submit, _do_step, steps, ahead=lambda: 2 * sum(client.nthreads().values()))


# -- the whole -----------------------------------------------------------------------------------------------


def recorded_runtime(out: str | os.PathLike[str], weights: str) -> str:
    """Runtime that made the predictions in a folder, so that the rest can be made alike.

    Parameters
    ----------
    out : path-like
        Folder of predictions; it may not exist.
    weights : str
        What the segmenter is called.

    Returns
    -------
    str
        Empty if there are no predictions of these weights.
    """
    settings = read_settings(Path(out))
    return settings.get("runtime", "") if settings.get("weights") == weights else ""


def predict_files(
    segmenter: Segmenter,
    files: Iterable[Path],
    out: str | os.PathLike[str],
    *,
    weights: str = "",
    overlay: bool = False,
    overwrite: bool = False,
    client: Any = None,
) -> Iterator[Prediction]:
    """Segment image files; write ``<name>_mask.png`` for each image and a row in ``predictions.csv``.

    Files are read, segmented and written at the same time, and no more than a few are held at once. A run that was
    stopped, at any moment, is taken up by the same call: files that are done and did not change are not made again,
    what failed is tried again. A file that no run wrote is never overwritten.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one; :func:`busutils.models.load` gives the fastest.
    files : iterable of pathlib.Path
        Pictures, clips and DICOM files, see :func:`busutils.io.read_images`. Two of the same name get their
        folder's name before it. Frames of a clip are named ``<name>_f0001`` and so on.
    out : path-like
        Folder of the masks: as large as their images, 255 for lesion.
    weights : str, optional
        What the segmenter is called; kept in ``predictions.jsonl`` beside a hash of its content.
    overlay : bool, default False
        Also write ``<name>_overlay.png``: the image with the lesion's outline.
    overwrite : bool, default False
        Remove the predictions that the folder holds, instead of going on with them.
    client : distributed.Client, optional
        Segment on a Dask cluster. Its workers read the files and load `weights` themselves, so both must be found
        there under the same names; results are written by this process.

    Yields
    ------
    Prediction
        One an image, in order, once its mask and row are written; what was done before is left out. A file that
        cannot be read is reported in ``error``; the rest goes on.

    Raises
    ------
    PredictError
        If the folder holds predictions of other weights, settings or runtime, or files that no run wrote and that would
        be overwritten, or another run is writing to it.
    """
    out = Path(out)
    settings = {"weights": weights, "runtime": segmenter.runtime, "content": content_of(segmenter)}
    if client is not None and not weights:
        raise PredictError("workers of a cluster load the weights themselves: give their name or file")
    out.mkdir(parents=True, exist_ok=True)
    with only_run(out):
        record = Record(out, _COLUMNS)
        tasks = _todo(record, files, settings, overlay, overwrite)
        if client is None:
            results = _Worker(segmenter, overlay).segment_files(tasks)
        else:
            here = _Step(weights, settings["runtime"], settings["content"], overlay, str(Path.cwd()), [])
            results = _segment_on(client, tasks, here)
        with contextlib.closing(results), record.writing(settings, [task.source.path for task in tasks]):
            for task, images in itertools.groupby(itertools.chain.from_iterable(results), lambda made: made.task):
                record.begin(task.source)
                for _, row, contents in images:
                    record.add(asdict(row), contents, done=row.frame is None and not row.error)
                    yield row
                if row.frame is not None:  # a clip that breaks off ends with an error
                    record.finish()


def _todo(
    record: Record, files: Iterable[Path], settings: dict[str, str], overlay: bool, overwrite: bool
) -> list[_Task]:
    """Which files are to be segmented, and the names of their results; refuse what would mix or overwrite."""
    before = record.settings
    if overwrite:
        record.sources = {}
    elif before and any(before.get(name) != settings[name] for name in ("content", "runtime")):
        known = ", ".join(filter(None, (before.get("weights"), before.get("runtime")))) or "unknown"
        raise PredictError(
            f"{record.out} holds predictions made with other weights, settings or runtime ({known}): "
            "give another folder, or --overwrite to replace them"
        )
    tasks: dict[str, _Task] = {}
    for file in map(Path, files):
        source = source_of(file)
        tasks.setdefault(source.path, _Task(file, source))
    _name_results(tasks, {path: source.name for path, source in record.sources.items()})
    record.drop_lost(overlay)
    versions = {path: source.version for path, source in record.sources.items()}
    todo = [
        task for path, task in tasks.items() if not task.source.version or versions.get(path) != task.source.version
    ]
    record.check({task.source.name for task in todo}, overlay)
    if overwrite:
        record.clear()
    return todo
