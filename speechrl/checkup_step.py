"""The checks of `speechrl.doctor` that take a whole step: micro-batches, rewards, memory and time."""

import os
import time
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from speechrl.checkup import Finding, Patient
from speechrl.regimes.base import Objective
from speechrl.types import Answer, Example, generator, seed_of

GIB = 2**30


def varied(answers: Sequence[Answer], examples: Sequence[Example]) -> dict[str, Tensor]:
    """A reward that tells answers apart whatever they say, so that a step has a gradient before the model earns any."""
    pairs = zip(answers, examples, strict=True)
    values = [seed_of("varied", i, example.id, answer.text) / 2**63 for i, (answer, example) in enumerate(pairs)]
    return {"varied": torch.tensor(values)}


def micro_batches_change_nothing(patient: Patient) -> Finding:
    """One example at a time against all at once: each stage's loss, and the gradient of all that is trained."""
    if not patient.stages:
        return Finding(None, "Nothing is trained.")
    policy, worst = patient.policy, 0.0
    for stage in patient.stages:
        policy.zero_grad(set_to_none=True)
        whole = _accumulate(patient, stage, None, 1.0)
        length = _length(patient)
        # what the parts add with the opposite sign leaves the difference, without a second copy of the gradient
        parts = _accumulate(patient, stage, 1, -1.0)
        rest = _length(patient)
        policy.zero_grad(set_to_none=True)
        if not length > 0:
            return Finding(False, "No gradient reaches what is trained: all answers to an example are alike.")
        gap = max(rest / length, abs(whole - parts) / max(abs(whole), 1.0))
        if not gap <= patient.tolerance:
            return Finding(
                False,
                f"One example at a time gives the loss {parts:.6g} and all at once {whole:.6g}, their gradients are "
                f"{rest / length:.1e} of their length apart: micro_batch would change the result.",
            )
        worst = max(worst, gap)
    return Finding(True, f"Loss and gradient are the same in parts of one example as in one, to {worst:.1e}.")


def _accumulate(patient: Patient, stage: Objective, micro_batch: int | None, sign: float) -> float:
    """Adds a step's gradient to what there is; its loss."""
    loss = 0.0
    for part in stage.parts(patient.policy, patient.probes, 0, micro_batch):
        (sign * part.loss).backward()
        loss += float(part.loss.detach())
    return loss


def _length(patient: Patient) -> float:
    gradients = [tensor.grad for tensor in patient.policy.trained_state().values() if tensor.grad is not None]
    return float(torch.stack([g.float().square().sum() for g in gradients]).sum().sqrt()) if gradients else 0.0


def rewards_tell_answers_apart(patient: Patient) -> Finding:
    """The run's own reward on the run's own answers to the probes: finite, and not the same for all."""
    settings = patient.settings
    if settings is None or patient.reward is None:
        return Finding(None, "No stage of this run asks for a reward.")
    probes, group = patient.probes, settings.group_size
    answers = patient.policy.sample(probes, group, settings.decoding, generator("doctor", "rewards")).answers
    terms = patient.reward(answers, [probe for probe in probes for _ in range(group)])
    for name, values in terms.items():
        if values.shape != (len(answers),):
            return Finding(
                False, f"The reward term {name} has the shape {list(values.shape)} for {len(answers)} answers."
            )
        if len(bad := (~values.isfinite()).nonzero()):
            return Finding(
                False, f"The reward term {name} is {float(values[bad[0]])} for {probes[int(bad[0]) // group].id}."
            )
    rewards = torch.stack([values.float() for values in terms.values()]).sum(0).view(len(probes), group)
    means = ", ".join(f"{name} {float(values.float().mean()):.2f}" for name, values in terms.items())
    peers = rewards if settings.center == "group" else rewards.view(1, -1)
    alive = int((peers.amax(1) > peers.amin(1)).sum())
    if not alive:
        return Finding(
            False,
            f"All {len(answers)} answers earn what their peers earn ({means}), for instance "
            f"{answers[0].text[:60]!r} to {probes[0].id}: there is nothing to learn from.",
        )
    return Finding(True, f"Finite and varied: {means} on average, {alive} of {len(peers)} comparisons carry a signal.")


def a_step_fits_the_machine(patient: Patient) -> Finding:
    """Memory and time of a step, estimated from one on the probes."""
    if not patient.stages:
        return Finding(None, "Nothing is trained.")
    o, count = patient.optimisation, len(patient.probes)
    seconds = sum(probe.seconds for probe in patient.probes) / count
    batch = max(round(o.batch_seconds / seconds), 1) if o.batch_seconds else o.batch_size
    micro = min(o.micro_batch or batch, batch)
    took = _timed_step(patient, micro if micro < count else None) * batch / count
    drawing, updating = _peaks(patient, micro if micro < count else None)
    needed = _standing(patient) + max(drawing * batch / count, updating * max(micro / count, 1.0))
    there = _memory(patient.policy.device)
    said = (
        f"About {took:.2g} s and {needed / GIB:.2g} GiB for a step of {batch} examples, {took * o.steps / 3600:.2g} h "
        f"for {o.steps} steps: an estimate from one step of {count} that lasted {took * count / batch:.2g} s"
    )
    if needed > there:
        return Finding(
            False, f"{said}; there are {there / GIB:.3g} GiB here: lower optimisation.micro_batch or batch_size."
        )
    return Finding(True, f"{said}; {there / GIB:.3g} GiB are here.")


def _timed_step(patient: Patient, micro_batch: int | None) -> float:
    started = time.perf_counter()
    _accumulate(patient, patient.stages[-1], micro_batch, 1.0)
    if patient.policy.device.type == "cuda":
        torch.cuda.synchronize()
    patient.policy.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def _peaks(patient: Patient, micro_batch: int | None) -> tuple[int, int]:
    """Bytes that drawing answers to the probes takes at its height, and scoring a part of them for the update."""
    policy, settings, drawing = patient.policy, patient.settings, 0
    if settings:
        with torch.no_grad(), Held(policy) as held:
            policy.sample(patient.probes, settings.group_size, settings.decoding, generator("doctor", "memory"))
        drawing = held.peak
    with Held(policy) as held:
        for part in patient.stages[-1].parts(policy, patient.probes, 0, micro_batch):
            del part
    return drawing, held.peak


def _standing(patient: Patient) -> int:
    """Bytes of weights, gradients, the optimiser's two moments, and the stages' snapshots."""
    trained = sum(tensor.nbytes for tensor in patient.policy.trained_state().values())
    everything = sum(tensor.nbytes for tensor in (*patient.policy.parameters(), *patient.policy.buffers()))
    kept = tree_leaves([stage.state() for stage in patient.stages])
    return everything + 3 * trained + sum(leaf.nbytes for leaf in kept if isinstance(leaf, Tensor))


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside the block, alive at once; the same on every device."""

    def __init__(self, policy: torch.nn.Module) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in (*policy.parameters(), *policy.buffers())}

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and notes what it made."""
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._now += size
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
