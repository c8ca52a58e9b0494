"""From a file to an :class:`Image` or a mask, and from one size to another: the only way in the package.

Shapes have one meaning everywhere: an image is ``(H, W) uint8``, a mask ``(H, W) bool``, spacing ``(dy, dx)`` in mm.
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
