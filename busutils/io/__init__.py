"""Read files as :class:`Image` or mask, and resize them; all of the package goes through these functions.

Shapes mean the same everywhere: an image is ``(H, W) uint8``, a mask ``(H, W) bool``, spacing ``(dy, dx)`` in mm.
"""

from busutils.io.decode import PICTURE_SUFFIXES, open_picture, picture_size, read_image, read_images
from busutils.io.dicom import DICOM_SUFFIXES, is_dicom
from busutils.io.image import DatasetError, DatasetWarning, Image, PixelSource
from busutils.io.masks import read_mask, sizes_agree
from busutils.io.resize import resize_image, resize_map, resize_mask

__all__ = [
    "DICOM_SUFFIXES",
    "PICTURE_SUFFIXES",
    "DatasetError",
    "DatasetWarning",
    "Image",
    "PixelSource",
    "is_dicom",
    "open_picture",
    "picture_size",
    "read_image",
    "read_images",
    "read_mask",
    "resize_image",
    "resize_map",
    "resize_mask",
    "sizes_agree",
]
