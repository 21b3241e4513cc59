"""Every configuration file composes, at both scales, and a typo fails."""

from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from speechrl.config import CONF, built, composed
from speechrl.regimes.base import Optimisation
from speechrl.regimes.grpo import GroupSettings

EXPERIMENTS = sorted(str(p.relative_to(CONF / "experiment").with_suffix("")) for p in CONF.glob("experiment/*/*.yaml"))
SINGLES = sorted(
    f"{group}={path.stem}"
    for group in ("task", "regime", "ablation", "trainer", "logger", "launcher")
    for path in (CONF / group).glob("*.yaml")
)


def targets(node: object) -> list[str]:
    """Every `_target_` in a configuration."""
    if isinstance(node, dict):
        here = [node["_target_"]] if "_target_" in node else []
        return here + [t for value in node.values() for t in targets(value)]
    return [t for value in node for t in targets(value)] if isinstance(node, list) else []


def sound(config: DictConfig) -> None:
    container = OmegaConf.to_container(config, resolve=True)
    for target in targets(container):
        get_object(target)
    assert isinstance(built(config.optimisation), Optimisation)
    assert isinstance(built(config.grpo), GroupSettings)


@pytest.mark.parametrize("scale", ["embedded", "paper"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_at_both_scales(experiment: str, scale: str) -> None:
    config = composed([f"experiment={experiment}", f"scale={scale}", "paths.data=/data"])
    sound(config)
    assert config.row == Path(experiment).name
    assert config.scale.name == scale


@pytest.mark.parametrize("override", SINGLES)
def test_every_group_file_composes(override: str) -> None:
    task, _, name = override.partition("=")
    more = ["model=${scale}/qwen2_audio_7b"] if task == "task" and name == "aqa" else []
    sound(composed([override, "manifest=my.csv", *more]))


def test_ablations_change_what_they_say() -> None:
    def grpo(row: str) -> GroupSettings:
        return instantiate(composed([f"experiment=deepfake/{row}", "scale=paper"]).grpo, _convert_="object")

    base = grpo("grpo")
    assert (base.group_size, base.beta, base.center, base.snapshot_every) == (64, 0.04, "batch", 1000)
    assert grpo("grpo_beta0").beta == 0
    assert grpo("grpo_beta1").beta == 1
    assert grpo("grpo_s").snapshot_every is None
    assert (grpo("grpo_group").center, grpo("grpo_group").scale) == ("group", "group")
    without = grpo("grpo_no_negative")
    assert (without.center, without.scale, without.snapshot_every, without.beta) == ("none", "none", None, 0.04)


TYPOS = ["grpo.betaa=0", "optimisation.lrr=1", "sede=3", "experiment=deepfake/grpoo", "regime=grp"]


@pytest.mark.parametrize("typo", TYPOS)
def test_a_typo_fails(typo: str) -> None:
    with pytest.raises((ConfigCompositionException, Exception), match=typo.split("=")[0].split(".")[-1] + "|grp"):
        composed([typo])
