"""Keras, imported once and quietly.

TensorFlow writes notes about its kernels straight to the process's error stream while it is imported. They help no
student and change from machine to machine, so they are kept back; what Python code raises or warns is not.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
from collections.abc import Iterator

from busutils.errors import MissingPackageError

__all__ = ["across_devices", "keras", "precision", "quiet_stderr"]


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep back what libraries write past Python to the process's error stream."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# Settings of glibc's mallopt: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD.
_ALLOCATOR = ((-8, 1), (-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20))


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next allocation, in the whole process.

    ``BUSUTILS_MALLOC=0`` leaves the allocator as it is, and so does a ``MALLOC_TOP_PAD_`` of your own.

    A training step asks for the same few hundred tensors again and again. By default glibc returns those above 32 MiB to
    the system at once and the others soon, and on a processor the clearing of new pages took a large part of a step.
    Systems without glibc are left as they are.
    """
    wanted = os.environ.get("BUSUTILS_MALLOC") != "0" and "MALLOC_TOP_PAD_" not in os.environ
    if wanted and sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # musl has no such function
            for setting in _ALLOCATOR:
                ctypes.CDLL(None).mallopt(*setting)


keep_freed_memory()
try:
    with quiet_stderr():
        import keras

        # The first operation looks for graphics cards, and says so when there is none; the first data set fed by Python
        # tells how it manages memory.
        keras.ops.convert_to_numpy(keras.ops.zeros(1))
        if keras.backend.backend() == "tensorflow":
            import tensorflow

            next(iter(tensorflow.data.Dataset.from_generator(lambda: iter([0]), tensorflow.int32)))
            # A program with several networks compiles several functions, which TensorFlow takes for a mistake.
            logging.getLogger("tensorflow").addFilter(lambda note: "retracing" not in note.getMessage())
except ImportError as error:
    raise MissingPackageError(
        'networks need Keras 3 with an engine, which is not installed: pip install "busutils[tf]" '
        '(or "busutils[tf-cpu]" on Linux and Windows machines without a graphics card)'
    ) from error


@contextlib.contextmanager
def precision(policy: str) -> Iterator[None]:
    """Build layers under a precision policy, such as ``float32`` or ``mixed_bfloat16``, and put the old one back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def across_devices() -> contextlib.AbstractContextManager:
    """Return where networks for training are built: over all graphics cards of this machine if there are several.

    Every card then takes an equal part of each batch, and all keep equal weights (TensorFlow's ``MirroredStrategy``).
    ``BUSUTILS_DEVICES`` names other devices, such as ``GPU:0,GPU:1``, or a single one. Other engines train on one device.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow

    named = os.environ.get("BUSUTILS_DEVICES")
    devices = named.split(",") if named else [device.name for device in tensorflow.config.list_logical_devices("GPU")]
    if len(devices) > 1:
        return tensorflow.distribute.MirroredStrategy(devices).scope()
    return tensorflow.distribute.OneDeviceStrategy(devices[0]).scope() if named else contextlib.nullcontext()
