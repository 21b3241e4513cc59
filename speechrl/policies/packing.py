"""One sequence for a prefix and all its answers: which token sees which, where each stands, and what predicts what."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from speechrl.types import Actions


@dataclass(frozen=True, eq=False)
class Packed:
    """B sequences of a right-padded prefix of width P and W answer tokens, the tokens of all G answers end to end.

    An answer's last token is not among them: nothing is predicted from it.
    """

    ids: Int64[Tensor, "b w"]
    """The answer tokens that are fed."""
    targets: Int64[Tensor, "b w"]
    """The token that follows each of them in its answer."""
    used: Bool[Tensor, "b w"]
    """False on padding."""
    positions: Int64[Tensor, "b s"]
    """Every answer starts where the prefix ends."""
    mask: Bool[Tensor, "b 1 w s"]
    """Query by key: an answer token sees the prefix and its own answer up to itself, never another answer."""
    order: Int64[Tensor, "b w"]
    """Where each fed token stands among the G * (T - 1) of its example."""

    def unpack(self, values: Float[Tensor, "b w"], first: Float[Tensor, "b g"], steps: int) -> Float[Tensor, "n t"]:
        """Rows of T = `steps` actions from those predicted by fed tokens and, first of all, by the prefix."""
        rows = len(first) * first.shape[1]
        rest = values.new_zeros(len(first), first.shape[1] * (steps - 1)).scatter(1, self.order, values)
        return torch.cat([first.reshape(rows, 1), rest.view(rows, steps - 1)], 1)


def pack(lengths: Int64[Tensor, " b"], width: int, actions: Actions) -> Packed:
    """Packs N = B * G answers behind B prefixes of these lengths, padded on the right to `width`.

    Answers of unequal length leave no gaps: an example's sequence is as long as its own tokens.
    """
    examples, steps = len(lengths), actions.ids.shape[1]
    fed = actions.mask[:, 1:].reshape(examples, -1)
    longest = int(fed.sum(1).max()) if fed.numel() else 0
    order = (~fed).byte().argsort(dim=1, stable=True)[:, :longest]
    row, step = order // max(steps - 1, 1), order % max(steps - 1, 1)
    used = fed.gather(1, order)
    prefix = torch.arange(width, device=order.device).expand(examples, width)
    return Packed(
        ids=actions.ids[:, :-1].reshape(examples, -1).gather(1, order),
        targets=actions.ids[:, 1:].reshape(examples, -1).gather(1, order),
        used=used,
        positions=torch.cat([prefix, lengths[:, None] + step], 1),
        mask=_block_mask(lengths, width, row, step, used),
        order=order,
    )


def _block_mask(lengths: Tensor, width: int, row: Tensor, step: Tensor, used: Tensor) -> Bool[Tensor, "b 1 w s"]:
    prefix = (torch.arange(width, device=row.device) < lengths[:, None])[:, None].expand(-1, row.shape[1], -1)
    same = row[:, :, None] == row[:, None, :]
    own = same & (step[:, None, :] <= step[:, :, None]) & used[:, None, :]
    return torch.cat([prefix, own], -1)[:, None]


ATTENTION = "shared_prefix"
"""The name that transformers knows `attend` by."""


def install(language_model: Any) -> None:
    """Makes a transformers language model attend by `attend`; without `prefix` it goes on as with "sdpa"."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    language_model.set_attn_implementation(ATTENTION)


def attend(
    module: Any,
    query: Float[Tensor, "b h s d"],
    key: Float[Tensor, "b k j d"],
    value: Float[Tensor, "b k j d"],
    attention_mask: Tensor | None,
    *,
    prefix: int | None = None,
    **how: Any,
) -> tuple[Float[Tensor, "b s h d"], None]:
    """Attention of a sequence whose first `prefix` queries are causal, and whose other queries see what the mask says.

    Where both sit in one masked matrix, half of it is computed in vain: the prefix's upper triangle, and the prefix
    looking at the answers. And queries that share a key head are laid side by side, so that keys are not copied.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    parts = []
    if prefix:
        keys, values = key[:, :, :prefix], value[:, :, :prefix]
        parts.append(sdpa_attention_forward(module, query[:, :, :prefix], keys, values, None, **how)[0])
    if query.shape[2] > prefix:
        assert attention_mask is not None
        parts.append(_attend_masked(query[:, :, prefix:], key, value, attention_mask, how["scaling"], how["dropout"]))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0], None


def _attend_masked(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, dropout: float
) -> Float[Tensor, "b s h d"]:
    batch, heads, length, size = query.shape
    shared = heads // key.shape[1]
    folded = query.reshape(batch, key.shape[1], shared * length, size)
    masks = mask.repeat(1, 1, shared, 1)
    out = nn.functional.scaled_dot_product_attention(
        folded, key, value, attn_mask=masks, scale=scale, dropout_p=dropout
    )
    return out.reshape(batch, heads, length, size).transpose(1, 2)
