"""What a task is: how an item becomes an example, and how outcomes become numbers."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from speechrl.data.manifest import Item
from speechrl.types import Example, Outcome


@runtime_checkable
class Task(Protocol):
    """Says what is asked and how answers are judged; it never sees a policy."""

    labels: tuple[str, ...] | None
    """The closed set of answers; the first one's probability is an outcome's score. None for open text."""
    selection: str
    """The validation metric that checkpoints are chosen by."""
    higher_is_better: bool

    def example(self, item: Item, waveform: Tensor) -> Example:
        """The item as a policy gets it."""
        ...

    def measure(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """All metrics, named `<set>/<metric>`."""
        ...
