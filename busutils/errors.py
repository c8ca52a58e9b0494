"""The package's own errors: what whoever asked can put right. The command line shows them as one sentence."""

from __future__ import annotations

__all__ = ["BusutilsError", "MissingPackageError"]


class BusutilsError(ValueError):
    """Something that cannot be done as asked, and what to do instead; every error class of the package is one."""


class MissingPackageError(BusutilsError, ImportError):
    """An optional package that is not installed, and how to install it."""
