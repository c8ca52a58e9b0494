"""Pictures, clips and DICOM files as grey frames, one at a time.

Only what the pixels need is read from a DICOM file: patient fields are never parsed, so that none can reach a mask, a
table or an error message.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from busutils.datasets import DatasetError, pixels

__all__ = ["DICOM_ENDINGS", "PICTURE_ENDINGS", "Frame", "is_dicom", "read_frames"]

PICTURE_ENDINGS = (".png", ".apng", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
DICOM_ENDINGS = (".dcm", ".dicom")
#: Largest sum of pixels over the frames of one file; frames are decoded one at a time, so this bounds time, not memory.
MAX_CLIP_PIXELS = 20 * pixels.MAX_PIXELS

# Pillow also opens formats that start other programs (EPS) or fetch several pictures of other kinds; these are enough.
_FORMATS = {"PNG", "JPEG", "MPO", "JPEG2000", "BMP", "DIB", "TIFF", "GIF", "WEBP", "PPM"}
# The other pictures of an MPO are previews of the first.
_CLIP_FORMATS = {"PNG", "TIFF", "GIF", "WEBP"}
# Pixels of ultrasound images are some hundredths to tenths of a millimetre; values far off are errors in the header.
_SPACING_MM = (0.001, 10.0)

_DICOM_FIELDS = [
    "BitsAllocated",
    "BitsStored",
    "BluePaletteColorLookupTableData",
    "BluePaletteColorLookupTableDescriptor",
    "Columns",
    "GreenPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableDescriptor",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "PixelSpacing",
    "RedPaletteColorLookupTableData",
    "RedPaletteColorLookupTableDescriptor",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SamplesPerPixel",
    "SequenceOfUltrasoundRegions",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
]
_DEFLATED = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True)
class Frame:
    """One grey image of a file.

    Attributes
    ----------
    image : (H, W) uint8 ndarray
        Grey levels.
    number : int or None
        Place in its file, from 1; None where the file holds a single image.
    spacing : (float, float) or None
        Height and width of a pixel in mm, where the file tells.
    """

    image: np.ndarray
    number: int | None = None
    spacing: tuple[float, float] | None = None


def is_dicom(path: Path) -> bool:
    """Tell whether a file bears the mark of DICOM, whatever its name.

    Parameters
    ----------
    path : Path

    Returns
    -------
    bool
        False too for what cannot be read.
    """
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except (OSError, ValueError):
        return False


def read_frames(path: Path) -> Iterator[Frame]:
    """Read the images of a file, one after the other.

    Parameters
    ----------
    path : Path
        A picture (every page of a TIFF, every frame of an animation) or a DICOM file with one or more frames.

    Yields
    ------
    Frame
        At least one.

    Raises
    ------
    DatasetError
        If the file is missing, broken, cut short, of another kind, or too large: more than ``pixels.MAX_PIXELS`` a
        frame or ``MAX_CLIP_PIXELS`` in all. Sizes are compared before anything is decoded. A clip that breaks off
        raises after its last whole frame.
    """
    path = Path(path)
    try:
        usable = path.is_file()
    except (OSError, ValueError):
        usable = False
    if not usable:
        raise DatasetError(f"{path} is gone or no file: check the path.")
    try:
        if is_dicom(path):
            yield from _dicom_frames(path)
        elif path.suffix.lower() in DICOM_ENDINGS:
            raise DatasetError(f"{path} is no DICOM file (the mark DICM is missing); export it again.")
        else:
            yield from _picture_frames(path)
    except DatasetError:
        raise
    except Exception:
        # Decoders raise whatever a broken header leads them to. Their words are left out: they may quote the header.
        raise DatasetError(f"{path} is broken or cut short; fetch the file again.") from None


# -- pictures ------------------------------------------------------------------------------------------------


def _check_total(path: Path, total: int) -> None:
    if total > MAX_CLIP_PIXELS:
        raise DatasetError(f"{path} has more than {MAX_CLIP_PIXELS:,} pixels in all its frames; it is not read.")


def _picture_frames(path: Path) -> Iterator[Frame]:
    with pixels.open_picture(path) as picture:
        if picture.format not in _FORMATS:
            raise DatasetError(f"{path} is a picture of a kind that is not read ({picture.format}); convert it to PNG.")
        n_frames = getattr(picture, "n_frames", 1) if picture.format in _CLIP_FORMATS else 1
        if n_frames > 1:
            _check_total(path, n_frames * picture.width * picture.height)
            yield from _clip_frames(path, picture, n_frames)
        else:
            yield Frame(_grey(path, picture))


def _clip_frames(path: Path, picture: Image.Image, n_frames: int) -> Iterator[Frame]:
    total = number = 0
    for number, page in enumerate(ImageSequence.Iterator(picture), start=1):
        # The pages of a TIFF have sizes of their own.
        if page.width * page.height > pixels.MAX_PIXELS:
            raise DatasetError(f"{path} has a page of more than {pixels.MAX_PIXELS:,} pixels; it is not read.")
        total += page.width * page.height
        _check_total(path, total)
        yield Frame(_grey(path, page), number)
    if number < n_frames:
        raise DatasetError(f"{path} is broken or cut short after {number} of {n_frames} frames; fetch the file again.")


def _grey(path: Path, picture: Image.Image) -> np.ndarray:
    """One page as :func:`busutils.datasets.read_image` reads a picture."""
    if picture.mode == "F":
        raise DatasetError(f"{path} holds floating-point pixels; convert it to 8-bit grey first.")
    if picture.mode.startswith("I"):
        deep = np.clip(np.asarray(picture), 0, 65535)
        return (deep if deep.max(initial=0) <= 255 else deep // 257).astype(np.uint8)
    if picture.mode == "LA":
        return np.array(picture.getchannel("L"))
    return np.array(picture.convert("L") if picture.mode in ("1", "L", "RGB") else picture.convert("RGB").convert("L"))


# -- DICOM ---------------------------------------------------------------------------------------------------


def _pydicom(path: Path) -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise DatasetError(f"{path} is a DICOM file, which needs pydicom: pip install 'busutils[dicom]'") from None
    # Its notes on odd headers quote them, and with them, in a broken file, whatever stands beside.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom|busutils\.app\.scans")
    return pydicom


def _dicom_frames(path: Path) -> Iterator[Frame]:
    pydicom = _pydicom(path)
    try:
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax == _DEFLATED:
            # It would be inflated as a whole before its sizes could be read.
            raise DatasetError(f"{path} is a deflated DICOM file, which is not read; store it uncompressed.")
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_DICOM_FIELDS)
        rows, columns = int(header.Rows), int(header.Columns)
        frames = int(header.get("NumberOfFrames") or 1)
        kind = str(header.PhotometricInterpretation)
        known = kind in ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR") or kind.startswith("YBR")
    except DatasetError:
        raise
    except Exception:
        raise DatasetError(f"{path} is a DICOM file without a usable image header; export it again.") from None
    if min(rows, columns, frames) < 1 or not known:
        raise DatasetError(f"{path} is a DICOM file without pixels of a known kind; export it again.")
    if rows * columns > pixels.MAX_PIXELS:
        raise DatasetError(
            f"{path} has {columns} x {rows} pixels, more than the limit of {pixels.MAX_PIXELS:,}; it is not read."
        )
    _check_total(path, rows * columns * frames)
    spacing = _spacing(header)
    try:
        number = 0
        for number, frame in enumerate(pydicom.pixels.iter_pixels(path), start=1):
            grey = _colour_to_grey(frame, header, pydicom) if frame.ndim == 3 or kind == "PALETTE COLOR" else None
            if grey is None:
                grey = _displayed(frame, header, pydicom)
            yield Frame(grey, number if frames > 1 else None, spacing)
    except Exception:
        raise DatasetError(
            f"{path} has DICOM pixels that are broken, cut short, or compressed in a way that is not read here; "
            "export it uncompressed."
        ) from None
    if number < frames:
        raise DatasetError(f"{path} is broken or cut short after {number} of {frames} frames; export it again.")


def _colour_to_grey(frame: np.ndarray, header: Any, pydicom: Any) -> np.ndarray:
    """Grey (H, W) uint8 of an RGB or palette frame; YBR is RGB by now."""
    depth = int(header.BitsStored)
    if frame.ndim == 2:
        frame = pydicom.pixels.apply_color_lut(frame, header)
        depth = 8 * frame.dtype.itemsize
    if depth != 8:
        frame = np.rint(frame.astype(np.float32) * (255 / (2**depth - 1)))
    colours = Image.fromarray(np.ascontiguousarray(frame[..., :3].clip(0, 255).astype(np.uint8)))
    return np.array(colours.convert("L"))


def _displayed(frame: np.ndarray, header: Any, pydicom: Any) -> np.ndarray:
    """Grey (H, W) uint8 as a viewer shows a monochrome frame: rescaled and windowed where the header says so."""
    window = _window(header)
    if window is None:
        # Rescaling is linear: without a window it changes nothing in what is black and what is white.
        depth, signed = int(header.BitsStored), int(header.PixelRepresentation)
        low = -(2 ** (depth - 1)) if signed else 0
        shown = (frame.astype(np.float32) - low) / (2**depth - 1)
    else:
        values = pydicom.pixels.apply_modality_lut(frame, header).astype(np.float32)
        centre, width = window
        function = header.get("VOILUTFunction") or "LINEAR"
        if function == "SIGMOID":
            with np.errstate(over="ignore"):
                shown = 1 / (1 + np.exp(-4 * (values - centre) / width))
        elif function == "LINEAR_EXACT" or width <= 1:
            shown = (values - centre) / width + 0.5
        else:
            shown = (values - (centre - 0.5)) / (width - 1) + 0.5
    shown = np.clip(shown, 0, 1)
    if header.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return np.rint(255 * shown).astype(np.uint8)


def _numbers(value: Any) -> list[float]:
    if value is None or value == "":
        return []
    several = not isinstance(value, str | bytes) and hasattr(value, "__iter__")
    try:
        return [float(number) for number in (value if several else [value])]
    except (TypeError, ValueError):
        return []


def _window(header: Any) -> tuple[float, float] | None:
    centres, widths = _numbers(header.get("WindowCenter")), _numbers(header.get("WindowWidth"))
    if not centres or not widths or not math.isfinite(centres[0]) or not 0 < widths[0] < math.inf:
        return None
    return centres[0], widths[0]


def _spacing(header: Any) -> tuple[float, float] | None:
    """Height and width of a pixel in mm; None where the header has none, or several that differ."""
    try:
        found = [tuple(_numbers(header.get("PixelSpacing")))]
        if len(found[0]) != 2:
            # 2D regions (format 1) whose units are centimetres (code 3)
            found = [
                (10 * abs(float(region.PhysicalDeltaY)), 10 * abs(float(region.PhysicalDeltaX)))
                for region in header.get("SequenceOfUltrasoundRegions") or []
                if region.get("RegionSpatialFormat", 1) == 1
                and region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == 3
            ]
    except Exception:  # a damaged sequence costs the millimetres, not the image
        return None
    low, high = _SPACING_MM
    if len(set(found)) != 1 or not all(low <= side <= high for side in found[0]):
        return None
    return found[0]
