"""Masks for image files: folders, lists and archives; a run that was stopped is resumed."""

from busutils.predict.files import find_images
from busutils.predict.measure import Prediction, describe, mask_png
from busutils.predict.record import PredictError
from busutils.predict.run import predict_files

__all__ = ["PredictError", "Prediction", "describe", "find_images", "mask_png", "predict_files"]
