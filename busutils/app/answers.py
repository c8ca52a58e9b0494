"""What the web page says about an image: masks, maps and measurements, as one piece of HTML that holds its own files.

Nothing here knows Gradio. Pictures and downloads are data addresses inside the answer, so that no result ever lies on
the server's disk. ``answer.html`` is the template; it escapes whatever it is given.
"""

from __future__ import annotations

import base64
import csv
import functools
import io
import os
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from matplotlib import colormaps, colors
from PIL import ImageColor
from scipy import ndimage

from busutils.datasets import DatasetError
from busutils.errors import BusutilsError
from busutils.explain.uncertainty import entropy
from busutils.io import Image, read_images
from busutils.metrics import dice
from busutils.models.segmenter import Segmenter
from busutils.plotting.style import PREDICTION, colour_of
from busutils.predict import Prediction, describe, mask_png

__all__ = ["Answer", "Refused", "answer_page", "batch_page", "examine", "read_upload", "refusal_page", "summary"]

MIN_SIDE = 32  # pixels; less shows no tissue
_SHOWN_SIDE = 640  # pixels of the longer side on the page; masks to download keep the image's own size
_THUMBNAIL_SIDE = 96
_MEASUREMENTS = (
    # column of the table, label, format
    ("area_px", "Area (px)", "{:,.0f}"),
    ("area_share", "Share of the image", "{:.1%}"),
    ("longest_axis_px", "Longest axis (px)", "{:,.0f}"),
    ("area_mm2", "Area (mm²)", "{:,.0f}"),
    ("longest_axis_mm", "Longest axis (mm)", "{:,.1f}"),
    ("confidence", "Probability inside", "{:.2f}"),
    ("uncertainty", "Uncertainty (bit)", "{:.2f}"),
)


class Refused(BusutilsError):
    """A file the page does not take, and why, in words for whoever sent it.

    Parameters
    ----------
    reason : str
        The words.
    name : str
        Of the file.
    """

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(reason)
        self.name = name


@dataclass(frozen=True)
class Answer:
    """What was found in one image.

    Attributes
    ----------
    name : str
        Of the file, without its suffix; safe in a file name.
    image : Image
        The image, its place in a clip, and the size of its pixels where known.
    probs : dict of (H, W) float32 ndarray
        Probability map of each method.
    masks : dict of (H, W) bool ndarray
        Mask of each method.
    rows : dict of Prediction
        Measurements of each method.
    """

    name: str
    image: Image
    probs: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    rows: dict[str, Prediction]


# -- reading and segmenting ----------------------------------------------------------------------------------


def safe_stem(name: str) -> str:
    """Stem of a visitor's file name: letters, digits, dot, dash and underscore only, at most 60 characters.

    Parameters
    ----------
    name : str
        Whatever was sent, paths and marks of HTML included.

    Returns
    -------
    str
        Never empty, never a path, never hidden.

    Examples
    --------
    >>> safe_stem("../../etc/passwd"), safe_stem('<img src="x">.png'), safe_stem("läsion 1.png"), safe_stem("..")
    ('passwd', 'img_src_x', 'lasion_1', 'image')
    """
    stem = Path(name.replace("\\", "/")).stem
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^\w.-]+", "_", plain).strip("._-")[:60].strip("._-") or "image"


def read_upload(
    path: str | os.PathLike[str], spacing: tuple[float, float] | None = None, *, max_pixels: int | None = None
) -> Iterator[Image]:
    """Read the images of a file that a visitor sent.

    Parameters
    ----------
    path : path-like
        Where the server keeps it.
    spacing : (float, float), optional
        Height and width of a pixel in mm as the visitor gave it; it goes before what the file says.
    max_pixels : int, optional
        Limit of an image, see :func:`busutils.io.read_images`.

    Yields
    ------
    Image
        At least one; several of a clip.

    Raises
    ------
    Refused
        If the file is no image that is read here, broken, too large or too small; the words name no folder.
    """
    path = Path(path)
    try:
        for image in read_images(path, max_pixels=max_pixels):
            height, width = image.pixels.shape
            if min(height, width) < MIN_SIDE:
                words = f"has {width} x {height} pixels; at least {MIN_SIDE} are needed on each side."
                raise Refused(f"{path.name} {words}", path.name)
            yield replace(image, spacing=spacing or image.spacing)
    except DatasetError as error:
        words = str(error).replace(f"{path.parent}{os.sep}", "")
        raise Refused(re.sub(r" \(busutils\.[^)]*\)", "", words), path.name) from error


def examine(segmenters: Mapping[str, Segmenter], image: Image, name: str, stem: str = "") -> Answer:
    """Segment and measure one image with every method.

    Parameters
    ----------
    segmenters : mapping of str to Segmenter
        Fitted ones by the name the page calls them; the first is the one whose maps are shown.
    image : Image
        The image.
    name : str
        Of its file, as it was sent.
    stem : str, optional
        What the downloads are called; made from `name` otherwise.

    Returns
    -------
    Answer
    """
    stem = stem or safe_stem(name)
    probs, masks, rows = {}, {}, {}
    for method, segmenter in segmenters.items():
        (prob,) = segmenter.predict_proba([image.pixels])
        (mask,) = segmenter.masks_from([prob])
        mask_file = f"{stem}_{safe_stem(method).lower()}_mask.png"
        row = describe(Path(name).name, mask_file, image, prob, mask, segmenter.threshold_)
        if not segmenter.supervised:
            # Its map holds zeros and ones: numbers that say nothing would look like certainty.
            row = replace(row, confidence=None, uncertainty=None)
        probs[method], masks[method], rows[method] = prob, mask, row
    return Answer(stem, image, probs, masks, rows)


def summary(answer: Answer) -> str:
    """What was found, in words: what a screen reader says.

    Parameters
    ----------
    answer : Answer

    Returns
    -------
    str
        Plain text.
    """
    sentences = []
    for method, row in answer.rows.items():
        size = f"{row.area_px:,} pixels"
        if row.area_mm2 is not None and row.longest_axis_mm is not None:
            size += f", {row.area_mm2:,.0f} mm², {row.longest_axis_mm:.1f} mm across"
        found = f"marks {row.area_share:.1%} of the image ({size})."
        sentences.append(
            f"{method} {found if row.area_px else 'marks nothing. That does not mean that nothing is there.'}"
        )
    masks = list(answer.masks.values())
    if len(masks) == 2 and all(mask.any() for mask in masks):
        sentences.append(f"The two overlap with a Dice of {dice(*masks):.2f}; where they disagree, look yourself.")
    if answer.image.frame == 1:
        sentences.append("The file holds several frames; this is the first. The tab Several shows all.")
    return " ".join(sentences)


# -- files inside the answer ---------------------------------------------------------------------------------


def _encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, quality=88)
    return buffer.getvalue()


def _address(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _download(content: bytes, name: str, kind: str, label: str) -> dict[str, str]:
    return {"name": name, "address": _address(content, kind), "label": label}


def _rows_of(result: Answer | Refused) -> list[dict[str, Any]]:
    """Rows of the table of measurements: one a method, or one that says why there is none."""
    if isinstance(result, Refused):
        return [{"file": result.name, "error": str(result)}]
    return [{"method": method, **asdict(row)} for method, row in result.rows.items()]


def _measurements_csv(rows: Iterable[dict[str, Any]]) -> bytes:
    """The columns of ``busutils predict``, and the method."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, ["method", *(field.name for field in fields(Prediction))])
    table.writeheader()
    for row in rows:
        # No spreadsheet takes a name, which is the visitor's, for a formula.
        cells = {
            column: f"'{cell}" if str(cell).startswith(tuple("=+-@\t\r")) else cell for column, cell in row.items()
        }
        table.writerow(cells)
    return text.getvalue().encode()


# -- pictures ------------------------------------------------------------------------------------------------


def _resized(pixels: np.ndarray, side: int) -> np.ndarray:
    """As large as it is on the page."""
    scale = min(1.0, side / max(pixels.shape))
    height, width = (max(1, round(length * scale)) for length in pixels.shape)
    return np.asarray(PIL.Image.fromarray(pixels).resize((width, height)))


def _overlay(answer: Answer, method: str, colour: str, side: int) -> dict[str, str]:
    """The image, and over it the lesion in one colour on nothing, with a darker rim that shows on bright tissue."""
    small = _resized(np.uint8(255) * answer.masks[method], side) > 127
    layer = np.zeros((*small.shape, 4), np.uint8)
    layer[small] = (*ImageColor.getrgb(colour), 255)
    layer[small & ~ndimage.binary_erosion(small, iterations=2), :3] //= 2
    # A grey JPEG: speckle makes a PNG ten times as large, and this one is for the eye only.
    image = _encoded(_resized(answer.image.pixels, side), "jpeg")
    return {"image": _address(image, "image/jpeg"), "mask": _address(_encoded(layer))}


def _map(values: np.ndarray, colormap: str, title: str, alt: str) -> dict[str, Any]:
    scale = colormaps[colormap]
    shown = scale(np.clip(values, 0, 1), bytes=True)[..., :3]
    steps = [colors.to_hex(scale(step)) for step in np.linspace(0, 1, 9)]
    return {"image": _address(_encoded(shown)), "title": title, "alt": alt, "colours": steps}


# -- HTML ----------------------------------------------------------------------------------------------------


@functools.cache
def _template() -> Any:
    import jinja2

    source = Path(__file__).with_name("answer.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True).from_string(source).module


def _shown(row: Prediction, column: str, layout: str) -> str:
    value = getattr(row, column)
    return "–" if value is None else layout.format(value)


def answer_page(answer: Answer) -> str:
    """The answer for one image as HTML.

    Parameters
    ----------
    answer : Answer

    Returns
    -------
    str
        Pictures, measurements and downloads. The opacity of masks is the style variable ``--opacity``.
    """
    first, rows = next(iter(answer.masks)), answer.rows
    overlays, files = [], []
    height, width = answer.image.pixels.shape
    for method, mask in answer.masks.items():
        colour = PREDICTION if method == first else colour_of(method)
        alt = f"{answer.name} with {'the marked lesion' if mask.any() else 'nothing marked'} of {method}"
        overlays.append(
            {"method": method, "colour": colour, "alt": alt, **_overlay(answer, method, colour, _SHOWN_SIDE)}
        )
        label = f"Mask, {method} (PNG, {width} × {height})"
        files.append(_download(mask_png(mask), rows[method].mask, "image/png", label))
    files.append(
        _download(
            _measurements_csv(_rows_of(answer)), f"{answer.name}_measurements.csv", "text/csv", "Measurements (CSV)"
        )
    )
    prob = _resized(answer.probs[first], _SHOWN_SIDE // 2)
    maps = [
        _map(prob, "viridis", f"Probability, {first}", f"Probability map of {first}"),
        _map(
            entropy(prob),
            "cividis",
            "Uncertainty, bit",
            f"Map of the uncertainty of {first}, largest along its borders",
        ),
    ]
    measurements = [
        (label, [_shown(row, column, layout) for row in rows.values()])
        for column, label, layout in _MEASUREMENTS
        if answer.image.spacing or "mm" not in label
    ]
    return str(_template().one(answer.name, summary(answer), overlays, maps, list(rows), measurements, files))


def batch_page(results: Iterable[Answer | Refused]) -> str:
    """The answer for several images as HTML: a table with thumbnails, and an archive to download.

    Parameters
    ----------
    results : iterable of Answer or Refused
        Taken one by one and let go, so that memory does not grow with their number; names of answers differ.

    Returns
    -------
    str
        The first method is shown; the archive holds the masks of all, and the table of measurements.
    """
    lines, rows = list[dict[str, Any]](), list[Any]()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for result in results:
            rows += _rows_of(result)
            if isinstance(result, Refused):
                lines.append({"name": result.name, "refusal": str(result)})
                continue
            for method, mask in result.masks.items():
                archive.writestr(result.rows[method].mask, mask_png(mask))
            method, row = next(iter(result.rows.items()))
            axis = ("longest_axis_mm", "{:.1f} mm") if result.image.spacing else ("longest_axis_px", "{:.0f} px")
            shown = [("area_share", "{:.1%}"), axis, ("confidence", "{:.2f}"), ("uncertainty", "{:.2f}")]
            name = row.file + (f", frame {row.frame}" if row.frame else "")
            cells = [_shown(row, *column) for column in shown]
            lines.append({"name": name, "cells": cells, **_overlay(result, method, PREDICTION, _THUMBNAIL_SIDE)})
        table = _measurements_csv(rows)
        archive.writestr("measurements.csv", table)
    files = [
        _download(buffer.getvalue(), "busutils_masks.zip", "application/zip", "Masks and table (ZIP)"),
        _download(table, "busutils_measurements.csv", "text/csv", "Measurements (CSV)"),
    ]
    n_refused = sum("refusal" in line for line in lines)
    found = f"{len(lines) - n_refused} images segmented" + (f", {n_refused} refused." if n_refused else ".")
    columns = ("Image", "File", "Marked", "Longest axis", "Probability inside", "Uncertainty, bit")
    return str(_template().several(found, columns, lines, files))


def refusal_page(reason: str) -> str:
    """Say why there is no answer.

    Parameters
    ----------
    reason : str
        Plain text; it may hold a visitor's file name.

    Returns
    -------
    str
        HTML.
    """
    return str(_template().refusal(reason))
