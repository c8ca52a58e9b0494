"""A trained network as ONNX, and a segmenter that runs it without TensorFlow or Keras."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from busutils import jobs
from busutils.models.segmenter import Segmenter, WeightsError, clean_mask, mean_of_views

__all__ = ["OnnxSegmenter", "export_onnx"]


def export_onnx(segmenter: Segmenter, path: str | os.PathLike[str]) -> Path:
    """Write a segmenter's network as ONNX, with what else is needed to use it in the file's metadata.

    The network takes grey values in [0, 255] as ``(1, size, size, 1)`` float32 (it standardises them itself) and gives
    probabilities. The metadata entry ``busutils`` holds size, threshold, test-time views, and the smallest
    and the least confident region that is kept, as JSON.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one with a network.
    path : path-like
        Ends in ``.onnx``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ValueError
        If the segmenter has no network.
    ImportError
        If the packages of the extra ``export`` are missing.
    """
    if not hasattr(segmenter, "network_"):
        raise ValueError(f"a {type(segmenter).__name__} has no network to export: give a fitted UNetSegmenter")
    try:
        import onnx
    except ImportError as error:
        raise ImportError("exports need further packages: pip install 'busutils[export]'") from error
    from busutils.models.engine import quiet_stderr

    path = Path(path)
    segmenter.predict_proba(np.zeros((1, 8, 8), np.uint8))  # Keras exports networks that were called
    about = {
        "size": segmenter.size,
        "threshold": segmenter.threshold_,
        "min_area": segmenter.min_area,
        "min_confidence": segmenter.confidence_,
        "views": segmenter.views,
    }
    with jobs.atomic_path(path) as temporary:
        with quiet_stderr():
            segmenter.network_.export(str(temporary), format="onnx", verbose=False)
        model = onnx.load(str(temporary))
        onnx.helper.set_model_props(model, {"busutils": json.dumps(about)})
        onnx.save(model, str(temporary))
    return path


class OnnxSegmenter(Segmenter):
    """A network exported by :func:`export_onnx`, run by ONNX Runtime.

    Parameters
    ----------
    path : str
        The ``.onnx`` file.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or was not exported by busutils.
    """

    supervised: ClassVar[bool] = True

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("ONNX files need ONNX Runtime: pip install 'busutils[export]'") from error
        if not Path(path).is_file():
            raise WeightsError(f"there is no file {path}: check the path")
        try:
            self.session_: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            about = json.loads(self.session_.get_modelmeta().custom_metadata_map["busutils"])
        except Exception as error:  # ONNX Runtime raises classes of its own
            raise WeightsError(f"{path} is not a network exported by busutils: export it again") from error
        self.size, self.min_area = int(about["size"]), float(about["min_area"])
        self.views = int(about["views"])
        self.threshold_, self.confidence_ = about["threshold"], float(about["min_confidence"])
        self.fitted_ = True

    def _fit(self, images: list[np.ndarray], masks: list[np.ndarray] | None, **options: Any) -> None:
        raise ValueError("an exported network cannot be trained: train a UNetSegmenter and export it")

    def _square_proba(self, squares: np.ndarray) -> np.ndarray:
        return mean_of_views(self._network_proba, squares, self.views)

    def _network_proba(self, squares: np.ndarray) -> np.ndarray:
        name = self.session_.get_inputs()[0].name
        batches = squares[:, None, ..., None].astype(np.float32)
        return np.stack([self.session_.run(None, {name: batch})[0][0, ..., 0] for batch in batches])

    def _tidy(self, mask: np.ndarray, prob: np.ndarray) -> np.ndarray:
        return clean_mask(mask, min_area=self.min_area, prob=prob, min_confidence=self.confidence_)
