"""Grey frames and pixel spacing of DICOM files, one frame at a time.

Only what the pixels need is read from a file: patient fields are never parsed, so that none can reach a mask, a table or
an error message.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from busutils.io.image import DatasetError, Image, check_clip_size, check_size

DICOM_SUFFIXES = (".dcm", ".dicom")

# Pixels of ultrasound images are some hundredths to tenths of a millimetre; values far off are errors in the header.
_SPACING_MM = (0.001, 10.0)

# fmt: off
_FIELDS = [
    "BitsAllocated", "BitsStored", "Columns", "NumberOfFrames", "PhotometricInterpretation", "PixelRepresentation", "Rows",
    "SamplesPerPixel", "ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "VOILUTFunction", "WindowCenter",
    "WindowWidth", "PixelSpacing", "SequenceOfUltrasoundRegions",
    *(f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Data", "Descriptor")),
]
# fmt: on
_DEFLATED = "1.2.840.10008.1.2.1.99"


def is_dicom(path: Path) -> bool:
    """Whether a file starts with the DICOM preamble and prefix, whatever its name.

    Parameters
    ----------
    path : Path

    Returns
    -------
    bool
        False also for a file that cannot be read.
    """
    if not os.path.isfile(path):  # opening a pipe would wait for its writer
        return False
    try:
        with open(path, "rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _pydicom(path: Path) -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise DatasetError(f'{path} is a DICOM file, which needs pydicom: pip install "busutils[dicom]"') from None
    # Its warnings quote odd header values, which in a broken file may include patient data.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom|busutils\.io\.dicom")
    return pydicom


def read_dicom(path: Path, max_pixels: int | None = None) -> Iterator[Image]:
    """Read the frames of a DICOM file as a viewer shows them.

    Parameters
    ----------
    path : Path
    max_pixels : int, optional
        Limit of a frame, see :func:`busutils.io.read_images`.

    Yields
    ------
    Image

    Raises
    ------
    DatasetError
        If pydicom is missing, or the file is broken, cut short, too large, or has no pixels of a known kind.
    """
    pydicom = _pydicom(path)
    try:
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax == _DEFLATED:
            # It would be inflated as a whole before its sizes could be read.
            raise DatasetError(f"{path} is a deflated DICOM file, which is not read; store it uncompressed.")
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_FIELDS)
        rows, columns, frames = int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames") or 1)
        kind = str(header.PhotometricInterpretation)
        known = kind in ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR") or kind.startswith("YBR")
    except DatasetError:
        raise
    except Exception:
        raise DatasetError(f"{path} is a DICOM file without a usable image header; export it again.") from None
    if min(rows, columns, frames) < 1 or not known:
        raise DatasetError(f"{path} is a DICOM file without pixels of a known kind; export it again.")
    check_size(path, rows, columns, max_pixels)
    check_clip_size(path, rows * columns * frames, max_pixels)
    spacing = _spacing(header)
    try:
        number = 0
        for number, frame in enumerate(pydicom.pixels.iter_pixels(path), start=1):
            to_grey = _colour_to_grey if frame.ndim == 3 or kind == "PALETTE COLOR" else _displayed
            yield Image(to_grey(frame, header, pydicom), spacing, number if frames > 1 else None)
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
    colours = PIL.Image.fromarray(np.ascontiguousarray(frame[..., :3].clip(0, 255).astype(np.uint8)))
    return np.array(colours.convert("L"))


def _displayed(frame: np.ndarray, header: Any, pydicom: Any) -> np.ndarray:
    """Grey (H, W) uint8 as a viewer shows a monochrome frame: rescaled and windowed where the header says so."""
    centres, widths = _numbers(header.get("WindowCenter")), _numbers(header.get("WindowWidth"))
    if not centres or not widths or not math.isfinite(centres[0]) or not 0 < widths[0] < math.inf:
        # Rescaling is linear: without a window it changes nothing in what is black and what is white.
        depth, signed = int(header.BitsStored), int(header.PixelRepresentation)
        low = -(2 ** (depth - 1)) if signed else 0
        shown = (frame.astype(np.float32) - low) / (2**depth - 1)
    else:
        values = pydicom.pixels.apply_modality_lut(frame, header).astype(np.float32)
        centre, width = centres[0], widths[0]
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
    """Values of a field that may hold none, one or several; empty where they are no numbers."""
    try:
        return np.atleast_1d(np.asarray([] if value is None else value, dtype=float)).tolist()
    except (TypeError, ValueError):
        return []


def _spacing(header: Any) -> tuple[float, float] | None:
    """Height and width of a pixel, (dy, dx) in mm; None where the header has none, or several that differ."""
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
    if len(set(found)) != 1 or not all(_SPACING_MM[0] <= side <= _SPACING_MM[1] for side in found[0]):
        return None
    return found[0][0], found[0][1]
