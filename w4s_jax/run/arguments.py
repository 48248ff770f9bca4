"""Arguments of a call instead of flags: options by keyword, objects of the program, errors in the words of Python.

`w4s_jax.optimize(num_candidates=3, …)` → **option_values** → RunConfig → run; error → **in_words_of_calls** → caller

What a command line cannot give (a function, a client, a task that is an object) stands in `run.flags` under the
name of what it was, so that a command refuses to go on with something else.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from w4s_jax.run.config import RunConfig
from w4s_jax.run.options import Option, OptionType, options
from w4s_jax.types import InputError, W4sError

OF_PROGRAM = "program:"
"""What stands before the name of an object of a program, where an option's text would be."""

_ARGUMENTS = {"task": "data", "scorer": "metric", "executor_model": "executor", "executor_prices": "prices"}
"""Options that a call names otherwise."""
_FLAG = re.compile(r"--(\w+)(=?)")
_PHRASES = (
    ("--test measures it", "result.test() measures it"),
    ("--test measures them", "result.test() measures them"),
    ("run the same command again", "make the same call again"),
    ("the same command", "the same call"),
    ("with other flags", "with other options"),
)
"""Of commands, and of calls."""

_WANTED = {
    OptionType.TEXT: "a text",
    OptionType.INTEGER: "a whole number",
    OptionType.NUMBER: "a number",
    OptionType.SWITCH: "True or False",
    OptionType.LIST: "a list of texts",
}


def option_values(given: Mapping[str, Any], allowed: Collection[str], settled: Collection[str]) -> dict[str, Any]:
    """The values of options that were given as keyword arguments.

    Args:
        given: By name.
        allowed: Names of the options that the call takes.
        settled: Names of those that its other arguments set.

    Raises:
        InputError: An unknown name, one that another argument sets, or a value of another type.
    """
    values = {}
    for name, value in given.items():
        if name in _ARGUMENTS:
            raise InputError(f"{name}={value!r} is not an argument; give it as {_ARGUMENTS[name]}=")
        if name not in allowed:
            near = difflib.get_close_matches(name, sorted(set(allowed) - set(_ARGUMENTS)), n=1)
            hint = f"; did you mean {near[0]}?" if near else "; the options are those of the command, see docs/api.md"
            raise InputError(f"argument {name}={value!r} is unknown{hint}")
        if name in settled:
            raise InputError(f"{name}={value!r} is given twice: another argument of this call decides it; drop one")
        values[name] = _typed(options(RunConfig)[name], value)
    return values


def _typed(option: Option, value: Any) -> Any:
    """A value as the option's type has it."""
    if value is None and option.optional:
        return None
    match option.type:
        case OptionType.TEXT if isinstance(value, str | os.PathLike):
            return os.fspath(value)
        case OptionType.INTEGER if isinstance(value, int) and not isinstance(value, bool):
            return value
        case OptionType.NUMBER if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        case OptionType.SWITCH if isinstance(value, bool):
            return value
        case OptionType.LIST if isinstance(value, str | os.PathLike):
            return option.read(os.fspath(value))
        case OptionType.LIST if isinstance(value, Collection) and all(isinstance(v, str | os.PathLike) for v in value):
            return tuple(map(os.fspath, value))
    raise InputError(f"{option.name}={value!r} is a {type(value).__name__}; give {_WANTED[option.type]}")


def budget_text(usd: float | None) -> str:
    """A cap in USD as the option writes it; empty for none.

    Raises:
        InputError: It is no number.
    """
    if usd is None:
        return ""
    if isinstance(usd, bool) or not isinstance(usd, int | float):
        raise InputError(f"budget_usd={usd!r} is a {type(usd).__name__}; give USD, or float('inf') to set no cap")
    return f"{usd:.12g}"


# --- objects of a program -----------------------------------------------------------


def refuse_objects(config: RunConfig, names: Collection[str]) -> None:
    """Refuses a run whose flags name what only the program had that began it.

    Args:
        config: As a command line gives it.
        names: Of the command's options.

    Raises:
        InputError: An option names an object of a program.
    """
    known = options(RunConfig)
    for name in sorted(names):
        value = known[name].value(config)
        texts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and text.startswith(OF_PROGRAM) for text in texts):
            what = ",".join(map(str, texts)).removeprefix(OF_PROGRAM)
            raise InputError(
                f"--{name} was {what}, an object of the program that began this run, which no command line can give; "
                f"call w4s_jax again with it, or give another --{name}"
            )


# --- errors -------------------------------------------------------------------------


def as_argument(name: str) -> str:
    """What a call names an option."""
    return _ARGUMENTS.get(name, name)


def as_field(name: str) -> str:
    """Where a `RunConfig` has an option, e.g. `budget.usd`."""
    return ".".join(options(RunConfig)[name].path)


def words_of_calls(text: str, named: Callable[[str], str] = as_argument) -> str:
    """A text about flags, in the words of a call.

    Args:
        text: As commands say it.
        named: What the call names an option.

    Example:
        >>> words_of_calls("there is no cap; give --budget_usd=<USD>")
        'there is no cap; give budget_usd=<USD>'
    """
    for of_command, of_call in _PHRASES:
        text = text.replace(of_command, of_call)

    def renamed(match: re.Match[str]) -> str:
        name, equals = match.groups()
        known = options(RunConfig)
        plain = name.removeprefix("no")
        if name in known:
            switch = known[name].type is OptionType.SWITCH and not equals
            return f"{named(name)}=True" if switch else named(name) + equals
        return f"{named(plain)}=False" if plain in known and name != plain else match[0]

    return _FLAG.sub(renamed, text).replace("budget_usd=inf", "budget_usd=float('inf')")


@contextlib.contextmanager
def in_words_of_calls(named: Callable[[str], str] = as_argument) -> Iterator[None]:
    """Lets errors of the library pass with the names that a call has for options."""
    try:
        yield
    except W4sError as error:
        error.args = (words_of_calls(str(error), named), *error.args[1:])
        raise
