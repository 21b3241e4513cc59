"""What every policy promises, as checks that take a policy and three unlike examples; run them all on a new kind.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(build_policy(), build_examples())

The examples must differ in audio (and length), their targets must be answers that the policy can encode.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from speechrl.policies.base import Policy
from speechrl.types import GREEDY, Actions, Decoding, Example, Rollout, generator

SAME = 1e-5
"""Log-probabilities that should be equal, in single precision."""
GROUP = 4
DECODINGS = (
    Decoding(max_tokens=24),
    Decoding(temperature=0.7, top_k=50, max_tokens=24),
    Decoding(temperature=1.3, top_p=0.8, max_tokens=24),
    replace(GREEDY, max_tokens=24),
)
Examples = Sequence[Example]


def close(found: Tensor, wanted: Tensor, tolerance: float = SAME) -> None:
    """Fails with the largest difference."""
    assert found.shape == wanted.shape, f"shapes {tuple(found.shape)} and {tuple(wanted.shape)}"
    gap = float((found - wanted).detach().abs().max())
    assert gap <= tolerance, f"differ by {gap:.2e}, allowed {tolerance:.0e}"


def differ(first: Tensor, second: Tensor) -> None:
    """Fails if two sets of log-probabilities are nearly the same."""
    assert float((first - second).detach().abs().max()) > 100 * SAME, "should differ, but do not"


def texts(rollout: Rollout) -> list[tuple[str, bool]]:
    """What was answered, and whether each answer ended."""
    return [(answer.text, answer.ended) for answer in rollout.answers]


def draw(policy: Policy, examples: Examples, decoding: Decoding = DECODINGS[0], group: int = GROUP) -> Actions:
    """Sampled answers, as some actions to score."""
    return policy.sample(examples, group, decoding, generator("contract")).actions


def sampled_logps_are_the_rescored_ones(policy: Policy, examples: Examples) -> None:
    """At every temperature, over the whole vocabulary, whatever the top-p or top-k set."""
    for decoding in DECODINGS:
        rollout = policy.sample(examples, GROUP, decoding, generator("contract"))
        close(policy.logps(examples, rollout.actions, decoding.scale), rollout.logps)
        assert len(rollout.answers) == len(rollout.actions) == GROUP * len(examples)


def temperature_matters(policy: Policy, examples: Examples) -> None:
    """Scores at T = 0.7 are not those at T = 1."""
    actions = draw(policy, examples)
    differ(policy.logps(examples, actions, 0.7), policy.logps(examples, actions))


def rows_stand_alone(policy: Policy, examples: Examples) -> None:
    """A row scores the same alone as among the rows of three examples, and belongs to the right one of them."""
    actions = draw(policy, examples)
    together = policy.logps(examples, actions)
    for row in range(len(actions)):
        mine = actions.rows(slice(row, row + 1))
        alone = policy.logps([examples[row // GROUP]], mine)
        close(together[row : row + 1, : alone.shape[1]], alone)
    differ(policy.logps([*examples[1:], examples[0]], actions), together)


def greedy_answers_stand_alone(policy: Policy, examples: Examples) -> None:
    """The same for any generator, for each of a group, and alone as in a batch."""
    first = policy.sample(examples, 2, DECODINGS[-1], generator(1))
    second = policy.sample(examples, 2, DECODINGS[-1], generator(2))
    assert texts(first) == texts(second) and torch.equal(first.actions.ids, second.actions.ids)
    for row, example in enumerate(examples):
        alone = policy.sample([example], 1, DECODINGS[-1], generator(3))
        assert texts(alone)[0] == texts(first)[2 * row] == texts(first)[2 * row + 1]


def every_audio_is_heard(policy: Policy, examples: Examples) -> None:
    """Another clip of the same length behind the same prompt changes the scores of the same answers."""
    actions = draw(policy, examples)
    swapped = [
        replace(mine, waveform=other.waveform.repeat(9)[: len(mine.waveform)])
        for mine, other in zip(examples, [*examples[1:], examples[0]], strict=True)
    ]
    before, after = policy.logps(examples, actions), policy.logps(swapped, actions)
    for example in range(len(examples)):
        rows = slice(example * GROUP, (example + 1) * GROUP)
        differ(before[rows], after[rows])


def a_seed_is_all_the_randomness(policy: Policy, examples: Examples) -> None:
    """The same seed gives the same answers bit for bit, another seed others; the global generator is not touched."""
    state = torch.get_rng_state()
    first, second, third = (policy.sample(examples, 16, DECODINGS[0], generator("contract", k)) for k in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.actions.ids, second.actions.ids) and torch.equal(first.logps, second.logps)
    assert torch.equal(first.actions.mask, second.actions.mask) and texts(first) == texts(second)
    assert texts(first) != texts(third), "two seeds gave the same answers"


def padding_is_nothing(policy: Policy, examples: Examples) -> None:
    """It scores 0, and neither its content nor its amount changes the rest; real actions score below 0."""
    actions = policy.encode([example.target for example in examples])
    counts = actions.mask.sum(1, keepdim=True)
    assert torch.equal(actions.mask, torch.arange(actions.mask.shape[1]) < counts), "gaps in a row"
    wider = Actions(
        torch.cat([actions.ids.where(actions.mask, 1), torch.ones_like(actions.ids)], 1),
        torch.cat([actions.mask, torch.zeros_like(actions.mask)], 1),
    )
    if actions.ids.shape[1] > 1:  # a label has no padding
        found, width = policy.logps(examples, wider.to(policy.device)), actions.ids.shape[1]
        assert not found[~wider.mask.to(found.device)].any()
        close(found[:, :width], policy.logps(examples, actions))
    scores = policy.logps(examples, actions)
    assert bool((scores[actions.mask.to(scores.device)] < 0).all())


def gradients_add_up(policy: Policy, examples: Examples) -> None:
    """The gradient of a sum is the sum of the examples' own gradients, to 1e-5 of its largest entry."""
    actions = draw(policy, examples)
    trained = list(policy.trained_state().values())
    whole = torch.autograd.grad(policy.logps(examples, actions).sum(), trained, allow_unused=True)
    parts = [torch.zeros_like(tensor) for tensor in trained]
    for row, example in enumerate(examples):
        own = policy.logps([example], actions.rows(slice(row * GROUP, (row + 1) * GROUP))).sum()
        for part, gradient in zip(parts, torch.autograd.grad(own, trained, allow_unused=True), strict=True):
            part += 0 if gradient is None else gradient
    largest = max(float(part.abs().max()) for part in parts)
    assert largest > 0 and any(gradient is not None for gradient in whole)
    for gradient, part in zip(whole, parts, strict=True):
        close(torch.zeros_like(part) if gradient is None else gradient, part, SAME * largest)


def a_snapshot_stays_as_it_was(policy: Policy, examples: Examples) -> None:
    """It scores and draws as at its making after the trained tensors have moved, until it is refreshed."""
    policy.train()
    snapshot, actions = policy.frozen(), draw(policy, examples)
    before = snapshot.logps(examples, actions)
    drawn = snapshot.sample(examples, GROUP, DECODINGS[0], generator("contract"))
    close(drawn.logps, snapshot.logps(examples, drawn.actions))
    with torch.no_grad():
        for tensor in policy.trained_state().values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator("moved")).to(tensor))
    assert torch.equal(snapshot.logps(examples, actions), before) and not before.requires_grad
    assert policy.training, "scoring with a snapshot left the live policy in evaluation mode"
    differ(policy.eval().logps(examples, actions), before)
    snapshot.refresh()
    close(snapshot.logps(examples, actions), policy.logps(examples, actions))


def a_label_is_scored_as_an_answer(policy: Policy, examples: Examples) -> None:
    """`label_logps` is the log-probability of each label's whole text, for each example."""
    labels = sorted({example.target for example in examples})
    found = policy.label_logps(examples, labels)
    for row, example in enumerate(examples):
        for column, label in enumerate(labels):
            close(found[row, column], policy.logps([example], policy.encode([label])).sum(), 5 * SAME)  # a sum


CHECKS = (
    sampled_logps_are_the_rescored_ones,
    temperature_matters,
    rows_stand_alone,
    greedy_answers_stand_alone,
    every_audio_is_heard,
    a_seed_is_all_the_randomness,
    padding_is_nothing,
    gradients_add_up,
    a_label_is_scored_as_an_answer,
    a_snapshot_stays_as_it_was,
)
