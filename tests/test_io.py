import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import picture

from busutils.io import DatasetError, picture_size, read_image, read_images

pytest.importorskip("pydicom", reason="the extra 'dicom' is not installed")
import spoiled


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def only_frame(path):
    (frame,) = read_images(path)
    return frame


def test_pictures_are_read_as_the_data_sets_read_them(tmp_path):
    in_order, _, _ = spoiled.write_all(tmp_path)
    singles = [path for path in in_order if path.suffix.lower() in (".png", ".bmp", ".jpg", ".jpeg", ".tif")]
    singles = [path for path in singles if not path.name.startswith("animated")]
    assert len(singles) > 15
    for path in singles:
        frame = only_frame(path)
        assert frame.frame is None and frame.spacing is None
        np.testing.assert_array_equal(frame.pixels, read_image(path), err_msg=path.name)


@pytest.mark.parametrize("name", ["animated.gif", "animated.png", "animated_webp.png", "pages.tiff", "clip.dcm"])
def test_every_frame_of_a_clip_is_read(tmp_path, name):
    spoiled.write_all(tmp_path)
    frames = list(read_images(tmp_path / name))
    assert [frame.frame for frame in frames] == [1, 2, 3]
    for seed, frame in enumerate(frames):
        # GIF keeps 256 colours of its own choice.
        np.testing.assert_allclose(frame.pixels, picture(seed=seed), atol=3 if name.endswith("gif") else 0)


def test_pages_of_several_depths_and_sizes(tmp_path):
    small, deep = picture((20, 30)), picture().astype(np.uint16) * 257
    pages = [Image.fromarray(small), Image.fromarray(deep), Image.fromarray(picture()).convert("RGB")]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    frames = [frame.pixels for frame in read_images(tmp_path / "a.tif")]
    for found, wanted in zip(frames, (small, picture(), picture()), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_dicom_is_shown_as_a_viewer_shows_it(written):
    grey = picture()
    deep = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(only_frame(written("a.dcm", spoiled.dicom(grey))).pixels, grey)
    inverse = only_frame(written("b.dcm", spoiled.dicom(grey, PhotometricInterpretation="MONOCHROME1"))).pixels
    np.testing.assert_array_equal(inverse, 255 - grey)
    np.testing.assert_array_equal(only_frame(written("c.dcm", spoiled.dicom(deep))).pixels, grey)
    signed = (deep.astype(np.int32) - 32768).astype(np.int16)
    np.testing.assert_array_equal(only_frame(written("d.dcm", spoiled.dicom(signed))).pixels, grey)
    colour = np.stack([grey, np.zeros_like(grey), np.zeros_like(grey)], axis=-1)
    red = only_frame(written("e.dcm", spoiled.dicom(colour))).pixels
    np.testing.assert_array_equal(red, np.asarray(Image.fromarray(colour).convert("L")))


def test_a_dicom_window_stretches_the_grey_levels(written):
    values = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
    shown = only_frame(written("a.dcm", spoiled.dicom(values, WindowCenter=1024, WindowWidth=1024))).pixels
    assert (shown[values <= 448] == 0).all() and (shown[values >= 1600] == 255).all()
    between = shown[(values > 600) & (values < 1500)]
    assert (np.diff(between.astype(int)) > 0).all()
    # The rescaled values are what the window is about (PS3.3 C.11.2).
    moved = spoiled.dicom(values, WindowCenter=1024 - 500, WindowWidth=1024, RescaleSlope=1, RescaleIntercept=-500)
    np.testing.assert_array_equal(only_frame(written("b.dcm", moved)).pixels, shown)


def test_a_palette_is_looked_up(written):
    table = np.linspace(0, 65535, 256).astype(np.uint16)[::-1]
    colours = ("Red", "Green", "Blue")
    fields = {f"{c}PaletteColorLookupTableData": table.tobytes() for c in colours}
    fields |= {f"{c}PaletteColorLookupTableDescriptor": [256, 0, 16] for c in colours}
    grey = picture()
    image = only_frame(
        written("a.dcm", spoiled.dicom(grey, PhotometricInterpretation="PALETTE COLOR", **fields))
    ).pixels
    np.testing.assert_allclose(image, 255 - grey.astype(int), atol=1)


@pytest.mark.parametrize("kind", ["jpeg", "rle"])
def test_compressed_clips_are_read(tmp_path, kind):
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit, RLELossless

    frames = [picture(seed=seed) for seed in range(3)]
    path = tmp_path / "a.dcm"
    if kind == "jpeg":
        parts = [spoiled.encoded(frame, "JPEG", quality=95) for frame in frames]
        path.write_bytes(spoiled.dicom(np.stack(frames), syntax=JPEGBaseline8Bit, PixelData=encapsulate(parts)))
    else:
        path.write_bytes(spoiled.dicom(np.stack(frames)))
        header = pydicom.dcmread(path)
        header.compress(RLELossless)
        header.save_as(path)
    found = list(read_images(path))
    assert [frame.frame for frame in found] == [1, 2, 3]
    for wanted, frame in zip(frames, found, strict=True):
        np.testing.assert_allclose(frame.pixels, wanted, atol=8 if kind == "jpeg" else 0)


def region(dx, dy, units=3, kind=1):
    from pydicom.dataset import Dataset

    made = Dataset()
    made.RegionSpatialFormat, made.PhysicalUnitsXDirection, made.PhysicalUnitsYDirection = kind, units, units
    made.PhysicalDeltaX, made.PhysicalDeltaY = dx, dy
    return made


@pytest.mark.parametrize(
    ("fields", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.2, 0.1]}, (0.2, 0.1)),  # rows first
        ({"PixelSpacing": [0, 0.1]}, None),
        ({"PixelSpacing": [500, 500]}, None),
        ({"SequenceOfUltrasoundRegions": [region(0.01, 0.02)]}, (0.2, 0.1)),  # centimetres
        ({"SequenceOfUltrasoundRegions": [region(0.01, -0.02)]}, (0.2, 0.1)),  # upwards
        ({"SequenceOfUltrasoundRegions": [region(0.01, 0.02, units=4)]}, None),  # seconds
        ({"SequenceOfUltrasoundRegions": [region(0.01, 0.02, kind=3)]}, None),  # a spectrum
        ({"SequenceOfUltrasoundRegions": [region(0.01, 0.02), region(0.01, 0.02)]}, (0.2, 0.1)),
        ({"SequenceOfUltrasoundRegions": [region(0.01, 0.02), region(0.03, 0.03)]}, None),  # which one?
    ],
)
def test_the_size_of_a_pixel(written, fields, spacing):
    found = only_frame(written("a.dcm", spoiled.dicom(**fields))).spacing
    assert found == (None if spacing is None else pytest.approx(spacing))


def test_no_decoder_sees_what_is_too_large(written, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    for width, height in ((60_000, 60_000), (9000, 9000)):
        with pytest.raises(DatasetError, match=r"pixels"):
            list(read_images(written("a.png", spoiled.png_with_size(width, height))))


def test_a_clip_is_bounded_as_a_whole(written, monkeypatch):
    clip = written("clip.dcm", spoiled.dicom(np.stack([picture()] * 3)))
    monkeypatch.setattr("busutils.io.image.MAX_FULL_FRAMES", 2)
    with pytest.raises(DatasetError, match="in all its frames"):
        list(read_images(clip, max_pixels=picture().size))
    with pytest.raises(DatasetError, match="more than the limit of 100"):
        list(read_images(clip, max_pixels=100))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.png", tmp_path, Path("a\0b.png")):
        with pytest.raises(DatasetError, match="check the path"):
            list(read_images(path))


def test_dicom_without_pydicom_is_one_sentence(written, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DatasetError, match=r'pip install "busutils\[dicom\]"'):
        list(read_images(written("a.dcm", spoiled.dicom())))


def test_spoiled_files_raise_one_sentence_that_names_the_file_and_no_patient(tmp_path, caplog, capsys, recwarn):
    caplog.set_level(logging.DEBUG)
    in_order, refused, either = spoiled.write_all(tmp_path)
    assert len(in_order) + len(refused) + len(either) >= 200
    n_refused = 0
    for path in [*in_order, *refused, *either]:
        try:
            frames = list(read_images(path))
        except DatasetError as error:
            n_refused += 1
            assert path not in in_order, error
            assert str(path) in str(error) and "\n" not in str(error)
            assert "SECRET" not in str(error) and len(str(error)) < len(str(path)) + 200
        else:
            assert path not in refused, path
            assert frames and all(f.pixels.dtype == np.uint8 and f.pixels.ndim == 2 and f.pixels.size for f in frames)
    assert n_refused > len(refused)  # some of the scrambled ones too
    said = caplog.text + "".join(capsys.readouterr()) + "".join(str(w.message) for w in recwarn)
    assert "SECRET" not in said


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path, kind):
    from PIL import ExifTags

    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera lay on its side: turn by 90 degrees
    upright = picture((40, 60))
    stored = np.rot90(upright)
    path = tmp_path / f"a.{kind}"
    options = {"quality": 95} if kind == "jpg" else {"lossless": True} if kind == "webp" else {}
    Image.fromarray(stored).convert("RGB").save(path, exif=exif, **options)
    assert picture_size(path) == read_image(path).shape == upright.shape
    assert np.abs(read_image(path).astype(int) - upright).mean() < 5
