"""What the web page says about an image: masks, maps and measurements, as one piece of HTML that holds its own files.

Nothing here knows Gradio. Pictures and downloads are data addresses inside the answer, so that no result ever lies on
the server's disk.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import os
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib import colormaps
from PIL import ImageColor
from scipy import ndimage

from busutils.app import predict
from busutils.app.predict import Prediction
from busutils.datasets import DatasetError
from busutils.errors import BusutilsError
from busutils.explain.uncertainty import entropy
from busutils.io import Image, read_images
from busutils.metrics import dice
from busutils.models.segmenter import Segmenter
from busutils.plotting.style import PREDICTION, colour_of

__all__ = [
    "Answer",
    "Refusal",
    "Refused",
    "answer_page",
    "batch_page",
    "examine",
    "read_upload",
    "refusal_page",
    "safe_stem",
]

MIN_SIDE = 32  # pixels; less shows no tissue
_SHOWN_SIDE = 640  # pixels of the longer side on the page; masks to download keep the image's own size
_THUMBNAIL_SIDE = 96
_MAPS = {"probability": "viridis", "doubt": "cividis"}
_NUMBERS = (
    # column of the table, head, unit, digits
    ("area_px", "Area", "px", 0),
    ("area_share", "Share of the image", "%", 1),
    ("longest_axis_px", "Longest axis", "px", 0),
    ("area_mm2", "Area", "mm²", 0),
    ("longest_axis_mm", "Longest axis", "mm", 1),
    ("confidence", "Probability inside", "", 2),
    ("doubt", "Doubt", "bit", 2),
)


class Refused(BusutilsError):
    """A file the page does not take, and why, in words for whoever sent it."""


@dataclass(frozen=True)
class Answer:
    """What was found in one image.

    Attributes
    ----------
    name : str
        Of the file, without its ending; safe in a file name.
    frame : Image
        The image, its place in a clip, and the size of its pixels where known.
    probs : dict of (H, W) float32 ndarray
        Probability map of each method.
    masks : dict of (H, W) bool ndarray
        Mask of each method.
    rows : dict of Prediction
        Measurements of each method.
    """

    name: str
    frame: Image
    probs: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    rows: dict[str, Prediction]


@dataclass(frozen=True)
class Refusal:
    """A file of a batch that could not be used: its name as it was sent, and why."""

    name: str
    words: str


# -- reading -------------------------------------------------------------------------------------------------


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
) -> Image:
    """Read the image, or the first frame of a clip, that a visitor sent.

    Parameters
    ----------
    path : path-like
        Where the server keeps it.
    spacing : (float, float), optional
        Height and width of a pixel in mm as the visitor gave it; it goes before what the file says.
    max_pixels : int, optional
        Limit of an image, see :func:`busutils.io.read_images`.

    Returns
    -------
    Image
        `frame` is 1 for the first of several frames.

    Raises
    ------
    Refused
        If the file is no image that is read here, broken, too large or too small; the words name no folder.
    """
    path = Path(path)
    try:
        frame = next(read_images(path, max_pixels=max_pixels))
    except DatasetError as error:
        words = str(error).replace(f"{path.parent}{os.sep}", "")
        raise Refused(re.sub(r" \(busutils\.[^)]*\)", "", words)) from error
    if min(frame.pixels.shape) < MIN_SIDE:
        height, width = frame.pixels.shape
        raise Refused(f"{path.name} has {width} x {height} pixels; at least {MIN_SIDE} are needed on each side.")
    return replace(frame, spacing=spacing) if spacing else frame


def examine(segmenters: Mapping[str, Segmenter], frame: Image, name: str, stem: str = "") -> Answer:
    """Segment and measure one image with every method.

    Parameters
    ----------
    segmenters : mapping of str to Segmenter
        Fitted ones by the name the page calls them; the first is the one whose maps are shown.
    frame : Image
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
        (prob,) = segmenter.predict_proba([frame.pixels])
        (mask,) = segmenter.masks_from([prob])
        row = predict.describe(Path(Path(name).name), _mask_name(stem, method), frame, prob, mask, segmenter.threshold_)
        if not segmenter.supervised:
            # Its map holds zeros and ones: numbers that say nothing would look like certainty.
            row = replace(row, confidence=None, doubt=None)
        probs[method], masks[method], rows[method] = prob, mask, row
    return Answer(stem, frame, probs, masks, rows)


def _mask_name(stem: str, method: str) -> str:
    return f"{stem}_{safe_stem(method).lower()}_mask.png"


# -- files inside the answer ---------------------------------------------------------------------------------


def _encoded(picture: PIL.Image.Image, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"quality": 88} if kind == "jpeg" else {}))
    return buffer.getvalue()


def _address(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def mask_png(mask: np.ndarray) -> bytes:
    """A mask as a PNG file: 255 for lesion, as large as its image.

    Parameters
    ----------
    mask : (H, W) bool ndarray

    Returns
    -------
    bytes
    """
    return _encoded(PIL.Image.fromarray(np.uint8(255) * mask))


def _rows_of(result: Answer | Refusal) -> list[dict[str, object]]:
    """Rows of the table of measurements: one a method, or one that says why there is none."""
    if isinstance(result, Refusal):
        return [{"method": "", "file": _harmless(result.name), "error": result.words}]
    return [
        {"method": method, **{column: _harmless(value) for column, value in asdict(row).items()}}
        for method, row in result.rows.items()
    ]


def measurements_csv(rows: Iterable[dict[str, object]]) -> bytes:
    """Measurements as a table: the columns of ``busutils predict`` and the method.

    Parameters
    ----------
    rows : iterable of dict
        By column; see :func:`_rows_of`.

    Returns
    -------
    bytes
        CSV in UTF-8.
    """
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, ["method", *Prediction.__dataclass_fields__])
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def _harmless(value: object) -> object:
    """A cell that no spreadsheet takes for a formula; names are the visitor's."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value


# -- pictures ------------------------------------------------------------------------------------------------


def _fit(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Width and height of an image on the page."""
    scale = min(1.0, side / max(shape[:2]))
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def _shown_image(image: np.ndarray, side: int) -> str:
    # A grey JPEG: speckle makes a PNG ten times as large, and this one is for the eye only.
    return _address(_encoded(PIL.Image.fromarray(image).resize(_fit(image.shape, side)), "jpeg"), "image/jpeg")


def _shown_mask(mask: np.ndarray, colour: str, side: int) -> str:
    """The lesion in one colour on nothing, with a darker rim that shows on bright tissue."""
    small = np.asarray(PIL.Image.fromarray(np.uint8(255) * mask).resize(_fit(mask.shape, side))) > 127
    layer = np.zeros((*small.shape, 4), np.uint8)
    layer[small] = (*ImageColor.getrgb(colour), 255)
    rim = small & ~ndimage.binary_erosion(small, iterations=2)
    layer[rim, :3] //= 2
    return _address(_encoded(PIL.Image.fromarray(layer)), "image/png")


def _shown_map(values: np.ndarray, kind: str) -> str:
    coloured = colormaps[_MAPS[kind]](values, bytes=True)[..., :3]
    return _address(_encoded(PIL.Image.fromarray(coloured)), "image/png")


# -- HTML ----------------------------------------------------------------------------------------------------


def _number(value: float | None, digits: int, unit: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.{digits}f}" if unit == "%" else f"{value:,.{digits}f}"


def _words(method: str, row: Prediction) -> str:
    if not row.area_px:
        return f"{method} marks nothing. That is no statement that nothing is there."
    size = f"{row.area_px:,} pixels"
    if row.area_mm2 is not None and row.longest_axis_mm is not None:
        size += f", {row.area_mm2:,.0f} mm², {row.longest_axis_mm:.1f} mm across"
    return f"{method} marks {row.area_share:.1%} of the image ({size})."


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
    words = [_words(method, row) for method, row in answer.rows.items()]
    masks = list(answer.masks.values())
    if len(masks) == 2 and all(mask.any() for mask in masks):
        words.append(f"The two overlap with a Dice of {dice(*masks):.2f}; where they disagree, look yourself.")
    if answer.frame.frame is not None:
        words.append("The file holds several frames; this is the first.")
    return " ".join(words)


def _table(answer: Answer) -> str:
    spaced = answer.frame.spacing is not None
    kinds = [kind for kind in _NUMBERS if spaced or not kind[0].endswith(("_mm", "_mm2"))]
    heads = "".join(f'<th scope="col">{html.escape(method)}</th>' for method in answer.rows)
    lines = []
    for column, head, unit, digits in kinds:
        cells = "".join(f"<td>{_number(getattr(row, column), digits, unit)}</td>" for row in answer.rows.values())
        lines.append(f'<tr><th scope="row">{head}{f" ({unit})" if unit else ""}</th>{cells}</tr>')
    return f"<table><caption>Measurements</caption><thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _overlay_figure(answer: Answer, method: str, image: str, colour: str) -> str:
    found = "the marked lesion" if answer.masks[method].any() else "nothing marked"
    alt = html.escape(f"{answer.name} with {found} of {method}", quote=True)
    layer = _shown_mask(answer.masks[method], colour, _SHOWN_SIDE)
    return (
        f'<figure class="overlay"><div class="stack"><img src="{image}" alt="{alt}"><img class="mask" src="{layer}" alt=""></div>'
        f'<figcaption><span class="key" style="background:{colour}"></span>{html.escape(method)}</figcaption></figure>'
    )


def _map_figure(values: np.ndarray, kind: str, title: str, alt: str) -> str:
    steps = ", ".join(
        "#" + "".join(f"{level:02x}" for level in colormaps[_MAPS[kind]](x, bytes=True)[:3])
        for x in np.linspace(0, 1, 9)
    )
    return (
        f'<figure><div class="stack"><img src="{_shown_map(values, kind)}" alt="{html.escape(alt, quote=True)}"></div>'
        f'<figcaption>{title}<span class="scale" aria-hidden="true">0<i style="background:linear-gradient(90deg,{steps})">'
        "</i>1</span></figcaption></figure>"
    )


def _download(content: bytes, name: str, kind: str, words: str) -> str:
    return (
        f'<a class="download" download="{html.escape(name, quote=True)}" href="{_address(content, kind)}">'
        f"{html.escape(words)}</a>"
    )


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
    first = next(iter(answer.masks))
    prob = answer.probs[first]
    prob = np.clip(PIL.Image.fromarray(prob).resize(_fit(prob.shape, _SHOWN_SIDE // 2)), 0, 1)  # maps are for the eye
    image = _shown_image(answer.frame.pixels, _SHOWN_SIDE)
    figures = [
        _overlay_figure(answer, method, image, PREDICTION if method == first else colour_of(method))
        for method in answer.masks
    ]
    figures += [
        _map_figure(prob, "probability", f"Probability, {html.escape(first)}", f"Probability map of {first}"),
        _map_figure(entropy(prob), "doubt", "Doubt, bit", f"Map of the doubt of {first}, largest along unsure borders"),
    ]
    height, width = answer.frame.pixels.shape
    downloads = [
        _download(mask_png(mask), answer.rows[method].mask, "image/png", f"Mask, {method} (PNG, {width} × {height})")
        for method, mask in answer.masks.items()
    ]
    table = measurements_csv(_rows_of(answer))
    downloads.append(_download(table, f"{answer.name}_measurements.csv", "text/csv", "Measurements (CSV)"))
    shown = f'<div class="figures">{"".join(figures)}</div>{_table(answer)}'
    return _section(answer.name, summary(answer), shown + _paragraph_of(downloads))


def _section(head: str, said: str, shown: str) -> str:
    """Head and words of an answer, to be escaped, before what is HTML already."""
    words = f'<h2>{html.escape(head)}</h2><p class="said">{html.escape(said)}</p>'
    return f'<section class="answer">{words}{shown}</section>'


def _paragraph_of(downloads: list[str]) -> str:
    return f'<p class="downloads">{"".join(downloads)}</p>'


def _batch_line(result: Answer | Refusal) -> str:
    if isinstance(result, Refusal):
        return (
            f'<tr class="refused"><td></td><th scope="row">{html.escape(result.name)}</th>'
            f'<td colspan="4">{html.escape(result.words)}</td></tr>'
        )
    method, mask = next(iter(result.masks.items()))
    row = result.rows[method]
    image = _shown_image(result.frame.pixels, _THUMBNAIL_SIDE)
    layer = _shown_mask(mask, PREDICTION, _THUMBNAIL_SIDE)
    unit, axis, digits = ("px", row.longest_axis_px, 0)
    if result.frame.spacing is not None:
        unit, axis, digits = ("mm", row.longest_axis_mm, 1)
    return (
        f'<tr><td><div class="stack"><img src="{image}" alt=""><img class="mask" src="{layer}" alt=""></div></td>'
        f'<th scope="row">{html.escape(row.file)}</th><td>{_number(row.area_share, 1, "%")} %</td>'
        f"<td>{_number(axis, digits, unit)} {unit if axis is not None else ''}</td>"
        f"<td>{_number(row.confidence, 2, '')}</td><td>{_number(row.doubt, 2, '')}</td></tr>"
    )


def batch_page(results: Iterable[Answer | Refusal]) -> str:
    """The answer for several images as HTML: a table with thumbnails, and an archive to download.

    Parameters
    ----------
    results : iterable of Answer or Refusal
        Taken one by one and let go, so that memory does not grow with their number; names of answers differ.

    Returns
    -------
    str
        The first method is shown; the archive holds the masks of all, and the table of measurements.
    """
    lines, rows, n_answers = [], [], 0
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for result in results:
            lines.append(_batch_line(result))
            rows += _rows_of(result)
            if isinstance(result, Answer):
                n_answers += 1
                for method, mask in result.masks.items():
                    archive.writestr(result.rows[method].mask, mask_png(mask))
        table = measurements_csv(rows)
        archive.writestr("measurements.csv", table)
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("Image", "File", "Marked", "Longest axis", "Probability inside", "Doubt, bit")
    )
    downloads = [
        _download(buffer.getvalue(), "busutils_masks.zip", "application/zip", "Masks and table (ZIP)"),
        _download(table, "busutils_measurements.csv", "text/csv", "Measurements (CSV)"),
    ]
    shown = (
        f'<div class="wide" tabindex="0" role="region" aria-label="Table of results"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
    return _section("Several images", f"{n_answers} of {len(lines)} files segmented.", _paragraph_of(downloads) + shown)


def refusal_page(words: str) -> str:
    """Say why there is no answer.

    Parameters
    ----------
    words : str
        Plain text; it may hold a visitor's file name.

    Returns
    -------
    str
        HTML.
    """
    return f'<section class="answer"><p class="refusal" role="alert">{html.escape(words)}</p></section>'
