"""GRPO against each published formula written out as a plain double loop, in value and gradient."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from speechrl import grpo
from speechrl.types import generator

B, G, T = 3, 4, 5
LENGTHS = [5, 3, 1, 4, 2, 5, 4, 1, 3, 5, 2, 4]  # actions of each of the B * G answers
ANSWERS = [(b, g, b * G + g) for b in range(B) for g in range(G)]  # example, place in the group, row
LABEL = (slice(None), slice(0, 1))  # of an answer, its first action alone
CLIP, BETA = 0.2, 0.3
SCALAR = {"dtype": torch.float64}


@dataclass
class Case:  # a rollout of ragged answers: old and reference policies near the current one, rewards of many values
    logps: Tensor
    old: Tensor
    ref: Tensor
    rewards: Tensor
    mask: Tensor

    @property
    def advantage(self):
        return grpo.advantages(self.rewards).reshape(-1)


@pytest.fixture(params=["graded", "binary"])
def case(request):
    rng = generator("grpo case", request.param)
    draw = lambda *shape: torch.randn(*shape, generator=rng, **SCALAR)  # noqa: E731
    logps = -draw(B * G, T).abs() - 0.1
    rewards = draw(B, G) if request.param == "graded" else (torch.rand(B, G, generator=rng) < 0.5).double()
    mask = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    old, ref = logps + 0.4 * draw(B * G, T), logps + draw(B * G, T)
    return Case(logps.requires_grad_(), old, ref, rewards, mask)


def same(ours, written_out, logps, gradient_only=False):
    """Both losses have one gradient and, but for a surrogate, one value, to 1e-10."""
    if not gradient_only:
        assert ours.item() == pytest.approx(written_out.item(), rel=0, abs=1e-10)
    (our_gradient,) = torch.autograd.grad(ours, logps)
    (gradient,) = torch.autograd.grad(written_out, logps)
    assert gradient.abs().max() > 1e-3, "the comparison would pass for anything"
    torch.testing.assert_close(our_gradient, gradient, rtol=0, atol=1e-10)


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    return math.sqrt(sum((value - mean(values)) ** 2 for value in values) / (len(values) - 1))


def group_advantages(rewards, floor):
    """2402.03300, 2503.11197 and 2509.16990 Eq. 1: A_i = (r_i - mean(r)) / std(r), over the answers to one example."""
    table = rewards.tolist()
    return [[(r - mean(row)) / (deviation(row) + floor) for r in row] for row in table]


def batch_advantages(rewards, floor):
    """2603.02914 as run: mean and deviation over all the batch's answers."""
    table = rewards.tolist()
    everything = [r for row in table for r in row]
    return [[(r - mean(everything)) / (deviation(everything) + floor) for r in row] for row in table]


def clip(ratio, low, high):
    return max(min(ratio, 1 + high), 1 - low)


def k3(logp, ref_logp):
    """2603.02914: exp(d) - d - 1 with d = log p_ref - log p."""
    d = ref_logp - logp
    return torch.exp(d) - d - 1


def test_clips_bite_on_either_side(case):
    """What the comparisons below need of their data: every side of the clip with either sign of the advantage."""
    ratio = (case.logps - case.old).exp()[case.mask]
    sign = grpo.advantages(case.rewards).reshape(-1, 1).expand_as(case.mask)[case.mask] > 0
    side = (ratio > 1 + CLIP).int() - (ratio < 1 - CLIP).int()
    assert len({(int(s), bool(a)) for s, a in zip(side, sign, strict=True)}) == 6


@pytest.mark.parametrize("floor", [1e-4, 1e-5, 0.3])
def test_advantages_per_group_and_over_the_batch(case, floor):
    spread = deviation(case.rewards.reshape(-1).tolist()) + floor
    written_out = {
        ("group", "group"): group_advantages(case.rewards, floor),
        ("batch", "batch"): batch_advantages(case.rewards, floor),
        ("group", "batch"): [[(r - mean(row)) / spread for r in row] for row in case.rewards.tolist()],
        ("none", "none"): case.rewards.tolist(),
    }
    for (center, scale), expected in written_out.items():
        found = grpo.advantages(case.rewards, center=center, scale=scale, floor=floor)
        torch.testing.assert_close(found, torch.tensor(expected, **SCALAR), rtol=0, atol=1e-10)


def test_per_group_grpo_on_policy(case):
    """2503.11197 as run: mean over answers of 1/|o| sum_t [exp(log p - stopgrad(log p)) A - beta KL]."""
    total, table = 0.0, group_advantages(case.rewards, 1e-4)
    for b, g, n in ANSWERS:
        answer = 0.0
        for t in range(LENGTHS[n]):
            ratio = torch.exp(case.logps[n, t] - case.logps[n, t].detach())
            answer = answer + ratio * table[b][g] - BETA * k3(case.logps[n, t], case.ref[n, t])
        total = total + answer / LENGTHS[n]
    ours = grpo.loss(case.logps, None, case.ref, case.advantage, case.mask, beta=BETA)
    same(ours, -total / (B * G), case.logps)


def test_grpo_with_an_old_policy_clip_and_batch_scope(case):
    """2603.02914 Eq. 3-4 as run ("grpo3"): labels (T = 1), advantages over the batch, min(rho A, clip(rho) A)."""
    total, table = 0.0, batch_advantages(case.rewards, 1e-5)
    for b, g, n in ANSWERS:
        ratio = torch.exp(case.logps[n, 0] - case.old[n, 0])
        gain = min(ratio * table[b][g], clip(ratio, CLIP, CLIP) * table[b][g])
        total = total + gain - BETA * k3(case.logps[n, 0], case.ref[n, 0])
    advantage = grpo.advantages(case.rewards, center="batch", scale="batch", floor=1e-5).reshape(-1)
    sides = [side[LABEL] for side in (case.logps, case.old, case.ref)]
    ours = grpo.loss(*sides, advantage, case.mask[LABEL], clip_low=CLIP, clip_high=CLIP, beta=BETA)
    same(ours, -total / (B * G), case.logps)


def test_simplified_grpo(case):
    """2603.02914 GRPO_s ("grpo2"): no old policy and no clip, -mean[exp(log p - stopgrad(log p)) A - beta KL]."""
    total, table = 0.0, batch_advantages(case.rewards, 1e-5)
    for b, g, n in ANSWERS:
        ratio = torch.exp(case.logps[n, 0] - case.logps[n, 0].detach())
        total = total + ratio * table[b][g] - BETA * k3(case.logps[n, 0], case.ref[n, 0])
    advantage = grpo.advantages(case.rewards, center="batch", scale="batch", floor=1e-5).reshape(-1)
    ours = grpo.loss(case.logps[LABEL], None, case.ref[LABEL], advantage, case.mask[LABEL], beta=BETA)
    same(ours, -total / (B * G), case.logps)


def test_without_negative_reward(case):
    """2603.02914 ablation ("grpo3_degraded"): -mean[delta(label = truth) log p - beta KL], in gradient."""
    total, right = 0.0, (case.rewards > 0).double()
    for b, g, n in ANSWERS:
        total = total + right[b, g] * case.logps[n, 0] - BETA * k3(case.logps[n, 0], case.ref[n, 0])
    advantage = grpo.advantages(right, center="none", scale="none").reshape(-1)
    ours = grpo.loss(case.logps[LABEL], None, case.ref[LABEL], advantage, case.mask[LABEL], beta=BETA)
    same(ours, -total / (B * G), case.logps, gradient_only=True)


def test_snapshot_old_policy_with_a_sequence_mean_and_two_clip_bounds(case):
    """2402.03300 Eq. 3, its clip made asymmetric: the mean over answers of the mean over their actions."""
    total, table = 0.0, group_advantages(case.rewards, 1e-4)
    for b, g, n in ANSWERS:
        answer = 0.0
        for t in range(LENGTHS[n]):
            ratio = torch.exp(case.logps[n, t] - case.old[n, t])
            answer = answer + min(ratio * table[b][g], clip(ratio, 0.1, 0.28) * table[b][g])
        total = total + answer / LENGTHS[n]
    ours = grpo.loss(case.logps, case.old, None, case.advantage, case.mask, clip_low=0.1, clip_high=0.28, beta=0.0)
    same(ours, -total / (B * G), case.logps)


def test_dapo_token_mean(case):
    """2509.16990 Eq. 1-3: -(1 / sum_i |o_i|) sum_i sum_t (l_it - beta KL), the same weight for every token."""
    total, table = 0.0, group_advantages(case.rewards, 1e-4)
    for b, g, n in ANSWERS:
        for t in range(LENGTHS[n]):
            ratio = torch.exp(case.logps[n, t] - case.old[n, t])
            gain = min(ratio * table[b][g], clip(ratio, CLIP, CLIP) * table[b][g])
            total = total + gain - BETA * k3(case.logps[n, t], case.ref[n, t])
    ours = grpo.loss(case.logps, case.old, case.ref, case.advantage, case.mask, beta=BETA, how="token")
    same(ours, -total / sum(LENGTHS), case.logps)


def test_reference_answer_in_the_group(case):
    """2509.16990 Eq. 4: the last answer of each group is the reference, its ratio p itself, and unclipped."""
    total, table = 0.0, group_advantages(case.rewards, 1e-4)
    for b, g, n in ANSWERS:
        for t in range(LENGTHS[n]):
            if g == G - 1:
                gain = torch.exp(case.logps[n, t]) * table[b][g]
            else:
                ratio = torch.exp(case.logps[n, t] - case.old[n, t])
                gain = min(ratio * table[b][g], clip(ratio, CLIP, CLIP) * table[b][g])
            total = total + gain - BETA * k3(case.logps[n, t], case.ref[n, t])
    reference = (torch.arange(B * G) % G == G - 1)[:, None]
    assert (case.logps.exp()[reference.squeeze()] < 1 - CLIP).any(), "a clip would show"
    bound = torch.full((B * G, 1), CLIP, **SCALAR).masked_fill(reference, torch.inf)
    sides = [case.logps, case.old.masked_fill(reference, 0.0), case.ref]
    ours = grpo.loss(*sides, case.advantage, case.mask, clip_low=bound, clip_high=bound, beta=BETA, how="token")
    same(ours, -total / sum(LENGTHS), case.logps)


def test_kl_is_the_k3_estimate(case):
    written_out = sum(k3(case.logps[n, t], case.ref[n, t]) for n in range(B * G) for t in range(T))
    same(grpo.kl(case.logps, case.ref).sum(), written_out, case.logps)
    assert (grpo.kl(case.logps, case.ref) >= 0).all()
    # summed over all that may be drawn, weighted by p, it is the divergence of p from the reference
    p, q = (values.detach()[0].log_softmax(-1)[None] for values in (case.logps, case.ref))
    divergence = sum(math.exp(a) * (a - b) for a, b in zip(p[0].tolist(), q[0].tolist(), strict=True))
    assert (p.exp() * grpo.kl(p, q)).sum().item() == pytest.approx(divergence, abs=1e-12)


@pytest.mark.parametrize("how", ["sequence", "token"])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_parts_of_a_step_add_up_to_it(case, how, as_tensor):
    settings = {"clip_low": CLIP, "clip_high": 0.3, "beta": BETA, "how": how}
    whole = grpo.loss(case.logps, case.old, case.ref, case.advantage, case.mask, **settings)
    count = float(sum(LENGTHS) if how == "token" else B * G)
    parts = 0.0
    for rows in (slice(0, 4), slice(4, 5), slice(5, 12)):
        width = max(LENGTHS[rows])  # a part is cut to its longest answer
        sides = [side[rows, :width] for side in (case.logps, case.old, case.ref)]
        share = torch.tensor(count) if as_tensor else count
        parts = parts + grpo.loss(*sides, case.advantage[rows], case.mask[rows, :width], **settings, count=share)
    same(whole, parts, case.logps)


@pytest.mark.parametrize("how", ["sequence", "token"])
def test_padding_does_not_matter(case, how):
    before = grpo.loss(case.logps, case.old, case.ref, case.advantage, case.mask, beta=BETA, how=how)
    noisy = [torch.where(case.mask, side, side - 3.0) for side in (case.logps, case.old, case.ref)]
    after = grpo.loss(*noisy, case.advantage, case.mask, beta=BETA, how=how)
    same(after, before, case.logps)


@pytest.mark.parametrize("how", ["sequence", "token"])
def test_an_answer_without_actions_adds_nothing(how):
    mask = torch.tensor([[True, True], [False, False]])
    values = torch.tensor([[2.0, 4.0], [5.0, 7.0]])
    assert grpo.aggregate(values, mask, how).item() == (1.5 if how == "sequence" else 3.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("floor", [1e-4, 1e-5])
def test_a_group_without_variance_is_exactly_zero(dtype, floor):
    equal = torch.rand(200, 1, generator=generator("equal"), dtype=dtype)
    for size in (2, 3, 7, 8, 64):
        found = grpo.advantages(equal.expand(-1, size), floor=floor)
        assert found.dtype == dtype
        assert found.abs().max() < 1e-6 if dtype == torch.float64 else (found == 0).all()


@pytest.mark.parametrize("scope", ["group", "batch"])
def test_a_single_answer_has_no_advantage(scope):
    assert grpo.advantages(torch.tensor([[0.7]]), center=scope, scale=scope).tolist() == [[0.0]]
    groups_of_one = grpo.advantages(torch.tensor([[0.7], [0.2]]), center="group", scale=scope)
    assert groups_of_one.tolist() == [[0.0], [0.0]]


def test_clipped_is_where_the_gradient_stops(case):
    ratio = (case.logps - case.old).exp()
    bounds = {"clip_low": 0.1, "clip_high": 0.3}
    loss = grpo.loss(case.logps, case.old, None, case.advantage, case.mask, **bounds, beta=0.0)
    (gradient,) = torch.autograd.grad(loss, case.logps)
    stopped = grpo.clipped(ratio, case.advantage, **bounds)
    assert torch.equal(stopped & case.mask, (gradient == 0) & case.mask & (case.advantage != 0)[:, None])


def slope(shares, center, scale, answers=4000):
    """Gradient, by each example's margin of its right label, of what GRPO maximises when p(right) is as given.

    Answers are not drawn: the right label's share of them is its probability, which is what many draws tend to.
    """
    p = torch.tensor(shares, **SCALAR)
    margin = torch.logit(p).requires_grad_()
    right = torch.arange(answers)[None] < (p * answers)[:, None]
    logps = torch.nn.functional.logsigmoid(torch.where(right, margin[:, None], -margin[:, None])).reshape(-1, 1)
    advantage = grpo.advantages(right.double(), center=center, scale=scale, floor=1e-9).reshape(-1)
    loss = grpo.loss(logps, None, None, advantage, torch.ones_like(logps, dtype=torch.bool), beta=0.0)
    return -torch.autograd.grad(loss * len(shares), margin)[0]


def test_closed_forms_of_the_expected_update():
    """Per group sqrt(p(1-p)); over the batch p(1-p) / sigma_batch; without negative reward p(1-p); SFT 1 - p."""
    shares = [0.1, 0.5, 0.75, 0.9]
    spread = [p * (1 - p) for p in shares]
    whole = math.sqrt(mean(shares) * (1 - mean(shares)))
    assert slope(shares, "group", "group").tolist() == pytest.approx([math.sqrt(v) for v in spread], rel=1e-3)
    assert slope(shares, "batch", "batch").tolist() == pytest.approx([v / whole for v in spread], rel=1e-3)
    assert slope(shares, "none", "none").tolist() == pytest.approx(spread, rel=1e-9)
    # SFT is the loss of the right label alone, with an advantage of 1
    margin = torch.logit(torch.tensor(shares, **SCALAR)).requires_grad_()
    logps = torch.nn.functional.logsigmoid(margin)[:, None]
    loss = grpo.loss(logps, None, None, torch.ones(4, **SCALAR), torch.ones(4, 1, dtype=torch.bool), beta=0.0)
    assert (-4 * torch.autograd.grad(loss, margin)[0]).tolist() == pytest.approx([1 - p for p in shares])


def test_half_of_the_groups_of_a_sure_policy_carry_no_signal():
    """At p = 0.99 and G = 64, 0.99 ** 64 = 52 % of groups agree (right) and have no advantage at all."""
    right = torch.rand(4000, 64, generator=generator("sure")) < 0.99
    silent = (grpo.advantages(right.float(), floor=1e-5) == 0).all(1).float().mean().item()
    assert silent == pytest.approx(0.99**64, abs=3 * math.sqrt(0.25 / 4000))
    assert (grpo.advantages(right.float(), center="batch", scale="batch") != 0).all()
