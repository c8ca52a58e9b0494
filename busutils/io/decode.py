"""Decode image files: stills, every frame of a clip, DICOM; all to grey (H, W) uint8."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ExifTags, ImageOps, ImageSequence

from busutils.io.dicom import DICOM_SUFFIXES, is_dicom, read_dicom
from busutils.io.image import DatasetError, Image, PixelSource, check_clip_size, check_size

PICTURE_SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")

# Pillow also opens formats that start other programs (EPS) or hold several unrelated images; these are enough.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# The other pictures of an MPO are previews of the first.
_CLIP_FORMATS = {"PNG", "TIFF", "GIF", "WEBP"}
# EXIF orientations that exchange height and width.
_TURNED = (5, 6, 7, 8)


def open_picture(path: Path, max_pixels: int | None = None) -> PIL.Image.Image:
    """Open a picture without decoding it, within the size limit.

    Parameters
    ----------
    path : Path
    max_pixels : int, optional
        By default ``busutils.io.image.MAX_PIXELS``.

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    DatasetError
        If the file is missing, no picture of a format that is read, or too large.
    """
    try:
        picture = PIL.Image.open(path, formats=_FORMATS)
    except FileNotFoundError:
        raise DatasetError(f"{path} is gone: the folder changed since it was read; check the path.") from None
    except PIL.Image.DecompressionBombError:
        raise DatasetError(f"{path} has many times more pixels than the limit; it is not read.") from None
    except (OSError, SyntaxError, ValueError):
        raise DatasetError(f"{path} is not a picture that can be read; fetch it again or convert it to PNG.") from None
    try:
        check_size(path, picture.height, picture.width, max_pixels)
    except DatasetError:
        picture.close()
        raise
    return picture


def picture_size(source: Path | PixelSource) -> tuple[int, int]:
    """Height and width of an image, from its header where it is a file.

    Parameters
    ----------
    source : path or PixelSource

    Returns
    -------
    (int, int)
        Height, width in pixels, as :func:`read_image` returns them.

    Raises
    ------
    DatasetError
        If the file is no picture, or too large.
    """
    if isinstance(source, PixelSource):
        return source.read().shape[:2]
    with open_picture(Path(source)) as picture:
        # Pillow has turned a TIFF's size already.
        turned = picture.format != "TIFF" and _orientation(picture) in _TURNED
        return (picture.width, picture.height) if turned else (picture.height, picture.width)


def read_image(source: Path | str | PixelSource) -> np.ndarray:
    """Read one image as 8-bit grey; of a clip the first frame.

    Colour becomes grey by luma (ITU-R 601); where the three channels are equal that is the channel itself.
    Transparency is ignored, palettes are looked up, 1-bit becomes 0 and 255, 16-bit is scaled to 8, and an EXIF
    orientation is applied.

    Parameters
    ----------
    source : path or PixelSource

    Returns
    -------
    (H, W) uint8 ndarray

    Raises
    ------
    DatasetError
        If the file is missing, broken, cut short, or too large.
    """
    return source.read() if isinstance(source, PixelSource) else next(read_images(Path(source))).pixels


def read_images(path: Path | str, *, max_pixels: int | None = None) -> Iterator[Image]:
    """Read the images of a file, one after the other.

    Parameters
    ----------
    path : path
        A picture (every page of a TIFF, every frame of an animation) or a DICOM file with one or more frames.
    max_pixels : int, optional
        Limit of a frame, by default ``busutils.io.image.MAX_PIXELS``; a file may hold ``MAX_FULL_FRAMES`` times as
        many in all its frames. Sizes are compared before anything is decoded.

    Yields
    ------
    Image
        At least one. Pixels as :func:`read_image` describes; DICOM as a viewer shows it.

    Raises
    ------
    DatasetError
        If the file is missing, broken, cut short, of another kind, or too large. A clip that breaks off raises after
        its last whole frame.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise DatasetError(f"{path} is gone or no file: check the path.")
    try:
        if is_dicom(path):
            yield from read_dicom(path, max_pixels)
        elif path.suffix.lower() in DICOM_SUFFIXES:
            raise DatasetError(f"{path} is no DICOM file (its prefix DICM is missing); export it again.")
        else:
            yield from _read_picture(path, max_pixels)
    except DatasetError:
        raise
    except Exception:
        # Decoders raise errors of any type on a broken file. Their messages are left out: they may quote the header.
        raise DatasetError(f"{path} is broken or cut short; fetch the file again.") from None


def _read_picture(path: Path, max_pixels: int | None) -> Iterator[Image]:
    with open_picture(path, max_pixels) as picture:
        n_frames = getattr(picture, "n_frames", 1) if picture.format in _CLIP_FORMATS else 1
        if n_frames == 1:
            yield Image(_grey(path, picture))
            return
        check_clip_size(path, n_frames * picture.width * picture.height, max_pixels)
        total = number = 0
        for number, page in enumerate(ImageSequence.Iterator(picture), start=1):
            # The pages of a TIFF have sizes of their own.
            total += page.width * page.height
            check_size(path, page.height, page.width, max_pixels)
            check_clip_size(path, total, max_pixels)
            yield Image(_grey(path, page), frame=number)
        if number < n_frames:
            raise DatasetError(
                f"{path} is broken or cut short after {number} of {n_frames} frames; fetch the file again."
            )


def upright(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Decode an opened picture and apply its EXIF orientation."""
    picture.load()
    return picture if _orientation(picture) == 1 else ImageOps.exif_transpose(picture)


def _orientation(picture: PIL.Image.Image) -> int:
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data costs the orientation, not the image
        return 1


def _grey(path: Path, picture: PIL.Image.Image) -> np.ndarray:
    """Grey levels (H, W) uint8 of an opened picture."""
    if picture.mode == "F":
        raise DatasetError(f"{path} holds floating-point pixels; convert it to 8-bit grey first.")
    picture = upright(picture)
    if picture.mode.startswith("I"):
        # 0…65535 to 0…255; those that only use the low byte keep their values.
        deep = np.clip(np.asarray(picture), 0, 65535)
        return (deep if deep.max(initial=0) <= 255 else deep // 257).astype(np.uint8)
    if picture.mode == "LA":
        return np.array(picture.getchannel("L"))
    return np.array(picture.convert("L") if picture.mode in ("1", "L", "RGB") else picture.convert("RGB").convert("L"))
