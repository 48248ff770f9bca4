"""Says what works on this machine: `python -m experiments.doctor`.

packages, devices, sandbox layers, keys, disk → run.doctor → **a table, exit code**

Each line is ok or missing, and a missing one says its remedy. Exit code 0 means that the
quickstart can run here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from w4s_jax.run.config import RunConfig
from w4s_jax.run.doctor import can_run, examine, format_checks, to_json

from . import app
from .flags import Flags

FLAGS = Flags(RunConfig(), ())
_JSON_OUT = FLAGS.json_out()


def main() -> None:
    """Examines, prints, and exits with 0 when the quickstart can run."""
    checks = examine()
    if _JSON_OUT.value:
        Path(_JSON_OUT.value).write_text(json.dumps(to_json(checks), indent=1) + "\n", encoding="utf-8")
    print(format_checks(checks))
    sys.exit(0 if can_run(checks) else 1)


if __name__ == "__main__":
    app.run(main, FLAGS)
