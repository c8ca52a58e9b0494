"""Breast-ultrasound image sets: download, check, audit, and splits without data leakage.

>>> from busutils import datasets
>>> len(datasets.load("phantom", n=4, size=64))
4
"""

from busutils.datasets.adopt import adopt
from busutils.datasets.audit import AuditReport, audit
from busutils.datasets.cache import cache_dir, cache_info
from busutils.datasets.catalogue import CARDS, Card, card
from busutils.datasets.fetch import fetch
from busutils.datasets.inspection import catalogue_table, check, info
from busutils.datasets.lesions import LABELS, LesionDataset, Record, concatenate
from busutils.datasets.loading import load, parse_spec
from busutils.datasets.nnunet import write_nnunet
from busutils.datasets.phantoms import load_phantoms
from busutils.datasets.splits import LeakError, check_no_leak, shipped_folds
from busutils.io import (
    DatasetError,
    DatasetWarning,
    read_image,
    read_mask,
    resize_image,
    resize_map,
    resize_mask,
)

__all__ = [
    "CARDS",
    "LABELS",
    "AuditReport",
    "Card",
    "DatasetError",
    "DatasetWarning",
    "LeakError",
    "LesionDataset",
    "Record",
    "adopt",
    "audit",
    "cache_dir",
    "cache_info",
    "card",
    "catalogue_table",
    "check",
    "check_no_leak",
    "concatenate",
    "fetch",
    "info",
    "load",
    "load_phantoms",
    "parse_spec",
    "read_image",
    "read_mask",
    "resize_image",
    "resize_map",
    "resize_mask",
    "shipped_folds",
    "write_nnunet",
]
