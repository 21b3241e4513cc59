"""A task's manifests: which clips train, which choose the checkpoint, and which test sets there are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from speechrl.audio import Channel
from speechrl.data import manifest
from speechrl.data.manifest import Item
from speechrl.data.pipeline import Clips, Crop
from speechrl.types import Example, seed_of


@runtime_checkable
class Asking(Protocol):
    """What a split needs of a task."""

    labels: tuple[str, ...] | None

    def example(self, item: Item, waveform: Tensor) -> Example:
        """The item as a policy gets it."""
        ...


class Splits:
    """Manifests in one folder, by role; every item of every role is known before anything is trained.

    `rawboost` and `crop` (seconds: longer clips are cut to a random length in [low, high]) are for training alone,
    unless `augment_valid`, as the released detectors chose their checkpoints.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        train: str = "train.csv",
        valid: str = "valid.csv",
        tests: Mapping[str, str],
        root: str | None = None,
        crop: Sequence[float] | None = None,
        rawboost: bool = False,
        augment_valid: bool = False,
        channel: Channel = "mean",
        workers: int = 0,
    ) -> None:
        self._folder, self._root = Path(folder), root
        self._files = {"train": train, "valid": valid, **tests}
        self.tests = tuple(tests)
        self.workers = workers
        self.skipped: dict[str, int] = {}
        self._crop = Crop(*crop) if crop else None
        self._rawboost, self._augment_valid, self._channel = rawboost, augment_valid, channel
        self._items: dict[str, list[Item]] = {}

    def items(self, split: str) -> list[Item]:
        """The items of a role or test set."""
        if split not in self._items:
            self._items[split] = manifest.read(self._folder / self._files[split], root=self._root)
        return self._items[split]

    def check(self, task: Asking, on_bad_audio: Literal["stop", "skip"]) -> None:
        """Reads all manifests and decodes every clip once, so that faults stop a run before it trains."""
        for split in self._files:
            path = self._folder / self._files[split]
            self._items[split] = manifest.read(path, root=self._root, labels=task.labels)
            good, faults = manifest.check(self.items(split), on_bad_audio=on_bad_audio)
            if split in self.tests and task.labels:
                manifest.check_two_classes(good, path, task.labels)
            self._items[split], self.skipped[split] = good, len(faults)

    def training(self, task: Asking, *, seed: int) -> Clips:
        """The training clips, cropped and augmented anew at every step."""
        return self._clips("train", task, seed=seed, crop=self._crop, rawboost=self._rawboost)

    def evaluation(self, split: str, task: Asking) -> Clips:
        """Full-length clips, as they are."""
        if split == "valid" and self._augment_valid:
            return self._clips(split, task, seed=0, crop=self._crop, rawboost=self._rawboost)
        return self._clips(split, task)

    def _clips(self, split: str, task: Asking, **augmentation: Any) -> Clips:
        return Clips(self.items(split), task.example, channel=self._channel, **augmentation)

    def fingerprint(self) -> str:
        """A hash of all items, for the record."""
        return manifest.fingerprint([item for split in self._files for item in self.items(split)])


def divided(path: str, *, folder: str, parts: tuple[float, float] = (0.8, 0.1)) -> Path:
    """A folder with train.csv, valid.csv and test.csv of a user's one manifest.

    The column Proportion says which item is in which (train, valid, test); without it, a hash of each ID does, with
    `parts` the shares of train and valid. Raises ValueError where one of the three would be empty.
    """
    if not path:
        raise ValueError(
            "task=custom needs your recordings: manifest=my.csv, with the columns path and label or answer"
        )
    items = manifest.read(path)
    shares: dict[str, list[Item]] = {"train": [], "valid": [], "test": []}
    for item in items:
        at = seed_of("divided", item.id) / 2**63
        by_hash = "train" if at < parts[0] else "valid" if at < sum(parts) else "test"
        shares.setdefault(str(item.meta.get("proportion", by_hash)), []).append(item)
    empty = [name for name in ("train", "valid", "test") if not shares[name]]
    if empty:
        raise ValueError(f"{path}: no item is in {empty[0]}; write train, valid and test into a column Proportion")
    target = Path(folder) / f"custom-{manifest.fingerprint(items)}"
    for name in ("train", "valid", "test"):
        manifest.write(target / f"{name}.csv", [replace(item, path=item.path.resolve()) for item in shares[name]])
    return target
