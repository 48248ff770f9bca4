"""The flags of every command, derived from the fields of `RunConfig`: one name, one meaning, one default.

RunConfig → **define** → absl's flags → command line, flag files → **Flags.config** → RunConfig

Later flags win over the flag file; `run.flags`, which the library writes, is a flag file that re-runs the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from absl import flags

from w4s_jax.run.config import RunConfig
from w4s_jax.run.options import Option, OptionType, options, replaced

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """The options that a command takes as flags."""

    defaults: RunConfig
    names: frozenset[str]

    def config(self) -> RunConfig:
        """The run that the command line describes.

        Raises:
            InputError: Flags that do not fit together.
        """
        known = options(RunConfig)
        values = {name: FLAGS[name].value for name in self.names}
        lists = {name: tuple(v) for name, v in values.items() if known[name].type is OptionType.LIST}
        return replaced(self.defaults, values | lists)


def define(defaults: RunConfig, names: Collection[str]) -> Flags:
    """Defines flags, to be called while a command's module loads.

    Args:
        defaults: Has the command's own defaults.
        names: Of the options that the command takes.
    """
    known = options(RunConfig)
    for name in known:
        if name in names:
            _define(known[name], defaults)
    return Flags(defaults=defaults, names=frozenset(names))


def _define(one: Option, defaults: RunConfig) -> None:
    default, bounds = one.value(defaults), {"lower_bound": one.least, "upper_bound": one.most}
    if one.choices:
        flags.DEFINE_enum(one.name, default, list(one.choices), one.help)
        return
    match one.type:
        case OptionType.SWITCH:
            flags.DEFINE_boolean(one.name, default, one.help)
        case OptionType.INTEGER:
            flags.DEFINE_integer(one.name, default, one.help, **bounds)
        case OptionType.NUMBER:
            flags.DEFINE_float(one.name, default, one.help, **bounds)
        case OptionType.LIST:
            flags.DEFINE_list(one.name, list(default), one.help)
        case OptionType.TEXT:
            flags.DEFINE_string(one.name, default, one.help)


def define_json_out() -> None:
    """Where the result is written to as JSON, too."""
    flags.DEFINE_string("json_out", "", "Write the result as JSON to this file too.")


def define_dry_run() -> None:
    """Whether only the worst case is wanted."""
    flags.DEFINE_boolean("dry_run", False, "Print the worst case in calls, tokens and USD, and stop.")
