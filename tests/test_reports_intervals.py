"""Intervals against published values."""

import math

import pytest

from w4s_jax.reports.intervals import mean, share, student_t
from w4s_jax.types import InputError


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_shares_have_wilsons_interval(right, n, low, high):
    """The last is Newcombe's (1998) published example, 81 of 263."""
    estimate = share(right, n)
    assert estimate.low == pytest.approx(low, abs=1e-4)
    assert estimate.high == pytest.approx(high, abs=1e-4)


def test_a_mean_of_five_uses_students_t():
    estimate = mean([1.0, 2.0, 3.0, 4.0, 5.0])
    assert estimate.value == 3.0
    assert estimate.high - 3.0 == pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5), abs=1e-3)


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.706), (4, 2.776), (20, 2.086), (30, 2.042), (120, 1.980)])
def test_quantiles_are_the_printed_tables(degrees, quantile):
    assert student_t(degrees) == pytest.approx(quantile, abs=1e-3)


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert mean([0.5]).high == math.inf
    with pytest.raises(InputError):
        mean([])
    with pytest.raises(InputError):
        share(3, 2)


def test_nothing_evaluated_is_zero_with_a_vacuous_interval():
    assert share(0, 0)[:] == (0.0, 0, 0.0, 1.0)
