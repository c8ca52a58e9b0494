"""Simulated images: determinism, physics on the linear envelope, truth, sets and files."""

import numpy as np

from busutils.datasets import phantom


def test_same_arguments_same_bytes_in_any_order():
    alone = phantom.simulate(5, seed=3, size=96)
    for index in (9, 5, 2):
        again = phantom.simulate(index, seed=3, size=96)
        if index == 5:
            assert np.array_equal(alone.image, again.image)
            assert np.array_equal(alone.mask, again.mask)
            assert np.array_equal(alone.envelope, again.envelope)
        else:
            assert not np.array_equal(alone.image, again.image)


def test_dataset_reads_what_simulate_makes():
    dataset = phantom.load(n=5, size=64)
    images, masks = dataset.load_arrays(64, use_cache=False)
    for i in range(5):
        made = phantom.simulate(i, size=64)
        assert np.array_equal(images[i], made.image)
        assert np.array_equal(masks[i], made.mask)
        assert dataset[i].label == made.label
