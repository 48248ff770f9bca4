"""Errors in one line, and with the name of what failed."""

import pytest

from w4s_jax.errors import first_line, named_errors, one_line
from w4s_jax.types import InputError, StoreError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("\n  no such file\nin this folder\n"), "no such file"),
        (KeyError(), "KeyError"),
        (ValueError("   \n "), "ValueError"),
        (RuntimeError("x" * 500), "x" * 200),
    ],
)
def test_the_first_line_is_the_first_with_words_or_else_the_type(error, line):
    assert first_line(error) == line


def test_a_long_text_on_one_line_ends_in_an_ellipsis():
    assert one_line(" a\n\tb  c ") == "a b c"
    assert one_line("abcdef", limit=6) == "abcdef"
    assert one_line("abcdefg", limit=6) == "abcde…"


def test_an_error_gets_the_name_of_what_failed_and_stays_its_cause():
    named = named_errors(lambda error: StoreError(f"x.json: {error}"))
    with pytest.raises(StoreError, match=r"^x\.json: disk full$") as caught, named:
        raise OSError("disk full")
    assert isinstance(caught.value.__cause__, OSError)


def test_our_own_errors_and_those_that_were_not_named_pass_as_they_are():
    own = StoreError("named already")  # an OSError as well
    with pytest.raises(StoreError) as caught, named_errors(lambda error: InputError("renamed"), OSError):
        raise own
    assert caught.value is own
    with pytest.raises(KeyError), named_errors(lambda error: InputError("renamed"), OSError, ValueError):
        raise KeyError("k")
