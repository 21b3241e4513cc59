"""Trains a toy on rollouts that depend on the example alone, on one or two processes; for test_parallel."""

import sys
from collections.abc import Sequence

import pytorch_lightning as pl
import torch

from speechrl.data.manifest import Item
from speechrl.data.pipeline import Steps
from speechrl.regimes.base import Optimisation
from speechrl.regimes.grpo import GRPO, GroupRelative, GroupSettings
from speechrl.regimes.parallel import Replicas
from speechrl.regimes.sft import SFT, Supervised
from speechrl.types import Actions, Answer, Decoding, Example, Rollout, generator
from tests.toy import LABELS, Toy, examples, match


class Fixed(Toy):
    """A toy whose answers to a clip are always the same, so that processes and batches draw alike."""

    def sample(self, examples: Sequence[Example], group_size: int, decoding: Decoding, _: torch.Generator) -> Rollout:
        drawn = [torch.randint(0, 2, (group_size,), generator=generator("fixed", e.id)) for e in examples]
        actions = Actions(torch.cat(drawn)[:, None], torch.ones(len(examples) * group_size, 1, dtype=torch.bool))
        answers = tuple(Answer(LABELS[i]) for i in actions.ids[:, 0].tolist())
        return Rollout(actions, self.logps(examples, actions).detach(), answers)


def main() -> None:
    kind, devices, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    clips = examples(31)
    optimisation = Optimisation(steps=6, lr=0.05, micro_batch=3, batch_size=7)
    policy = Fixed()
    if kind == "sft":
        regime = SFT(policy, sft=Supervised(how="token"), optimisation=optimisation, seed=1)
    else:
        settings = GroupSettings(center="batch", scale="batch", how=kind, group_size=4, snapshot_every=2)
        regime = GRPO(policy, grpo=GroupRelative(match, settings, seed=1), optimisation=optimisation, seed=1)
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy=Replicas() if devices > 1 else "auto", max_steps=6, max_epochs=-1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, use_distributed_sampler=False,
    )  # fmt: skip
    items = [Item(clip.id, path=None, target=clip.target) for clip in clips]  # type: ignore[arg-type]
    steps = Steps(items, steps=6, seed=1, batch_size=7, rank=trainer.global_rank, world=trainer.world_size)
    indexed = torch.utils.data.DataLoader(Index(clips), batch_sampler=steps, collate_fn=list)
    trainer.fit(regime, indexed)
    torch.save(policy.head.weight.detach(), f"{output}.{trainer.global_rank}")


class Index(torch.utils.data.Dataset):
    """Clips by (index, step)."""

    def __init__(self, clips: list[Example]) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        return self.clips[key[0]]


if __name__ == "__main__":
    main()
