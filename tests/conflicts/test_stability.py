"""Agreement under resampling: certain where blocks agree, at chance where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from libmtl_recon import ConflictProfile, UsageError
from libmtl_recon.conflicts.grid import BINS
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.stability import in_words, stability


def profile_of(scores: np.ndarray, block_steps: int = 100) -> ConflictProfile:
    """``scores[block, layer]`` conflicts in blocks of equal length, of two tasks."""
    blocks, layers = scores.shape
    counts = np.zeros((blocks, layers, BINS), np.int64)
    counts[:, :, 0] = scores
    counts[:, :, -1] = block_steps - scores
    names = tuple(Layer(f"l{i}", "Linear", ((2, 2),)) for i in range(layers))
    zero = np.zeros((blocks, layers), np.int64)
    return ConflictProfile(names, ("a", "b"), counts, zero, np.full(blocks, block_steps))


def test_blocks_that_agree_are_certain() -> None:
    profile = profile_of(np.tile(np.arange(12)[::-1] * 5, (10, 1)))
    for K in (None, 1, 5, range(1, 12)):
        found = stability(profile, -0.1, K)
        assert (found.agreement, found.drift, found.steps) == (1.0, 1.0, 1000)
        assert found.holds(1.0)


def test_noise_is_no_ranking() -> None:
    noise = np.random.default_rng(0).integers(30, 70, size=(10, 40))
    assert stability(profile_of(noise), -0.1).agreement < 0.8
    assert stability(profile_of(noise), -0.1, 10).agreement < 0.9


def test_more_steps_make_it_surer() -> None:
    random = np.random.default_rng(1)
    rates = np.linspace(0.05, 0.5, 30)
    short = profile_of(random.binomial(10, rates, size=(12, 30)), 10)
    long = profile_of(random.binomial(1000, rates, size=(12, 30)), 1000)
    for K in (None, 10):
        assert stability(short, -0.1, K).agreement < stability(long, -0.1, K).agreement
    assert stability(long, -0.1, 10).holds(0.95)


def test_agreement_is_what_repetitions_show() -> None:
    """The bootstrap from one run against the truth, from many runs."""
    random = np.random.default_rng(2)
    rates = np.linspace(0.1, 0.4, 30)
    runs = [profile_of(random.binomial(50, rates, size=(20, 30)), 50) for _ in range(40)]
    top = [set(run.layers(-0.1, 10)) for run in runs]
    truth = np.mean([len(a & b) / 10 for a in top for b in top if a is not b])
    guessed = np.mean([stability(run, -0.1, 10).agreement for run in runs])
    assert guessed == pytest.approx(truth, abs=0.05)


def test_a_moving_ranking_is_seen() -> None:
    early = np.tile(np.arange(20), (6, 1)) * 4
    late = np.tile(np.arange(20)[::-1], (6, 1)) * 2
    found = stability(profile_of(np.concatenate([early, late])), -0.1, 5)
    assert found.drift == 0.0
    assert not found.holds(0.8)


def test_few_blocks_say_nothing() -> None:
    assert not stability(profile_of(np.tile(np.arange(5), (7, 1))), -0.1).holds(0.01)


def test_the_same_profile_gives_the_same_answer() -> None:
    noise = profile_of(np.random.default_rng(0).integers(0, 100, size=(10, 20)))
    assert stability(noise, -0.1, 5) == stability(noise, -0.1, 5)


def test_one_layer_is_always_the_worst() -> None:
    assert stability(profile_of(np.full((10, 1), 3)), -0.1).holds(1.0)


def test_equal_scores_stay_in_network_order() -> None:
    """Over all steps 60 layers differ; in the later half 20 at a time are equal, in turns."""
    late = 5 + np.arange(60) % 3
    ranking = sorted(range(60), key=lambda i: (-late[i], i))
    early = np.empty(60, np.int64)
    early[ranking] = np.arange(60)[::-1]
    profile = profile_of(np.concatenate([np.tile(early, (5, 1)), np.tile(late, (5, 1))]))
    assert profile.ranking(-0.1) == [f"l{i}" for i in ranking]
    for K in (None, 10, 30, 50):
        assert stability(profile, -0.1, K).drift == 1.0


@pytest.mark.parametrize("K", [0, 21, range(0, 3)])
def test_k_is_checked(K: int | range) -> None:
    with pytest.raises(UsageError, match="K must be a whole number from 1 to 20"):
        stability(profile_of(np.ones((8, 20), np.int64)), -0.1, K)


def test_a_choice_by_the_place_in_the_network_is_none() -> None:
    """Of 12 layers 3 ever conflict, so that any others are the first ones by chance."""
    scores = np.tile([0] * 9 + [30, 20, 10], (10, 1))
    assert stability(profile_of(scores), -0.1, 3).agreement == 1.0
    assert stability(profile_of(scores), -0.1, 4).agreement == 0.75
    assert not stability(profile_of(scores * 0), -0.1).holds(0.01)
    assert not stability(profile_of(scores * 0), -0.1, 4).holds(0.01)


@pytest.mark.parametrize(
    ("K", "starts"),
    [
        (None, "The ranking agrees to 100.0% with"),
        (1, "The worst layer agrees to"),
        (3, "The 3 worst layers agree to"),
        (range(1, 4), "The 1 to 3 worst layers agree to"),
    ],
)
def test_it_is_said_whether_the_steps_are_enough(K: int | range | None, starts: str) -> None:
    sure = stability(profile_of(np.tile(np.arange(12)[::-1] * 5, (10, 1))), -0.1, K)
    assert in_words(sure, 0.9).startswith(starts)
    assert "too few" not in in_words(sure, 0.9)
    noise = np.random.default_rng(0).integers(30, 70, size=(10, 12))
    said = in_words(stability(profile_of(noise), -0.1, K), 0.999)
    assert "1000 steps are too few for 99.9%." in said
