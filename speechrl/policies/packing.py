"""One sequence for a prefix and all its answers: which token sees which, where each stands, and what predicts what."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

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
    mask: Bool[Tensor, "b 1 s s"]
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


def _block_mask(lengths: Tensor, width: int, row: Tensor, step: Tensor, used: Tensor) -> Bool[Tensor, "b 1 s s"]:
    examples, longest = row.shape
    size = width + longest
    mask = torch.zeros(examples, size, size, dtype=torch.bool, device=row.device)
    # The prefix is padded on the right, so plain causality keeps its padding out of sight of what is not padding.
    mask[:, :width, :width] = torch.ones(width, width, dtype=torch.bool, device=row.device).tril()
    mask[:, width:, :width] = (torch.arange(width, device=row.device) < lengths[:, None])[:, None]
    same = row[:, :, None] == row[:, None, :]
    mask[:, width:, width:] = same & (step[:, None, :] <= step[:, :, None]) & used[:, None, :]
    # A padding query that saw nothing would be 0/0, and its NaN would reach the gradients of everything.
    mask.diagonal(dim1=1, dim2=2).fill_(True)
    return mask[:, None]
