"""One run from its configuration to its record: train, choose the best weights, answer the test sets, write it down."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechrl import runs
from speechrl.config import CONF, built
from speechrl.data.pipeline import Steps
from speechrl.data.splits import Splits
from speechrl.evaluate import Judge
from speechrl.policies.base import Policy
from speechrl.progress import Progress
from speechrl.regimes.base import Regime, Selection
from speechrl.tasks.base import Task
from speechrl.types import Outcome


class Run:
    """A run in its folder. It ends the same whether it is left alone or killed and started again, bit for bit."""

    def __init__(self, config: DictConfig, folder: Path, progress: Progress) -> None:
        self._config, self._folder, self._progress = config, folder, progress
        self._last = folder / "checkpoints" / "last.ckpt"
        self._task: Task = built(config.task)
        self._splits: Splits = built(config.data)
        self._judge = Judge(
            self._task,
            built(config.evaluation.decoding),
            batch_seconds=config.evaluation.batch_seconds,
            seed=config.seed,
        )

    def execute(self) -> None:
        """Trains where there is a regime, answers the test sets, and writes the record, `metrics.json` last."""
        started, config = time.time(), self._config
        runs.freeze(self._folder, config)
        self._splits.check(self._task, config.on_bad_audio)
        policy: Policy = built(config.model)
        self._progress.phase("training")
        regime = self._trained(policy) if config.regime else None
        self._progress.phase("testing")
        outcomes = []
        for name in self._splits.tests:
            outcomes += self._judge.outcomes(policy, name, self._splits.evaluation(name, self._task))
        measured = self._task.measure(outcomes) | self._drift(policy)
        if runs.first_process():
            self._write(policy, regime, outcomes, measured, started)

    def _drift(self, policy: Policy) -> dict[str, float]:
        if not self._config.evaluation.drift_clips:
            return {}
        sets = {name: self._splits.evaluation(name, self._task) for name in ("valid", *self._splits.tests)}
        return self._judge.drift(policy, sets.pop("valid"), sets, self._config.evaluation.drift_clips)

    def _write(
        self, policy: Policy, regime: Regime | None, outcomes: list[Outcome], measured: dict[str, float], started: float
    ) -> None:
        policy.save_pretrained(str(self._folder / "export"))
        runs.write_outcomes(self._folder / "answers.jsonl", outcomes)
        record = runs.provenance(
            self._config,
            data=self._splits.fingerprint(),
            skipped=self._splits.skipped,
            wall_seconds=round(time.time() - started, 1),
            best=regime.best if regime else None,
            **self._spent(),
        )
        runs.write_json(self._folder / "provenance.json", record)
        runs.write_json(self._folder / runs.DONE, measured)

    def _trained(self, policy: Policy) -> Regime:
        config = self._config
        resumed = torch.load(self._last, map_location="cpu", weights_only=True) if self._last.exists() else None
        step = resumed["global_step"] if resumed else 0
        keep = runs.RolloutFile(self._folder / "rollouts.jsonl", step) if config.keep_rollouts else None
        regime: Regime = built(
            config.regime,
            policy=policy,
            optimisation=built(config.optimisation),
            seed=config.seed,
            selection=Selection(self._validate, self._task.selection, self._task.higher_is_better),
            keep_best=self._keep_best,
            read_best=self._read_best,
            keep_rollout=keep,
        )
        loggers = [runs.MetricsFile(self._folder / "metrics.csv", step)]
        if config.logger:
            loggers.append(built(config.logger)(config, self._folder))
        trainer: pl.Trainer = built(
            config.trainer,
            max_steps=regime.total_steps,
            callbacks=[Checkpoint(self._last, config.checkpoint_seconds), self._progress],
            logger=loggers,
        )
        if step < regime.total_steps:
            trainer.fit(
                regime,
                _Batches(self._splits, self._task, regime, config),
                ckpt_path=resumed and self._last,
                weights_only=True,
            )
            if trainer.global_step < regime.total_steps:
                raise RuntimeError(f"stopped at step {trainer.global_step} of {regime.total_steps}; start it again")
        elif resumed:
            regime.on_load_checkpoint(resumed)
        self._restore(policy, len(regime.stages) - 1)
        return regime

    def _validate(self, policy: Policy) -> dict[str, float]:
        return self._judge.measure(policy, "valid", self._splits.evaluation("valid", self._task))

    def _best(self, stage: int) -> Path:
        return self._folder / "checkpoints" / f"best-{stage}.safetensors"

    @rank_zero_only
    def _keep_best(self, stage: int, state: dict[str, Tensor]) -> None:
        path = self._best(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, temporary)
        os.replace(temporary, path)

    def _read_best(self, stage: int) -> dict[str, Tensor]:
        return load_file(self._best(stage))

    def _restore(self, policy: Policy, stage: int) -> None:
        with torch.no_grad():
            for name, tensor in self._read_best(stage).items():
                policy.get_parameter(name).copy_(tensor)

    def _spent(self) -> dict[str, Any]:
        """What the training cost: the fairness line of a table's row."""
        totals = {"optimizer_steps": 0.0, "examples": 0.0, "audio_seconds": 0.0, "actions": 0.0}
        if not self._config.regime:
            return totals
        for line in (self._folder / "metrics.csv").read_text().splitlines()[1:]:
            _, name, value = line.split(",")
            if (key := name.removeprefix("train/")) in totals:
                totals[key] += float(value)
            totals["optimizer_steps"] += name == "train/lr"
        return totals


class Checkpoint(pl.Callback):
    """Keeps the state of a run every minute or so, and at its end, written whole or not at all."""

    def __init__(self, path: Path, every_seconds: float) -> None:
        self._path, self._every, self._saved = path, every_seconds, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Saves when a minute has passed or the last step is done."""
        if time.monotonic() - self._saved >= self._every or trainer.global_step == trainer.max_steps:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}")
            trainer.save_checkpoint(temporary)
            os.replace(temporary, self._path)
            self._saved = time.monotonic()


class _Batches(pl.LightningDataModule):
    """The batches of a run, from the step on that it has reached."""

    def __init__(self, splits: Splits, task: Task, regime: Regime, config: DictConfig) -> None:
        super().__init__()
        self._splits, self._task, self._regime, self._config = splits, task, regime, config

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        """As many batches as there are steps; step k's is the same whatever came before."""
        optimisation, trainer = self._config.optimisation, self.trainer
        assert trainer is not None
        clips = self._splits.training(self._task, seed=self._config.seed)
        steps = Steps(
            clips.items,
            steps=self._regime.total_steps,
            seed=self._config.seed,
            batch_size=optimisation.batch_size,
            seconds=optimisation.batch_seconds,
            crop=clips.crop,
            start=self._regime.global_step,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        workers = self._splits.workers
        return torch.utils.data.DataLoader(
            clips, batch_sampler=steps, collate_fn=list, num_workers=workers, persistent_workers=bool(workers)
        )


def run(config: DictConfig, progress: Progress | None = None) -> Path:
    """Runs a configuration in its own folder, or finds that it was run before."""
    folder = runs.folder(config)
    with runs.Claim(folder):
        if not runs.finished(folder):
            Run(config, folder, progress or Progress(folder)).execute()
    return folder


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> None:
    """Trains and evaluates what the command line says."""
    try:
        folder = run(config)
    except (ValueError, OSError) as error:
        sys.exit(f"speechrl: {error}")
    print(f"done: {folder}")
    for name, value in sorted(runs.read_json(folder / runs.DONE).items()):
        print(f"  {name:32} {value:.2f}")


if __name__ == "__main__":
    main()
