"""A trained network as a file that runs without TensorFlow or Keras; :mod:`busutils.app.engines` runs it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from busutils import jobs
from busutils.app.engines import OnnxSegmenter, OpenVinoSegmenter, content_of
from busutils.errors import BusutilsError, MissingPackageError
from busutils.models.segmenter import Segmenter

__all__ = ["OnnxSegmenter", "OpenVinoSegmenter", "export_network", "export_onnx"]

_RECIPE = (
    "Lesion segmentation in breast ultrasound; not a medical device. Grey levels 0 to 255 as float32 (N, size, size, 1) in, "
    "probabilities of the same shape out. The metadata entry busutils holds size, threshold, test-time views and what is "
    "dropped from masks; busutils/app/engines.py says what to do with them."
)


def export_network(segmenter: Segmenter, path: str | os.PathLike[str]) -> Path:
    """Write a segmenter's network for other engines, with what else is needed to use it in the file's metadata.

    The network takes grey levels as ``(N, size, size, 1)`` float32 and gives probabilities, in single precision. The
    members of an ensemble become one network that gives their mean. What has to be done before and after is told in
    :mod:`busutils.app.engines`.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network: a ``UNetSegmenter``, with any encoder, or an ``EnsembleSegmenter``.
    path : path-like
        Its ending says the format: ``.onnx``, or ``.xml`` for OpenVINO, whose weights go to a ``.bin`` file beside it.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        If the segmenter has no network, or the ending is another.
    ImportError
        If the packages of the extra ``export`` or ``openvino`` are missing.
    """
    path = Path(path)
    if segmenter.network_ is None and not segmenter.members_:
        raise BusutilsError(f"a {type(segmenter).__name__} has no network to export: give a fitted UNetSegmenter")
    if path.suffix not in (".onnx", ".xml"):
        raise BusutilsError(f"an exported network ends in .onnx or, for OpenVINO, in .xml, not in {path.name!r}")
    if path.suffix == ".onnx":
        with jobs.atomic_path(path) as temporary:
            _write_onnx(segmenter, temporary)
        return path
    try:
        import openvino
    except ImportError as error:
        raise MissingPackageError("exports for OpenVINO need it: pip install 'busutils[export,openvino]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        made = Path(folder) / "network.onnx"
        _write_onnx(segmenter, made)
        model = openvino.Core().read_model(str(made))
        model.set_rt_info(json.dumps(_about(segmenter)), "busutils")
        openvino.save_model(model, str(made.with_suffix(".xml")), compress_to_fp16=False)
        for ending in (".bin", ".xml"):
            os.replace(made.with_suffix(ending), path.with_suffix(ending))
    return path


def export_onnx(segmenter: Segmenter, path: str | os.PathLike[str]) -> Path:
    """Write a segmenter's network as ONNX; see :func:`export_network`.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network.
    path : path-like
        Ends in ``.onnx``.

    Returns
    -------
    pathlib.Path
    """
    return export_network(segmenter, path)


def _about(segmenter: Any) -> dict[str, Any]:
    members = segmenter.members_ or [segmenter]
    return {
        "size": segmenter.size,
        "threshold": segmenter.threshold_,
        "min_area": segmenter.min_area,
        "min_confidence": segmenter.min_confidence_,
        "views": members[0].views,
        "content": content_of(segmenter),
    }


def _write_onnx(segmenter: Any, path: Path) -> None:
    try:
        import onnx
        import tf2onnx  # noqa: F401  Keras needs it
    except ImportError as error:
        raise MissingPackageError("exports need further packages: pip install 'busutils[export]'") from error
    from busutils.models.engine import keras, quiet_stderr

    networks = [_single_precision(member).network_ for member in segmenter.members_ or [segmenter]]
    if len(networks) == 1:
        network = networks[0]
    else:
        # Networks of one recipe have one name, and parts of a network must have different ones.
        image = keras.Input(networks[0].input_shape[1:], name="image")
        parts = [keras.Model(n.input, n.output, name=f"member_{i}") for i, n in enumerate(networks)]
        network = keras.Model(image, keras.layers.Average()([part(image) for part in parts]))
    side = segmenter.size
    network.predict_on_batch(np.zeros((1, side, side, 1), np.float32))  # Keras exports networks that were called
    with quiet_stderr():
        network.export(str(path), format="onnx", verbose=False)
    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    model.doc_string = _RECIPE
    onnx.helper.set_model_props(model, {"busutils": json.dumps(_about(segmenter))})
    onnx.save(model, str(path))


def _single_precision(member: Any) -> Any:
    """The same U-Net computing in float32: a file for every processor holds no half precision."""
    if member.precision == "float32":
        return member
    plain = type(member)(**{**member.get_params(deep=False), "precision": "float32"})
    plain._set_arrays(member._arrays())
    return plain
