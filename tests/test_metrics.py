"""Metrics against values worked out by hand and plain loops; bootstrap against theory and itself."""

import math
from functools import partial

import numpy as np
import pytest

from speechrl import inference, metrics


def slow_eer(scores, is_real, merge_ties=True):
    """The rule of the paper written out: walk the sorted items, keep the first threshold with the smallest gap."""
    items = sorted(zip(scores, is_real, strict=True), key=lambda item: (item[0], not item[1]))
    reals, fakes = sum(is_real), len(is_real) - sum(is_real)
    missed, accepted = 0, fakes
    best = (reals * fakes, 0, fakes)
    for place, (score, real) in enumerate(items):
        missed, accepted = missed + bool(real), accepted - (not real)
        inside_tie = place + 1 < len(items) and items[place + 1][0] == score
        if not (merge_ties and inside_tie):
            best = min(best, (abs(missed * fakes - accepted * reals), missed, accepted), key=lambda found: found[0])
    return (best[1] / reals + best[2] / fakes) / 2


# Scores ascending; r real, f fake. Worked out by hand: (FRR, FAR) at the first threshold where they are closest.
GOLDEN = [
    ([0.1, 0.2, 0.8, 0.9], "ffrr", 0.0, 0.0),
    ([0.1, 0.2, 0.8, 0.9], "rrff", 1.0, 1.0),
    ([0.1, 0.2, 0.8, 0.9], "frfr", 0.5, 0.5),
    ([0.1, 0.9], "fr", 0.0, 0.0),
    ([0.5, 0.5], "fr", 0.5, 1.0),
    ([0.5, 0.5, 0.5, 0.5], "frfr", 0.5, 1.0),
    # (0,1) (0,2/3) (1/2,2/3) (1/2,1/3) ...: gaps 1, 2/3, 1/6, 1/6: the first of the two, (1/2 + 2/3) / 2.
    ([0.1, 0.2, 0.3, 0.4, 0.5], "frffr", 7 / 12, 7 / 12),
    # Tie at 0.5 of one real, one fake. Merged: (0,1) (0,1/2) (1/2,0) (1,0), gap 1/2 first at (0,1/2). Unmerged, the
    # real one goes first: (0,1/2) then (1/2,1/2), gap 0.
    ([0.1, 0.5, 0.5, 0.9], "ffrr", 0.25, 0.5),
    # Two reals and one fake tied at the bottom: merged (0,1) (2/3,1/2) (2/3,0)..., unmerged (1/3,1) (2/3,1) (2/3,1/2).
    ([0.2, 0.2, 0.2, 0.6, 0.7], "rrffr", 7 / 12, 7 / 12),
]


@pytest.mark.parametrize(("scores", "labels", "merged", "unmerged"), GOLDEN)
def test_eer_by_hand(scores, labels, merged, unmerged):
    is_real = [label == "r" for label in labels]
    for order in (slice(None), slice(None, None, -1)):
        assert metrics.eer(scores[order], is_real[order]) == pytest.approx(merged, abs=1e-15)
        assert metrics.eer(scores[order], is_real[order], merge_ties=False) == pytest.approx(unmerged, abs=1e-15)


def test_eer_equals_the_plain_loop_on_ties_of_every_kind():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(2, 30))
        is_real = np.append([True, False], rng.random(n - 2) < rng.random())
        scores = rng.integers(0, rng.integers(1, 40), size=n) / 7
        for merge in (True, False):
            assert metrics.eer(scores, is_real, merge) == slow_eer(scores.tolist(), is_real.tolist(), merge)


def test_roc_by_hand():
    thresholds, frr, far = metrics.roc([0.9, 0.5, 0.5, 0.1], [True, True, False, False])
    assert thresholds.tolist() == [-math.inf, 0.1, 0.5, 0.9]
    assert frr.tolist() == [0, 0, 0.5, 1]
    assert far.tolist() == [1, 0.5, 0, 0]
    assert metrics.roc([0.5, 0.5], [False, True], merge_ties=False)[1].tolist() == [0, 1, 1]
    _, frr, far = metrics.roc([0.1, 0.2, 0.3], [True, False, False])
    assert (frr.tolist(), far.tolist()) == ([0, 1, 1, 1], [1, 1, 0.5, 0])


@pytest.mark.parametrize("measure", [metrics.eer, metrics.auc, metrics.roc, metrics.det])
@pytest.mark.parametrize(("is_real", "named"), [([True, True], "fake"), ([False, False], "real"), ([], "real")])
def test_one_class_is_an_error_that_names_the_other(measure, is_real, named):
    with pytest.raises(ValueError, match=f"none of {len(is_real)} items is {named}"):
        measure([0.5] * len(is_real), is_real)


def test_bad_scores_are_errors():
    with pytest.raises(ValueError, match="score 1 of 2 is NaN"):
        metrics.eer([0.1, math.nan], [True, False])
    with pytest.raises(ValueError, match="one label for each score"):
        metrics.eer([0.1, 0.2, 0.3], [True, False])
    with pytest.raises(ValueError, match="no fake items"):
        metrics.resampled_eer([0.1, 0.2], [True, False], np.array([[2, 0]]))


def test_auc_counts_pairs_and_half_of_ties():
    rng = np.random.default_rng(1)
    scores, is_real = rng.integers(0, 6, 40), rng.random(40) < 0.4
    pairs = [(r > f) + 0.5 * (r == f) for r in scores[is_real] for f in scores[~is_real]]
    assert metrics.auc(scores, is_real) == pytest.approx(np.mean(pairs), abs=1e-15)
    assert metrics.auc([0.1, 0.9], [False, True]) == 1 and metrics.auc([0.9, 0.1], [False, True]) == 0


def test_accuracy_calls_a_score_on_the_threshold_fake():
    assert metrics.accuracy([0.6, 0.5, 0.4, 0.5], [True, False, True, False]) == 0.75
    assert metrics.accuracy([0.6, 0.7], [True, False], threshold=0.65) == 0.0


def test_det_is_the_roc_in_normal_deviates():
    far, frr = metrics.det([0.1, 0.2, 0.3, 0.4], [False, True, False, True])
    assert far[2] == frr[2] == 0  # rates of one half
    assert far[0] == pytest.approx(0.6744897501960817) == -frr[0]  # rates of 1 and 0, drawn at 3/4 and 1/4


@pytest.mark.parametrize("kind", ["resampled_eer", "resampled_auc"])
def test_a_resample_is_the_metric_of_the_repeated_items(kind):
    rng = np.random.default_rng(2)
    scores, is_real = rng.integers(0, 9, 30) / 9, np.arange(30) % 3 == 0
    counts = rng.integers(0, 4, (20, 30))
    plain = getattr(metrics, kind.removeprefix("resampled_"))
    expected = [plain(np.repeat(scores, row), np.repeat(is_real, row)) for row in counts]
    np.testing.assert_allclose(getattr(metrics, kind)(scores, is_real, counts), expected, atol=1e-15)


MMAU = [
    ("man", True),
    ("The speaker is a MAN.", True),
    ("It is not man", True),
    ("A", False),
    ("", False),
    ("...", False),
    ("man or woman", False),
    ("a young man", True),
    ("human", False),
]


@pytest.mark.parametrize(("prediction", "right"), MMAU)
def test_mmau_rule(prediction, right):
    assert metrics.mmau_correct(prediction, "man", ["man", "woman", "child"]) is right


def test_mmau_words_shared_with_the_answer_are_not_wrong():
    choices = ["3", "4", "a dog barks", "a cat", "dog"]
    assert metrics.mmau_correct("a dog barks", "a dog barks", choices)
    assert not metrics.mmau_correct("A. dog", "dog", choices), "`a` belongs to another option"
    assert not metrics.mmau_correct("3 or 4", "3", choices)
    assert not metrics.mmau_correct("three", "3", choices)


def test_exact_match_and_binomial_error():
    assert metrics.exact_match(" man \n", "man") and not metrics.exact_match("Man", "man")
    assert metrics.binomial_se(0.5, 100) == 0.05 and metrics.binomial_se(1.0, 7) == 0
    with pytest.raises(ValueError, match="0.5 of 0"):
        metrics.binomial_se(0.5, 0)


def test_word_errors_by_hand():
    references = ["a b c d", "e f", "g"]
    hypotheses = ["a x c d e", "", "g"]
    errors, words = metrics.word_errors(references, hypotheses)
    assert errors.tolist() == [2, 2, 0] and words.tolist() == [4, 2, 1]
    assert metrics.wer(references, hypotheses) == 4 / 7
    assert metrics.resampled_ratio(errors, words, np.array([[1, 0, 2]])).tolist() == [2 / 6]
    with pytest.raises(ValueError, match="empty"):
        metrics.wer([""], ["a"])


@pytest.mark.parametrize("sizes", [(5, 5), (5, 7), (1, 12)])
def test_drift_is_scipys_distance_averaged_over_dimensions(sizes):
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(3)
    a, b = (rng.normal(size=(size, 3)) * (size + 1) for size in sizes)
    expected = np.mean([wasserstein_distance(a[:, dim], b[:, dim]) for dim in range(3)])
    assert metrics.drift(a, b) == pytest.approx(expected, rel=1e-12)
    assert metrics.drift(a, a + 2.5) == pytest.approx(2.5)
    with pytest.raises(ValueError, match="two sets"):
        metrics.drift(a, b[:0])


def test_bootstrap_of_a_mean_has_the_width_that_theory_gives():
    values = np.arange(200) % 2
    draws = inference.bootstrap([partial(metrics.resampled_mean, values)], np.zeros(200), resamples=4000)[0]
    assert draws.std() == pytest.approx(metrics.binomial_se(0.5, 200), rel=0.05)
    low, high = inference.bootstrap_ci(partial(metrics.resampled_mean, values), np.zeros(200))
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.0354, 0.5 + 1.96 * 0.0354), abs=0.01)


def test_strata_keep_their_size():
    strata = np.array(["x"] * 3 + ["y"] * 7)
    seen = []
    inference.bootstrap([lambda counts: seen.append(counts) or counts[:, 0] * 1.0], strata, resamples=50)
    assert (seen[0][:, :3].sum(1) == 3).all() and (seen[0][:, 3:].sum(1) == 7).all()
    assert len(np.unique(seen[0], axis=0)) > 40
    mean = partial(metrics.resampled_mean, strata == "x")
    assert inference.bootstrap_ci(mean, strata) == (0.3, 0.3), "nothing varies between strata"


def test_items_of_one_unit_are_drawn_together():
    seen = []
    units = ["b", "a", "b", "c", "a", "d"]
    inference.bootstrap([lambda counts: seen.append(counts) or counts[:, 0] * 1.0], list("xyxyyx"), units=units)
    assert (seen[0][:, 0] == seen[0][:, 2]).all() and (seen[0][:, 1] == seen[0][:, 4]).all()
    assert (seen[0][:, 0] + seen[0][:, 5] == 2).all() and (seen[0][:, 1] + seen[0][:, 3] == 2).all()
    values = np.random.default_rng(6).random(100)
    mean = partial(metrics.resampled_mean, np.repeat(values, 4))
    apart = inference.bootstrap([mean], np.zeros(400))[0].std()
    assert inference.bootstrap([mean], np.zeros(400), units=np.arange(400) // 4)[0].std() == pytest.approx(
        2 * apart, rel=0.1
    )


def test_draws_are_a_function_of_their_keys_and_pair_rows(monkeypatch):
    values = np.random.default_rng(4).random(50)
    mean, shifted = partial(metrics.resampled_mean, values), partial(metrics.resampled_mean, values - 0.25)
    both = inference.bootstrap([mean, shifted], np.zeros(50), keys=("set",))
    np.testing.assert_allclose(both[0] - both[1], 0.25)
    assert (inference.bootstrap([mean], np.zeros(50), keys=("set",))[0] == both[0]).all()
    assert (inference.bootstrap([mean], np.zeros(50), keys=("other",))[0] != both[0]).any()
    monkeypatch.setattr(inference, "_CELLS", 50 * 64)
    np.testing.assert_allclose(inference.bootstrap([mean], np.zeros(50), keys=("set",))[0], both[0])


def test_seeds_are_resampled_too():
    draws = np.repeat([[0.0], [1.0]], 4000, axis=1)
    over = inference.over_seeds(draws)
    assert set(over.tolist()) == {0.0, 0.5, 1.0}
    assert over.mean() == pytest.approx(0.5, abs=0.03) and (over == 0.5).mean() == pytest.approx(0.5, abs=0.05)
    assert (inference.over_seeds(draws[:1]) == 0).all(), "one seed varies over items only"


def test_difference_is_paired():
    noise = np.random.default_rng(5).normal(size=(3, 2000))
    found = inference.difference(-0.02, noise - 0.02, noise)
    assert (found.low, found.high) == pytest.approx((-0.02, -0.02))
    assert found.value == -0.02 and found.p == pytest.approx(2 / 2001)


def test_p_values_and_intervals_by_hand():
    assert inference.interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert inference.interval(np.arange(101.0), level=0.5) == pytest.approx((25, 75))
    assert inference.p_value(np.array([1.0] * 97 + [-1.0] * 2)) == 0.06
    assert inference.p_value(-np.array([1.0] * 97 + [-1.0] * 2)) == 0.06
    assert inference.p_value(np.zeros(10)) == 1.0
    assert inference.p_value(np.linspace(-1, 1, 100)) == 1.0


def test_holm_by_hand():
    assert inference.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert inference.holm([0.9, 0.01]) == pytest.approx([0.9, 0.02])
    assert inference.holm([0.5, 0.6]) == [1.0, 1.0] and inference.holm([]) == []


def test_mean_and_deviation_over_seeds():
    assert inference.mean_std([1.0, 3.0]) == (2.0, math.sqrt(2)) and inference.mean_std([0.5]) == (0.5, None)
