"""The sampling loop: G answers to each of B prefixes, drawn token by token from one shared key-value cache."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from speechrl.types import Actions, Decoding

Step = Callable[[Int64[Tensor, "b a"], Int64[Tensor, "b a"], Bool[Tensor, "b 1 a k"]], Float[Tensor, "b a v"]]
"""Feeds one token to each of A answers per example (ids, positions, what they see of the cache); gives logits."""


def decode(
    step: Step,
    cache: Any,
    logits: Float[Tensor, "b v"],
    lengths: Int64[Tensor, " b"],
    *,
    group_size: int,
    decoding: Decoding,
    eos: Sequence[int],
    generator: torch.Generator,
) -> tuple[Actions, Float[Tensor, "n t"]]:
    """Draws until every answer has ended or `decoding.max_tokens` are drawn; the token that ends one is an action.

    `cache` holds the B prefixes, padded on the right, and is what `step` reads and appends to: the G answers of an
    example are G queries of one sequence, each seeing the prefix and its own tokens, so the prefix is never copied.
    `logits` are those of the first token. Row r's t-th token is decided by the (r, t)-th of the generator's numbers,
    whatever the other rows do. Returns the actions and their whole-vocabulary log-probabilities at the temperature.
    """
    slots = _Slots(lengths, cache, group_size)
    rows, limit = slots.rows.numel(), decoding.max_tokens
    chance = torch.rand(rows, limit, dtype=torch.float64, generator=generator, device=generator.device)
    chance, ends = chance.to(logits.device), torch.tensor(eos, device=logits.device)
    ids = torch.full((rows, limit), int(eos[0]), device=logits.device)
    logps = torch.zeros(rows, limit, device=logits.device)
    length = torch.full((rows,), limit, device=logits.device)
    scores = logits[:, None].expand(-1, group_size, -1)
    for t in range(limit):
        now = slots.rows.flatten()
        ids[now, t], logps[now, t] = choose(scores.flatten(0, 1), chance[now, t], decoding)
        ended = torch.isin(ids[now, t], ends)
        length[now] = torch.where(ended & (length[now] == limit), t + 1, length[now])
        if t + 1 == limit or not slots.narrow((length == limit).view(-1, group_size)):
            break
        scores = step(ids[slots.rows, t], *slots.feed(t))
    mask = torch.arange(t + 1, device=logits.device) < length[:, None]
    return Actions(ids[:, : t + 1].masked_fill(~mask, int(eos[0])), mask), logps[:, : t + 1] * mask


class _Slots:
    """Which answers are still being fed, and what each of them may see of the cache."""

    def __init__(self, lengths: Tensor, cache: Any, group_size: int) -> None:
        width = cache.get_seq_length()
        self.rows = torch.arange(len(lengths) * group_size, device=lengths.device).view(-1, group_size)
        self._lengths, self._cache = lengths, cache
        self._prefix = torch.arange(width, device=lengths.device) < lengths[:, None]
        self._owner = self.rows[:, :0]

    def feed(self, t: int) -> tuple[Int64[Tensor, "b a"], Bool[Tensor, "b 1 a k"]]:
        """The positions of every slot's t-th token, and what it sees once it is in the cache itself."""
        self._owner = torch.cat([self._owner, self.rows], 1)
        own = self._owner[:, None] == self.rows[..., None]
        prefix = self._prefix[:, None].expand(-1, self.rows.shape[1], -1)
        return (self._lengths[:, None] + t).expand_as(self.rows), torch.cat([prefix, own], -1)[:, None]

    def narrow(self, live: Bool[Tensor, "b g"]) -> bool:
        """Drops answers that have ended once that halves the work; False when none is left.

        What an ended answer left in the cache stays there unseen, unless its whole example is dropped.
        """
        mine = live.flatten()[self.rows]
        counts = mine.sum(1)
        widest = int(counts.max())
        if 0 < 2 * widest <= self.rows.shape[1]:
            self.rows = self.rows.gather(1, (~mine).byte().argsort(dim=1, stable=True)[:, :widest])
        kept = counts.nonzero()[:, 0]
        if 0 < 2 * len(kept) <= len(counts):
            self._cache.batch_select_indices(kept)
            self.rows, self._owner = self.rows[kept], self._owner[kept]
            self._lengths, self._prefix = self._lengths[kept], self._prefix[kept]
        return widest > 0


def choose(
    logits: Float[Tensor, "r v"], chance: Float[Tensor, " r"], decoding: Decoding
) -> tuple[Int64[Tensor, " r"], Float[Tensor, " r"]]:
    """A token for each row by inverting its cumulative distribution at `chance`, and its log-probability.

    Top-k, then top-p (the fewest tokens whose probability reaches it), decide what can be drawn; the log-probability
    is of the whole vocabulary at the temperature.
    """
    scaled = logits.float() / decoding.scale
    if decoding.greedy:
        tokens = scaled.argmax(-1, keepdim=True)
    elif decoding.top_k or decoding.top_p < 1:
        values, order = scaled.topk(min(decoding.top_k or scaled.shape[1], scaled.shape[1]))
        odds = values.softmax(-1)
        odds = odds.where(odds.cumsum(-1) - odds < decoding.top_p, 0.0)
        tokens = order.gather(1, _invert(odds, chance))
    else:
        tokens = _invert(scaled.softmax(-1), chance)
    return tokens[:, 0], scaled.gather(1, tokens)[:, 0] - scaled.logsumexp(-1)


def _invert(odds: Float[Tensor, "r v"], chance: Float[Tensor, " r"]) -> Int64[Tensor, "r 1"]:
    # Double precision: 150,000 single-precision terms would lose the rare tokens.
    summed = odds.cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(summed, chance[:, None] * summed[:, -1:], right=True)
    return found.clamp(max=odds.shape[1] - 1)
