"""Segment files: read, segment on all cores or a Dask cluster, write."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import os
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib

from busutils import jobs
from busutils.datasets import DatasetError
from busutils.io import Image, read_images
from busutils.models.runtimes import content_of, load
from busutils.models.segmenter import Segmenter
from busutils.predict.measure import Prediction, describe, mask_png, one_line, overlay_png
from busutils.predict.record import PredictError, Record, Source, only_run

__all__ = ["predict_files"]

_BATCH = 8  # images a call of a network that one call spreads over all cores
_LONGEST_NAME = 160  # bytes; file systems take 255 for the whole name
_LOOKS_LIKE_A_FRAME = re.compile(r"_f\d{4,}$")
_ONE_AT_A_TIME = threading.Lock()  # for networks that one call spreads over all cores, and for loading

_Read = tuple[Source, Image | DatasetError]
_Made = tuple[Source, Prediction, dict[str, bytes]]  # a row, and the content of its files in the order of writing


# -- reading and segmenting ----------------------------------------------------------------------------------


def _read(sources: Iterable[Source]) -> Iterator[_Read]:
    """Images of all files in order, or a file's error."""
    for source in sources:
        try:
            for image in read_images(Path(source.file)):
                yield source, image
        except DatasetError as error:
            yield source, error


def _segment(segmenter: Segmenter, overlay: bool, batch: list[_Read]) -> list[_Made]:
    """Segment, measure and compress a batch; threads may call it."""
    images = [image.pixels for _, image in batch if isinstance(image, Image)]
    with contextlib.nullcontext() if segmenter.thread_safe else _ONE_AT_A_TIME:
        probs = iter(segmenter.predict_proba(images) if images else [])
    made: list[_Made] = []
    for source, image in batch:
        if isinstance(image, DatasetError):
            made.append((source, Prediction(file=one_line(source.file), error=one_line(str(image))), {}))
            continue
        prob = next(probs)
        (mask,) = segmenter.masks_from([prob])
        name = source.name + ("" if image.frame is None else f"_f{image.frame:04d}")
        outputs = {f"{name}_overlay.png": overlay_png(image.pixels, mask)} if overlay else {}
        outputs[f"{name}_mask.png"] = mask_png(mask)
        row = describe(source.file, f"{name}_mask.png", image, prob, mask, segmenter.threshold_)
        made.append((source, row, outputs))
    return made


@functools.lru_cache(maxsize=1)
def _loaded(weights: str, runtime: str, content: str) -> Segmenter:
    segmenter = load(weights, runtime or "auto", streams=joblib.cpu_count())
    if content_of(segmenter) != content:
        raise PredictError(f"a worker of the cluster has other weights {weights} than this machine: make them equal")
    return segmenter


def _segment_there(settings: dict[str, str], overlay: bool, batch: list[_Read]) -> list[_Made]:
    """What a worker of a cluster does; it loads the weights itself, once."""
    with _ONE_AT_A_TIME:
        segmenter = _loaded(**settings)
    return _segment(segmenter, overlay, batch)


# -- the whole -----------------------------------------------------------------------------------------------


def predict_files(
    segmenter: Segmenter,
    files: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    weights: str = "",
    overlay: bool = False,
    client: Any = None,
) -> Iterator[Prediction]:
    """Segment image files; write ``<name>_mask.png`` for each image and a row in ``predictions.csv``.

    Reading and writing overlap with segmenting, and no more than a few images are held at once. A run that was stopped
    at any moment is resumed by the same call: files that are done and did not change are skipped, files that failed are
    tried again. A file that no run wrote is never overwritten.

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
    client : distributed.Client, optional
        Segment on a Dask cluster, whose workers load `weights` themselves; this process reads and writes.

    Yields
    ------
    Prediction
        One an image, in order, once its mask and row are written; skipped files have none. A file that cannot be read
        is reported in ``error``; the rest goes on.

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
    with only_run(out), ThreadPoolExecutor(joblib.cpu_count()) as cores:
        record = Record(out)
        todo = _todo(record, files, settings, overlay)
        submit, segment = cores.submit, functools.partial(_segment, segmenter, overlay)
        if client is not None:
            submit = functools.partial(client.submit, pure=False)
            segment = functools.partial(_segment_there, settings, overlay)
        read = _read(todo)
        size = 1 if segmenter.thread_safe else _BATCH
        batches = iter(lambda: list(itertools.islice(read, size)), [])

        def ahead() -> int:
            return 2 * (sum(client.nthreads().values()) if client else joblib.cpu_count())

        # If a worker of a cluster dies, the cluster gives what it had under way to another one.
        results = jobs.in_order(submit, segment, batches, ahead=ahead)
        with contextlib.closing(results), record.writing(settings, todo):
            for source, images in itertools.groupby(itertools.chain.from_iterable(results), operator.itemgetter(0)):
                record.note(path=source.path, version=source.version, name=source.name)
                for _, row, outputs in images:
                    record.add(row, outputs)
                    yield row
                if row.frame is not None:  # a clip that breaks off ends with an error
                    record.note(done=True)


def _todo(
    record: Record, files: Iterable[str | os.PathLike[str]], settings: dict[str, str], overlay: bool
) -> list[Source]:
    """Which files are to be segmented, and the names of their results; refuse what would mix or overwrite."""
    before = record.settings
    if before and any(before.get(name) != settings[name] for name in ("content", "runtime")):
        known = ", ".join(filter(None, (before.get("weights"), before.get("runtime")))) or "unknown"
        same_weights = before.get("content") == settings["content"] and before.get("runtime")
        advice = f"continue with --runtime {before['runtime']}, or " if same_weights else ""
        raise PredictError(
            f"{record.out} holds predictions made with other weights, settings or runtime ({known}): "
            f"{advice}give another folder"
        )
    sources = {source.path: source for source in map(Source.of, files)}
    _name_results(sources.values(), {path: source.name for path, source in record.sources.items()})
    todo = [source for source in sources.values() if not record.has(source, overlay)]
    record.check({source.name for source in todo})
    return todo


def _name_results(sources: Collection[Source], known: dict[str, str]) -> None:
    """Name each file's results; no two are equal, even where upper and lower case are one."""
    counts = Counter(Path(source.file).stem.casefold() for source in sources)
    owners = {name.casefold(): path for path, name in known.items()}
    for source in sources:
        file = Path(source.file)
        name = file.stem
        if counts[name.casefold()] > 1 or _LOOKS_LIKE_A_FRAME.search(name):
            name = f"{file.parent.name}_{name}_{file.suffix[1:]}"
        name = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "_", name).encode()[:_LONGEST_NAME].decode(errors="ignore")
        name = known.get(source.path, name)
        if owners.setdefault(name.casefold(), source.path) != source.path:
            name = f"{name}_{jobs.content_key(source.path)[:12]}"
        source.name = name
