"""The doctor: green on sound policies of both kinds, and red, by the right check, on each way to break one."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sick_policies as sick
import test_classifier
import test_speech_lm
import tiny_models
import torch
from test_broken_policies import answers_see_each_other, cold_scores, deaf, wrong_audio, wrong_rows

from speechrl import checkup, checkup_step, checkup_text, doctor
from speechrl.checkup import Check, Patient
from speechrl.policies.base import Policy, without_dropout
from speechrl.policies.speech_lm import SpeechLM
from speechrl.regimes.base import Objective, Optimisation
from speechrl.regimes.grpo import GroupRelative, GroupSettings
from speechrl.regimes.sft import Supervised
from speechrl.types import Answer, Decoding, Example
from tests import miniature

LORA = {"rank": 4, "alpha": 8}
SETTINGS = GroupSettings(group_size=4, decoding=Decoding(temperature=0.9, top_k=50, max_tokens=10))


def length(answers: Sequence[Answer], examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """A reward that any model earns something of."""
    return {"length": torch.tensor([float(row + len(answer.text)) for row, answer in enumerate(answers)])}


def patient(policy: Policy, probes: Sequence[Example], **changes: Any) -> Patient:
    """As a GRPO run would be admitted."""
    without_dropout(policy)
    settings = changes.get("settings", SETTINGS)
    stages: list[Objective] = [Supervised(), GroupRelative(checkup_step.varied, settings)]
    for stage in stages:
        stage.begin(policy)
    known = {"decoding": settings.decoding, "stages": stages, "settings": settings, "reward": length}
    optimisation = Optimisation(batch_size=6, micro_batch=2)
    return Patient(policy=policy.train(), probes=probes, **{"optimisation": optimisation, **known, **changes})


def speaking(**options: Any) -> Patient:
    return patient(test_speech_lm.policy(**options), tiny_models.examples())


def detecting() -> Patient:
    return patient(test_classifier.policy(), test_classifier.examples())


@pytest.mark.parametrize("make", [speaking, lambda: speaking(lora=LORA), detecting], ids=["full", "lora", "detector"])
def test_a_sound_policy_is_found_sound(make: Callable[[], Patient]) -> None:
    found = dict(doctor.examine(make()))
    assert len(found) == len(doctor.CHECKS)
    assert not [(name, finding.sentence) for name, finding in found.items() if finding.passed is False]
    skipped = sum(finding.passed is None for finding in found.values())
    assert skipped == (3 if make is detecting else 0)
    for finding in found.values():
        assert finding.sentence[0].isupper() and finding.sentence.endswith(".") and "\n" not in finding.sentence


BREAKS: list[tuple[Callable[[SpeechLM], None], Check]] = [
    (cold_scores, checkup.sampled_answers_are_rescored_alike),
    (wrong_rows, checkup.sampled_answers_are_rescored_alike),
    (sick.hidden_dropout, checkup.the_ratio_is_one_at_the_start),
    (sick.stale_copy, checkup.the_ratio_is_one_at_the_start),
    (wrong_audio, checkup.rows_score_alone_as_in_a_batch),
    (sick.batch_dependent, checkup.rows_score_alone_as_in_a_batch),
    (answers_see_each_other, checkup.rows_score_alone_as_in_a_batch),
    (sick.batch_dependent, checkup_step.micro_batches_change_nothing),
    (deaf, checkup.audio_reaches_the_answer),
    (sick.off_in_sampling, checkup.adapters_are_on_in_sampling_and_scoring),
    (sick.thawed, checkup.adapters_are_on_in_sampling_and_scoring),
    (sick.endless, checkup_text.answers_end_with_an_end),
    (sick.unknown_end, checkup_text.answers_end_with_an_end),
    (sick.always_ended, checkup_text.answers_end_with_an_end),
    (sick.closed_turn, checkup_text.prompts_end_where_answers_begin),
    (sick.other_role, checkup_text.prompts_end_where_answers_begin),
    (sick.one_token_less, checkup_text.every_audio_token_has_a_feature),
    (sick.always_the_window, checkup_text.every_audio_token_has_a_feature),
]
UNHEARD = (wrong_audio, sick.batch_dependent, deaf, sick.off_in_sampling)
"""Shown with adapters too, where the ears are not trained and what sampling heard is remembered."""
CASES = [(d, c, None) for d, c in BREAKS if d is not sick.off_in_sampling] + [
    (d, c, LORA) for d, c in BREAKS if d in UNHEARD
]


@pytest.mark.parametrize(
    "damage, check, lora", CASES, ids=[f"{d.__name__}-{c.__name__}{'-lora' if lora else ''}" for d, c, lora in CASES]
)
def test_a_broken_policy_is_noticed(damage: Callable, check: Check, lora: dict | None) -> None:
    subject = speaking(lora=lora)
    damage(subject.policy)
    [(_, finding)] = doctor.examine(subject, [check])
    assert finding.passed is False and "It stopped with" not in finding.sentence, finding.sentence


def test_a_broken_detector_is_noticed() -> None:
    padded, deaf_one = test_classifier.policy("group"), test_classifier.policy()
    padded._paddable = True
    with torch.no_grad():
        deaf_one.head.weight.zero_()
    clips, alone = test_classifier.examples(), checkup.rows_score_alone_as_in_a_batch
    assert alone(patient(padded, clips)).passed is False
    assert checkup.audio_reaches_the_answer(patient(deaf_one, clips)).passed is False
    released = alone(patient(test_classifier.policy(masked=False), clips))
    assert released.passed is None and "as the released code does" in released.sentence


class Scaled(Supervised):
    """Each micro-batch's loss is its own mean."""

    def parts(self, policy: Policy, examples: Sequence[Example], step: int, micro_batch: int | None) -> Any:
        for part in super().parts(policy, examples, step, micro_batch):
            yield replace(part, loss=part.loss * len(examples) / (micro_batch or len(examples)))


@pytest.mark.parametrize("make", [speaking, detecting])
def test_a_broken_step_is_noticed(make: Callable[[], Patient]) -> None:
    ill, check = replace(make(), stages=[Scaled()]), checkup_step.micro_batches_change_nothing
    assert check(ill).passed is False
    assert all(tensor.grad is None for tensor in ill.policy.parameters()), "gradients are left behind"


def test_a_policy_that_always_says_the_same_learns_nothing() -> None:
    sure = detecting()
    with torch.no_grad():
        sure.policy.head.bias.copy_(torch.tensor([100.0, -100.0]))
    finding = checkup_step.micro_batches_change_nothing(replace(sure, stages=sure.stages[1:]))
    assert finding.passed is False and "No gradient" in finding.sentence


@pytest.mark.parametrize(
    "values, said",
    [
        (lambda n: torch.ones(n), "nothing to learn"),
        (lambda n: torch.arange(n) // SETTINGS.group_size, "nothing to learn"),
        (lambda n: torch.tensor([0.0] * (n - 1) + [float("nan")]), "is nan for clip-2"),
        (lambda n: torch.tensor([float("inf")] + [0.0] * (n - 1)), "is inf for clip-0"),
        (lambda n: torch.arange(n - 1), "shape"),
    ],
)
def test_a_useless_reward_is_noticed(values: Callable[[int], torch.Tensor], said: str) -> None:
    ill = replace(
        detecting(), reward=lambda answers, _: {"fair": torch.zeros(len(answers)), "it": values(len(answers))}
    )
    finding = checkup_step.rewards_tell_answers_apart(ill)
    assert finding.passed is False and said in finding.sentence, finding.sentence
    whole = replace(ill, settings=replace(SETTINGS, center="batch"))
    assert checkup_step.rewards_tell_answers_apart(whole).passed is (values(4).tolist() == [0, 0, 0, 0])


def test_what_raises_has_failed_with_its_own_words() -> None:
    def raising(answers: Any, examples: Any) -> Any:
        raise ValueError("item 'a' has\nno choices")

    [(name, finding)] = doctor.examine(replace(detecting(), reward=raising), [checkup_step.rewards_tell_answers_apart])
    assert name == "rewards tell answers apart"
    assert finding == checkup.Finding(False, "It stopped with ValueError: item 'a' has no choices")


def test_the_estimate_grows_with_the_batch_and_knows_its_limit() -> None:
    well = speaking()
    small, large = (checkup_step._peaks(replace(well, probes=well.probes[:count]), None) for count in (1, 3))
    assert large[0] > 1.5 * small[0] and large[1] > 1.5 * small[1]
    assert checkup_step._peaks(well, 1)[1] < large[1], "parts of a step take less than all of it"
    weights = sum(tensor.nbytes for tensor in well.policy.parameters())
    trained = sum(tensor.nbytes for tensor in well.policy.trained_state().values())
    wanted = weights + 4 * trained  # gradients, two moments, the reference
    assert checkup_step._standing(well) == pytest.approx(wanted, rel=0.01)
    huge = replace(well, optimisation=Optimisation(batch_size=10**8))
    finding = checkup_step.a_step_fits_the_machine(huge)
    assert finding.passed is False and "lower optimisation.micro_batch" in finding.sentence
    assert "estimate" in checkup_step.a_step_fits_the_machine(well).sentence


def test_held_counts_what_lives_at_once() -> None:
    layer = torch.nn.Linear(1, 1)
    with checkup_step.Held(layer) as held:
        for _ in range(5):
            block = torch.zeros(1000)
            view = block.view(10, 100).t()
            del block, view
        kept = [torch.zeros(500), torch.zeros(500)]
    assert held.peak == 4000 and len(kept) == 2


SCRIPT = """
import json, sys
from rich.console import Console
from speechrl import doctor
from speechrl.config import composed
folders, runs = json.loads(sys.argv[1])
for overrides in runs:
    doctor.diagnose(composed(overrides, folders), Console(width=500))
"""


def test_a_run_is_examined_from_its_configuration(tmp_path: Path) -> None:
    """In a process of its own, without the types checked: Hydra gives a list where a tuple is declared."""
    corpus = miniature.corpus(tmp_path / "corpus")
    skipped = {"grpo": 3, "sft": 4, "hybrid": 3, "none": 6}
    runs = [miniature.overrides(corpus, tmp_path / "runs", regime, "grpo.group_size=8") for regime in skipped]
    asked = [sys.executable, "-c", SCRIPT, json.dumps([[miniature.CONF], runs])]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    count = len(doctor.CHECKS)
    wanted = [f"{count - number} passed, 0 failed, {number} skipped" for number in skipped.values()]
    assert [line for line in done.stdout.splitlines() if "passed, " in line] == wanted, done.stdout
    assert not (tmp_path / "runs").exists(), "an examination leaves nothing behind"


def test_the_exit_status_and_what_cannot_be_examined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    corpus = miniature.corpus(tmp_path / "corpus", train=1)
    overrides = miniature.overrides(corpus, tmp_path, "grpo", f"hydra.searchpath=[file://{miniature.CONF}]")
    for healthy in (True, False):
        monkeypatch.setattr(doctor, "diagnose", lambda *_, healthy=healthy: healthy)
        monkeypatch.setattr("sys.argv", ["doctor", *overrides])
        with pytest.raises(SystemExit) as ended:
            doctor.main()
        assert ended.value.code == int(not healthy)
    monkeypatch.undo()
    monkeypatch.setattr("sys.argv", ["doctor", *overrides])
    with pytest.raises(SystemExit) as ended:
        doctor.main()
    assert ended.value.code == 1 and "the training split has 1 items" in capsys.readouterr().err


@pytest.mark.slow
def test_the_true_qwen2_audio_but_for_its_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2-Audio-7B's own widths, heads, vocabulary and window; one encoder layer, one decoder layer; 7 GB."""
    monkeypatch.setattr(checkup, "MOST_TOKENS", 3)  # each token's 156,032 logits take a core a tenth of a second
    settings = {
        "audio_config": {"encoder_layers": 1},
        "text_config": {"num_hidden_layers": 1, "intermediate_size": 11008, "vocab_size": 156032, "rms_norm_eps": 1e-5},
    }
    policy = tiny_models.qwen2_audio(config=settings, lora={"rank": 16, "alpha": 32}, freeze=["encoder", "projector"])
    config = policy.network.config
    assert (config.audio_config.d_model, config.audio_config.num_mel_bins) == (1280, 128)
    assert (config.text_config.hidden_size, config.text_config.num_attention_heads) == (4096, 32)
    small = GroupSettings(group_size=2, decoding=Decoding(max_tokens=3))
    found = dict(doctor.examine(patient(policy, tiny_models.examples()[:2], settings=small)))
    print(*(f"{name}: {finding.sentence}" for name, finding in found.items()), sep="\n")
    assert not [(name, finding.sentence) for name, finding in found.items() if not finding.passed]
