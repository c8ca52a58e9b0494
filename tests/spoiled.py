"""Files that a hospital's archive may hold: broken ones, hostile ones, and odd ones that are in order.

All are made from random numbers. The DICOM files name a patient, so that tests can look for the name where it must not be.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from trees import picture

PATIENT = "SECRET^PATIENT"


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def dicom(
    pixels: np.ndarray | None = None, *, drop: tuple[str, ...] = (), syntax=ExplicitVRLittleEndian, **fields
) -> bytes:
    """A DICOM file of grey (H, W), colour (H, W, 3) or several frames (N, H, W); fields replace what is written."""
    pixels = picture() if pixels is None else pixels
    syntax = UID(syntax)
    colour = pixels.ndim >= 3 and pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if colour else pixels.shape
    header = Dataset()
    header.PatientName, header.PatientID, header.PatientBirthDate = PATIENT, PATIENT, "19500101"
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.3"
    header.Rows, header.Columns = shape[-2:]
    header.SamplesPerPixel = 3 if colour else 1
    header.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8 * pixels.dtype.itemsize
    header.HighBit, header.PixelRepresentation = header.BitsStored - 1, int(pixels.dtype.kind == "i")
    if colour:
        header.PlanarConfiguration = 0
    if len(shape) == 3:
        header.NumberOfFrames = shape[0]
    header.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(header, name, value)
    header["PixelData"].VR = "OB" if syntax.is_encapsulated else "OW"
    header["PixelData"].is_undefined_length = syntax.is_encapsulated
    for name in drop:
        delattr(header, name)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    header.file_meta = meta
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation():
        header.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def png_with_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; the pixels are missing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _in_order() -> dict[str, bytes]:
    """Odd, but to be segmented."""
    grey = picture()
    colour = Image.fromarray(np.stack([grey, grey, grey], axis=-1))
    deep = grey.astype(np.uint16) * 257
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    more = {"save_all": True, "append_images": frames[1:]}
    files = {
        "plain.png": encoded(grey, "PNG"),
        "no_longer_a.bmp": encoded(grey, "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "deep.tif": encoded(deep, "TIFF"),
        "int32.tif": encoded(deep.astype(np.int32), "TIFF"),
        "palette.png": encoded(colour.quantize(16), "PNG"),
        "palette_clear.png": encoded(colour.quantize(16), "PNG", transparency=3),
        "palette.gif": encoded(colour.quantize(16), "GIF"),
        "rgba.png": encoded(colour.convert("RGBA"), "PNG"),
        "la.png": encoded(Image.fromarray(grey).convert("LA"), "PNG"),
        "one_bit.png": encoded(Image.fromarray(grey).convert("1"), "PNG"),
        "cmyk.jpg": encoded(colour.convert("CMYK"), "JPEG"),
        "cmyk.tif": encoded(colour.convert("CMYK"), "TIFF"),
        "ycbcr.jpeg": encoded(colour, "JPEG", quality=60),
        "progressive.jpg": encoded(colour, "JPEG", progressive=True),
        "lab.tif": encoded(colour.convert("LAB"), "TIFF"),
        "lzw.tif": encoded(grey, "TIFF", compression="tiff_lzw"),
        "one_pixel.png": encoded(grey[:1, :1], "PNG"),
        "line.png": encoded(grey[:1], "PNG"),
        "column.bmp": encoded(grey[:, :1], "BMP"),
        "UPPER.PNG": encoded(grey, "PNG"),
        "animated.gif": encoded(frames[0], "GIF", **more),
        "animated.png": encoded(frames[0], "PNG", **more),
        "animated_webp.png": encoded(frames[0].convert("RGB"), "WEBP", lossless=True, **more),
        "pages.tiff": encoded(frames[0], "TIFF", **more),
        "single.dcm": dicom(),
        "no_ending": dicom(),
        "inverse.dcm": dicom(PhotometricInterpretation="MONOCHROME1"),
        "colour.dcm": dicom(np.asarray(colour)),
        "clip.dcm": dicom(np.stack([picture(seed=seed) for seed in range(3)])),
        "deep.dcm": dicom(deep),
        "signed.dcm": dicom((deep.astype(np.int32) - 32768).astype(np.int16)),
        "window.dcm": dicom(deep, WindowCenter=20000, WindowWidth=30000),
        "windows.dcm": dicom(deep, WindowCenter=[20000, 10], WindowWidth=[30000, 5]),
        "bad_window.dcm": dicom(deep, WindowCenter=12345, WindowWidth=0).replace(b"12345", b"wrong"),
        "bad_spacing.dcm": dicom(PixelSpacing=[1.25, 1.25]).replace(b"1.25\\1.25", b"some\\less"),
        "spacing.dcm": dicom(PixelSpacing=[0.2, 0.1]),
    }
    return files


def _refused(rng: np.random.Generator) -> dict[str, bytes]:
    """Not to be segmented, and to be named."""
    grey = picture()
    whole = {
        ".png": encoded(grey, "PNG"),
        ".jpg": encoded(grey, "JPEG"),
        ".bmp": encoded(grey, "BMP"),
        ".tif": encoded(grey, "TIFF"),
        ".gif": encoded(grey, "GIF"),
        ".dcm": dicom(),
    }
    files: dict[str, bytes] = {}
    for ending, content in whole.items():
        files[f"empty{ending}"] = b""
        files[f"text{ending}"] = b"this is no picture\n" * 20
        files[f"noise{ending}"] = rng.bytes(3000)
        files[f"zeros{ending}"] = bytes(3000)
        for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.85):
            files[f"cut_{share}{ending}"] = content[: int(share * len(content))]
    files["page.png"] = b"<!DOCTYPE html><html><body>404</body></html>"
    files["vector.png"] = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    files["archive.tif"] = b"PK\x03\x04" + rng.bytes(500)
    files["paper.jpg"] = b"%PDF-1.7\n" + rng.bytes(500)
    files["postscript.png"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    files["float.tif"] = encoded(grey.astype(np.float32), "TIFF")
    # Bombs: sizes that would not fit into memory.
    for side in ((60_000, 60_000), (2**31 - 1, 1), (9000, 9000), (0, 10), (10, 0), (0, 0)):
        files[f"claims_{side[0]}_{side[1]}.png"] = png_with_size(*side)
    for ending, where in ((".tif", None), (".bmp", 18), (".gif", 6)):
        files[f"claims_60000{ending}"] = _resized(whole[ending], where, 60_000)
    for ending, where in ((".tif", None), (".bmp", 18)):
        files[f"claims_0{ending}"] = _resized(whole[ending], where, 0)
    files["claims_65535.dcm"] = dicom(Rows=65535, Columns=65535)
    files["claims_frames.dcm"] = dicom(NumberOfFrames=10**9)
    files["no_rows.dcm"] = dicom(Rows=0)
    files["minus_frames.dcm"] = dicom(NumberOfFrames=-2)
    for tag in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation", "PixelData"):
        files[f"without_{tag}.dcm"] = dicom(drop=(tag,))
    files["without_PixelRepresentation.dcm"] = dicom(drop=("PixelRepresentation",))
    files["three_bits.dcm"] = dicom(BitsAllocated=7)
    files["stored_more.dcm"] = dicom(BitsStored=40)
    files["unknown_kind.dcm"] = dicom(PhotometricInterpretation="HSV")
    files["two_samples.dcm"] = dicom(SamplesPerPixel=2)
    files["short_pixels.dcm"] = dicom(PixelData=bytes(10))
    files["palette_missing.dcm"] = dicom(PhotometricInterpretation="PALETTE COLOR")
    files["not_encapsulated.dcm"] = dicom(syntax="1.2.840.10008.1.2.1").replace(
        b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.5\x00"
    )
    files["only_a_mark.dcm"] = bytes(128) + b"DICM"
    clip = dicom(np.stack([picture(seed=seed) for seed in range(3)]))
    files["clip_cut.dcm"] = clip[: len(clip) // 2]
    return files


def _resized(content: bytes, where: int | None, side: int) -> bytes:
    """Write another size into a header."""
    if where is None:  # TIFF: a list of entries tag, type, count, value
        start = struct.unpack_from("<I", content, 4)[0]
        spoiled = bytearray(content)
        for index in range(struct.unpack_from("<H", content, start)[0]):
            entry = start + 2 + 12 * index
            if struct.unpack_from("<H", content, entry)[0] in (256, 257):
                struct.pack_into("<HHII", spoiled, entry, struct.unpack_from("<H", content, entry)[0], 4, 1, side)
        return bytes(spoiled)
    size = struct.pack("<ii" if where == 18 else "<HH", side, side)
    return content[:where] + size + content[where + len(size) :]


def _scrambled(rng: np.random.Generator, files: dict[str, bytes], n: int) -> dict[str, bytes]:
    """Files with wrong bytes here and there; some can still be read."""
    made = {}
    names = sorted(files)
    for index in range(n):
        name = names[index % len(names)]
        content = bytearray(files[name])
        for place in rng.integers(0, len(content), size=int(rng.choice([1, 4, 30]))):
            content[place] = rng.integers(256)
        made[f"scrambled_{index}_{name}"] = bytes(content)
    return made


def write_all(folder: Path, *, seed: int = 0) -> tuple[list[Path], list[Path], list[Path]]:
    """Write files that are in order, files that are to be refused, and files of which one cannot say.

    Parameters
    ----------
    folder : Path
    seed : int

    Returns
    -------
    in_order, refused, either : list of Path
    """
    rng = np.random.default_rng(seed)
    in_order = _in_order()
    parts: list[Callable[[], dict[str, bytes]]] = [
        lambda: in_order,
        lambda: _refused(rng),
        lambda: _scrambled(rng, in_order, 80),
    ]
    written = []
    for part in parts:
        paths = []
        for name, content in part().items():
            path = folder / name
            path.write_bytes(content)
            paths.append(path)
        written.append(paths)
    return tuple(written)
