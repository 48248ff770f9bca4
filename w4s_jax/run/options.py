"""A field of a config as an option: its name, its bounds, and its text, both ways.

RunConfig ⇄ **options** ⇄ lines such as `--tau=0.4` → command line, `run.flags`

A default stands once, in the dataclass that uses it; what a command line, a flag file or
`run.flags` says of a field is derived from the field. The lines are those of flag
files: `--name=value`, `--name` and `--noname` for switches, lists as comma-separated values.
"""

from __future__ import annotations

import csv
import dataclasses
import enum
import functools
import io
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from w4s_jax.types import InputError

C = TypeVar("C")

_KEY = "option"


class OptionType(enum.StrEnum):
    """What the text of an option is read as."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    SWITCH = "switch"
    LIST = "list"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Facts:
    """What a field says of itself beyond its type and default."""

    help: str
    flag: str
    choices: tuple[str, ...]
    least: float | None
    most: float | None
    decides_results: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a config.

    Example:
        >>> from w4s_jax.run.config import RunConfig
        >>> options(RunConfig)["tau"].type
        <OptionType.NUMBER: 'number'>
    """

    name: str
    """Without its dashes, as every command spells it."""
    path: tuple[str, ...]
    """Names of the fields that lead to it."""
    help: str
    type: OptionType
    optional: bool
    """Whether None is a value: what is not given is decided by something else."""
    choices: tuple[str, ...]
    """Allowed texts; empty where any is."""
    least: float | None
    most: float | None
    decides_results: bool
    """Whether another value makes another run; others may change when a run is resumed."""

    def value(self, config: Any) -> Any:
        """The option's value in a config."""
        return functools.reduce(getattr, self.path, config)

    def line(self, config: Any) -> str:
        """The line that sets it again; empty where it has no value.

        Example:
            >>> from w4s_jax.run.config import RunConfig
            >>> options(RunConfig)["evaluate_before"].line(RunConfig())
            '--evaluate_before'
        """
        value = self.value(config)
        if value is None:
            return ""
        if self.type is OptionType.SWITCH:
            return f"--{self.name}" if value else f"--no{self.name}"
        text = _joined(value) if self.type is OptionType.LIST else str(value)
        return f"--{self.name}={' '.join(text.splitlines())}"  # a flag file holds an option a line

    def read(self, text: str) -> Any:
        """The value that a text stands for.

        Raises:
            InputError: It is no value of this option.
        """
        if not text and self.optional:
            return None
        match self.type:
            case OptionType.SWITCH:
                return self._switch(text)
            case OptionType.LIST:
                return _split(text)
            case OptionType.INTEGER | OptionType.NUMBER:
                return self._number(text)
        return self.checked(text)

    def checked(self, value: Any) -> Any:
        """The value, if it may be one.

        Raises:
            InputError: It is not among the choices, or out of bounds.
        """
        if value is None and self.optional:
            return None
        if self.choices and value not in self.choices:
            raise InputError(f"--{self.name}={value} is not known; give one of {', '.join(filter(None, self.choices))}")
        if isinstance(value, int | float):
            low = self.least is not None and not value >= self.least
            high = self.most is not None and not value <= self.most
            if low or high:
                raise InputError(f"--{self.name}={value} is not allowed; give {self._bounds()}")
        return value

    def _bounds(self) -> str:
        low = "" if self.least is None else f"at least {self.least:g}"
        return " and ".join(filter(None, [low, "" if self.most is None else f"at most {self.most:g}"]))

    def _switch(self, text: str) -> bool:
        known = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
        if text.lower() not in known:
            raise InputError(f"--{self.name}={text} is neither true nor false; give --{self.name} or --no{self.name}")
        return known[text.lower()]

    def _number(self, text: str) -> int | float:
        kind = int if self.type is OptionType.INTEGER else float
        try:
            number = kind(text)
        except ValueError:
            raise InputError(f"--{self.name}={text!r} is not {_a(self.type)}; give one") from None
        checked: int | float = self.checked(number)
        return checked


def option(
    default: Any,
    help: str,
    *,
    flag: str = "",
    choices: Iterable[str] = (),
    least: float | None = None,
    most: float | None = None,
    decides_results: bool = True,
) -> Any:
    """A field of a config that is an option.

    Args:
        default: Its value where nothing is given.
        help: One line, for `--help` and the docs.
        flag: The option's name where it is not the field's.
        choices: Allowed texts.
        least: The smallest number allowed.
        most: The largest number allowed.
        decides_results: False where a resumed run may have another value.
    """
    facts = _Facts(
        help=help, flag=flag, choices=tuple(choices), least=least, most=most, decides_results=decides_results
    )
    return dataclasses.field(default=default, metadata={_KEY: facts})


def options(config: type) -> Mapping[str, Option]:
    """Every option of a config's class by name, those of its parts included."""
    return _found(config)


@functools.cache
def _found(config: Any) -> Mapping[str, Option]:
    found: dict[str, Option] = {}
    for one in _options(config, ()):
        if one.name in found:
            raise AssertionError(f"--{one.name} is an option twice: {found[one.name].path} and {one.path}")
        found[one.name] = one
    return types.MappingProxyType(found)


def names_of(config: type) -> frozenset[str]:
    """Names of a config's options, those of its parts included."""
    return frozenset(options(config))


def _options(config: type, path: tuple[str, ...]) -> Iterator[Option]:
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint, facts = hints[field.name], field.metadata.get(_KEY)
        where = (*path, field.name)
        if facts is None:
            yield from _options(hint, where)
            continue
        kind, optional = _type_of(hint)
        yield Option(
            name=facts.flag or field.name,
            path=where,
            help=facts.help,
            type=kind,
            optional=optional,
            choices=facts.choices,
            least=facts.least,
            most=facts.most,
            decides_results=facts.decides_results,
        )


def _type_of(hint: Any) -> tuple[OptionType, bool]:
    parts = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        (kind,) = (part for part in parts if part is not types.NoneType)
        return _type_of(kind)[0], True
    if typing.get_origin(hint) is tuple:
        return OptionType.LIST, False
    return {
        bool: OptionType.SWITCH,
        int: OptionType.INTEGER,
        float: OptionType.NUMBER,
        str: OptionType.TEXT,
    }[hint], False


def replaced(config: C, values: Mapping[str, Any]) -> C:
    """The config with other values.

    Args:
        config: Left as it is.
        values: By the option's name.

    Raises:
        InputError: A value is out of bounds.
    """
    known = options(type(config))
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *parts, last = known[name].path
        branch = tree
        for part in parts:
            branch = branch.setdefault(part, {})
        branch[last] = known[name].checked(value)
    changed: C = _grafted(config, tree)
    return changed


def _grafted(config: Any, tree: Mapping[str, Any]) -> Any:
    """The config with all values of a part set at once, as they are checked together."""
    parts = {f.name for f in dataclasses.fields(config) if _KEY not in f.metadata}
    values = {name: _grafted(getattr(config, name), new) if name in parts else new for name, new in tree.items()}
    return dataclasses.replace(config, **values)


# --- lines ----------------------------------------------------------------------


def to_lines(config: Any, names: Collection[str]) -> dict[str, str]:
    """The lines that set these options again, by name and in its order; those without a value are left out."""
    known = options(type(config))
    lines = {name: known[name].line(config) for name in sorted(names)}
    return {name: line for name, line in lines.items() if line}


def from_lines(config: C, lines: Iterable[str]) -> C:
    """The config with what the lines of a flag file say; comments, and options of other commands, are left out.

    Args:
        config: Has the values of what no line says.
        lines: `--name=value`, `--name`, `--noname`; a later one wins.

    Raises:
        InputError: A value is none of its option.
    """
    known = options(type(config))
    values = {}
    for line in lines:
        name, text = name_and_text(line)
        if name in known:
            values[name] = known[name].read(text)
    return replaced(config, values)


def name_and_text(line: str) -> tuple[str, str]:
    """Name and text of a line of a flag file; a switch has `true` or `false`; both are empty where it sets nothing.

    Example:
        >>> name_and_text("--tau=0.4"), name_and_text("--noevaluate_before"), name_and_text("# why")
        (('tau', '0.4'), ('evaluate_before', 'false'), ('', ''))
    """
    line = line.strip()
    if not line.startswith("--"):
        return "", ""
    name, equals, text = line.removeprefix("--").partition("=")
    if equals:
        return name, text
    return (name.removeprefix("no"), "false") if name.startswith("no") else (name, "true")


def _joined(values: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in next(csv.reader([text]), []))


def _a(kind: OptionType) -> str:
    return "an integer" if kind is OptionType.INTEGER else "a number"
