"""A run on Weights & Biases: one run per cell, found again by its signature; the run's own files stay the record."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from speechrl.config import plain
from speechrl.runs import signature

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger


def wandb(run: DictConfig, folder: Path, *, project: str = "speechrl", offline: bool = True) -> "WandbLogger":
    """Lightning's logger with a stable id, grouped by table; offline unless asked, to be uploaded by `wandb sync`."""
    from pytorch_lightning.loggers import WandbLogger

    regime = run.regime._target_.rsplit(".", 1)[-1].lower() if run.regime else "none"
    return WandbLogger(
        name=f"{run.row} seed={run.seed}",
        id=f"{run.table}-{run.row}-{run.seed}-{signature(run)}",
        project=project,
        save_dir=str(folder),
        offline=offline,
        resume=None if offline else "allow",
        group=run.table,
        job_type=regime,
        tags=[run.scale.name, run.row],
        config=plain(run),
    )
