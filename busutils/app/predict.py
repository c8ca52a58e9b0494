"""Masks for image files."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image

from busutils import jobs
from busutils.datasets import DatasetError, read_image
from busutils.explain.uncertainty import doubt
from busutils.models.segmenter import Segmenter

__all__ = ["PredictError", "Prediction", "find_images", "predict_files"]

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class PredictError(ValueError):
    """A request for predictions that cannot be met, and why."""


@dataclass(frozen=True)
class Prediction:
    """What was found in one image: its row in ``predictions.csv``.

    ``area_px`` counts lesion pixels at the image's own size; ``top, left, bottom, right`` bound them (empty without a
    lesion); ``confidence`` is the mean probability inside the mask; ``doubt`` the mean entropy in bits of the
    pixels that may be lesion; ``error`` says why an image could not be used.
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
    doubt: float | None = None
    error: str = ""


def find_images(places: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Image files among files and folders, in order; folders are searched one level deep.

    Raises
    ------
    PredictError
        If a place does not exist, or no image was found.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            found += sorted(p for p in place.iterdir() if p.suffix.lower() in ENDINGS)
        elif place.is_file():
            found.append(place)
        else:
            raise PredictError(f"there is no file or folder {place}: check the path")
    if not found:
        raise PredictError(f"no image was found: give files or folders with {', '.join(ENDINGS)}")
    return found


def _describe(file: Path, mask_file: Path, mask: np.ndarray, prob: np.ndarray, threshold: float) -> Prediction:
    rows, columns = np.nonzero(mask)
    box = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) if len(rows) else (None,) * 4
    top, left, bottom, right = (None if value is None else int(value) for value in box)
    return Prediction(
        file=str(file),
        mask=mask_file.name,
        height=mask.shape[0],
        width=mask.shape[1],
        area_px=len(rows),
        area_share=round(float(mask.mean()), 6),
        top=top,
        left=left,
        bottom=bottom,
        right=right,
        confidence=round(float(prob[mask].mean()), 4) if len(rows) else None,
        doubt=round(doubt(prob, threshold), 4),
    )


def predict_files(segmenter: Segmenter, files: Iterable[Path], out: str | os.PathLike[str]) -> Iterator[Prediction]:
    """Segment image files one after the other; write ``<name>_mask.png`` for each and ``predictions.csv`` at the end.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one.
    files : iterable of pathlib.Path
        Images. Two of the same name get their folder's name before it.
    out : path-like
        Folder of the masks: as large as their images, 255 for lesion.

    Yields
    ------
    Prediction
        As each is done. A file that cannot be read is reported in ``error``; the rest goes on.
    """
    out, files = Path(out), list(files)
    out.mkdir(parents=True, exist_ok=True)
    stems = [file.stem for file in files]
    rows: list[Prediction] = []
    for file, stem in zip(files, stems, strict=True):
        if stems.count(stem) > 1:
            stem = f"{file.parent.name}_{file.stem}_{file.suffix[1:]}"
        try:
            image = read_image(file)
            prob = segmenter.predict_proba([image])[0]
            mask = segmenter.masks_from([prob])[0]
            target = out / f"{stem}_mask.png"
            with jobs.atomic_path(target) as temporary:
                Image.fromarray(np.uint8(255) * mask).save(temporary)
            row = _describe(file, target, mask, prob, segmenter.threshold_)
        except DatasetError as error:
            row = Prediction(file=str(file), error=str(error))
        rows.append(row)
        yield row
    with jobs.atomic_path(out / "predictions.csv") as temporary, open(temporary, "w", newline="") as handle:
        writer = csv.DictWriter(handle, [f.name for f in fields(Prediction)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
