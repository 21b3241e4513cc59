"""SFT, GRPO and the hybrid on a toy: they learn, repeat themselves, split and resume without changing a number."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from speechrl.regimes.base import DECAYS, Optimisation, Regime, Selection
from speechrl.regimes.grpo import GRPO, GroupRelative, GroupSettings
from speechrl.regimes.hybrid import Hybrid
from speechrl.regimes.sft import SFT, Supervised
from tests.toy import Toy, examples, match

BATCH = examples(24)
TEST = examples(200, seed=9)


class Log(pl.loggers.logger.DummyLogger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict]] = []

    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        self.rows.append((step or 0, dict(metrics)))


def accuracy(policy: Toy) -> dict[str, float]:
    rows = policy.encode([e.target for e in TEST])
    with torch.no_grad():
        return {"valid/accuracy": float((policy.logps(TEST, rows).exp() > 0.5).float().mean())}


def fit(regime: Regime, *, steps: int | None = None, ckpt: Path | None = None) -> tuple[pl.Trainer, Log]:
    start = torch.load(ckpt, weights_only=True)["global_step"] if ckpt else 0
    batches = [BATCH] * (regime.total_steps - start)
    log = Log()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps or regime.total_steps, max_epochs=-1, logger=log, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(batches, batch_size=None, collate_fn=lambda b: b)
    trainer.fit(regime, loader, ckpt_path=ckpt)
    return trainer, log


def make(kind: str, policy: Toy, best: dict | None = None, **grpo) -> Regime:
    micro = grpo.pop("micro_batch", None)
    optimisation = Optimisation(steps=30, lr=0.1, validate_every=10, warmup_steps=3, decay="linear", micro_batch=micro)
    objective = GroupRelative(match, GroupSettings(**grpo), seed=3)
    kept = {} if best is None else best
    run = {
        "seed": 3,
        "selection": Selection(accuracy, "valid/accuracy", True),
        "keep_best": lambda stage, state: kept.update({stage: {k: v.detach().clone() for k, v in state.items()}}),
        "read_best": lambda stage: kept[stage],
    }
    parts = {"sft": {"sft": Supervised()}, "grpo": {"grpo": objective}}
    parts["hybrid"] = parts["sft"] | parts["grpo"]
    return {"sft": SFT, "grpo": GRPO, "hybrid": Hybrid}[kind](policy, optimisation=optimisation, **parts[kind], **run)


KINDS = ("sft", "grpo", "hybrid")


@pytest.mark.parametrize("kind", KINDS)
def test_learns(kind: str) -> None:
    policy = Toy()
    before = accuracy(policy)["valid/accuracy"]
    fit(make(kind, policy))
    assert before < 0.8
    assert accuracy(policy)["valid/accuracy"] > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_twice_is_the_same_run(kind: str) -> None:
    runs = []
    for _ in range(2):
        policy = Toy(dropout=0.3)
        _, log = fit(make(kind, policy))
        runs.append((policy.head.weight.detach().clone(), [m["train/loss"] for _, m in log.rows if "train/loss" in m]))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_ends_like_an_undisturbed_one(kind: str, tmp_path: Path) -> None:
    whole, kept = Toy(), {}
    fit(make(kind, whole, kept, snapshot_every=7))
    for at in (8, 34) if kind == "hybrid" else (8, 29):
        first, again, best = Toy(), Toy(seed=5), {}
        trainer, _ = fit(make(kind, first, best, snapshot_every=7), steps=at)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        fit(make(kind, again, best, snapshot_every=7), ckpt=tmp_path / "last.ckpt")
        assert torch.equal(whole.head.weight, again.head.weight), at
        assert all(torch.equal(kept[s]["head.weight"], best[s]["head.weight"]) for s in kept)


SETTINGS = [{}, {"snapshot_every": 5}, {"center": "batch", "scale": "batch"}, {"how": "token"}]


@pytest.mark.parametrize("settings", SETTINGS)
def test_micro_batches_change_no_number(settings: dict) -> None:
    weights = []
    for micro in (None, 1, 3, 24):
        policy = Toy()
        fit(make("grpo", policy, micro_batch=micro, **settings), steps=5)
        weights.append(policy.head.weight.detach())
    assert all(torch.allclose(weights[0], other, atol=1e-6) for other in weights[1:])


def test_hybrid_starts_grpo_from_the_best_weights_and_is_held_to_them() -> None:
    policy, kept = Toy(), {}
    regime = make("hybrid", policy, kept)
    fit(regime, steps=31)
    reference = regime.stages[1]._reference.state["head.weight"]
    assert torch.equal(reference, kept[0]["head.weight"])
    regime = make("hybrid", start := Toy(), kept, anchor="run")
    initial = start.head.weight.detach().clone()
    fit(regime, steps=31)
    assert torch.equal(regime.stages[1]._reference.state["head.weight"], initial)


def test_a_detector_hears_each_clip_once_a_step() -> None:
    for settings, passes in (({"beta": 0.0}, 1), ({}, 2), ({"snapshot_every": 5}, 3)):
        policy = Toy()
        regime = make("grpo", policy, **settings)
        regime.selection = None
        fit(regime, steps=4)
        assert policy.heard == 4 * passes * len(BATCH), settings


def test_logs_say_what_matters_and_notes_what_alarms(capsys: pytest.CaptureFixture) -> None:
    policy = Toy()
    _, log = fit(make("grpo", policy, beta=0.0, group_size=2), steps=30)
    names = set(log.rows[0][1])
    wanted = "reward reward_match dead_groups kl ratio clipped answer_entropy lr loss grad_norm examples_per_second"
    assert {f"train/{name}" for name in wanted.split()} <= names
    printed = capsys.readouterr().out
    assert "loss is 0: on-policy with beta = 0" in printed
    assert "groups carry no signal" in printed
    assert printed.count("loss is 0") == 1


def test_dropout_is_off_in_grpo_unless_wanted() -> None:
    for wanted in (False, True):
        policy = Toy(dropout=0.5)
        _, log = fit(make("grpo", policy, dropout=wanted), steps=1)
        first = log.rows[0][1]
        assert (first["train/kl"] > 1e-6) is wanted


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"center": "grup"}, "grpo.center='grup': choose one of group, batch, none"),
        ({"sample_from": "old"}, "needs grpo.snapshot_every"),
        ({"group_size": 1}, "group_size must be at least 2"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        GroupSettings(**settings)


def test_schedules() -> None:
    ramp = Optimisation(steps=100, lr=1.0, warmup_steps=10, decay="linear")
    assert ramp.rate(0) == pytest.approx(0.1)
    assert ramp.rate(10) == pytest.approx(1.0)
    assert ramp.rate(55) == pytest.approx(0.5)
    released = Optimisation(steps=18000, lr=1e-6, warmup_steps=80000, decay="exponential", decay_steps=50000)
    assert released.rate(17999) == pytest.approx(1e-6 * 18000 / 80000)
    assert set(DECAYS) == {"none", "linear", "cosine", "exponential"}
    with pytest.raises(ValueError, match="optimisation.decay='cosin'"):
        Optimisation(decay="cosin")


def test_a_checkpoint_of_another_base_is_refused(tmp_path: Path) -> None:
    first, other = Toy(), Toy(seed=5)
    first.base_identity, other.base_identity = "aaaa", "bbbb"
    trainer, _ = fit(make("sft", first), steps=3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="trained from another base model"):
        fit(make("sft", other), ckpt=tmp_path / "last.ckpt")
