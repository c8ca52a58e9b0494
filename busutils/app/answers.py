"""What the web page shows for an image: masks, maps and measurements, as one piece of HTML that holds its own files.

Nothing here depends on Gradio. Pictures and downloads are data URLs inside the HTML, so no result is ever written to the
server's disk. The template ``answer.html`` escapes all values.
"""

from __future__ import annotations

import base64
import functools
import io
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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

__all__ = ["Answer", "Refused", "answer_page", "examine", "read_upload", "refusal_page", "safe_stem", "summary"]

MIN_SIDE = 32  # pixels; less shows no tissue
_SHOWN_SIDE = 640  # pixels of the longer side on the page; masks to download keep the image's own size


class Refused(BusutilsError):
    """A file that the page does not take, and why, in words for the visitor."""


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
        Any text, paths and HTML included.

    Returns
    -------
    str
        Never empty, never a path, never hidden, never a formula of a spreadsheet.

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
        Height and width of a pixel in mm as the visitor gave it; takes precedence over what the file says.
    max_pixels : int, optional
        Limit of an image, see :func:`busutils.io.read_images`.

    Yields
    ------
    Image
        At least one; several of a clip.

    Raises
    ------
    Refused
        If the file is no image that is read here, broken, too large or too small; the message names no folder.
    """
    path = Path(path)
    try:
        for image in read_images(path, max_pixels=max_pixels):
            height, width = image.pixels.shape
            if min(height, width) < MIN_SIDE:
                raise Refused(
                    f"{path.name} has {width} x {height} pixels; at least {MIN_SIDE} are needed on each side."
                )
            yield replace(image, spacing=spacing or image.spacing)
    except DatasetError as error:
        words = str(error).replace(f"{path.parent}{os.sep}", "")
        raise Refused(re.sub(r" \(busutils\.[^)]*\)", "", words)) from error


def examine(segmenters: Mapping[str, Segmenter], image: Image, name: str) -> Answer:
    """Segment and measure one image with every method.

    Parameters
    ----------
    segmenters : mapping of str to Segmenter
        Fitted ones by the name the page calls them; the maps of the first are shown.
    image : Image
        The image.
    name : str
        Of its file, as it was sent.

    Returns
    -------
    Answer
    """
    stem = safe_stem(name)
    probs, masks, rows = {}, {}, {}
    for method, segmenter in segmenters.items():
        (prob,) = segmenter.predict_proba([image.pixels])
        (mask,) = segmenter.masks_from([prob])
        row = describe(stem, f"{stem}_{safe_stem(method).lower()}_mask.png", image, prob, mask, segmenter.threshold_)
        if not segmenter.supervised:  # its map holds zeros and ones, which are no probabilities
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
        sentences.append("The file holds several frames; this is the first. The command busutils predict takes all.")
    return " ".join(sentences)


# -- HTML ----------------------------------------------------------------------------------------------------


def _data_url(content: bytes | np.ndarray, kind: str = "image/png") -> str:
    """A file, or pixels to be compressed as a picture, as a URL."""
    if isinstance(content, np.ndarray):
        buffer = io.BytesIO()
        PIL.Image.fromarray(content).save(buffer, kind.removeprefix("image/"), quality=88)
        content = buffer.getvalue()
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _resized(pixels: np.ndarray, side: int = _SHOWN_SIDE) -> np.ndarray:
    picture = PIL.Image.fromarray(pixels)
    scale = min(1.0, side / max(picture.size))
    return np.asarray(picture.resize([max(1, round(length * scale)) for length in picture.size]))


def _overlay(mask: np.ndarray, colour: str) -> np.ndarray:
    """The lesion in one colour on a transparent ground, with a darker rim that shows on bright tissue."""
    shown = _resized(np.uint8(255) * mask) > 127
    layer = np.zeros((*shown.shape, 4), np.uint8)
    layer[shown] = (*ImageColor.getrgb(colour), 255)
    layer[shown & ~ndimage.binary_erosion(shown, iterations=2), :3] //= 2
    return layer


@functools.cache
def _template() -> Any:
    import jinja2

    source = Path(__file__).with_name("answer.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True).from_string(source).module


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
    overlays, files = [], []
    for method, mask in answer.masks.items():
        colour = PREDICTION if method == first else colour_of(method)
        alt = f"{answer.name} with {'the marked lesion' if mask.any() else 'nothing marked'} of {method}"
        overlays.append({"method": method, "colour": colour, "alt": alt, "mask": _data_url(_overlay(mask, colour))})
        name, url = answer.rows[method].mask, _data_url(mask_png(mask))
        files.append({"name": name, "label": f"Mask, {method} (PNG)", "url": url})
    rows = [{"method": method, **asdict(row)} for method, row in answer.rows.items()]
    table = pd.DataFrame(rows, dtype=object).to_csv(index=False).encode()
    name = f"{answer.name}_measurements.csv"
    files.append({"name": name, "label": "Measurements (CSV)", "url": _data_url(table, "text/csv")})
    prob = _resized(answer.probs[first], _SHOWN_SIDE // 2)
    maps = []
    for title, values, scale in (
        (f"Probability, {first}", prob, colormaps["viridis"]),
        (f"Uncertainty of {first}, bit", entropy(prob), colormaps["cividis"]),
    ):
        picture = scale(np.clip(values, 0, 1), bytes=True)[..., :3]
        steps = [colors.to_hex(scale(step)) for step in np.linspace(0, 1, 9)]
        maps.append({"title": title, "image": _data_url(picture), "colours": steps})
    # JPEG, because speckle makes a PNG ten times as large.
    image = _data_url(_resized(answer.image.pixels), "image/jpeg")
    return str(_template().one(answer.name, summary(answer), image, overlays, maps, rows, files))


def refusal_page(reason: str) -> str:
    """HTML that says why there is no answer.

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
