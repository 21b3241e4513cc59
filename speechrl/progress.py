"""How far a run is: a small file beside it that a sweep's display, and anyone else, can read."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from speechrl.runs import write_json


class Progress(pl.Callback):
    """Writes `progress.json` every two seconds at most: the phase, the step, and how many there are."""

    def __init__(self, folder: Path, every_seconds: float = 2.0) -> None:
        self._path, self._every, self._written = folder / "progress.json", every_seconds, 0.0

    def phase(self, name: str, step: int = 0, steps: int = 0) -> None:
        """Says what is being done now."""
        write_json(self._path, {"phase": name, "step": step, "steps": steps, "time": time.time()})
        self._written = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Says which step was taken."""
        if time.monotonic() - self._written >= self._every:
            self.phase("training", trainer.global_step, int(trainer.max_steps))
