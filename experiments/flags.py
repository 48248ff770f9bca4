"""The flags of a command, derived from the fields of `RunConfig`: one name, one meaning, one default.

RunConfig → **Flags** ⇄ command line, flag files → **Flags.config** → RunConfig

Each command has flags of its own, so that several can live in one process. Later flags win over the flag
file; `run.flags`, which the library writes, is a flag file that re-runs the run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from absl import flags

from w4s_jax.run.arguments import refuse_objects
from w4s_jax.run.config import RunConfig
from w4s_jax.run.options import Option, OptionType, options, replaced

HELP = frozenset({"--help", "-h", "-help", "--helpshort", "--helpfull"})


class Flags:
    """What one command can be told; further flags are defined with `flag_values=flags.values`.

    Example:
        >>> run = Flags(RunConfig(), {"tau"})
        >>> run.parse(["rlao", "--tau=0.5"])
        ['rlao']
        >>> run.config().training.tau
        0.5
    """

    def __init__(self, defaults: RunConfig, names: Collection[str]) -> None:
        """Defines flags.

        Args:
            defaults: Has the command's own defaults.
            names: Of the options that the command takes.
        """
        self.values = flags.FlagValues()
        self._defaults, self._names = defaults, frozenset(names)
        for one in options(RunConfig).values():
            if one.name in self._names:
                self._define(one)

    def config(self) -> RunConfig:
        """The run that the command line describes.

        Raises:
            InputError: Flags that do not fit together, or of a program's run with an object of that program.
        """
        known = options(RunConfig)
        values = {name: self.values[name].value for name in self._names}
        lists = {name: tuple(v or ()) for name, v in values.items() if known[name].type is OptionType.LIST}
        config = replaced(self._defaults, values | lists)
        refuse_objects(config, self._names)
        return config

    def parse(self, argv: Sequence[str]) -> list[str]:
        """Reads a command line, its flag files included; returns what is no flag, the program's name first.

        Raises:
            flags.Error: An unknown flag, or a value that is none of its flag.
        """
        self.values.unparse_flags()
        for name in self.values:
            self.values[name].unparse()
        rest: list[str] = self.values(list(argv))
        return rest

    def given(self) -> list[str]:
        """The flags that were given, each as a line that gives it again."""
        return [self.values[name].serialize() for name in self.values if self.values[name].present]

    def json_out(self) -> flags.FlagHolder[str]:
        """Where the result is written to as JSON, too."""
        return flags.DEFINE_string(
            "json_out", "", "Write the result as JSON to this file too.", flag_values=self.values
        )

    def dry_run(self) -> flags.FlagHolder[bool]:
        """Whether only the worst case is wanted."""
        text = "Print the worst case in calls, tokens and USD, and stop."
        return flags.DEFINE_boolean("dry_run", False, text, flag_values=self.values)

    def _define(self, one: Option) -> None:
        default, values = one.value(self._defaults), self.values
        bounds: dict[str, Any] = {"lower_bound": one.least, "upper_bound": one.most, "flag_values": values}
        if one.choices:
            flags.DEFINE_enum(one.name, default, list(one.choices), one.help, flag_values=values)
            return
        match one.type:
            case OptionType.SWITCH:
                flags.DEFINE_boolean(one.name, default, one.help, flag_values=values)
            case OptionType.INTEGER:
                flags.DEFINE_integer(one.name, default, one.help, **bounds)
            case OptionType.NUMBER:
                flags.DEFINE_float(one.name, default, one.help, **bounds)
            case OptionType.LIST:
                flags.DEFINE_list(one.name, list(default), one.help, flag_values=values)
            case OptionType.TEXT:
                flags.DEFINE_string(one.name, default, one.help, flag_values=values)
