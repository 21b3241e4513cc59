"""The nouns: rows of actions keep their place, decoding refuses nonsense, seeds are functions of their keys."""

import pytest
import torch

from speechrl.types import GREEDY, SAMPLE_RATE, Actions, Decoding, Example, generator, seed_of


@pytest.fixture
def actions():
    ids = torch.tensor([[1, 2, 3], [4, 0, 0], [5, 6, 0]])
    return Actions(ids, ids > 0)


def test_some_rows_lose_the_columns_that_are_padding_in_all_of_them(actions):
    assert actions.rows(slice(0, 2)).ids.tolist() == [[1, 2, 3], [4, 0, 0]]
    picked = actions.rows(torch.tensor([2, 1]))
    assert picked.ids.tolist() == [[5, 6], [4, 0]] and picked.mask.tolist() == [[True, True], [True, False]]
    assert len(actions) == 3 and len(picked) == 2


def test_rows_keep_a_column_even_when_nothing_is_left(actions):
    assert actions.rows(slice(0, 0)).ids.shape == (0, 1)
    empty = Actions(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.bool))
    assert empty.rows(slice(None)).ids.shape == (2, 1)


def test_repeat_puts_the_whole_block_once_for_each_example(actions):
    """Row b * 3 + l is label l of example b: the order that `Policy.label_logps` reads back."""
    twice = actions.repeat(2)
    assert twice.ids[:, 0].tolist() == [1, 4, 5, 1, 4, 5]
    assert torch.equal(twice.mask[3:], actions.mask)


def test_shapes_are_checked_under_pytest():
    with pytest.raises(Exception, match="mask"):
        Actions(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.bool))


def test_an_example_knows_how_long_it_is():
    assert Example("a", torch.zeros(SAMPLE_RATE * 3 // 2)).seconds == 1.5


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"max_tokens": 0}]
)
def test_decoding_refuses_nonsense_and_says_what_is_needed(wrong):
    with pytest.raises(ValueError, match="need temperature >= 0, 0 < top_p <= 1"):
        Decoding(**wrong)


def test_greedy_is_scored_at_temperature_one():
    assert GREEDY.greedy and GREEDY.scale == 1.0
    assert not Decoding(temperature=0.7).greedy and Decoding(temperature=0.7).scale == 0.7


def test_seeds_are_functions_of_their_keys_alone():
    # Golden: a changed value would silently change every corpus and every resumed run.
    assert seed_of(0, 1, "rollout") == seed_of(0, 1, "rollout") == 9222396823193595469
    keys = [(seed, step, stream) for seed in range(9) for step in range(99) for stream in ("crop", "rollout")]
    seeds = {seed_of(*key) for key in keys}
    assert len(seeds) == len(keys) and all(0 <= seed < 2**63 for seed in seeds)


def test_generators_are_independent_of_the_global_one_and_of_each_other():
    torch.manual_seed(1)
    first = torch.rand(3, generator=generator("a", 1))
    torch.rand(5)
    assert torch.equal(first, torch.rand(3, generator=generator("a", 1)))
    assert not torch.equal(first, torch.rand(3, generator=generator("a", 2)))
