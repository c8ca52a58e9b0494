import copy

import numpy as np
import pytest

from busutils import models
from busutils.app.predict import PredictError, find_images, predict_files


class Bright(models.Segmenter):
    """Draws what is bright."""

    supervised = False

    def __init__(self, size=32):
        self.size = size

    def _square_proba(self, squares):
        return squares / 255.0


def test_files_of_one_name_in_two_folders_do_not_overwrite_each_other(tmp_path):
    from PIL import Image

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((20, 20), 200, np.uint8)).save(tmp_path / folder / "scan.png")
    files = find_images([tmp_path / "a", tmp_path / "b"])
    rows = list(predict_files(Bright(), files, tmp_path / "out"))
    assert len({row.mask for row in rows}) == 2
    assert all((tmp_path / "out" / row.mask).is_file() for row in rows)
    assert rows[0].area_px == 400
    assert (rows[0].top, rows[0].left, rows[0].bottom, rows[0].right) == (0, 0, 20, 20)


def test_no_image_is_an_error(tmp_path):
    with pytest.raises(PredictError, match="no image"):
        find_images([tmp_path])


@pytest.mark.tf
def test_an_exported_network_gives_the_same_masks_without_keras(tiny_unet, discs, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    from busutils.app.export import OnnxSegmenter, export_onnx

    segmenter = copy.deepcopy(tiny_unet).set_params(views=4)
    segmenter.confidence_ = 0.9  # drops some regions
    images = [image[:30] for image in discs[0][:20]]
    exported = OnnxSegmenter(str(export_onnx(segmenter, tmp_path / "unet.onnx")))
    for ours, theirs in zip(segmenter.predict_proba(images), exported.predict_proba(images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for ours, theirs in zip(segmenter.predict(images), exported.predict(images), strict=True):
        assert (ours != theirs).mean() < 0.002
