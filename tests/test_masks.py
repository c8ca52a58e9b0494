"""What a mask file means: one rule for the masks of sets and of other programs."""

import numpy as np
import pytest
import trees
from PIL import Image
from scipy import ndimage

from busutils import datasets, io
from busutils.io import DatasetError, masks

LESION = trees.blob((64, 80), (0.5, 0.4), 0.25)
SECOND = trees.blob((64, 80), (0.2, 0.85), 0.12)
BOTH = LESION | SECOND
SMOOTH = ndimage.gaussian_filter(LESION.astype(float), 1.0)


def grey(level, dtype=np.uint8, background=0):
    return np.where(LESION, level, background).astype(dtype)


def classes(first, second, dtype=np.uint8):
    return np.where(LESION, first, np.where(SECOND, second, 0)).astype(dtype)


def coloured(colour, background=(0, 0, 0), lesion=LESION):
    return np.where(lesion[..., None], colour, background).astype(np.uint8)


def palette(colours, indices=None):
    picture = Image.fromarray(LESION.astype(np.uint8) if indices is None else indices, mode="P")
    picture.putpalette([level for colour in colours for level in colour])
    return picture


def jpeg(levels):
    import io as memory

    buffer = memory.BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=90)
    return Image.open(memory.BytesIO(buffer.getvalue()))


#: name: (what is saved, the lesion it means)
MEANINGS = {
    "one bit": (Image.fromarray(LESION), LESION),
    **{f"0 and {level}": (grey(level), LESION) for level in (1, 3, 50, 100, 127, 128, 200, 255)},
    "20 and 200": (grey(200, background=20), LESION),
    "110 and 195": (grey(195, background=110), LESION),
    "classes 1 and 2": (classes(1, 2), BOTH),
    "classes 20 and 200": (classes(20, 200), BOTH),
    "classes 100 and 200": (classes(200, 100), BOTH),
    "16 bits, 1": (grey(1, np.uint16), LESION),
    "16 bits, 256": (grey(256, np.uint16), LESION),
    "16 bits, 4095": (grey(4095, np.uint16), LESION),
    "16 bits, 65535": (grey(65535, np.uint16), LESION),
    "red of 100": (coloured((100, 0, 0)), LESION),
    "red of 20": (coloured((20, 0, 0)), LESION),
    "red and green": (np.maximum(coloured((255, 0, 0)), coloured((0, 255, 0), lesion=SECOND)), BOTH),
    "dark red and green": (np.maximum(coloured((100, 0, 0)), coloured((0, 200, 0), lesion=SECOND)), BOTH),
    "red on white": (coloured((255, 0, 0), (255, 255, 255)), LESION),
    "dark red on white": (coloured((120, 0, 0), (255, 255, 255)), LESION),
    "viridis": (coloured((253, 231, 37), (68, 1, 84)), LESION),
    "dark palette": (palette([(0, 0, 0), (1, 0, 0)]), LESION),
    "palette of 60": (palette([(0, 0, 0), (60, 60, 60)]), LESION),
    "palette in another order": (palette([(255, 255, 255), (0, 0, 0)], (~LESION).astype(np.uint8)), LESION),
    "black palette": (palette([(0, 0, 0), (0, 0, 0)]), LESION),
    "alpha alone": (np.dstack([np.zeros((64, 80, 3), np.uint8), grey(255)]), LESION),
    "white, alpha alone": (np.dstack([np.full((64, 80, 3), 255, np.uint8), grey(255)]), LESION),
    "grey, alpha alone": (Image.fromarray(np.dstack([grey(0), grey(255)]), mode="LA"), LESION),
    "red on nothing": (np.dstack([coloured((255, 0, 0), (255, 255, 255)), grey(255)]), LESION),
    "opaque": (np.dstack([coloured((255, 255, 255)), np.full((64, 80), 255, np.uint8)]), LESION),
    "smooth edge": (np.rint(255 * SMOOTH).astype(np.uint8), SMOOTH >= 0.5),
    "smooth edge of 100": (np.rint(100 * SMOOTH).astype(np.uint8), SMOOTH >= 0.5),
    "smooth edge of 4000": (np.rint(4000 * SMOOTH).astype(np.uint16), SMOOTH >= 0.5),
    "JPEG": (jpeg(grey(255)), LESION),
    "JPEG of 100": (jpeg(grey(100)), LESION),
    "16-bit probabilities": (np.rint(65535 * SMOOTH).astype(np.uint16), SMOOTH >= 0.5),
    "faint 16-bit probabilities": (np.rint(65535 * SMOOTH**2).astype(np.uint16), SMOOTH**2 >= 0.5),
    "float probabilities": (SMOOTH.astype(np.float32), SMOOTH >= 0.5),
    "low float probabilities": ((0.4 * SMOOTH).astype(np.float32), np.zeros_like(LESION)),
    "float 0 and 1": (LESION.astype(np.float32), LESION),
    "float 0 to 255": ((255 * SMOOTH).astype(np.float32), SMOOTH >= 0.5),
    "black": (np.zeros((64, 80), np.uint8), np.zeros_like(LESION)),
    "white": (np.full((64, 80), 255, np.uint8), np.ones_like(LESION)),
}

AMBIGUOUS = {
    "a map up to 90": np.tile(np.arange(90, dtype=np.uint8), (64, 1)),
    "a 16-bit map up to 3000": np.tile(np.arange(80, dtype=np.uint16) * 37, (64, 1)),
    "180 and 255": grey(255, background=180),
    "40000 and 50000 of 16 bits": grey(50000, np.uint16, background=40000),
    "1 and 255, both solid": classes(1, 255),
    "black, white and red": np.maximum(coloured((255, 0, 0)), coloured((255, 255, 255), lesion=SECOND)),
    "transparent and black and white": np.dstack(
        [coloured((255, 255, 255)), np.where(SECOND, 0, 255).astype(np.uint8)]
    ),
    "logits": (6 * SMOOTH - 3).astype(np.float32),
    "not a number": np.where(LESION, np.nan, 0).astype(np.float32),
}


def save(content, path):
    picture = content if isinstance(content, Image.Image) else Image.fromarray(content)
    picture.save(path)
    return path


def path_for(tmp_path, content):
    lossless = not isinstance(content, np.ndarray) or content.dtype != np.float32
    return save(content, tmp_path / ("x_mask.png" if lossless else "x_mask.tif"))


@pytest.mark.parametrize("name", MEANINGS)
def test_a_mask_means_one_thing(tmp_path, name):
    content, wanted = MEANINGS[name]
    found = io.read_mask(path_for(tmp_path, content)) > 127
    tolerance = 0.01 if "JPEG" in name or "smooth" in name or "prob" in name or "float" in name else 0
    assert np.mean(found != wanted) <= tolerance, (found.sum(), wanted.sum())


@pytest.mark.parametrize("name", MEANINGS)
def test_a_set_and_the_scorer_of_other_masks_read_a_mask_alike(tmp_path, name):
    from busutils import evaluation

    content, wanted = MEANINGS[name]
    if not wanted.any():
        pytest.skip("a set without any lesion is refused")
    trees.save(tmp_path / "x.png", trees.picture((64, 80)))
    path_for(tmp_path, content)
    data = datasets.load("folder", tmp_path)
    score = evaluation.evaluate_masks(tmp_path, data, size=64)["dice"].item()
    assert score > 0.97


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_mask_is_refused_by_name(tmp_path, name):
    path = path_for(tmp_path, AMBIGUOUS[name])
    with pytest.raises(DatasetError, match="may or may not mean lesion") as refused:
        io.read_mask(path)
    assert str(path) in str(refused.value)


def test_levels_that_only_smooth_an_edge_are_no_classes():
    fine = np.kron(LESION, np.ones((3, 3)))[1:, 1:]
    steps = fine[: 63 * 3, : 79 * 3].reshape(63, 3, 79, 3).mean((1, 3))
    steps = np.round(4 * steps) / 4  # a few levels along the edge
    levels = np.rint(255 * steps).astype(np.uint8)
    assert 2 < len(np.unique(levels)) <= masks._FEW_LEVELS
    assert (masks.mask_levels(levels) == levels).all()
