"""The strategies by name: what `--strategy` can be.

name → **STRATEGIES** → SearchEngine
"""

from __future__ import annotations

from collections.abc import Mapping

from w4s_jax.search.best_of_n import BestOfN
from w4s_jax.search.random_edits import RandomEdits
from w4s_jax.search.strategy import StrategyFactory
from w4s_jax.search.w4s import W4SStrategy

STRATEGIES: Mapping[str, StrategyFactory] = {
    W4SStrategy.name: W4SStrategy,
    RandomEdits.name: RandomEdits,
    BestOfN.name: BestOfN,
}
