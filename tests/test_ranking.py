"""Pairs, ranks and bands of lesion size."""

import numpy as np
import pandas as pd
import pytest

from busutils.evaluation import compare, compare_all, holm, paired_difference, rank_methods


def table_of(**methods):
    parts = []
    for name, scores in methods.items():
        n = len(scores)
        ids = [f"i{k}" for k in range(n)]
        parts.append(pd.DataFrame({"id": ids, "group": ids, "mask_area": 0.05, "dice": scores, "method": name}))
    return pd.concat(parts, ignore_index=True)


def test_holm_by_hand():
    # sorted .001 × 4, .01 × 3, .02 × 2, .02 × 1 → raised to the one before
    assert holm([0.02, 0.001, 0.01, 0.02]) == pytest.approx([0.04, 0.004, 0.03, 0.04])
    assert holm([0.6, 0.9]).tolist() == [1, 1]
    corrected = holm([np.nan, 0.02, 0.5])
    assert np.isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.04, 0.5])


def test_pairs_agree_with_a_single_comparison():
    rng = np.random.default_rng(0)
    a = rng.random(60)
    b, c = a - 0.1 + 0.05 * rng.standard_normal(60), rng.random(60)
    pairs = compare_all(table_of(a=a, b=b, c=c))
    assert list(zip(pairs["first"], pairs["second"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    alone = compare(a, b)
    assert pairs.loc[0, "difference"] == pytest.approx((a - b).mean())
    assert pairs.loc[0, "p"] == pytest.approx(alone.p_value)
    assert pairs["p_holm"].to_numpy() == pytest.approx(holm(pairs["p"]))
    assert (pairs["p_holm"] >= pairs["p"]).all()


def test_several_trainings_are_averaged():
    one = table_of(a=[0.2, 0.4], b=[0.5, 0.5])
    other = table_of(a=[0.4, 0.6], b=[0.5, 0.5])
    both = pd.concat([one.assign(seed=0), other.assign(seed=1)])
    assert rank_methods(both).set_index("method").loc["a", "mean"] == pytest.approx(0.4)
    assert compare_all(both).loc[0, "difference"] == pytest.approx(-0.1)


def test_a_gain_covers_the_chance_of_every_training_there_was():
    rng = np.random.default_rng(0)
    base = rng.random(40)
    one, better, worse = (table_of(a=base + change) for change in (0, 0.1, -0.1))
    single = pd.concat([one, table_of(b=base)])
    assert paired_difference(single, "method", "a", "b") == pytest.approx((0, 0, 0))
    # Three trainings against a single one: images agree, trainings do not, and the interval says so.
    several = pd.concat([t.assign(seed=seed) for seed, t in enumerate((one, better, worse))])
    against_one = pd.concat([several, table_of(b=base).assign(seed=0)])
    more = paired_difference(against_one, "method", "a", "b")
    assert more.mean == pytest.approx(0) and more.low < -0.05 and more.high > 0.05
    turned = paired_difference(against_one, "method", "b", "a")
    assert turned.low == pytest.approx(-more.high) and turned.high == pytest.approx(-more.low)
    # Equal seeds are pairs: what both trainings of a seed have in common is no gain.
    paired = pd.concat([several, several.assign(method="b")])
    assert paired_difference(paired, "method", "a", "b") == pytest.approx((0, 0, 0))
    with pytest.raises(ValueError, match="must both be in the column method"):
        paired_difference(single, "method", "a", "c")


def test_ranks_are_sure_where_scores_are_and_shared_where_they_tie():
    rng = np.random.default_rng(0)
    a = rng.random(80)
    ranks = rank_methods(table_of(low=a - 1, high=a, twin=a)).set_index("method")
    assert ranks["rank"].to_dict() == {"high": 1, "twin": 1, "low": 3}
    assert ranks.loc["low", ["rank_low", "rank_high"]].tolist() == [3, 3]
    assert ranks["first"].to_dict() == pytest.approx({"high": 0.5, "twin": 0.5, "low": 0})
    unsure = rank_methods(table_of(a=a, b=a[::-1])).set_index("method")
    assert unsure["rank_high"].tolist() == [2, 2]


def test_methods_on_different_images_are_refused():
    table = table_of(a=[0.1, 0.2], b=[0.3, 0.4]).iloc[:3]
    with pytest.raises(ValueError, match="same images"):
        compare_all(table)
