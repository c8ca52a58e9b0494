"""Segment files: read ahead, segment on all cores or a Dask cluster, write."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import threading
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np

from busutils import jobs
from busutils.datasets import DatasetError
from busutils.io import Image, read_images
from busutils.models.runtimes import content_of, load
from busutils.models.segmenter import Segmenter
from busutils.predict.measure import Prediction, describe, mask_png, one_line, overlay_png
from busutils.predict.record import PredictError, Record, Source, only_run

__all__ = ["predict_files", "recorded_runtime"]

_READERS = 2
_FILES_AHEAD = 8
_BATCH = 8  # images a call of a network that one call spreads over all cores
_LONGEST_NAME = 160  # bytes; file systems take 255 for the whole name
_LOOKS_LIKE_A_FRAME = re.compile(r"_f\d{4,}$")


class _Read(NamedTuple):
    """An image of a file, or why there is none."""

    source: Source
    image: Image | DatasetError


class _Made(NamedTuple):
    """A row, and the content of its files in the order in which to write them."""

    source: Source
    row: Prediction
    outputs: dict[str, bytes]


# -- reading and segmenting ----------------------------------------------------------------------------------


def _read_ahead(sources: Iterable[Source], pool: ThreadPoolExecutor) -> Iterator[_Read]:
    """Images of all files in order, or a file's error; the next files are read meanwhile, one image of each."""
    todo = iter(sources)
    waiting: deque[tuple[Source, Iterator[Image], Future]] = deque()
    while True:
        for source in itertools.islice(todo, _FILES_AHEAD - len(waiting)):
            images = read_images(Path(source.file))
            waiting.append((source, images, pool.submit(next, images, None)))
        if not waiting:
            return
        source, images, coming = waiting.popleft()
        try:
            while (image := coming.result()) is not None:
                coming = pool.submit(next, images, None)
                yield _Read(source, image)
        except DatasetError as error:
            yield _Read(source, error)


class _Worker:
    """Segments, measures and compresses batches; threads may call it."""

    def __init__(self, segmenter: Segmenter, overlay: bool) -> None:
        self.segmenter, self.overlay = segmenter, overlay
        # Keras spreads one call over all cores by itself.
        self.turn: Any = contextlib.nullcontext() if segmenter.thread_safe else threading.Lock()

    def segment(self, batch: list[_Read]) -> list[_Made]:
        images = [item.image.pixels for item in batch if isinstance(item.image, Image)]
        with self.turn:
            probs = iter(self.segmenter.predict_proba(images) if images else [])
        made = []
        for source, image in batch:
            if isinstance(image, Image):
                made.append(self._finish(source, image, next(probs)))
            else:
                made.append(_Made(source, Prediction(file=one_line(source.file), error=one_line(str(image))), {}))
        return made

    def _finish(self, source: Source, image: Image, prob: np.ndarray) -> _Made:
        (mask,) = self.segmenter.masks_from([prob])
        name = source.name + ("" if image.frame is None else f"_f{image.frame:04d}")
        outputs = {f"{name}_overlay.png": overlay_png(image.pixels, mask)} if self.overlay else {}
        outputs[f"{name}_mask.png"] = mask_png(mask)
        row = describe(source.file, f"{name}_mask.png", image, prob, mask, self.segmenter.threshold_)
        return _Made(source, row, outputs)


_LOADING = threading.Lock()


@functools.lru_cache(maxsize=1)
def _loaded(weights: str, runtime: str, content: str, overlay: bool) -> _Worker:
    segmenter = load(weights, runtime or "auto", streams=joblib.cpu_count())
    if content_of(segmenter) != content:
        raise PredictError(f"a worker of the cluster has other weights {weights} than this machine: make them equal")
    return _Worker(segmenter, overlay)


def _segment_there(weights: str, runtime: str, content: str, overlay: bool, batch: list[_Read]) -> list[_Made]:
    """What a worker of a cluster does; it loads the weights itself, once."""
    with _LOADING:
        worker = _loaded(weights, runtime, content, overlay)
    return worker.segment(batch)


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
    settings = Record(Path(out)).settings
    return settings.get("runtime", "") if settings.get("weights") == weights else ""


def predict_files(
    segmenter: Segmenter,
    files: Iterable[str | os.PathLike[str]],
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
    files : iterable of path-like
        Pictures, clips and DICOM files, see :func:`busutils.io.read_images`. Two of the same name get their folder's
        name before it. Frames of a clip are named ``<name>_f0001`` and so on.
    out : path-like
        Folder of the masks: as large as their images, 255 for lesion.
    weights : str, optional
        What the segmenter is called; kept in ``predictions.jsonl`` beside a hash of its content.
    overlay : bool, default False
        Also write ``<name>_overlay.png``: the image with the lesion's outline.
    overwrite : bool, default False
        Remove the predictions that the folder holds, instead of going on with them.
    client : distributed.Client, optional
        Segment on a Dask cluster, whose workers load `weights` themselves; this process reads and writes.

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
    if client is not None and not weights:
        raise PredictError("workers of a cluster load the weights themselves: give their name or file")
    settings = {"weights": weights, "runtime": segmenter.runtime, "content": content_of(segmenter)}
    out.mkdir(parents=True, exist_ok=True)
    with only_run(out), ThreadPoolExecutor(_READERS) as readers, ThreadPoolExecutor(joblib.cpu_count()) as cores:
        record = Record(out)
        todo = _todo(record, files, settings, overlay, overwrite)
        submit, segment = cores.submit, _Worker(segmenter, overlay).segment
        if client is not None:
            submit = functools.partial(client.submit, pure=False)
            segment = functools.partial(_segment_there, weights, settings["runtime"], settings["content"], overlay)
        read = _read_ahead(todo, readers)
        size = 1 if segmenter.thread_safe else _BATCH
        batches = iter(lambda: list(itertools.islice(read, size)), [])

        def ahead() -> int:
            return 2 * (sum(client.nthreads().values()) if client else joblib.cpu_count())

        # What a worker of a cluster had under way when it died is given to another one by the cluster.
        results = jobs.in_order(submit, segment, batches, ahead=ahead)
        with contextlib.closing(results), record.writing(settings, todo):
            for source, images in itertools.groupby(itertools.chain.from_iterable(results), lambda made: made.source):
                record.begin(source)
                for _, row, outputs in images:
                    record.add(row, outputs)
                    yield row
                if row.frame is not None:  # a clip that breaks off ends with an error
                    record.finish()


def _todo(
    record: Record, files: Iterable[str | os.PathLike[str]], settings: dict[str, str], overlay: bool, overwrite: bool
) -> list[Source]:
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
    sources: dict[str, Source] = {}
    for file in files:
        source = Source.of(file)
        sources.setdefault(source.path, source)
    _name_results(sources.values(), {path: source.name for path, source in record.sources.items()})
    todo = [source for source in sources.values() if not record.has(source, overlay)]
    record.check({source.name for source in todo}, overlay)
    if overwrite:
        record.clear()
    return todo


def _name_results(sources: Collection[Source], known: dict[str, str]) -> None:
    """Name each file's results; no two are equal, even where upper and lower case are one."""
    counts = Counter(Path(source.file).stem.casefold() for source in sources)
    owners = {name.casefold(): path for path, name in known.items()}
    for source in sources:
        file, path = Path(source.file), source.path
        name = file.stem
        if counts[name.casefold()] > 1 or _LOOKS_LIKE_A_FRAME.search(name):
            name = f"{file.parent.name}_{name}_{file.suffix[1:]}"
        name = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "_", name)
        name = known.get(path) or name.encode()[:_LONGEST_NAME].decode(errors="ignore")
        if owners.setdefault(name.casefold(), path) != path:
            name = f"{name}_{jobs.content_key(path)[:12]}"
            owners[name.casefold()] = path
        source.name = name
