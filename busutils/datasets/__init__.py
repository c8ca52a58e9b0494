"""Breast-ultrasound image sets: fetched, checked, audited, split without leaks.

>>> from busutils import datasets
>>> len(datasets.load("phantom", n=4, size=64))
4
"""

from busutils.datasets.audit import AuditReport, audit
from busutils.datasets.cache import cache_dir, cache_info, clear_cache
from busutils.datasets.catalogue import CARDS, Card, card
from busutils.datasets.fetch import data_dir, fetch
from busutils.datasets.inspection import CheckReport, catalogue_table, check, info
from busutils.datasets.lesions import LABELS, LesionDataset, Record, concatenate, read_record
from busutils.datasets.loading import find_folder, keys, load, parse_spec
from busutils.datasets.phantoms import load_phantoms, write_phantoms
from busutils.datasets.splits import LeakError, check_no_leak, fold_of_group, grouped_folds, shipped_folds
from busutils.io import (
    DatasetError,
    DatasetWarning,
    PixelSource,
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
    "CheckReport",
    "DatasetError",
    "DatasetWarning",
    "LeakError",
    "LesionDataset",
    "PixelSource",
    "Record",
    "audit",
    "cache_dir",
    "cache_info",
    "card",
    "catalogue_table",
    "check",
    "check_no_leak",
    "clear_cache",
    "concatenate",
    "data_dir",
    "fetch",
    "find_folder",
    "fold_of_group",
    "grouped_folds",
    "info",
    "keys",
    "load",
    "load_phantoms",
    "parse_spec",
    "read_image",
    "read_mask",
    "read_record",
    "resize_image",
    "resize_map",
    "resize_mask",
    "shipped_folds",
    "write_phantoms",
]
