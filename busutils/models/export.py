"""A trained network as an ONNX file that runs without TensorFlow or Keras; :mod:`busutils.models.runtimes` runs it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from busutils import jobs
from busutils.errors import BusutilsError, MissingPackageError
from busutils.io.resize import resize_image
from busutils.models.runtimes import content_of
from busutils.models.segmenter import Segmenter, check_images

__all__ = ["PRECISIONS", "export_network"]

PRECISIONS = ("float32", "int8")

_RECIPE = (
    "Lesion segmentation in breast ultrasound; not a medical device. Input: grey levels 0 to 255, float32 (N, size, size, 1). "
    "Output: probabilities of the same shape. The metadata entry busutils holds size, threshold, minimum area and test-time "
    "augmentation; busutils/models/runtimes.py describes their use."
)


def export_network(
    segmenter: Segmenter,
    path: str | os.PathLike[str],
    *,
    precision: str = "float32",
    images: Sequence[np.ndarray] = (),
) -> Path:
    """Write a segmenter's network as ONNX, with what else is needed to use it in the file's metadata.

    The network takes grey levels as ``(N, size, size, 1)`` float32 and gives probabilities. What has to be done before and after is described in :mod:`busutils.models.runtimes`.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network: a ``UNetSegmenter``.
    path : path-like
        Ends in ``.onnx``.
    precision : {"float32", "int8"}
        Weights and values between layers in single precision, or, a quarter of the size, in whole numbers of 8 bits (static
        quantization by ONNX Runtime). The first layers and the last stay in single precision. Masks differ slightly.
    images : sequence of (H, W) uint8 ndarray, optional
        With ``int8``: images from which the ranges between layers are measured, beside 32 simulated ones. Those of your
        scanner are best.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        If the segmenter has no network, the file another ending, or the precision is unknown.
    ImportError
        If the packages of the extra ``export`` are missing.
    """
    path = Path(path)
    if segmenter.network_ is None:
        raise BusutilsError(f"a {type(segmenter).__name__} has no network to export: give a fitted UNetSegmenter")
    if path.suffix != ".onnx":
        raise BusutilsError(f"an exported network ends in .onnx, not in {path.name!r}")
    if precision not in PRECISIONS:
        raise BusutilsError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    content = content_of(segmenter)
    with jobs.atomic_path(path) as temporary:
        if precision == "float32":
            _write(segmenter, temporary, content)
        else:
            with tempfile.TemporaryDirectory() as folder:
                whole = _write(segmenter, Path(folder) / "network.onnx", content)
                squares = _calibration(segmenter.size, images)
                _quantize(whole, temporary, squares)
            _describe(segmenter, temporary, jobs.content_key(content, precision, squares))
    return path


def _write(segmenter: Any, path: Path, content: str) -> Path:
    try:
        import tf2onnx  # noqa: F401  Keras needs it
    except ImportError as error:
        raise MissingPackageError('exports need further packages: pip install "busutils[export]"') from error
    from busutils.models.backend import quiet_stderr

    network, side = _single_precision(segmenter).network_, segmenter.size
    network.predict_on_batch(np.zeros((1, side, side, 1), np.float32))  # Keras exports networks that were called
    with quiet_stderr():
        network.export(str(path), format="onnx", verbose=False)
    _describe(segmenter, path, content)
    return path


def _describe(segmenter: Any, path: Path, content: str) -> None:
    import onnx

    model = onnx.load(str(path))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    model.doc_string = _RECIPE
    about = {
        "size": segmenter.size,
        "threshold": segmenter.threshold_,
        "min_area": segmenter.min_area,
        "tta": segmenter.tta,
        "content": content,
        "provenance": dict(segmenter.provenance),
    }
    onnx.helper.set_model_props(model, {"busutils": json.dumps(about)})
    onnx.save(model, str(path))


def _calibration(size: int, images: Sequence[np.ndarray]) -> np.ndarray:
    """Squares from which the ranges between layers are measured."""
    from busutils.datasets import load

    simulated = load("phantom", n=32, seed=21, scanner="mixed").load_arrays(size)[0]
    return np.stack([*simulated, *(resize_image(image, size) for image in check_images(images))])


def _quantize(whole: Path, path: Path, squares: np.ndarray) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quant_pre_process, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self.batches: Iterator[dict[str, np.ndarray]] = (
                {name: square[None, ..., None].astype(np.float32)} for square in squares
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    ready = whole.with_suffix(".ready.onnx")
    quant_pre_process(str(whole), str(ready), skip_symbolic_shape=True)
    graph = onnx.load(str(ready)).graph
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    # Only convolutions: what standardises the image and the last layers' few values need their digits.
    quantize_static(
        str(ready),
        str(path),
        Reader(graph.input[0].name),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        nodes_to_quantize=convolutions[1:-1],
        per_channel=True,
    )


def _single_precision(segmenter: Any) -> Any:
    """The same U-Net computing in float32: a file for every processor holds no half precision."""
    if segmenter.precision == "float32":
        return segmenter
    plain = type(segmenter)(**{**segmenter.get_params(deep=False), "precision": "float32"})
    plain._set_arrays(segmenter._arrays())
    return plain
