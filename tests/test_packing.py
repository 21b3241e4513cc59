"""Packing, against the definition written out with loops."""

import pytest
import torch
from torch import nn

from speechrl.policies.packing import attend, pack
from speechrl.types import Actions, generator

LENGTHS = torch.tensor([3, 5])
ANSWERS = torch.tensor([4, 1, 2, 3, 3, 5])  # three for each of the two


def actions() -> Actions:
    ids = torch.randint(0, 99, (6, 5), generator=generator("packing"))
    return Actions(ids, torch.arange(5) < ANSWERS[:, None])


def test_fed_tokens_are_all_but_the_last_of_each_answer_end_to_end() -> None:
    packed, rows = pack(LENGTHS, 5, actions()), actions()
    for example in range(2):
        fed, targets, positions = [], [], []
        for row in range(3 * example, 3 * example + 3):
            tokens = rows.ids[row, : ANSWERS[row]].tolist()
            fed, targets = fed + tokens[:-1], targets + tokens[1:]
            positions += [int(LENGTHS[example]) + step for step in range(len(tokens) - 1)]
        used = packed.used[example]
        assert packed.ids[example][used].tolist() == fed
        assert packed.targets[example][used].tolist() == targets
        assert packed.positions[example, 5:][used].tolist() == positions
    assert packed.ids.shape == (2, 8), "as wide as the example with most tokens, and no wider"
    assert packed.positions[:, :5].tolist() == [list(range(5))] * 2


def test_an_answer_sees_the_prefix_and_itself() -> None:
    packed = pack(LENGTHS, 5, actions())
    for example in range(2):
        keys = [("prefix" if place < LENGTHS[example] else "padding", place) for place in range(5)]
        fed = [(row, step) for row in range(3) for step in range(int(ANSWERS[3 * example + row]) - 1)]
        for query, (owner, step) in enumerate(fed):
            seen = [key == "prefix" or (key == owner and place <= step) for key, place in keys + fed]
            assert packed.mask[example, 0, query, : len(seen)].tolist() == seen, (owner, step)
            assert not packed.mask[example, 0, query, len(seen) :].any()
    assert packed.mask.any(-1).all(), "a query that sees nothing is 0/0"


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_attention_in_two_parts_is_attention_in_one(key_heads: int) -> None:
    packed, draw = pack(LENGTHS, 5, actions()), generator("heads")
    size = 5 + packed.ids.shape[1]
    query = torch.randn(2, 4, size, 8, generator=draw)
    key, value = (torch.randn(2, key_heads, size, 8, generator=draw) for _ in range(2))
    whole = torch.zeros(2, 1, size, size, dtype=torch.bool)
    whole[:, :, :5, :5] = torch.ones(5, 5).tril().bool()
    whole[:, :, 5:] = packed.mask
    keys, values = (tensor.repeat_interleave(4 // key_heads, 1) for tensor in (key, value))
    wanted = nn.functional.scaled_dot_product_attention(query, keys, values, whole, scale=0.3).transpose(1, 2)
    module = nn.Module()
    module.num_key_value_groups = 4 // key_heads
    found, _ = attend(module, query, key, value, packed.mask, prefix=5, scaling=0.3, dropout=0.0)
    assert torch.allclose(found, wanted, atol=1e-6)
    decoded, _ = attend(module, query[:, :, 5:], key, value, packed.mask, prefix=0, scaling=0.3, dropout=0.0)
    assert torch.allclose(decoded, wanted[:, 5:], atol=1e-6)


def test_unpacking_puts_values_back_where_they_belong() -> None:
    packed, rows = pack(LENGTHS, 5, actions()), actions()
    values = packed.targets.float().where(packed.used, 0.0)
    found = packed.unpack(values, rows.ids[:, 0].view(2, 3).float(), 5)
    assert torch.equal(found, (rows.ids * rows.mask).float())


def test_answers_of_one_action_need_no_token_but_the_prefix() -> None:
    ids = torch.arange(6)[:, None]
    packed = pack(LENGTHS, 5, Actions(ids, torch.ones(6, 1, dtype=torch.bool)))
    assert packed.ids.shape == (2, 0) and packed.mask.shape == (2, 1, 0, 5)
    assert packed.unpack(torch.zeros(2, 0), ids.view(2, 3).float(), 1).tolist() == ids.tolist()
