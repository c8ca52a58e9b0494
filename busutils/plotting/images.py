"""Figures of images: contours on B-mode images, grids of masks, heat maps, feature maps, network diagrams."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from busutils.plotting.style import PREDICTION, TRUTH


def _contour(axes: Axes, mask: np.ndarray | None, colour: str, style: str = "-") -> None:
    if mask is not None and mask.any():
        # A frame of background closes the contour of a lesion that touches the image's edge.
        rows, columns = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
        values = np.pad(mask.astype(float), 1)
        axes.contour(columns, rows, values, levels=[0.5], colors=colour, linewidths=1.4, linestyles=style)


def _show(
    axes: Axes, image: np.ndarray, title: str = "", mask: np.ndarray | None = None, pred: np.ndarray | None = None
) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    _contour(axes, mask, TRUTH)
    _contour(axes, pred, PREDICTION, "--")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def _panels(count: int, columns: int, *, height: float, extra: float = 0.0) -> tuple[Figure, Sequence[Axes]]:
    """Make a figure with at least `count` axes in rows of `columns`; `height` of a row and `extra` in inches."""
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    size = (2.4 * columns, height * rows + extra)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure, list(grid.flat)


def _legend(figure: Figure, mask: bool, pred: bool, *, fill: bool = False) -> None:
    handles: list[Artist] = [Line2D([], [], color=TRUTH, label="reference")] if mask else []
    if pred and fill:
        red, green, blue = (0.4 * part + 0.6 * 0.15 for part in to_rgb(PREDICTION))  # as over dark tissue
        handles.append(Patch(color=(red, green, blue), label="prediction"))
    elif pred:
        handles.append(Line2D([], [], color=PREDICTION, linestyle="--", label="prediction"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def overlay(
    image: np.ndarray, mask: np.ndarray | None = None, pred: np.ndarray | None = None, *, title: str = ""
) -> Figure:
    """Draw one image with the contours of its reference (yellow) and of a prediction (cyan, dashed).

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        B-mode image.
    mask, pred : (H, W) bool ndarray, optional
        Reference and prediction.
    title : str
        Above the image.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(figsize=(4, 4.3), layout="constrained")
    _show(axes, image, title, mask, pred)
    _legend(figure, mask is not None, pred is not None)
    return figure


def image_grid(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray] | None = None,
    preds: Sequence[np.ndarray] | None = None,
    *,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    title: str = "",
    fill: bool = False,
) -> Figure:
    """Draw a grid of images with their contours.

    Parameters
    ----------
    images : sequence of (H, W) uint8 ndarray
        B-mode images.
    masks, preds : sequence of (H, W) bool ndarray, optional
        References (yellow) and predictions (cyan, dashed).
    titles : sequence of str, optional
        One per image.
    columns : int, default 4
        Images per row.
    title : str
        Title of the figure.
    fill : bool, default False
        Draw predictions as translucent areas instead of contours, which would not show what is inside.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = _panels(len(images), columns, height=2.55, extra=0.3)
    for index, axes in enumerate(grid[: len(images)]):
        _show(axes, images[index], titles[index] if titles is not None else "")
        if preds is not None and fill:
            axes.imshow(np.where(preds[index], 1.0, np.nan), cmap=ListedColormap([PREDICTION]), alpha=0.4)
        if masks is not None:
            _contour(axes, masks[index], TRUTH)
        if preds is not None and not fill:
            _contour(axes, preds[index], PREDICTION, "--")
    if title:
        figure.suptitle(title, fontsize=11)
    _legend(figure, masks is not None, preds is not None, fill=fill)
    return figure


def masks_grid(
    image: np.ndarray, panels: dict[str, np.ndarray], *, mask: np.ndarray | None = None, columns: int = 4
) -> Figure:
    """Draw an image and the intermediate results of a method.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        B-mode image.
    panels : dict of str to (H, W) ndarray
        Title → result: boolean masks, integer label images, or grey and real values.
    mask : (H, W) bool ndarray, optional
        Reference, drawn on every panel.
    columns : int, default 4
        Panels per row.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = _panels(len(panels) + 1, columns, height=2.6)
    _show(grid[0], image, "image", mask)
    for axes, (name, values) in zip(grid[1:], panels.items(), strict=False):
        if values.dtype == np.uint8:
            axes.imshow(values, cmap="gray", vmin=0, vmax=255)
        elif values.dtype.kind in "iu":
            axes.imshow(values, cmap="viridis", interpolation="nearest")
        else:
            axes.imshow(values, cmap="gray")
        _contour(axes, mask, TRUTH)
        axes.set_title(name, fontsize=9)
    return figure


def heat_overlay(
    image: np.ndarray,
    maps: dict[str, np.ndarray],
    *,
    mask: np.ndarray | None = None,
    pred: np.ndarray | None = None,
    label: str = "share of the maximum",
) -> Figure:
    """Draw heat maps over one image, each as a share of its maximum in the perceptual scale *magma*.

    Parameters
    ----------
    image : (H, W) uint8 ndarray
        B-mode image.
    maps : dict of str to (H, W) float ndarray
        Title → map, not negative.
    mask, pred : (H, W) bool ndarray, optional
        Contours.
    label : str
        Label of the colour bar.

    Returns
    -------
    matplotlib.figure.Figure
    """
    size = (2.6 * (len(maps) + 1) + 0.6, 3.0)
    figure, grid = plt.subplots(1, len(maps) + 1, figsize=size, layout="constrained", squeeze=False)
    _show(grid[0, 0], image, "image", mask, pred)
    for axes, (name, values) in zip(grid[0, 1:], maps.items(), strict=True):
        picture = axes.imshow(values / (np.max(values) or 1), cmap="magma", vmin=0, vmax=1, alpha=0.6, zorder=0.5)
        _show(axes, image, name, mask, pred)
    figure.colorbar(picture, ax=grid[0].tolist(), fraction=0.025, pad=0.01).set_label(label, fontsize=8)
    _legend(figure, mask is not None, pred is not None)
    return figure


def activation_levels(
    maps: Mapping[str, np.ndarray], *, scores: Mapping[str, Sequence[float]], title: str = ""
) -> Figure:
    """Draw feature maps of a whole network: one row per level, one colour scale for all.

    Parameters
    ----------
    maps : mapping of str to (C, h, w) float ndarray
        Level → chosen channels, not negative; the levels' sizes differ.
    scores : mapping of str to (C,) sequence of float
        Written above each map.
    title : str
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns = max(len(chosen) for chosen in maps.values())
    size = (0.9 * columns + 1.5, 0.98 * len(maps) + 0.5)
    figure, grid = plt.subplots(len(maps), 1, figsize=size, layout="constrained", squeeze=False)
    top = float(np.percentile(np.concatenate([np.ravel(chosen) for chosen in maps.values()]), 99.5)) or 1.0
    # One axes per level: one per map would be slow.
    for (level, chosen), axes in zip(maps.items(), grid.flat, strict=True):
        for place, values in enumerate(chosen):
            left = 1.08 * place
            picture = axes.imshow(values, cmap="magma", vmin=0, vmax=top, extent=(left, left + 1, 1, 0))
            axes.text(left + 0.5, -0.04, f"{scores[level][place]:.2f}", fontsize=7, ha="center", va="bottom")
        axes.set(xlim=(0, 1.08 * columns - 0.08), ylim=(1, 0), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        height, width = np.shape(chosen)[1:]
        axes.set_ylabel(f"{level}\n{height}×{width}", fontsize=8, rotation=0, ha="right", va="center")
    bar = figure.colorbar(picture, ax=grid.ravel().tolist(), fraction=0.02, pad=0.01)
    bar.set_label("activation after ReLU, no unit; one scale for all", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def network_levels(levels: pd.DataFrame) -> Figure:
    """Draw a U-Net from the table of its levels: sizes, channels, and the connections between them.

    Parameters
    ----------
    levels : pandas.DataFrame
        From :func:`busutils.models.unet.describe`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    box = {"boxstyle": "round", "fc": "#e8f1f8", "ec": "#0072b2"}
    n_down = int((~levels["level"].str.startswith("dec")).sum())
    place: dict[str, tuple[int, int]] = {}
    for x, row in enumerate(levels.itertuples()):
        y = -x if x < n_down else x - 2 * (n_down - 1)
        place[row.level] = (x, y)
        sees = f"sees {row.receptive_field}×{row.receptive_field}"
        text = f"{row.level}\n{row.height}×{row.width} · {row.channels}\n{sees}"
        axes.text(x, y, text, ha="center", va="center", fontsize=8, bbox=box)
    arrow = {"arrowstyle": "->", "color": "#555555", "shrinkA": 26, "shrinkB": 26}
    for first, second in itertools.pairwise(place.values()):
        axes.annotate("", second, first, arrowprops=arrow)
    skip = {**arrow, "color": "#009e73", "linestyle": "--", "shrinkA": 38, "shrinkB": 38}
    for name in place:
        if name.startswith("enc"):
            axes.annotate("", place[name.replace("enc", "dec")], place[name], arrowprops=skip)
    axes.set_xlim(-0.7, len(levels) - 0.3)
    axes.set_ylim(0.5 - n_down, 0.5)
    axes.set_axis_off()
    axes.set_title(
        "height×width · channels; pixels of the image that one value sees; dashed: skip connections", fontsize=9
    )
    return figure


def receptive_fields(image: np.ndarray, levels: pd.DataFrame) -> Figure:
    """Draw the receptive field of each level as a square in the centre of an image.

    Parameters
    ----------
    image : (S, S) uint8 ndarray
        At the input size of the network.
    levels : pandas.DataFrame
        From :func:`busutils.models.unet.describe`; encoder levels and bottleneck are drawn.

    Returns
    -------
    matplotlib.figure.Figure
    """
    down = levels[~levels["level"].str.startswith("dec")]
    figure, grid = plt.subplots(1, len(down), figsize=(2.2 * len(down), 2.6), layout="constrained", squeeze=False)
    for axes, row in zip(grid[0], down.itertuples(), strict=True):
        side = row.receptive_field
        _show(axes, image, f"{row.level}: {side}×{side}")
        corner = (np.array(image.shape) - side) / 2 - 0.5
        axes.add_patch(Rectangle(corner[::-1], side, side, fill=False, ec="#e69f00", lw=2))
        axes.set(xlim=(-4.5, image.shape[1] + 3.5), ylim=(image.shape[0] + 3.5, -4.5))
    return figure
