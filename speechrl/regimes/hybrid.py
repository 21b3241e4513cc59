"""SFT and then GRPO, from the best weights of the SFT stage."""

from typing import Any

from speechrl.policies.base import Policy
from speechrl.regimes.base import Optimisation, Regime
from speechrl.regimes.grpo import GroupRelative
from speechrl.regimes.sft import Supervised


class Hybrid(Regime):
    """Two stages of equal length, each with its own schedule and a fresh optimiser (2603.02914, section 3.1)."""

    def __init__(
        self, policy: Policy, sft: Supervised, grpo: GroupRelative, optimisation: Optimisation, **run: Any
    ) -> None:
        super().__init__(policy, [sft, grpo], optimisation, **run)
