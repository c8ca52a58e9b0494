"""One entry point to every method, and what computes a network: an exported file without Keras, or Keras itself.

An export is the network alone. What stands around it is the same for every runtime, and is code that needs neither
TensorFlow nor Keras (:mod:`busutils.io.resize`, :func:`busutils.models.clean_mask`). A program in another language that
uses the file has to do as much; ``size, threshold, min_area`` and ``tta`` stand, as JSON, in the file's
``metadata_props`` under ``busutils``.

1. Grey levels 0 to 255, whole numbers; colour becomes grey by luma (ITU-R 601).
2. Squeeze the image to ``size`` × ``size``, axis by axis: shares of covered pixels where it shrinks, linear interpolation
   between pixel centres where it grows. Round to whole grey levels.
3. Give it to the network as float32 ``(N, size, size, 1)``. No scaling: the network standardises each image itself.
4. The answer, ``(N, size, size, 1)``, holds probabilities. With ``tta`` *mirror* take the mean with the mirror image's,
   mirrored back.
5. Resize the map to the image's own size by the rule of step 2, without rounding.
6. Lesion is what is at or above ``threshold``. Fill holes. Drop regions (pixels that touch at corners belong together)
   smaller than ``min_area`` as a share of the image.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np

from busutils import jobs
from busutils.errors import BusutilsError
from busutils.models.segmenter import Segmenter, WeightsError, read_archive
from busutils.models.tta import mean_over_tta

__all__ = ["KMEANS", "RUNTIMES", "OnnxSegmenter", "RuntimeNotAvailable", "content_of", "load", "runtime_name"]

logger = logging.getLogger(__name__)

#: The fastest first (figures/inference.csv).
RUNTIMES = ("onnx", "keras")
#: Names of K-Means presets, which need no weights.
KMEANS = {"kmeans-textbook": "textbook", "kmeans-rules": "rules", "kmeans-improved": "improved", "kmeans-best": "best"}

_EXPORT_VERSION = 4  # of kept exports; to be raised when what export_network writes changes
_TITLES = {"onnx": "ONNX Runtime", "keras": "Keras"}
_PACKAGES = {"onnx": "onnxruntime", "keras": "keras"}
_EXTRAS = {"onnx": "export", "keras": "tf"}


class RuntimeNotAvailable(BusutilsError):
    """A runtime that is not installed, or cannot run this method."""


class OnnxSegmenter(Segmenter):
    """A network in an ``.onnx`` file of :func:`busutils.models.export.export_network`, run by ONNX Runtime.

    Parameters
    ----------
    path : str
        The file.
    streams : int, default 1
        Calls that are to run side by side, from threads; each gets an equal share of the processor's cores.

    Attributes
    ----------
    content_ : str
        Hash of the segmenter that was exported, see :func:`content_of`.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or was not exported by busutils.
    RuntimeNotAvailable
        If ONNX Runtime is not installed.
    """

    supervised: ClassVar[bool] = True
    thread_safe: ClassVar[bool] = True
    runtime = "onnx"

    def __init__(self, path: str, streams: int = 1) -> None:
        self.path = path
        self.streams = streams
        _require(self.runtime)
        import onnxruntime

        if not Path(path).is_file():
            raise WeightsError(f"there is no file {path}: check the path")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, joblib.cpu_count() // streams)
        # Idle threads leave the core to others.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session_ = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            about = json.loads(self.session_.get_modelmeta().custom_metadata_map["busutils"])
            self.size, self.min_area, self.tta = about["size"], float(about["min_area"]), about["tta"]
            self.threshold_ = float(about["threshold"])
            self.provenance = about.get("provenance", {})
            self._check_bounds()
            old = about.get("min_confidence")
        except Exception as error:  # ONNX Runtime raises classes of its own
            raise WeightsError(f"{path} is not a network exported by busutils: export it again") from error
        if old:
            raise WeightsError(f"{path} drops regions by a minimum confidence, as version 0.1 did: export it again")
        self._input = self.session_.get_inputs()[0].name
        self.content_ = about.get("content") or jobs.content_key(Path(path).read_bytes())
        self.fitted_ = True

    # A session cannot travel to another process, but its file can be opened there.
    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "streams": self.streams}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _fit(self, images: list[np.ndarray], masks: list[np.ndarray] | None, **options: Any) -> None:
        raise BusutilsError("an exported network cannot be trained: train a UNetSegmenter and export it")

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> Path:
        """Refused: the exported file is the saved network.

        Raises
        ------
        BusutilsError
            Always.
        """
        raise BusutilsError(f"this network is in {self.path} already: copy that file, or load with runtime='keras'")

    def _square_proba(self, squares: np.ndarray) -> np.ndarray:
        return mean_over_tta(self._network_proba, squares, self.tta)

    def _network_proba(self, squares: np.ndarray) -> np.ndarray:
        # One by one: larger batches are no faster on a processor, and the result cannot depend on the neighbours.
        batches = (image[None, ..., None].astype(np.float32) for image in squares)
        return np.stack([self.session_.run(None, {self._input: batch})[0][0, ..., 0] for batch in batches])


def _installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


def _require(runtime: str) -> None:
    if not _installed(_PACKAGES[runtime]):
        raise RuntimeNotAvailable(f'{_TITLES[runtime]} is not installed: pip install "busutils[{_EXTRAS[runtime]}]"')


def content_of(segmenter: Segmenter) -> str:
    """Hash of all that a segmenter's masks depend on, whatever computes them.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one.

    Returns
    -------
    str
        That of an exported network equals that of its original, where both compute in single precision.
    """
    if isinstance(segmenter, OnnxSegmenter):
        return segmenter.content_
    settings = segmenter.get_params(deep=False)
    state = {name: value for name, value in segmenter._state().items() if name != "provenance"}
    return jobs.content_key(type(segmenter).__name__, settings, segmenter._arrays(), state)


def runtime_name(segmenter: Segmenter) -> str:
    """Runtime of a segmenter with its version, for people; empty where there is no network.

    Parameters
    ----------
    segmenter : Segmenter

    Returns
    -------
    str
    """
    runtime = segmenter.runtime
    return f"{_TITLES[runtime]} {importlib.metadata.version(_PACKAGES[runtime])}" if runtime else ""


def load(name: str | os.PathLike[str], runtime: str = "auto", *, streams: int = 1) -> Segmenter:
    """Load any segmenter by its name or file.

    Parameters
    ----------
    name : str or path-like
        A K-Means preset (see :data:`KMEANS`), shipped weights (see :func:`busutils.models.list_weights`), a file of
        :meth:`Segmenter.save`, or an exported ``.onnx`` network.
    runtime : {"auto", "onnx", "keras"}
        What is to compute a network. ``onnx`` runs an export of saved weights, which is made once, with Keras and the extra
        ``export``, and kept in the cache; from then on Keras is not needed. ``keras`` gives a segmenter whose network can be
        trained on and looked into. ``auto`` takes the first of the two that is installed.
    streams : int, default 1
        Calls that are to run side by side, see :class:`OnnxSegmenter`.

    Returns
    -------
    Segmenter
        Ready to predict; its attribute ``runtime`` says what computes the network.

    Raises
    ------
    RuntimeNotAvailable
        If the runtime is not installed, or cannot run this method.
    WeightsError
        If there are no such weights, or they cannot be used.
    """
    from busutils.models.kmeans import KMeansSegmenter
    from busutils.models.weights import list_weights, warn_of_other_generator, weights_file

    name = os.fspath(name)
    if runtime not in ("auto", *RUNTIMES):
        raise RuntimeNotAvailable(f"there is no runtime {runtime!r}: choose auto, {' or '.join(RUNTIMES)}")
    if Path(name).suffix.lower() == ".onnx":
        if runtime == "keras":
            raise RuntimeNotAvailable(f"Keras cannot run {name}: choose onnx, or auto")
        return OnnxSegmenter(str(Path(name).expanduser()), streams)
    path = weights_file(name).expanduser()
    if name in list_weights():
        warn_of_other_generator(name)
    if name not in KMEANS and not path.exists() and not Path(name).suffix and os.sep not in name and "/" not in name:
        known = ", ".join([*KMEANS, *list_weights()])
        raise WeightsError(f"there are no weights {name!r}: name a file or one of {known}")
    if name in KMEANS or not _has_network(path):
        segmenter = KMeansSegmenter(KMEANS[name]) if name in KMEANS else Segmenter.load(path)
        if runtime == "onnx":
            kind = type(segmenter).__name__
            raise RuntimeNotAvailable(f"a {kind} has no network for ONNX Runtime to run: leave it to auto")
        return segmenter
    if runtime == "onnx":
        _require("onnx")
        return _exported(path, streams)
    if runtime == "auto" and _installed("onnxruntime"):
        try:
            return _exported(path, streams)
        except (ImportError, WeightsError, RuntimeError) as error:
            logger.warning("ONNX Runtime cannot run %s (%s)", name, error)
    _require("keras")
    return Segmenter.load(path)


def _exported(path: Path, streams: int) -> OnnxSegmenter:
    """The export of saved weights, made once; a damaged one is made anew."""
    key = jobs.content_key(_EXPORT_VERSION, path.read_bytes())[:20]
    kept = jobs.cache_dir() / "exports" / f"{path.stem}-{key}.onnx"
    if kept.exists():
        try:
            return OnnxSegmenter(str(kept), streams)
        except WeightsError as error:
            logger.warning("%s: made anew", error)
    from busutils.models.export import export_network

    _require("keras")
    logger.info("the network is exported once; later runs start without Keras")
    return OnnxSegmenter(str(export_network(Segmenter.load(path), kept)), streams)


def _has_network(path: Path) -> bool:
    try:
        return read_archive(path, only="header")[0]["class"] == "UNetSegmenter"
    except Exception:  # loading says what is wrong
        return False
