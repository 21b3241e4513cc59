"""`python -m speechrl.doctor model=... task=...`: tries a run on its own model and data before hours are spent."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text

from speechrl import checkup, checkup_step, checkup_text
from speechrl.checkup import Check, Finding, Patient
from speechrl.config import CONF, built
from speechrl.data.splits import Splits
from speechrl.policies.base import Policy, without_dropout
from speechrl.regimes.base import Objective, Optimisation, Regime
from speechrl.regimes.grpo import GroupRelative
from speechrl.tasks.base import Task
from speechrl.types import Example

PROBES = 4
CHECKS: tuple[Check, ...] = (
    checkup.sampled_answers_are_rescored_alike,
    checkup.the_ratio_is_one_at_the_start,
    checkup.rows_score_alone_as_in_a_batch,
    checkup_step.micro_batches_change_nothing,
    checkup.audio_reaches_the_answer,
    checkup.adapters_are_on_in_sampling_and_scoring,
    checkup_text.answers_end_with_an_end,
    checkup_text.prompts_end_where_answers_begin,
    checkup_text.every_audio_token_has_a_feature,
    checkup_step.rewards_tell_answers_apart,
    checkup_step.a_step_fits_the_machine,
)
STYLES = {True: ("pass", "green"), False: ("fail", "bold red"), None: ("skip", "dim")}


def examine(patient: Patient, checks: Sequence[Check] = CHECKS) -> Iterator[tuple[str, Finding]]:
    """Each check's name and what it found; a check that raises has failed, with the error's own words."""
    for check in checks:
        try:
            finding = check(patient)
        except Exception as error:  # whatever goes wrong here would go wrong in the run
            words = " ".join(str(error).split()) or "no reason given"
            finding = Finding(False, f"It stopped with {type(error).__name__}: {words}")
        patient.policy.zero_grad(set_to_none=True)
        yield check.__name__.replace("_", " "), finding


def admit(config: DictConfig, device: torch.device) -> Patient:
    """The run of a configuration before its first step: its policy on the device, its stages begun, probes of its data.

    Raises ValueError where the configuration or the data cannot make one.
    """
    task: Task = built(config.task)
    examples = probes(built(config.data), task, config.seed)
    policy: Policy = built(config.model)
    policy.to(device)
    without_dropout(policy)
    policy.train()
    optimisation: Optimisation = built(config.optimisation)
    stages = _stages(config, policy, optimisation)
    settings = next((stage.settings for stage in stages if isinstance(stage, GroupRelative)), None)
    return Patient(
        policy=policy,
        probes=examples,
        decoding=settings.decoding if settings else built(config.evaluation.decoding),
        stages=stages,
        optimisation=optimisation,
        settings=settings,
        reward=built(config.reward) if settings else None,
    )


def probes(splits: Splits, task: Task, seed: int, count: int = PROBES) -> list[Example]:
    """Training clips as the run would hear them, from short to long; ValueError where there are not even two."""
    clips = splits.training(task, seed=seed)
    order = sorted(range(len(clips)), key=lambda index: (clips.items[index].seconds, index))
    places = sorted({len(order) * (2 * i + 1) // (2 * count) for i in range(count)})
    if len(places) < 2:
        raise ValueError(f"the training split has {len(order)} items, and the doctor compares two at least")
    return [clips[(order[place], 0)] for place in places]


def _stages(config: DictConfig, policy: Policy, optimisation: Optimisation) -> list[Objective]:
    """The run's stages, begun; their reward tells all answers apart, so that there is a gradient to look at."""
    if not config.regime:
        return []
    own = config.copy()
    OmegaConf.set_struct(own, False)
    own.reward = {"_target_": "speechrl.checkup_step.varied", "_partial_": True}
    regime: Regime = built(own.regime, policy=policy, optimisation=optimisation, seed=config.seed)
    for stage in regime.stages:
        stage.prepare(policy)
    for stage in regime.stages:
        stage.begin(policy)
    return regime.stages


def diagnose(config: DictConfig, console: Console) -> bool:
    """Prints what each check found, as it is found; whether none failed."""
    # the run's own trainer, on one device, knows which device that is and at what precision it would be used
    trainer: pl.Trainer = built(config.trainer, devices=1, strategy="auto", logger=False)
    patient, tally = admit(config, trainer.strategy.root_device), {True: 0, False: 0, None: 0}
    lengths = ", ".join(f"{probe.seconds:.1f}" for probe in patient.probes)
    console.print(f"{type(patient.policy).__name__} on {patient.policy.device}, clips of {lengths} s")
    precise: AbstractContextManager = trainer.precision_plugin.train_step_context()
    with precise, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that clips are cut is what the counts of audio tokens are about
        for name, finding in examine(patient):
            tally[finding.passed] += 1
            word, style = STYLES[finding.passed]
            console.print(Text.assemble((word, style), f"  {name}: {finding.sentence}"), soft_wrap=True)
    console.print(f"{tally[True]} passed, {tally[False]} failed, {tally[None]} skipped")
    return not tally[False]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> None:
    """Examines what the command line says; the exit status is 1 where a check failed."""
    try:
        healthy = diagnose(config, Console())
    except (ValueError, OSError) as error:
        print(f"speechrl.doctor: {error}", file=sys.stderr)
        healthy = False
    sys.exit(0 if healthy else 1)


if __name__ == "__main__":
    main()
