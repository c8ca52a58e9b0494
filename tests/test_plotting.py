import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from skimage.color import deltaE_ciede2000, rgb2lab

from busutils import datasets, evaluation, models, plotting
from busutils.plotting import style


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def phantoms():
    return datasets.load("phantom", n=12, size=64)


def test_every_public_function_returns_a_figure(phantoms, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "figure.max_open_warning", 0)
    images, masks = phantoms.load_arrays(64)
    table = evaluation.compare_methods({"K-Means, textbook": models.KMeansSegmenter(size=64)}, phantoms, 64)
    levels = pd.DataFrame(
        [("enc1", 8, 8, 4, 5), ("bottleneck", 4, 4, 8, 14), ("dec1", 8, 8, 4, 20)],
        columns=["level", "height", "width", "channels", "receptive_field"],
    )
    reliability = evaluation.reliability([masks[0]], [masks[0] * 0.8])
    figures = {
        "overlay": plotting.overlay(images[0], masks[0], masks[1]),
        "image_grid": plotting.image_grid(images[:3], masks[:3], masks[1:4], titles=list("abc")),
        "masks_grid": plotting.masks_grid(
            images[0], {"a": images[1], "b": masks[0], "c": masks[0] * 2.0}, mask=masks[0]
        ),
        "heat_overlay": plotting.heat_overlay(
            images[0], {"a": np.ones((64, 64)), "b": np.zeros((64, 64))}, mask=masks[0]
        ),
        "activation_levels": plotting.activation_levels(
            {"enc1": np.ones((3, 8, 8)), "bottleneck": np.zeros((2, 4, 4))},
            scores={"enc1": [0.1, 0.2, 0.3], "bottleneck": [0, 1]},
        ),
        "network_levels": plotting.network_levels(levels),
        "receptive_fields": plotting.receptive_fields(images[0], levels),
        "score_strips": plotting.score_strips(table),
        "forest_plot": plotting.forest_plot({"change": {"a": evaluation.Interval(0.1, -0.1, 0.3)}}, reference=0),
        "score_matrix": plotting.score_matrix(pd.DataFrame({"x": [0.5, np.nan]}, index=["a", "b"])),
        "reliability_diagram": plotting.reliability_diagram({"a": reliability}),
        "dataset_overview": plotting.dataset_overview(phantoms.table(), masks.mean(axis=(1, 2))),
        "histogram_1d": plotting.histogram_1d(images[0], masks[0], centres=[10, 20], thresholds=[15]),
    }
    functions = {name for name in plotting.__all__ if callable(getattr(plotting, name)) and name != "colour_of"}
    assert functions == set(figures)
    for name, figure in figures.items():
        assert isinstance(figure, Figure), name
        figure.canvas.draw()


def test_contours_stand_where_the_mask_ends():
    image, mask = np.zeros((20, 30), np.uint8), np.zeros((20, 30), bool)
    mask[5:10, 0:8] = True  # touches the edge of the image
    (axes,) = plotting.overlay(image, mask).axes
    (contour,) = [c for c in axes.collections if c.get_paths()]
    points = np.concatenate([path.vertices for path in contour.get_paths()])
    assert points[:, 0].min() == pytest.approx(-0.5, abs=0.01)
    assert points[:, 0].max() == pytest.approx(7.5, abs=0.01)
    assert points[:, 1].min() == pytest.approx(4.5, abs=0.01)
    assert points[:, 1].max() == pytest.approx(9.5, abs=0.01)


def test_methods_keep_their_colour():
    assert len({plotting.colour_of(name) for name in plotting.METHOD_ORDER}) == len(plotting.METHOD_ORDER)
    assert plotting.colour_of("U-Net", 5) == plotting.COLOURS["U-Net"]


def test_strips_leave_out_images_without_a_lesion(phantoms):
    table = evaluation.compare_methods({"a": models.KMeansSegmenter(size=64)}, phantoms, 64)
    axes = plotting.score_strips(table).axes[0]
    assert f"n={int((table['mask_area'] > 0).sum())}" in axes.texts[0].get_text()


def test_feature_maps_of_all_levels_share_one_scale():
    maps = {"enc1": np.ones((2, 8, 8)), "dec1": np.full((1, 4, 4), 5.0)}
    figure = plotting.activation_levels(maps, scores={"enc1": [0.1, 0.2], "dec1": [0.3]})
    limits = {image.get_clim() for axes in figure.axes for image in axes.get_images()}
    assert limits == {(0, 5)}


def test_receptive_fields_are_drawn_in_their_size_about_the_centre():
    levels = pd.DataFrame({"level": ["enc1", "bottleneck", "dec1"], "receptive_field": [5, 14, 20]})
    figure = plotting.receptive_fields(np.zeros((32, 32), np.uint8), levels)
    squares = [axes.patches[0] for axes in figure.axes]
    assert [square.get_width() for square in squares] == [5, 14]
    assert all(square.get_x() + square.get_width() / 2 == 15.5 for square in squares)


# Machado, Oliveira & Fernandes 2009 (doi:10.1109/TVCG.2009.113), severity 1, for linear RGB.
COLOUR_VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen_as_lab(colours, vision):
    """CIELAB of colours as a reader with this colour vision sees them."""
    srgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(COLOUR_VISION[vision]).T, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def smallest_distance(colours, vision):
    """Smallest CIEDE2000 distance of any two colours."""
    lab = seen_as_lab(colours, vision)
    return min(deltaE_ciede2000(lab[i], lab[j]) for i in range(len(lab)) for j in range(i))


PALETTES = {
    "methods, and names without a colour": [plotting.colour_of(name) for name in plotting.METHOD_ORDER]
    + [plotting.colour_of("a name of no method", position) for position in range(3)],
    "lines": plotting.LINES,
    "classes": [plotting.COLOURS[label] for label in datasets.LABELS],
    "contours": [style.TRUTH, style.PREDICTION],
}


@pytest.mark.parametrize("vision", COLOUR_VISION)
@pytest.mark.parametrize("palette", PALETTES)
def test_colours_are_told_apart_by_readers_with_any_colour_vision(palette, vision):
    assert smallest_distance(PALETTES[palette], vision) > 10  # about four times what is just noticeable side by side


def test_red_and_green_of_one_lightness_would_not_pass():
    assert smallest_distance(["#c05030", "#808000"], "usual") > 15
    assert smallest_distance(["#c05030", "#808000"], "deuteranopia") < 5


def test_a_forest_plot_draws_each_interval_on_the_row_of_its_name():
    first, second = evaluation.Interval(0.1, 0.0, 0.2), evaluation.Interval(0.5, 0.4, 0.7)
    figure = plotting.forest_plot({"left": {"a": first, "b": second}, "right": {"b": first}}, reference=0)
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["a", "b"]
    spans = [line.get_xydata().tolist() for line in right.lines if len(line.get_xdata()) == 2][1:]
    assert spans == [[[0.0, 1.0], [0.2, 1.0]]]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # first name on top
