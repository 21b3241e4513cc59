"""Deepfake detection: is the speech real or fake, judged by equal error rates (2603.02914)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from speechrl import metrics
from speechrl.data.manifest import Item
from speechrl.types import Example, Outcome


class Deepfake:
    """The score is the probability of "real"; error rates are averaged over the durations of the target domain's test
    set (`target_*`) and over the out-of-domain sets (`ood_*`), as in the paper's Table 1.

    `merge_ties=False` is the released rule for tied scores. `bonafide_dir` names the user's own recordings where they
    stand for the bona fide class of the embedded corpora.
    """

    labels = ("real", "fake")
    higher_is_better = False

    def __init__(
        self, *, selection: str = "valid/eer", merge_ties: bool = True, bonafide_dir: str | None = None
    ) -> None:
        self.selection = selection
        self.bonafide_dir = bonafide_dir
        self._merge_ties = merge_ties

    def example(self, item: Item, waveform: Float[Tensor, " s"]) -> Example:
        """The clip and its label; a detector is asked nothing."""
        if item.target not in self.labels:
            raise ValueError(f"{item.id}: label {item.target!r}; write real or fake")
        return Example(item.id, waveform, target=item.target, meta=dict(item.meta) | {"path": str(item.path)})

    def measure(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """EER, AUC and accuracy of each set, and the means over `target_*` and over `ood_*`, all but AUC in percent."""
        measured: dict[str, float] = {}
        for split in dict.fromkeys(outcome.split for outcome in outcomes):
            rows = [outcome for outcome in outcomes if outcome.split == split]
            scores = np.array([row.score for row in rows], dtype=float)
            real = np.array([row.target == "real" for row in rows])
            measured[f"{split}/eer"] = 100 * metrics.eer(scores, real, merge_ties=self._merge_ties)
            measured[f"{split}/auc"] = metrics.auc(scores, real)
            measured[f"{split}/accuracy"] = 100 * metrics.accuracy(scores, real)
        for domain in ("target", "ood"):
            for name in ("eer", "auc", "accuracy"):
                parts = [v for k, v in measured.items() if k.startswith(f"{domain}_") and k.endswith(f"/{name}")]
                if parts:
                    measured[f"{domain}/{name}"] = float(np.mean(parts))
        return measured
