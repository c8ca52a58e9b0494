import json
import os
import platform
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.base import clone

from busutils import metrics, models
from busutils.models.augment import augment, augment_batch, lesion_free_window
from busutils.models.training import Training, choose_threshold, validation_groups

pytestmark = pytest.mark.tf


def weights_of(segmenter):
    return segmenter.network_.get_weights()


def settings(**changes):
    return models.UNetSegmenter(**{"size": 32, "filters": (4, 8, 16), "epochs": 4, "dropout": 0.2} | changes)


def test_it_learns_to_find_discs(tiny_unet, discs):
    images, masks = discs
    dice = [metrics.dice(m, p) for m, p in zip(masks, tiny_unet.predict(images), strict=True)]
    assert np.mean(dice) > 0.7
    assert len(tiny_unet.history_) == 12
    assert tiny_unet.history_["loss"].iloc[-1] < tiny_unet.history_["loss"].iloc[0]


@pytest.mark.parametrize(
    ("pixels", "probability", "chosen"),
    # Part of a lesion of 400 pixels that is found at low thresholds only: 4 pixels cost less than 0.01 Dice, 40 cost more.
    [(4, 0.52, 0.7), (40, 0.52, 0.5), (40, 0.33, 0.3)],
)
def test_threshold_is_the_highest_that_costs_at_most_a_hundredth(pixels, probability, chosen):
    masks = np.zeros((2, 32, 32), bool)
    masks[0, :20, :20] = True
    prob = np.where(masks, 0.9, 0.1).reshape(2, -1)
    prob[0, np.flatnonzero(masks[0])[:pixels]] = probability

    class Fixed:
        def _square_proba(self, squares):
            return prob.reshape(masks.shape)[: len(squares)]

    assert choose_threshold(Fixed(), np.zeros(masks.shape, np.uint8), masks) == chosen
    assert choose_threshold(Fixed(), np.zeros(masks.shape, np.uint8), masks & False) == 0.5


def test_saved_and_loaded_weights_predict_the_same(tiny_unet, discs, tmp_path):
    images, _ = discs
    loaded = models.load(tiny_unet.save(tmp_path / "u.npz"), runtime="keras")
    np.testing.assert_array_equal(loaded.predict_proba(images[:4]), tiny_unet.predict_proba(images[:4]))
    assert loaded.threshold_ == tiny_unet.threshold_
    assert len(loaded.history_) == 12
    half = tiny_unet.save(tmp_path / "half.npz", half=True)
    assert half.stat().st_size < 0.7 * (tmp_path / "u.npz").stat().st_size
    np.testing.assert_allclose(
        models.load(half, "keras").predict_proba(images[:4]), tiny_unet.predict_proba(images[:4]), atol=0.02
    )


def test_images_of_any_size_come_back_at_their_size(tiny_unet):
    sizes = [(40, 31), (16, 70), (32, 32)]
    maps = tiny_unet.predict_proba([np.full(size, 80, np.uint8) for size in sizes])
    assert [m.shape for m in maps] == sizes


def test_the_same_seed_trains_the_same_network(discs):
    first, second = (clone(settings(epochs=2)).fit(*discs) for _ in range(2))
    for a, b in zip(weights_of(first), weights_of(second), strict=True):
        np.testing.assert_array_equal(a, b)
    other = settings(epochs=2, seed=1).fit(*discs)
    assert any((a != b).any() for a, b in zip(weights_of(first), weights_of(other), strict=True))


def test_a_training_stopped_within_an_epoch_ends_in_the_same_weights(discs, tmp_path, monkeypatch):
    whole = settings().fit(*discs)
    batches = Training._batches

    def stop_in_third_epoch(self, epoch):
        data = batches(self, epoch)
        if epoch != 2:
            return data
        get = type(data).__getitem__

        def interrupted(this, step):
            if step == 3:
                raise RuntimeError("power cut")
            return get(this, step)

        monkeypatch.setattr(type(data), "__getitem__", interrupted)
        return data

    checkpoint = tmp_path / "training.npz"
    monkeypatch.setattr(Training, "_batches", stop_in_third_epoch)
    with pytest.raises(Exception, match="power cut"):
        settings().fit(*discs, checkpoint=checkpoint)
    monkeypatch.setattr(Training, "_batches", batches)
    resumed = settings().fit(*discs, checkpoint=checkpoint)
    assert resumed.history_["loss"].tolist() == whole.history_["loss"].tolist()
    assert resumed.threshold_ == whole.threshold_
    for a, b in zip(weights_of(resumed), weights_of(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_of_another_training_is_refused(discs, tmp_path):
    images, masks = discs
    checkpoint = tmp_path / "training.npz"
    settings(epochs=1).fit(images, masks, checkpoint=checkpoint)
    with pytest.raises(models.WeightsError, match="other images or settings"):
        settings(epochs=1, seed=1).fit(images, masks, checkpoint=checkpoint)
    for spoilt in (b"nothing", checkpoint.read_bytes()[:5000]):
        checkpoint.write_bytes(spoilt)
        with pytest.raises(models.WeightsError, match="not a training checkpoint"):
            settings(epochs=1).fit(images, masks, checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"tta": "turned"}, "tta must be none or mirror"),
        ({"lesion_free": 1}, "lesion_free is a share"),
        ({"validation_fraction": 1}, "a share of the images"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        (
            {"init_weights": "busi-lite"},
            "no weights busi-lite to start from: name a file, or one of bus-all, busi-encoder",
        ),
    ],
)
def test_impossible_settings_are_refused_before_the_training(discs, monkeypatch, wrong, message):
    monkeypatch.setattr(Training, "run", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message):
        settings(**wrong).fit(*discs)


def make_training(images, masks, **changes):
    held_out = np.zeros(len(images), bool)
    held_out[-4:] = True
    return Training(settings(**changes), images, masks, held_out)


def test_the_average_of_the_weights_stays_apart_from_the_training(discs):
    images, masks = discs
    training = make_training(images[:20], masks[:20])
    seen = []
    follow = training._follow

    def watched(step):
        seen.append(training.network.get_weights())
        follow(step)

    training._follow = watched
    training._epoch(0)
    for last, weight, average in zip(seen[-1], training.network.get_weights(), training.average, strict=True):
        np.testing.assert_array_equal(last, weight)  # validation used the average and put the weights back
        assert average.shape == weight.shape
    assert any((average != weight).any() for average, weight in zip(training.average, seen[-1], strict=True))
    training.segmenter.epochs = 1
    training.run(None, progress=False)
    for average, weight in zip(training.average, weights_of(training.segmenter), strict=True):
        np.testing.assert_array_equal(average, weight)


def test_an_epoch_draws_from_sources_by_the_square_root_of_their_size(discs):
    images, masks = (np.concatenate([part, part[:4]]) for part in discs)
    held_out = np.arange(64) >= 60
    sources = np.repeat(["small", "large", "held out"], [6, 54, 4])
    training = Training(settings(), images, masks, held_out, sources)
    order = training._order(0)
    assert len(order) == training.steps * 8
    assert (order < 6).mean() == pytest.approx(np.sqrt(6) / (np.sqrt(6) + np.sqrt(54)), abs=0.02)
    assert not np.array_equal(order, training._order(1))
    assert len(np.unique(order[order >= 6])) > 40  # nothing twice before all were drawn


def test_validation_takes_whole_groups(discs):
    groups = np.repeat(np.arange(20), 3)
    chosen = validation_groups(groups, 0.2, seed=0)
    assert chosen.sum() == 12
    assert not set(groups[chosen]) & set(groups[~chosen])
    fitted = settings(epochs=1).fit(*discs, groups=groups)
    assert not set(groups[fitted.validation_]) & set(groups[~fitted.validation_])
    with pytest.raises(ValueError, match="60 images but 2 groups"):
        settings(epochs=1).fit(*discs, groups=[1, 2])
    with pytest.raises(ValueError, match="too few groups"):
        settings(epochs=1).fit(*discs, groups=np.zeros(60))


def test_levels_shapes_and_receptive_fields():
    from busutils.models.unet import describe, unet

    table = describe(unet(32, filters=(4, 8, 16), halve=False)).set_index("level")
    assert table["channels"].tolist() == [4, 8, 16, 8, 4]
    assert table["height"].tolist() == [32, 16, 8, 16, 32]
    assert table.loc["enc1", "receptive_field"] == 5
    assert table.loc["enc2", "receptive_field"] == 14
    halved = describe(unet(32, filters=(4, 8, 16), halve=True)).set_index("level")
    assert halved["height"].tolist() == [32, 16, 8, 4, 8, 16, 32]
    assert unet(32, filters=(4, 8, 16), halve=True).output_shape == (None, 32, 32, 1)
    with pytest.raises(ValueError, match="divisible by 4"):
        unet(30, filters=(4, 8, 16), halve=False)
    with pytest.raises(ValueError, match="divisible by 8"):
        unet(36, filters=(4, 8, 16), halve=True)


def test_the_receptive_field_is_what_a_pixel_can_feel():
    """Measured: change one input pixel far enough away, and the level does not change."""
    from busutils.models.backend import keras
    from busutils.models.unet import describe, unet

    network = unet(64, filters=(2, 2, 2), halve=False)
    field = int(describe(network).set_index("level").loc["enc2", "receptive_field"])
    part = keras.Model(network.get_layer("enc1_conv_a").input, network.get_layer("enc2").output)
    image = np.random.default_rng(0).random((1, 64, 64, 1)).astype("float32")
    felt = []
    for column in range(64):
        moved = image.copy()
        moved[0, 32, column] += 100
        change = np.abs(np.asarray(part(moved)) - np.asarray(part(image)))[0, 16, 16]
        felt.append(change.max() > 1e-6)
    reach = np.flatnonzero(felt)
    assert np.ptp(reach) + 1 <= field
    assert np.ptp(reach) + 1 >= field - 2


def test_losses_by_hand():
    from busutils.models.losses import bce_dice_loss, dice_loss

    mask = np.zeros((2, 4, 4, 1), "float32")
    mask[0, :2, :2] = 1
    empty = np.zeros_like(mask)
    assert np.asarray(dice_loss(mask, mask)) == pytest.approx([0, 0])
    assert np.asarray(dice_loss(mask, empty)) == pytest.approx([0.8, 0])
    half = np.full_like(mask, 0.5)
    expected = np.log(2) + 1 - (2 * 2 + 1) / (4 + 8 + 1)
    assert np.asarray(bce_dice_loss(mask, half))[0] == pytest.approx(expected, abs=1e-5)


def test_a_larger_false_region_on_a_normal_image_costs_more():
    from busutils.models.losses import dice_loss

    prob = np.zeros((2, 64, 64, 1), "float32")
    prob[0, :5, :5], prob[1, :10, :10] = 1, 1
    small, large = np.asarray(dice_loss(np.zeros_like(prob), prob))
    assert small == pytest.approx(25 / (25 + 0.005 * 64**2), abs=1e-4)
    assert large > small + 0.2


def test_augmentation_moves_image_and_mask_together():
    image = np.full((64, 64), 200, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 25:50] = True
    image[mask] = 20
    for seed in range(10):
        changed, moved = augment(image, mask, np.random.default_rng(seed))
        assert changed.dtype == np.float32
        assert moved.dtype == bool
        assert 0 <= changed.min() <= changed.max() <= 255
        inside, outside = changed[moved].mean(), changed[~moved].mean()
        assert inside < outside
    assert image[0, 0] == 200


def test_parts_without_a_lesion_become_normal_images():
    mask = np.zeros((64, 64), bool)
    mask[20:30, 20:40] = True
    image = np.where(mask, 10, 100).astype(np.uint8)
    rng = np.random.default_rng(0)
    changed, moved = augment_batch(np.stack([image] * 8), np.stack([mask] * 8), rng, strength=0, lesion_free=0.99)
    assert not moved.any()
    np.testing.assert_allclose(changed, 100, atol=1e-3)
    top, left, side = lesion_free_window(mask, rng)
    assert 0.3 * 64 - 1 <= side <= 0.75 * 64
    assert not mask[top : top + side, left : left + side].any()
    assert lesion_free_window(np.ones((64, 64), bool), rng) is None


def test_augmentation_without_strength_only_mirrors():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (16, 16)).astype(np.uint8)
    mask = image > 100
    results = [augment(image, mask, np.random.default_rng(seed), strength=0) for seed in range(12)]
    kinds = set()
    for changed, moved in results:
        same = np.allclose(changed, image, atol=1e-3)
        mirrored = np.allclose(changed, image[:, ::-1], atol=1e-3)
        assert same or mirrored
        np.testing.assert_array_equal(moved, mask if same else mask[:, ::-1])
        kinds.add(same)
    assert kinds == {True, False}


def test_augmentation_of_geometry_and_of_grey_values_is_set_apart():
    image, mask = np.full((32, 32), 100, np.uint8), np.zeros((32, 32), bool)
    image[8:20, 10:18], mask[8:20, 10:18] = 40, True

    def changed(strength):
        return augment(image, mask, np.random.default_rng(1), strength=strength)

    grey_only, unmoved = changed((0, 1))
    moved_only, moved = changed((1, 0))
    both, moved_as_well = changed(1)
    assert unmoved.sum() == mask.sum() and not np.isin(grey_only, image).all()
    assert (moved == moved_as_well).all() and (moved != unmoved).any()
    assert moved_only.max() == pytest.approx(100, abs=1e-3) and not np.allclose(moved_only, both)


@pytest.mark.parametrize("wrong", [(1, 1, 1), -1, (1, -0.5)])
def test_augmentation_of_impossible_strength_is_named(wrong):
    with pytest.raises(ValueError, match="two: for geometry and for grey values"):
        augment(np.zeros((8, 8), np.uint8), np.zeros((8, 8), bool), np.random.default_rng(0), strength=wrong)


def test_augmentation_is_a_function_of_its_random_state():
    images, masks = np.arange(512, dtype=np.uint8).reshape(2, 16, 16), np.ones((2, 16, 16), bool)
    first = augment_batch(images, masks, np.random.default_rng(3))
    second = augment_batch(images, masks, np.random.default_rng(3))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_fit_on_trains_once(tmp_path, monkeypatch):
    from busutils import datasets

    images = datasets.load("phantom", n=12, size=32)
    first = models.fit_on(settings(epochs=1), images, 32, folder=tmp_path)
    monkeypatch.setattr(Training, "run", lambda *_: pytest.fail("trained again"))
    again = models.fit_on(settings(epochs=1), images, 32, folder=tmp_path)
    for a, b in zip(weights_of(first), weights_of(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow  # killed by time
def test_a_killed_training_ends_in_the_same_weights(tmp_path):
    """The process is killed outright within an epoch, and the same command run again."""
    train = [sys.executable, "-m", "busutils.cli", "train", "--dataset", "phantom?n=40&size=32", "--size", "32"]
    train += ["--epochs", "4", "--dropout", "0.3", "--out"]

    def command(name: str) -> dict:
        environment = {**os.environ, "BUSUTILS_CACHE_DIR": str(tmp_path / name)}
        return {"args": [*train, str(tmp_path / f"{name}.npz")], "env": environment, "stderr": subprocess.DEVNULL}

    subprocess.run(**command("whole"), check=True, stdout=subprocess.DEVNULL)
    killed = subprocess.Popen(**command("killed"), stdout=subprocess.DEVNULL)
    checkpoints = []
    while not checkpoints and killed.poll() is None:
        time.sleep(0.01)
        checkpoints = list(tmp_path.glob("killed/trained/UNet*.checkpoint.npz"))
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed.npz").exists()
    subprocess.run(**command("killed"), check=True, stdout=subprocess.DEVNULL)
    whole, resumed = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("whole", "killed"))
    header, other = (json.loads(str(arrays.pop("header"))) for arrays in (whole, resumed))
    for row in (*header["state"]["history"], *other["state"]["history"]):
        row.pop("seconds")
    assert header == other
    for name, weights in whole.items():
        np.testing.assert_array_equal(weights, resumed[name])


@pytest.mark.parametrize("tta", ["none", "mirror"])
def test_augmented_copies_are_averaged_in_place(tta):
    """A 'network' that answers with the image itself: every copy must come back where it was."""
    from busutils.models.tta import mean_over_tta

    rows, columns = np.mgrid[:64, :64]
    squares = np.stack([2 * rows + columns, 3 * columns]).astype(np.uint8)
    mean = mean_over_tta(lambda copies: copies.astype(np.float32), squares, tta)
    np.testing.assert_allclose(mean[:, 4:-4, 4:-4], squares[:, 4:-4, 4:-4], atol=3)


def test_an_unknown_test_time_augmentation_is_refused():
    from busutils.models.tta import mean_over_tta

    with pytest.raises(ValueError, match="tta must be none or mirror"):
        mean_over_tta(lambda copies: copies, np.zeros((1, 8, 8), np.uint8), "turned")


def test_training_can_begin_with_trained_weights(tiny_unet, discs, tmp_path):
    path = tiny_unet.save(tmp_path / "before.npz")
    images, masks = discs
    same = {"filters": (8, 16, 32), "halve": False, "dropout": 0.1, "epochs": 1}
    scratch, tuned = (settings(init_weights=start, **same).fit(images, masks) for start in (None, str(path)))
    assert tuned.history_["loss"][0] < 0.7 * scratch.history_["loss"][0]
    with pytest.raises(models.WeightsError, match="another network"):
        settings(init_weights=str(path)).fit(images, masks)


def test_presets():
    assert models.UNetSegmenter.preset("light").get_params() == models.UNetSegmenter().get_params()
    assert models.UNetSegmenter.preset("encoder", epochs=3).encoder == "efficientnet-lite0"
    with pytest.raises(ValueError, match="choose one of light, encoder, classic"):
        models.UNetSegmenter.preset("huge")


def test_several_devices_train_one_network(tmp_path):
    """Two logical processors stand for two graphics cards; TensorFlow fixes its devices when it starts."""
    code = """
import os, sys, tensorflow
whole = tensorflow.config.list_physical_devices("CPU")[0]
tensorflow.config.set_logical_device_configuration(whole, [tensorflow.config.LogicalDeviceConfiguration()] * 2)
from busutils.models.backend import across_devices
from busutils.cli import main
with across_devices():
    assert tensorflow.distribute.get_strategy().num_replicas_in_sync == 2
os.environ["BUSUTILS_DEVICES"] = "CPU:1"
with across_devices():
    assert "CPU:1" in tensorflow.distribute.get_strategy().extended.worker_devices[0]
os.environ["BUSUTILS_DEVICES"] = "CPU:0,CPU:1"
sys.exit(main(["train", "--dataset", "phantom?n=20&size=32", "--size", "32", "--epochs", "2", "--out", sys.argv[1]]))
"""
    environment = {
        **os.environ,
        "BUSUTILS_CACHE_DIR": str(tmp_path),
        "BUSUTILS_DEVICES": "CPU:0,CPU:1",
    }
    path = tmp_path / "two.npz"
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True, capture_output=True)
    assert models.load(path, "keras").predict_proba([np.zeros((32, 32), np.uint8)])[0].shape == (32, 32)


def test_a_network_too_large_for_its_file_is_never_built(tiny_unet, tmp_path, monkeypatch):
    path = tiny_unet.save(tmp_path / "net.npz")
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(str(arrays.pop("header")))
    monkeypatch.setattr(models.UNetSegmenter, "_build", lambda *_: pytest.fail("built"))
    for changes in ({"filters": [8, 16, 2000]}, {"filters": [10**9, 2]}, {"size": 65536}, {"tta": "turned"}):
        wrong = {**header, "params": header["params"] | changes}
        np.savez(path, header=np.array(json.dumps(wrong)), **arrays)
        with pytest.raises(models.WeightsError, match=r"fewer weights|from 1 to 4096|damaged"):
            models.load(path, "keras")


@pytest.mark.parametrize(("variable", "value"), [("BUSUTILS_MALLOC", "0"), ("MALLOC_TOP_PAD_", "1")])
def test_the_allocator_can_be_left_alone(monkeypatch, variable, value):
    from busutils.models import backend

    changed = []
    library = type("Library", (), {"mallopt": lambda self, *setting: changed.append(setting)})
    monkeypatch.setattr(backend.ctypes, "CDLL", lambda name: library())
    monkeypatch.setattr(backend.sys, "platform", "linux")
    for name in ("BUSUTILS_MALLOC", "MALLOC_TOP_PAD_"):
        monkeypatch.delenv(name, raising=False)
    backend.keep_freed_memory()
    assert changed == list(backend._ALLOCATOR)
    monkeypatch.setenv(variable, value)
    backend.keep_freed_memory()
    assert changed == list(backend._ALLOCATOR)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_memory_is_used_again():
    code = """
import resource
from busutils.models import backend
import numpy as np
np.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("BUSUTILS_MALLOC", "MALLOC_TOP_PAD_")
    }
    faults = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(faults.stdout) < 2**24 * 8 // 4096  # pages of one array; ten arrays were made
