import importlib
import json
import re
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from busutils import datasets, models
from busutils.models.segmenter import clean_mask


class Spy(models.Segmenter):
    """Remembers what it was given."""

    supervised = False

    def __init__(self, size=16):
        self.size = size

    def _fit(self, images, masks, **options):
        self.seen_ = masks

    def _square_proba(self, squares):
        return squares / 255.0


def methods():
    return [
        models.KMeansSegmenter("textbook", size=32),
        models.KMeansSegmenter("improved", size=32),
        models.KMeansSegmenter("best", size=32),
        models.ConstantMaskSegmenter(size=32),
    ]


@pytest.mark.parametrize("method", methods(), ids=lambda m: f"{type(m).__name__}-{getattr(m, 'preset', '')}")
def test_every_method_answers_the_same_calls(method, discs, tmp_path):
    images, masks = discs
    before = images.copy()
    fitted = clone(method).fit(images, masks)
    probs, drawn = fitted.predict_proba(images[:3]), fitted.predict(images[:3])
    assert probs.shape == drawn.shape == (3, 32, 32)
    assert probs.dtype == np.float32
    assert drawn.dtype == bool
    assert 0 <= probs.min() <= probs.max() <= 1
    sizes = [(32, 32), (20, 45), (64, 16)]
    mixed = [np.full(size, 90, np.uint8) for size in sizes]
    assert [m.shape for m in fitted.predict(mixed)] == sizes
    assert [p.shape for p in fitted.predict_proba(mixed)] == sizes
    loaded = models.load(fitted.save(tmp_path / "method.npz"))
    assert loaded.get_params() == fitted.get_params()
    np.testing.assert_array_equal(loaded.predict(images[:5]), fitted.predict(images[:5]))
    np.testing.assert_array_equal(images, before)


def test_an_unsupervised_method_never_receives_a_mask(discs):
    images, masks = discs
    assert Spy().fit(images, masks).seen_ is None
    for preset in ("textbook", "improved", "best"):
        method = models.KMeansSegmenter(preset, size=32)
        with_masks = clone(method).fit(images, ~masks).predict(images[:4])
        np.testing.assert_array_equal(with_masks, clone(method).fit(images).predict(images[:4]))


def test_a_supervised_method_asks_for_masks(discs):
    images, masks = discs
    with pytest.raises(ValueError, match="learns from masks"):
        models.ConstantMaskSegmenter().fit(images)
    with pytest.raises(ValueError, match="60 images but 59 masks"):
        models.ConstantMaskSegmenter().fit(images, masks[:-1])
    with pytest.raises(ValueError, match="boolean"):
        models.ConstantMaskSegmenter().fit(images, masks.astype(float))
    with pytest.raises(NotFittedError, match="not fitted"):
        models.ConstantMaskSegmenter().predict(images)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((8, 8), np.uint8), r"image\[None\]"),
        (np.zeros((1, 8, 8)), "uint8"),
        (np.full((1, 8, 8), np.nan), "uint8"),
        ([np.zeros((8, 8, 3), np.uint8)], "grey"),
        ([np.zeros((0, 8), np.uint8)], "no pixel"),
    ],
)
def test_malformed_images_are_refused_with_a_reason(images, words):
    with pytest.raises(ValueError, match=words):
        Spy().predict(images)


def test_no_image_gives_no_mask():
    assert Spy().predict([]) == []
    assert Spy().predict(np.zeros((0, 8, 8), np.uint8)).shape == (0, 8, 8)


def test_clean_mask_keeps_what_is_large_enough_and_leaves_its_input_alone():
    mask = np.zeros((20, 20), bool)
    mask[2:8, 2:8] = True
    mask[4, 4] = False
    mask[15, 15] = True
    before = mask.copy()
    assert clean_mask(mask).sum() == 37
    assert clean_mask(mask, min_area=0.01).sum() == 36
    assert clean_mask(mask, fill=False).sum() == 36
    mask_two = before.copy()
    mask_two[12:15, 2:5] = True
    assert clean_mask(mask_two, largest=True).sum() == 36
    np.testing.assert_array_equal(mask, before)
    assert not clean_mask(np.zeros((4, 4), bool), min_area=0.1).any()


def damaged(tmp_path, name):
    path = tmp_path / f"{name}.npz"
    header = {"format": 1, "class": "KMeansSegmenter", "params": {"preset": "best"}, "state": {}}
    if name == "text":
        path.write_text("no archive")
    elif name == "no header":
        np.savez(path, x=np.zeros(2))
    elif name == "newer":
        np.savez(path, header=np.array(json.dumps({**header, "format": 99})))
    elif name == "other class":
        np.savez(path, header=np.array(json.dumps({**header, "class": "os.system"})))
    elif name == "other settings":
        np.savez(path, header=np.array(json.dumps({**header, "params": {"shell": "rm"}})))
    elif name == "pickle":
        np.savez(path, header=np.array([{"format": 1}], dtype=object))
    elif name == "truncated":
        models.KMeansSegmenter("best").save(path)
        path.write_bytes(path.read_bytes()[:-40])
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "no weights file"),
        ("text", "not a file of saved weights"),
        ("no header", "not a file of saved weights"),
        ("newer", "update busutils"),
        ("other class", "unknown method"),
        ("other settings", "unknown settings shell"),
        ("pickle", "not a file of saved weights"),
        ("truncated", "not a file of saved weights"),
    ],
)
def test_files_that_are_no_weights_are_refused_in_one_sentence(tmp_path, name, words):
    with pytest.raises(models.WeightsError, match=words) as caught:
        models.load(damaged(tmp_path, name))
    assert "\n" not in str(caught.value)


def test_load_refuses_another_class(tmp_path):
    path = models.KMeansSegmenter().save(tmp_path / "k.npz")
    with pytest.raises(models.WeightsError, match="holds a KMeansSegmenter"):
        models.UNetSegmenter.load(path)
    with pytest.raises(models.WeightsError, match="no weights 'nope'"):
        models.load_weights("nope")


def test_what_callers_ask_for_stands_in_the_base_class(discs, tmp_path):
    """Groups, sources, a checkpoint and progress may be given to every method, which ignores what it has no use for."""
    images, masks = discs
    options = {
        "groups": np.arange(60),
        "sources": ["a", "b"] * 30,
        "checkpoint": tmp_path / "stopped.npz",
        "progress": False,
    }
    for method in [*methods(), Spy()]:
        fitted = method.fit(images, masks, **options)
        assert not fitted.runtime
        assert fitted.network_ is None
        assert fitted.init_file is None
        assert fitted.min_area == 0
        assert fitted.check_settings() is None
        with pytest.raises(ValueError, match="59 groups"):
            method.fit(images, masks, groups=np.arange(59))
        with pytest.raises(ValueError, match="59 sources"):
            method.fit(images, masks, sources=np.arange(59))
    assert not Spy().thread_safe  # whoever cannot say so is called by one thread at a time
    assert models.KMeansSegmenter().thread_safe


def test_post_processing_is_the_base_class_s():
    spy = Spy()
    prob = np.zeros((20, 20), np.float32)
    prob[2:8, 2:8], prob[12:16, 12:16], prob[4, 4] = 0.9, 0.6, 0.0
    assert spy.masks_from([prob])[0].sum() == 36 + 16
    spy.min_area = 0.05
    assert spy.masks_from([prob])[0].sum() == 36


def test_a_file_says_what_the_method_was_trained_on(discs, tmp_path):
    images, masks = discs
    fitted = models.ConstantMaskSegmenter(size=32).fit(images, masks)
    assert fitted.provenance == {}
    fitted.provenance = {"sets": ["busi"], "folds": [5], "seed": 0, "recipe": 2}
    assert models.load(fitted.save(tmp_path / "constant.npz")).provenance == fitted.provenance
    phantoms = datasets.load("phantom", n=20, size=32)
    trained = models.fit_on(models.ConstantMaskSegmenter(size=32), phantoms.split(4)[0], 32, folder=tmp_path)
    assert trained.provenance["sets"] == ["phantom"]
    assert trained.provenance["folds"] == [4]


def test_no_caller_asks_a_segmenter_what_it_has():
    """Everything stands in the base class: no hasattr, no getattr and no signature of a segmenter is looked at."""
    package = Path(models.__file__).parents[1]
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(hasattr|getattr)\((segmenter|member|method|model|fitted)\b|signature\(segmenter", line)
    ]
    assert not found


def rewritten(path, header=None, arrays=None):
    """A saved file with another header or other arrays, whole in every other way."""
    with np.load(path) as archive:
        kept = dict(archive)
    found = json.loads(str(kept.pop("header")))
    kept |= arrays or {}
    np.savez_compressed(path, header=np.array(json.dumps(header(found) if header else found)), **kept)
    return path


def constant(discs, tmp_path):
    return models.ConstantMaskSegmenter(size=32).fit(*discs).save(tmp_path / "constant.npz")


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("params", {"size": 65536}, "from 1 to 4096"),
        ("params", {"size": "32"}, "whole number"),
        ("params", {"size": None}, "whole number"),
        ("params", [1, 2], "damaged|unknown settings"),
        ("state", {"threshold": float("nan")}, "threshold must lie"),
        ("state", {"threshold": "low"}, "damaged"),
        ("state", {"min_confidence": 0.5}, "minimum confidence"),
        ("state", [], "damaged"),
        ("state", {"provenance": 3}, "damaged"),
        ("format", "1", "damaged"),
        ("class", None, "unknown method"),
        ("class", {}, "damaged"),
    ],
)
def test_wrong_kinds_and_values_in_a_file_are_one_sentence(discs, tmp_path, part, value, words):
    path = rewritten(constant(discs, tmp_path), lambda header: header | {part: value})
    with pytest.raises(models.WeightsError, match=words):
        models.load(path)


def test_weights_that_are_no_numbers_are_refused(discs, tmp_path):
    for value in (np.nan, np.inf):
        path = rewritten(constant(discs, tmp_path), arrays={"mean_mask": np.full((32, 32), value, np.float32)})
        with pytest.raises(models.WeightsError, match="finite"):
            models.load(path)


def test_half_precision_never_writes_infinities(discs, tmp_path):
    fitted = models.ConstantMaskSegmenter(size=32).fit(*discs)
    fitted.mean_mask_[0, 0] = 1e6
    assert models.load(fitted.save(tmp_path / "half.npz", half=True)).mean_mask_[0, 0] == 1e6


def test_sizes_are_looked_at_before_memory_is_taken(tmp_path):
    """A few kilobytes that unpack to gigabytes, or say that they do, are refused at once."""
    zeros = np.lib.format.magic(1, 0)
    for name, shape, dtype, n_bytes in [
        ("header", "()", "<U1200000000", 0),
        ("header", "()", f"<U{2**23}", 2**25),
        ("w", f"({2**40},)", "<f4", 0),
        ("w", "(2,)", "<f4", 4096),
        ("w", "(2,)", "|O", 16),
    ]:
        text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.npy", zeros + len(text).to_bytes(2, "little") + text + bytes(n_bytes))
        tracemalloc.start()
        with pytest.raises(models.WeightsError, match="damaged"):
            models.load(tmp_path / "bomb.npz")
        assert tracemalloc.get_traced_memory()[1] < 2e7
        tracemalloc.stop()


def damage(content, rng):
    """One of the ways in which files go wrong: bytes changed, cut, moved, doubled or zeroed."""
    data = bytearray(content)
    start, stop = sorted(rng.integers(0, len(data), 2))
    way = rng.integers(6)
    if way == 0:
        for place in rng.integers(0, len(data), rng.integers(1, 9)):
            data[place] = rng.integers(256)
    elif way == 1:
        return bytes(data[:start])
    elif way == 2:
        del data[start : start + rng.integers(1, 200)]
    elif way == 3:
        data[start:start] = rng.bytes(rng.integers(1, 200))
    elif way == 4:
        data[start:stop] = bytes(stop - start)
    else:  # the list of entries and what is said of them stand at the end
        data[-rng.integers(1, 300)] = rng.integers(256)
    return bytes(data)


@pytest.mark.parametrize("n", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_no_damage_ends_in_anything_but_success_or_one_sentence(discs, tmp_path, n):
    """So many random damages of a file's bytes, and as many of what its header says."""
    fitted = models.ConstantMaskSegmenter(size=32).fit(*discs)
    content = fitted.save(tmp_path / "whole.npz").read_bytes()
    strange = [None, True, -1, 0, 65536, 10**30, 0.5, float("nan"), float("inf"), "", "x" * 99, [], [[]], {}, {"a": 1}]
    ends = {"loaded": 0, "refused": 0}
    for seed in range(2 * n):
        rng = np.random.default_rng(seed)
        path = tmp_path / "damaged.npz"
        if seed < n:
            path.write_bytes(damage(content, rng))
        else:
            path.write_bytes(content)

            def spoil(header, rng=rng):
                part = rng.choice(["format", "class", "params", "state", "size", "threshold", "provenance"])
                holder = next((header[p] for p in ("params", "state") if part in header[p]), header)
                holder[part] = strange[rng.integers(len(strange))]
                return header

            rewritten(path, spoil)
        try:
            drawn = models.load(path).predict(discs[0][:1])
            assert drawn.shape == (1, 32, 32)
            ends["loaded"] += 1
        except models.WeightsError as error:
            assert "\n" not in str(error)
            ends["refused"] += 1
    assert ends["refused"] > n


def test_a_training_is_kept_by_its_code_too(tmp_path, monkeypatch):
    """Whoever edits how a method is fitted gets no old model back; neither does a damaged file stand in the way."""
    (tmp_path / "own_method.py").write_text(
        "import numpy as np\nfrom busutils.models import Segmenter\n\n"
        "class OwnSegmenter(Segmenter):\n"
        "    def __init__(self, size=16):\n        self.size = size\n"
        "    def _fit(self, images, masks, **options):\n        self.level_ = 0.25\n"
        "    def _square_proba(self, squares):\n        return np.full(squares.shape, self.level_)\n"
        "    def _arrays(self):\n        return {'level': np.array(self.level_)}\n"
        "    def _set_arrays(self, arrays):\n        self.level_ = float(arrays['level'])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_method", raising=False)
    phantoms = datasets.load("phantom", n=6, size=32)

    def level():
        importlib.invalidate_caches()
        module = importlib.reload(importlib.import_module("own_method"))
        return models.fit_on(module.OwnSegmenter(), phantoms, 16, folder=tmp_path / "kept").level_

    assert level() == level() == 0.25
    [kept] = (tmp_path / "kept").iterdir()
    kept.write_bytes(kept.read_bytes()[:50])
    assert level() == 0.25
    source = tmp_path / "own_method.py"
    source.write_text(source.read_text().replace("0.25", "0.75 + 0"))
    assert level() == 0.75
