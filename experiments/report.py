"""One self-contained HTML page: `python -m experiments.report --run_dirs=runs/a,runs/b --output=report.html`.

run directories → **tables, plots, trees** → report.html

Works on finished runs, on killed ones and on one that is still going on: it only reads.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from w4s_jax.reports.html import write_page
from w4s_jax.run.config import RunConfig
from w4s_jax.types import InputError

from . import app
from .flags import Flags

FLAGS = Flags(RunConfig(), ())

RUN_DIRS = flags.DEFINE_list(
    "run_dirs", [], "Run directories; several are compared on one page.", flag_values=FLAGS.values
)
OUTPUT = flags.DEFINE_string(
    "output",
    "",
    "Where the page is written (empty: report.html in the one run directory).",
    flag_values=FLAGS.values,
)


def main() -> None:
    """Writes the page and says where it is."""
    run_dirs = [Path(name) for name in RUN_DIRS.value]
    if not run_dirs:
        raise InputError("--run_dirs is empty; name one run directory or more, e.g. --run_dirs=runs/quickstart")
    if not OUTPUT.value and len(run_dirs) > 1:
        raise InputError(f"--output is empty with {len(run_dirs)} run directories; give the file to write")
    output = write_page(run_dirs, Path(OUTPUT.value) if OUTPUT.value else run_dirs[0] / "report.html")
    print(f"report of {len(run_dirs)} run(s): {output} ({output.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    app.run(main, FLAGS)
