"""The configuration: its schema with Python's own defaults, how it is composed, and how the parts are built from it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from speechrl.regimes.base import Optimisation
from speechrl.regimes.grpo import GroupSettings
from speechrl.types import GREEDY, Decoding

CONF = Path(__file__).parent.parent / "conf"


@dataclass
class Paths:
    """Where things are kept: finished runs, and what can be made again (corpora, base models, features)."""

    runs: str = "runs"
    cache: str = "cache"
    data: str | None = None
    """The folder of the paper's data sets, as `python -m speechrl.prepare` left it."""


@dataclass
class Evaluation:
    """How answers are judged: decoding, alike for every row of a table, and how much is heard at once."""

    decoding: Decoding = field(default_factory=lambda: GREEDY)
    batch_seconds: float = 100.0
    drift_clips: int = 0
    """Clips of each test set whose embeddings are held against the validation set's; 0 where there are none."""


@dataclass
class Schema:
    """Every key there is; a key that is not here is a typo and fails."""

    scale: Any = MISSING
    task: Any = MISSING
    model: Any = MISSING
    reward: Any = MISSING
    regime: Any = None
    data: Any = MISSING
    base_corpus: Any = "${data.folder}"
    """What embedded base models are made from: by default the corpus that the study is about."""
    trainer: Any = MISSING
    logger: Any = None
    optimisation: Optimisation = field(default_factory=Optimisation)
    grpo: GroupSettings = field(default_factory=GroupSettings)
    evaluation: Evaluation = field(default_factory=Evaluation)
    paths: Paths = field(default_factory=Paths)
    seed: int = 0
    table: str = "adhoc"
    row: str = MISSING
    manifest: str | None = None
    on_bad_audio: str = "stop"
    keep_rollouts: bool = False
    checkpoint_seconds: float = 60.0


def _schema() -> DictConfig:
    # OmegaConf makes a node of a frozen dataclass read-only; a configuration must still be able to override it
    schema: DictConfig = OmegaConf.structured(Schema)
    for node in (schema.grpo, schema.grpo.decoding, schema.optimisation, schema.evaluation.decoding):
        OmegaConf.set_readonly(node, None)
    return schema


ConfigStore.instance().store(name="schema", node=_schema())


def composed(overrides: list[str], extra: list[str] | None = None) -> DictConfig:
    """The configuration that `python -m speechrl.train OVERRIDES` would run; `extra` are further config folders."""
    searched = [f"hydra.searchpath=[{','.join('file://' + str(Path(p).resolve()) for p in extra)}]"] if extra else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [*overrides, *searched])


def built(node: Any, **more: Any) -> Any:
    """The object that a node's `_target_` makes, with dataclasses and plain containers for everything inside it.

    What a constructor says of its arguments is raised as it said it, without Hydra's wrapping.
    """
    try:
        return instantiate(node, _convert_="object", **more)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, ValueError | OSError)):
            cause = cause.__cause__
        raise (cause or error) from None


def plain(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """The configuration as plain containers."""
    container = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}
