"""What runs a network: an exported one without TensorFlow or Keras, or Keras itself.

An export is the network alone. What stands around it is the same for every engine, and is code that needs neither
TensorFlow nor Keras (:mod:`busutils.io`, :func:`busutils.models.clean_mask`). A program in another language
that uses the file has to do as much; ``size, threshold, min_area, min_confidence`` and ``views`` stand, as JSON, in the
file's metadata under ``busutils`` (ONNX: ``metadata_props``; OpenVINO: ``rt_info``).

1. Grey levels 0 to 255, whole numbers; colour becomes grey by luma (ITU-R 601).
2. Squeeze the image to ``size`` × ``size``, axis by axis: shares of covered pixels where it shrinks, linear interpolation
   between pixel centres where it grows. Round to whole grey levels.
3. Give it to the network as float32 ``(N, size, size, 1)``. No scaling: the network standardises each image itself.
4. The answer, ``(N, size, size, 1)``, holds probabilities. With ``views`` 2 take the mean with the mirror image's, mirrored
   back; with 4 also those of both shrunk to 85 %, see :func:`busutils.models.segmenter.mean_of_views`.
5. Resize the map to the image's own size by the rule of step 2, without rounding.
6. Lesion is what is at or above ``threshold``. Fill holes. Drop regions (pixels that touch at corners belong together)
   smaller than ``min_area`` as a share of the image, and those whose surest pixels, as many as a thousandth of the
   image, have a mean probability below ``min_confidence``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
import threading
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np

from busutils import jobs
from busutils.errors import BusutilsError
from busutils.models.segmenter import Segmenter, WeightsError, mean_of_views

__all__ = [
    "ENGINES",
    "KMEANS",
    "EngineError",
    "ExportedSegmenter",
    "OnnxSegmenter",
    "OpenVinoSegmenter",
    "content_of",
    "engine_name",
    "engine_of",
    "load_segmenter",
]

logger = logging.getLogger(__name__)

#: From the fewest to the most milliseconds of processor time an image (figures/inference.csv); the first two are close.
ENGINES = ("onnx", "openvino", "keras")
#: Names of K-Means presets, which need no weights.
KMEANS = {"kmeans-textbook": "textbook", "kmeans-improved": "improved", "kmeans-best": "best"}

_EXPORT_VERSION = 1  # of kept exports; to be raised when what export_onnx writes changes
_WITH_NETWORK = ("UNetSegmenter", "EnsembleSegmenter")
_TITLES = {"openvino": "OpenVINO", "onnx": "ONNX Runtime", "keras": "Keras"}
_PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime", "keras": "keras"}
_EXTRAS = {"openvino": "openvino", "onnx": "export", "keras": "tf"}


class EngineError(BusutilsError):
    """A wish for an engine that cannot be met, and why."""


class ExportedSegmenter(Segmenter):
    """A network in a file that :func:`busutils.app.export.export_network` wrote.

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
    EngineError
        If the engine is not installed.
    """

    supervised: ClassVar[bool] = True
    thread_safe: ClassVar[bool] = True

    def __init__(self, path: str, streams: int = 1) -> None:
        self.path = path
        self.streams = streams
        _require(self.runtime)
        if not Path(path).is_file():
            raise WeightsError(f"there is no file {path}: check the path")
        try:
            about = json.loads(self._open(max(1, joblib.cpu_count())))
            self.size, self.min_area, self.views = int(about["size"]), float(about["min_area"]), int(about["views"])
            self.threshold_, self.min_confidence_ = float(about["threshold"]), float(about["min_confidence"])
        except Exception as error:  # each engine raises classes of its own
            raise WeightsError(f"{path} is not a network exported by busutils: export it again") from error
        self.content_ = about.get("content") or jobs.content_key(Path(path).read_bytes())
        self.fitted_ = True

    def _open(self, cores: int) -> str:
        """Load the network; return its metadata."""
        raise NotImplementedError

    def _run(self, batch: np.ndarray) -> np.ndarray:
        """Probabilities (1, size, size, 1) of one image of the same shape."""
        raise NotImplementedError

    # A session cannot travel to another process, but its file can be opened there.
    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "streams": self.streams}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def _fit(self, images: list[np.ndarray], masks: list[np.ndarray] | None, **options: Any) -> None:
        raise BusutilsError("an exported network cannot be trained: train a UNetSegmenter and export it")

    def _square_proba(self, squares: np.ndarray) -> np.ndarray:
        return mean_of_views(self._network_proba, squares, self.views)

    def _network_proba(self, squares: np.ndarray) -> np.ndarray:
        # One by one: larger batches are no faster on a processor, and the result cannot depend on the neighbours.
        return np.stack([self._run(image[None, ..., None].astype(np.float32))[0, ..., 0] for image in squares])


class OnnxSegmenter(ExportedSegmenter):
    """An ``.onnx`` file, run by ONNX Runtime; see :class:`ExportedSegmenter`."""

    runtime = "onnx"

    def _open(self, cores: int) -> str:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, cores // self.streams)
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # idle threads leave the core to others
        self.session_: Any = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        self._input = self.session_.get_inputs()[0].name
        return self.session_.get_modelmeta().custom_metadata_map["busutils"]

    def _run(self, batch: np.ndarray) -> np.ndarray:
        return self.session_.run(None, {self._input: batch})[0]


class OpenVinoSegmenter(ExportedSegmenter):
    """An ``.onnx`` or ``.xml`` file, run by OpenVINO in single precision; see :class:`ExportedSegmenter`."""

    runtime = "openvino"

    def _open(self, cores: int) -> str:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(self.path))
        where = ["busutils"] if Path(self.path).suffix == ".xml" else ["framework", "busutils"]
        about = model.get_rt_info(where).astype(str)
        shape = model.input(0).partial_shape
        shape[0] = 1
        model.reshape(shape)
        settings = {
            # Other precisions are faster on some processors, and give other masks.
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": cores,
            "ENABLE_CPU_PINNING": False,
        }
        self.compiled_: Any = core.compile_model(model, "CPU", settings)
        self._requests = threading.local()  # a request serves one thread at a time
        return about

    def _run(self, batch: np.ndarray) -> np.ndarray:
        if not hasattr(self._requests, "own"):
            self._requests.own = self.compiled_.create_infer_request()
        # The answer lies in the request's own memory until the next call.
        return self._requests.own.infer([batch])[0].copy()


_EXPORTED: dict[str, type[ExportedSegmenter]] = {"onnx": OnnxSegmenter, "openvino": OpenVinoSegmenter}
_ENDINGS = {".onnx": ("onnx", "openvino"), ".xml": ("openvino",)}


# -- choosing ------------------------------------------------------------------------------------------------


def _installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


def _require(engine: str) -> None:
    if not _installed(_PACKAGES[engine]):
        raise EngineError(f"{_TITLES[engine]} is not installed: pip install 'busutils[{_EXTRAS[engine]}]'")


def content_of(segmenter: Segmenter) -> str:
    """Hash of all that a segmenter's masks depend on, whatever engine runs it.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one.

    Returns
    -------
    str
        That of an exported network equals that of its original.
    """
    if isinstance(segmenter, ExportedSegmenter):
        return segmenter.content_
    settings = segmenter.get_params(deep=False)
    return jobs.content_key(type(segmenter).__name__, settings, segmenter._arrays(), segmenter._state())


def engine_of(segmenter: Segmenter) -> str:
    """Which of :data:`ENGINES` runs a segmenter; empty where there is no network.

    Parameters
    ----------
    segmenter : Segmenter

    Returns
    -------
    str
    """
    return segmenter.runtime


def engine_name(segmenter: Segmenter) -> str:
    """Engine of a segmenter with its version, for people; empty where there is no network.

    Parameters
    ----------
    segmenter : Segmenter

    Returns
    -------
    str
    """
    engine = engine_of(segmenter)
    return f"{_TITLES[engine]} {importlib.metadata.version(_PACKAGES[engine])}" if engine else ""


def load_segmenter(name: str, engine: str = "auto", *, streams: int = 1) -> Segmenter:
    """Load a segmenter by what a user types, with the engine that is to run its network.

    Parameters
    ----------
    name : str
        A K-Means preset (see :data:`KMEANS`), shipped weights, a file of saved weights, or an exported network.
    engine : {"auto", "onnx", "openvino", "keras"}
        ``auto`` takes the first of :data:`ENGINES` that is installed. The other engines run an export of saved weights,
        which is made once, with Keras and the extra ``export``, and kept in the cache; from then on Keras is not needed.
    streams : int, default 1
        Calls that are to run side by side, see :class:`ExportedSegmenter`.

    Returns
    -------
    Segmenter
        Ready to predict; :func:`engine_of` tells what runs it.

    Raises
    ------
    EngineError
        If the engine is not installed, or cannot run these weights.
    WeightsError
        If there are no such weights, or they cannot be used.
    """
    from busutils import models
    from busutils.models.weights import weights_file

    if engine not in ("auto", *ENGINES):
        raise EngineError(f"there is no engine {engine!r}: choose auto, {', '.join(ENGINES)}")
    if (ending := Path(name).suffix.lower()) in _ENDINGS:
        return _load_exported(name, _ENDINGS[ending], engine, streams)
    if name not in KMEANS and name not in models.list_weights():
        if not Path(name).exists() and "/" not in name and os.sep not in name and "." not in name:
            known = [*KMEANS, *models.list_weights()]
            raise WeightsError(f"there are no weights {name!r}: name a file or one of {', '.join(known)}")
        if not _has_network(Path(name)):
            return _without_network(models.load(name), engine)
    if name in KMEANS:
        return _without_network(models.KMeansSegmenter(KMEANS[name]), engine)

    def with_keras() -> Segmenter:
        return models.load_weights(name) if name in models.list_weights() else models.load(name)

    path = weights_file(name)
    kept = (
        jobs.cache_dir() / "exports" / f"{path.stem}-{jobs.content_key(_EXPORT_VERSION, path.read_bytes())[:20]}.onnx"
    )
    can_export = _installed("keras", "onnx", "tf2onnx")
    for choice in ENGINES if engine == "auto" else (engine,):
        if choice == "keras":
            break
        if engine != "auto":
            _require(choice)
        elif not _installed(_PACKAGES[choice]) or not (kept.exists() or can_export):
            continue
        try:
            if not kept.exists():
                _export_to(kept, with_keras())
            return _EXPORTED[choice](str(kept), streams)
        except Exception as error:
            if engine != "auto":
                raise
            logger.warning("%s cannot run %s (%s)", _TITLES[choice], name, error)
    _require("keras")
    return with_keras()


def _load_exported(name: str, able: tuple[str, ...], engine: str, streams: int) -> Segmenter:
    choices = [choice for choice in able if _installed(_PACKAGES[choice])] if engine == "auto" else [engine]
    if engine != "auto" and engine not in able:
        raise EngineError(f"{_TITLES[engine]} cannot run {name}: choose {' or '.join(able)}, or auto")
    return _EXPORTED[(choices or able)[0]](name, streams)


def _without_network(segmenter: Segmenter, engine: str) -> Segmenter:
    if engine in _EXPORTED:
        raise EngineError(f"a {type(segmenter).__name__} has no network for {_TITLES[engine]} to run: leave it to auto")
    return segmenter


def _has_network(path: Path) -> bool:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return json.loads(str(archive["header"]))["class"] in _WITH_NETWORK
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError):
        return False  # loading says what is wrong


def _export_to(kept: Path, segmenter: Segmenter) -> None:
    from busutils.app.export import export_network

    logger.info("the network is exported once; later runs start without Keras")
    export_network(segmenter, kept)
