"""95 % intervals of what is reported.

outcomes → **estimate with n and interval** → summary, tables, report

Shares use Wilson's score interval (Wilson 1927), which keeps its coverage near 0
and 1 and for small n; means and paired differences use Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from w4s_jax.types import InputError

_Z = 1.959963984540054
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""97.5 % quantiles of Student's t for 1 … 15 degrees of freedom."""


class Estimate(NamedTuple):
    """A number with its 95 % interval.

    Example:
        >>> share(8, 10).value
        0.8
    """

    value: float
    n: int
    """Independent observations behind it."""
    low: float
    high: float

    def as_json(self) -> dict[str, Any]:
        """`accuracy`, `n` and `ci95`, as every result file names them."""
        return {"accuracy": self.value, "n": self.n, "ci95": [self.low, self.high]}

    def __str__(self) -> str:
        """E.g. `0.800 [0.490, 0.943] n=10`."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n}"


def share(right: float, n: int) -> Estimate:
    """A share with Wilson's interval; of nothing, 0 with [0, 1].

    A sum of scores in [0, 1] may stand for `right`: no such scores vary more than those that are 0 or 1 with the same
    mean, so the interval is then on the safe side.

    Raises:
        InputError: Not 0 ≤ right ≤ n.
    """
    if not 0 <= right <= n:
        raise InputError(f"right={right} of n={n} is no share; it must lie in [0, n]")
    if n == 0:
        return Estimate(0.0, 0, 0.0, 1.0)
    p, z2 = right / n, _Z * _Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Estimate(p, n, max(0.0, middle - half), min(1.0, middle + half))


def mean(values: Sequence[float]) -> Estimate:
    """A mean with Student's interval; of fewer than two values the interval is unbounded.

    Paired differences are means: pass the differences.

    Raises:
        InputError: There is no value.
    """
    if not values:
        raise InputError("a mean of no values was asked for; give at least one")
    array = np.asarray(values, np.float64)
    n, middle = len(array), float(array.mean())
    if n == 1:
        return Estimate(middle, 1, -math.inf, math.inf)
    half = student_t(n - 1) * float(array.std(ddof=1)) / math.sqrt(n)
    return Estimate(middle, n, middle - half, middle + half)


def student_t(degrees: int) -> float:
    """97.5 % quantile of Student's t: a table up to 15, then Cornish and Fisher's expansion (error below 1e-3)."""
    if degrees <= len(_T):
        return _T[degrees - 1]
    z, d = _Z, degrees
    return z + (z**3 + z) / (4 * d) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * d * d)


def bounded_mean(scores: Sequence[float]) -> Estimate:
    """A mean of scores in [0, 1], its interval within that; of fewer than two, all of it."""
    if len(scores) < 2:
        return Estimate(sum(scores), len(scores), 0.0, 1.0)
    found = mean(scores)
    return found._replace(low=max(0.0, found.low), high=min(1.0, found.high))
