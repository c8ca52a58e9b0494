"""Image files among files, folders, lists and patterns."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from busutils.io import DICOM_SUFFIXES, PICTURE_SUFFIXES, is_dicom
from busutils.predict.record import RECORD, PredictError

__all__ = ["find_images"]

logger = logging.getLogger(__name__)

SUFFIXES = PICTURE_SUFFIXES + DICOM_SUFFIXES
_MASK = re.compile(r"(.+)_(mask|tumor|other)(_?\d+)?$")
_MASK_FOLDERS = {"mask", "masks", "gt", "groundtruth", "ground_truth", "label", "labels", "annotation", "annotations"}


def find_images(
    places: Iterable[str | os.PathLike[str]],
    *,
    recursive: bool = False,
    out: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Image files among files, folders, lists and patterns, in order, each once.

    Parameters
    ----------
    places : iterable of path-like
        Files; patterns such as ``*.png``; folders, where what has a known suffix, or no suffix but DICOM's mark, is
        taken, but not ``X_mask.png`` of an image X, ``mask_1.png`` of an image ``X_1``, subfolders of masks, or results
        of earlier runs; lists: ``.txt`` files with the path of a file or folder on each line, as it would be typed.
    recursive : bool, default False
        Search folders of folders; by default they are searched one level deep. Hidden files are left out.
    out : path-like, optional
        Folder that results go to. It must not be a searched one; below a searched one it is left out.

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
    for path in (path for place in places for path in _named(Path(place))):
        searched = _search(path, recursive, results) if os.path.isdir(path) else [path]
        if searched and path.resolve() == results:
            raise PredictError(f"{path} holds the images, and results cannot go there too: give another --out")
        found.update(dict.fromkeys(searched))
    if not found:
        raise PredictError(f"no image was found: give files or folders with {', '.join(SUFFIXES)}")
    return list(found)


def _named(place: Path) -> Iterator[Path]:
    """The file or folder itself; the lines of a list; what a pattern stands for where the shell does not expand it."""
    if place.suffix.lower() == ".txt" and place.is_file():
        lines = place.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
        yield from (Path(line.strip()) for line in lines if line.strip())
    elif os.path.exists(place):
        yield place
    elif matches := sorted(glob.glob(str(place))):
        yield from map(Path, matches)
    else:
        raise PredictError(f"there is no file or folder {place}: check the path")


def _search(folder: Path, recursive: bool, out: Path | None) -> list[Path]:
    found: list[Path] = []
    n_masks = 0
    root = folder.resolve()
    results = folder / out.relative_to(root) if out is not None and root in out.parents else None
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        # The folder of this run's results, or one of an earlier run's.
        written = results in path.parents or (path.parent != folder and (path.parent / RECORD).exists())
        known = path.suffix.lower() in SUFFIXES or (not path.suffix and is_dicom(path))
        if hidden or written or not known or path.is_dir():
            continue
        if path.parent != folder and path.parent.name.casefold() in _MASK_FOLDERS:
            n_masks += 1
        else:
            found.append(path)
    stems = {path.stem for path in found}
    numbered = {f"mask_{stem.rpartition('_')[2]}" for stem in stems if not stem.startswith("mask_")}

    def is_mask(stem: str) -> bool:  # X_mask beside X, mask_1 beside X_1
        return stem in numbered or bool((beside := _MASK.match(stem)) and beside[1] in stems)

    images = [path for path in found if not is_mask(path.stem)]
    n_masks += len(found) - len(images)
    if n_masks:
        logger.info("%s: left out %d masks of other images (X_mask.png, mask_1.png, folders of masks)", folder, n_masks)
    return images
