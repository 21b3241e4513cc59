"""A policy's outcomes on items: one answer each, and for a closed label set the score behind it."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist

from speechrl import metrics
from speechrl.data.pipeline import Clips, eval_batches
from speechrl.policies.base import Policy, eval_mode
from speechrl.tasks.base import Task
from speechrl.types import Decoding, Example, Outcome, generator


class Judge:
    """Scores a policy on the items of a split, always alike: the same batches, the same decoding, no augmentation."""

    def __init__(self, task: Task, decoding: Decoding, *, batch_seconds: float = 100.0, seed: int = 0) -> None:
        self._task, self._decoding = task, decoding
        self._seconds, self._seed = batch_seconds, seed

    def outcomes(self, policy: Policy, split: str, clips: Clips) -> list[Outcome]:
        """One outcome for each clip, in the clips' order; processes share the work."""
        batches = eval_batches(clips.items, self._seconds)
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        found: dict[int, Outcome] = {}
        with torch.no_grad(), eval_mode(policy):
            for batch in batches[rank::world]:
                examples = [clips[(index, 0)] for index in batch]
                found.update(zip(batch, self._answered(policy, split, examples), strict=True))
        if world > 1:
            everywhere: list[dict[int, Outcome]] = [{}] * world
            dist.all_gather_object(everywhere, found)
            found = {index: outcome for part in everywhere for index, outcome in part.items()}
        return [found[index] for index in range(len(clips.items))]

    def _answered(self, policy: Policy, split: str, examples: Sequence[Example]) -> Iterator[Outcome]:
        if self._task.labels is None:
            randomness = generator(self._seed, split, examples[0].id, device="cpu")
            answers = policy.sample(examples, 1, self._decoding, randomness).answers
            for example, answer in zip(examples, answers, strict=True):
                yield Outcome(
                    id=example.id, split=split, target=example.target, answer=answer.text, ended=answer.ended,
                    meta=example.meta,
                )  # fmt: skip
            return
        chances = policy.label_logps(examples, self._task.labels).double().softmax(-1)
        for example, row in zip(examples, chances.tolist(), strict=True):
            answer = self._task.labels[row.index(max(row))]
            yield Outcome(
                id=example.id, split=split, target=example.target, answer=answer, score=row[0], meta=example.meta
            )

    def drift(self, policy: Policy, reference: Clips, others: Mapping[str, Clips], clips: int) -> dict[str, float]:
        """How far each set's embeddings lie from the reference's (2603.02914, Fig. 2), on `clips` of each set."""
        embedded = {name: self._embedded(policy, part, clips) for name, part in {"": reference, **others}.items()}
        return {f"{name}/drift": metrics.drift(embedded[name], embedded[""]) for name in others}

    def _embedded(self, policy: Policy, clips: Clips, most: int) -> np.ndarray:
        chosen = set(range(0, len(clips), max(len(clips) // most, 1)))
        with torch.no_grad(), eval_mode(policy):
            return np.concatenate([
                policy.embed([clips[(index, 0)] for index in part]).float().cpu().numpy()
                for batch in eval_batches(clips.items, self._seconds)
                if (part := [index for index in batch if index in chosen])
            ])  # fmt: skip

    def measure(self, policy: Policy, split: str, clips: Clips) -> dict[str, float]:
        """The task's metrics on one split, for the choice of a checkpoint."""
        return self._task.measure(self.outcomes(policy, split, clips))
