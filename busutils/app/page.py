"""A web page for one image: upload or sample, mask, measurements. Not a medical device."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image

from busutils import datasets
from busutils.datasets import DatasetError, read_image
from busutils.explain.uncertainty import doubt
from busutils.models.segmenter import Segmenter

__all__ = ["build", "segment"]

MAX_UPLOAD = "20mb"


def segment(segmenter: Segmenter, image: np.ndarray, opacity: float = 0.4) -> tuple[np.ndarray, np.ndarray, str]:
    """Segment one image for the page.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one.
    image : (H, W) uint8 ndarray
        B-mode image.
    opacity : float, default 0.4
        Of the coloured lesion.

    Returns
    -------
    picture : (H, W, 3) uint8 ndarray
        The image with the predicted lesion in cyan.
    mask : (H, W) uint8 ndarray
        255 for lesion.
    text : str
        Measurements in words.
    """
    (prob,) = segmenter.predict_proba([image])
    (mask,) = segmenter.masks_from([prob])
    picture = np.repeat(image[..., None], 3, axis=-1).astype(float)
    picture[mask] = (1 - opacity) * picture[mask] + opacity * np.array([39, 215, 242])
    if mask.any():
        text = (
            f"Marked as lesion: {mask.mean():.1%} of the image ({int(mask.sum())} pixels). "
            f"Mean probability inside: {prob[mask].mean():.2f}. Doubt: {doubt(prob, segmenter.threshold_):.2f} bit."
        )
    else:
        text = "Nothing was marked. That is no statement that nothing is there."
    return picture.astype(np.uint8), np.uint8(255) * mask, text


def build(segmenter: Segmenter, *, name: str = "U-Net") -> Any:
    """Make the page.

    Parameters
    ----------
    segmenter : Segmenter
        A fitted one.
    name : str
        What the page calls it.

    Returns
    -------
    gradio.Blocks
        Call ``launch()`` on it.

    Raises
    ------
    ImportError
        If Gradio is missing.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError as error:
        raise ImportError("the page needs Gradio: pip install 'busutils[app]'") from error
    from pathlib import Path

    samples, _ = datasets.load("phantom", n=6, seed=2026).load_arrays(256)

    def show(file: str | None, opacity: float) -> tuple[np.ndarray, np.ndarray, str]:
        if not file:
            raise gr.Error("Choose an image first.")
        try:
            return segment(segmenter, read_image(Path(file)), opacity)
        except DatasetError as error:
            # The visitor's own file name, not where this server keeps it.
            words = str(error).replace(f"{Path(file).parent}{os.sep}", "")
            raise gr.Error(f"This file cannot be used: {words}", print_exception=False) from error

    def show_sample(event: gr.SelectData, opacity: float) -> tuple[np.ndarray, np.ndarray, str]:
        return segment(segmenter, samples[event.index], opacity)

    with gr.Blocks(title="busutils", analytics_enabled=False) as page:
        gr.Markdown(
            f"# Lesions in breast-ultrasound images\n{name} draws what it takes for a lesion. "
            "**Not a medical device: for teaching and research only.**"
        )
        with gr.Row():
            with gr.Column():
                file = gr.File(label="Your image (PNG, JPEG, BMP, TIFF)", type="filepath")
                opacity = gr.Slider(0, 1, 0.4, label="Opacity of the mask")
                button = gr.Button("Segment", variant="primary")
                gallery = gr.Gallery(
                    [Image.fromarray(sample) for sample in samples], label="Or a simulated sample", columns=3
                )
            with gr.Column():
                picture = gr.Image(label="Result", format="png")
                mask = gr.Image(label="Mask, to download", format="png")
                text = gr.Textbox(label="Measurements")
        outputs = [picture, mask, text]
        button.click(show, [file, opacity], outputs)
        gallery.select(show_sample, [opacity], outputs)
    return page
