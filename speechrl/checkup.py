"""The checks of `speechrl.doctor` that every kind of policy must pass, each a function that says what it found."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from speechrl.policies.base import Policy
from speechrl.policies.classifier import Classifier
from speechrl.regimes.base import Objective, Optimisation
from speechrl.regimes.grpo import GroupSettings, Reward
from speechrl.types import Actions, Decoding, Example, Rollout, generator

GROUP = 3
"""Answers that a check draws to each probe."""
MOST_TOKENS = 24
"""Of these answers; the checks of a whole step draw what the run would."""
DEAF = 1e-4
"""Nats; another clip must change an answer's scores by more."""


@dataclass(frozen=True)
class Finding:
    """What a check found, in one sentence; `passed` is None where the check has nothing to look at."""

    passed: bool | None
    sentence: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Patient:
    """A run as it stands before its first step, with a few examples of its own to try it on."""

    policy: Policy
    probes: Sequence[Example]
    """Two at least, of unlike audio."""
    decoding: Decoding
    """How the run draws answers."""
    stages: Sequence[Objective] = ()
    """What the run minimises, begun, on a reward that tells all answers apart."""
    optimisation: Optimisation = Optimisation()
    settings: GroupSettings | None = None
    """None where the run has no GRPO stage."""
    reward: Reward | None = None
    """The run's own."""

    def draw(self, decoding: Decoding | None = None) -> Rollout:
        """A few answers to each probe, short ones."""
        short = self.shortened(decoding or self.decoding)
        return self.policy.sample(self.probes, GROUP, short, generator("doctor"))

    def shortened(self, decoding: Decoding) -> Decoding:
        """The same with answers that a check can wait for."""
        return replace(decoding, max_tokens=min(decoding.max_tokens, MOST_TOKENS))

    def afresh(self) -> list[Example]:
        """The probes with audio that no policy can remember to have heard."""
        return [replace(probe, waveform=probe.waveform.clone()) for probe in self.probes]

    @property
    def half(self) -> bool:
        """Whether numbers are rounded to 8 or 11 bits, in the weights or on the way."""
        low = {tensor.dtype for tensor in self.policy.parameters()} & {torch.bfloat16, torch.float16}
        return bool(low) or torch.is_autocast_enabled(self.policy.device.type)

    @property
    def tolerance(self) -> float:
        """What two ways to one number may differ by: in nats, or relative to a gradient's length.

        Half precision is judged by the mean over actions, at the gap that training warns of; single precision by the
        largest, with room for convolutions in TF32 where there is an accelerator.
        """
        if self.half:
            return 0.05
        return 1e-4 if self.policy.device.type == "cpu" else 1e-3

    def gap(self, found: Float[Tensor, "n t"], wanted: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]) -> float:
        """How far two sets of log-probabilities are apart, by the measure that `tolerance` bounds."""
        distances = (found - wanted).detach().float().abs()[mask.to(found.device)]
        return float(distances.mean() if self.half else distances.max())


Check = Callable[[Patient], Finding]


def sampled_answers_are_rescored_alike(patient: Patient) -> Finding:
    """At the run's own decoding, at temperature 1, and at 0.7 with a top-k set."""
    own, worst = patient.decoding, 0.0
    for decoding in (own, Decoding(), Decoding(temperature=0.7, top_k=50)):
        rollout = patient.draw(decoding)
        with torch.no_grad():
            again = patient.policy.logps(patient.probes, rollout.actions, decoding.scale)
        gap = patient.gap(again, rollout.logps, rollout.actions.mask)
        if not gap <= patient.tolerance:
            return Finding(
                False,
                f"At temperature {decoding.temperature:g} answers are scored {gap:.2g} nats away from how they were "
                f"drawn ({patient.tolerance:g} allowed): the update would correct for a policy that never sampled.",
            )
        worst = max(worst, gap)
    return Finding(True, f"Drawn and scored log-probabilities agree to {worst:.1e} nats, at three temperatures.")


def the_ratio_is_one_at_the_start(patient: Patient) -> Finding:
    """The policy in training mode against its own frozen copy."""
    rollout, heat = patient.draw(), patient.decoding.scale
    frozen = patient.policy.frozen().logps(patient.probes, rollout.actions, heat)
    with torch.no_grad():
        live = patient.policy.logps(patient.probes, rollout.actions, heat)
    gap = patient.gap(live, frozen, rollout.actions.mask)
    if not gap <= patient.tolerance:
        return Finding(
            False,
            f"Before any step the policy is {gap:.2g} nats away from its frozen copy: KL and ratio start wrong "
            "(dropout left on, or a copy that is not one).",
        )
    return Finding(True, f"The policy and its frozen copy agree to {gap:.1e} nats: ratio 1, KL 0.")


def rows_score_alone_as_in_a_batch(patient: Patient) -> Finding:
    """Each answer with its own example and nothing else, against all of them together."""
    policy, heat = patient.policy, patient.decoding.scale
    if isinstance(policy, Classifier) and not policy.masked:
        return Finding(
            None, "masked=False averages over padding as the released code does: scores depend on the batch."
        )
    actions, worst = patient.draw().actions, 0.0
    with torch.no_grad():
        together = policy.logps(patient.afresh(), actions, heat)
        for row in range(len(actions)):
            mine: Actions = actions.rows(slice(row, row + 1))
            example = patient.afresh()[row // GROUP]
            alone = policy.logps([example], mine, heat)
            gap = patient.gap(together[row : row + 1, : alone.shape[1]], alone, mine.mask)
            if not gap <= patient.tolerance:
                return Finding(
                    False,
                    f"An answer to {example.id} scores {gap:.2g} nats differently alone than in a batch "
                    f"({patient.tolerance:g} allowed): padding counts, or rows meet the wrong audio.",
                )
            worst = max(worst, gap)
    return Finding(True, f"Every answer scores alone as among {len(actions)} rows, to {worst:.1e} nats.")


def audio_reaches_the_answer(patient: Patient) -> Finding:
    """Another probe's clip, brought to the same length, behind the same prompt and the same answers."""
    actions = patient.draw().actions
    others = [*patient.probes[1:], patient.probes[0]]
    swapped = [
        replace(mine, waveform=_fitted(other.waveform, len(mine.waveform)))
        for mine, other in zip(patient.probes, others, strict=True)
    ]
    with torch.no_grad():
        before = patient.policy.logps(patient.afresh(), actions)
        after = patient.policy.logps(swapped, actions)
    changes = (before - after).abs().view(len(patient.probes), -1).amax(1).tolist()
    for probe, change in zip(patient.probes, changes, strict=True):
        if not change > DEAF:
            return Finding(
                False,
                f"Another clip behind the same prompt changes the answers to {probe.id} by {change:.1e} nats at most: "
                "the model answers without listening.",
            )
    return Finding(
        True, f"Another clip behind the same prompt changes every answer, by {min(changes):.2g} nats or more."
    )


def _fitted(waveform: Tensor, samples: int) -> Tensor:
    return waveform.repeat(ceil(samples / len(waveform)))[:samples]


def adapters_are_on_in_sampling_and_scoring(patient: Patient) -> Finding:
    """The state in which each LoRA layer is called, and what requires a gradient before and after."""
    policy, trained = patient.policy, set(patient.policy.trained_state())
    layers = _adapters(policy)
    with _watched(layers) as sampling:
        actions = patient.draw().actions
    with _watched(layers) as frozen:
        policy.frozen().logps(patient.probes, actions)
    with _watched(layers) as scoring, torch.no_grad():
        policy.logps(patient.probes, actions)
    if (now := set(policy.trained_state())) != trained:
        return Finding(False, f"Sampling or freezing changed what is trained: {sorted(now ^ trained)[0]}, for one.")
    for name in layers:
        states = sampling.get(name), frozen.get(name), scoring.get(name)
        if states[0] != (True,) or len(set(states)) > 1:
            said = ", ".join(
                f"{how} {_words(state)}"
                for how, state in zip(("sampling", "frozen copy", "scoring"), states, strict=True)
            )
            return Finding(False, f"The adapter {name} is not on everywhere: {said}.")
    if not layers:
        return Finding(True, f"There is no adapter; all {len(trained)} trained tensors stay trained.")
    return Finding(True, f"All {len(layers)} adapters are on in sampling, frozen copy and scoring, and stay trained.")


def _adapters(policy: Policy) -> dict[str, nn.Module]:
    if not any(".lora_" in name for name, _ in policy.named_parameters()):
        return {}  # peft takes seconds to import
    from peft.tuners.lora import LoraLayer

    names = [name for name, module in policy.named_modules() if isinstance(module, LoraLayer)]
    return {name: policy.get_submodule(name) for name in names}


@contextmanager
def _watched(layers: dict[str, nn.Module]) -> Iterator[dict[str, tuple[bool, ...]]]:
    """Collects for each layer that is called whether it was on: all the answers that were seen."""
    seen: dict[str, tuple[bool, ...]] = {}

    def watch(name: str) -> Callable[[nn.Module, object], None]:
        def note(layer: nn.Module, _: object) -> None:
            on = not layer.disable_adapters and not layer.merged and bool(layer.active_adapters)
            seen[name] = tuple(sorted({*seen.get(name, ()), on}))

        return note

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _words(state: tuple[bool, ...] | None) -> str:
    return "unused" if state is None else " and ".join("on" if on else "off" for on in state)
