"""Packing, against the definition written out with loops."""

import torch

from speechrl.policies.packing import pack
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
        where = [("prefix", place) for place in range(int(LENGTHS[example]))]
        where += [("padding", place) for place in range(5 - len(where))]
        for row in range(3 * example, 3 * example + 3):
            where += [(row, step) for step in range(int(ANSWERS[row]) - 1)]
        for query, (owner, step) in enumerate(where):
            if owner == "padding":
                continue
            seen = [
                key == "prefix" and (owner != "prefix" or place <= step) or key == owner and place <= step
                for key, place in where
            ]
            assert packed.mask[example, 0, query, : len(where)].tolist() == seen, (owner, step)
            assert not packed.mask[example, 0, query, len(where) :].any()
    assert packed.mask.any(-1).all(), "a query that sees nothing is 0/0"


def test_unpacking_puts_values_back_where_they_belong() -> None:
    packed, rows = pack(LENGTHS, 5, actions()), actions()
    values = packed.targets.float().where(packed.used, 0.0)
    found = packed.unpack(values, rows.ids[:, 0].view(2, 3).float(), 5)
    assert torch.equal(found, (rows.ids * rows.mask).float())


def test_answers_of_one_action_need_no_token_but_the_prefix() -> None:
    ids = torch.arange(6)[:, None]
    packed = pack(LENGTHS, 5, Actions(ids, torch.ones(6, 1, dtype=torch.bool)))
    assert packed.ids.shape == (2, 0) and packed.mask.shape == (2, 1, 5, 5)
    assert packed.unpack(torch.zeros(2, 0), ids.view(2, 3).float(), 1).tolist() == ids.tolist()
