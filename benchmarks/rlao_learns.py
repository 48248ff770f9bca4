"""Does RLAO make a meta-agent better, and better than imitation? `python -m benchmarks.rlao_learns --out=DIR`.

cells (schedule × arm × seed), each a run of `experiments.rlao` → **table with paired intervals**

Arms: the warm-started agent as packaged; RLAO; supervised training on the best
actions; cloning of all actions with reward above 0. All train with the same number
of optimiser steps and the same hyper-parameters, which were frozen on other seeds.
Schedules: 8 rounds; 3 rounds; one offline collection. Each seed has task instances
of its own, in training and in evaluation; within a seed all arms share them.

Cells are resumable run directories and remember outcomes by workflow and item, so the
benchmark may be stopped and started at will; what a finished cell measured is a small
file in `benchmarks/results/rlao_learns`, and a cell that is there is not run again.
Everything is simulated: simulator, tasks and warm start have the same authors.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from w4s_jax.reports.intervals import Estimate, mean
from w4s_jax.rollout.store import read_trajectories
from w4s_jax.tasks.toy import HELD_OUT, SEEN
from w4s_jax.types import CandidateStatus, Trajectory
from w4s_jax.workflows.grammar import read_ingredients

ARMS = {"rlao": "rwr", "best": "best", "positive": "positive"}
TITLES = {
    "warm": "warm start",
    "rlao": "RLAO",
    "best": "supervised on the best",
    "positive": "cloning of reward > 0",
}
SCHEDULES = {"rounds8": 8, "rounds3": 3, "offline": 1}
HELD_OUT_INSTANCES = 8
"""Instances of each of the three held-out families a seed: 24 in all."""
SEEN_INSTANCES = 1
TRAIN_INSTANCES = 4
FLAGS = (
    "--flagfile=experiments/flags/quickstart.flags --eval_num_turns=10 --eval_after_turns=2 --test_size=50"
    " --trajectories_per_round=20 --num_turns=8 --trajectories_per_step=3 --learning_rate=1e-3 --tau=0.25"
    " --row_length=2048"
).split()
"""Frozen on seeds 100 to 102 and on task instances from number 10,000; see docs/LOG.md."""
OFFLINE_TRAJECTORIES = 60
"""As many as three rounds collect."""
GROUPS = {"held_out": HELD_OUT, "seen": SEEN}
RESULTS = Path(__file__).parent / "results" / "rlao_learns"

USEFUL = {
    "toy_small": {"plan", "ignore"},
    "toy_large": {"program", "run"},
    "toy_table": {"facts"},
    "toy_code": {"tests", "edges"},
    "toy_ambiguous": {"wording", "vote"},
    "toy_units": {"units"},
    "toy_lookup": {"ending"},
    "toy_table_large": {"facts", "program", "run"},
    "toy_small_units": {"units", "plan"},
    "toy_table_ambiguous": {"facts", "wording", "vote"},
}
"""Ingredients that the simulator's table makes useful for the errors that a family is made of."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    schedule: str
    arm: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Its run directory."""
        return out / self.schedule / self.arm / f"seed{self.seed}"

    @property
    def result(self) -> Path:
        """What it measured."""
        return RESULTS / f"{self.schedule}-{self.arm}-seed{self.seed}.json"

    @property
    def measures_warm_start(self) -> bool:
        """One cell a seed searches with the agent as it was before training."""
        return self.schedule == "rounds8" and self.arm == "rlao"

    def read(self, group: str) -> Measures:
        """The measures of one group of families, or of the warm start on it.

        Raises:
            FileNotFoundError: The cell has not been run.
        """
        return Measures(**json.loads(self.result.read_text())[group])

    def flags(self, out: Path) -> list[str]:
        """Its command line."""
        flags = [
            *FLAGS,
            f"--run_dir={self.folder(out)}",
            f"--outcomes={out / f'outcomes{self.seed}.sqlite'}",
            f"--seed={self.seed}",
            f"--task={','.join(instances(SEEN, TRAIN_INSTANCES, 100 * self.seed))}",
            f"--eval_task={','.join(evaluated_on(self.seed))}",
            f"--weights={ARMS[self.arm]}",
            f"--evaluate_before={'true' if self.measures_warm_start else 'false'}",
        ]
        if self.schedule == "offline":
            return [*flags, f"--trajectories={offline_file(out, self.seed)}", "--num_rounds=1"]
        return [*flags, f"--num_rounds={SCHEDULES[self.schedule]}"]


def instances(families: Iterable[str], count: int, first: int) -> list[str]:
    """Names of `count` instances of each family, from number `first`."""
    return [f"{family}@{first + i}" for family in families for i in range(count)]


def evaluated_on(seed: int) -> list[str]:
    """Task instances that seed evaluates on; none is trained on."""
    first = 100 * seed + 50
    return instances(SEEN, SEEN_INSTANCES, first) + instances(HELD_OUT, HELD_OUT_INSTANCES, first)


def offline_file(out: Path, seed: int) -> Path:
    """The stored trajectories of one collection by the warm-started agent."""
    return out / "offline" / f"collected{seed}.jsonl"


def run(module_flags: Sequence[str]) -> None:
    """Runs `experiments.rlao` to its end."""
    subprocess.run([sys.executable, "-m", "experiments.rlao", *module_flags], check=True, stdout=subprocess.DEVNULL)


def collect_offline(out: Path, seed: int) -> None:
    """One collection with the warm-started agent, kept without the searches around it."""
    target = offline_file(out, seed)
    if target.exists():
        return
    folder = out / "offline" / f"collection{seed}"
    cell = Cell("rounds3", "rlao", seed).flags(out)
    cheap = f"--trajectories_per_round={OFFLINE_TRAJECTORIES} --num_rounds=1 --eval_num_turns=1"
    cheap += " --eval_task=toy_lookup --eval_after_turns="
    run([*cell, f"--run_dir={folder}", "--evaluate_before=false", *cheap.split()])
    lines = (folder / "trajectories.jsonl").read_text().splitlines(keepends=True)
    target.write_text("".join(line for line in lines if json.loads(line)["round"] == 1))


def run_cell(cell: Cell, out: Path) -> None:
    """Runs one cell and keeps what it measured, unless that is done."""
    if cell.result.exists():
        return
    print(f"running {cell}", file=sys.stderr, flush=True)
    if cell.schedule == "offline":
        collect_offline(out, cell.seed)
    run(cell.flags(out))
    measured = {group: asdict(measure(cell, out, families)) for group, families in GROUPS.items()}
    if cell.measures_warm_start:
        measured |= {f"warm_{group}": asdict(measure(cell, out, f, warm=True)) for group, f in GROUPS.items()}
    cell.result.parent.mkdir(parents=True, exist_ok=True)
    cell.result.write_text(json.dumps(measured, indent=1) + "\n")


# --- measuring ----------------------------------------------------------------


@dataclass(frozen=True)
class Measures:
    """What one seed shows of one agent on one group of families."""

    reward: float
    running: float
    reward_per_running: float
    accuracy_2: float
    accuracy_10: float
    useful: float
    """Share of running actions' chances to use a useful ingredient that were taken."""
    elsewhere: float
    """The same ingredients, in families where they are not useful."""
    tokens: int
    """Trained on, as trees."""


def measure(cell: Cell, out: Path, families: Sequence[str], *, warm: bool = False) -> Measures:
    """Reads one cell; with `warm`, its agent before training."""
    folder = cell.folder(out)
    summary = json.loads((folder / "summary.json").read_text())
    last = 0 if warm else (1 if cell.schedule == "offline" else SCHEDULES[cell.schedule]) + 1
    searches = [t for t in read_trajectories([folder]) if t.round == last and family(t.task) in families]
    candidates = [c for t in searches for turn in t.turns[:2] for c in turn.candidates]
    running = [c for c in candidates if c.status is CandidateStatus.OK]
    reward = sum(c.reward or 0.0 for c in running)
    label = "before" if warm else "after"
    useful, elsewhere = ingredient_shares(searches)
    updates = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Measures(
        reward=reward / len(candidates),
        running=len(running) / len(candidates),
        reward_per_running=reward / max(1, len(running)),
        accuracy_2=accuracy(summary[f"{label}_2"], families),
        accuracy_10=accuracy(summary[label], families),
        useful=useful,
        elsewhere=elsewhere,
        tokens=0 if warm else sum(u["tree_tokens"] for u in updates if u["kind"] == "update"),
    )


def family(task: str) -> str:
    """The family of a task instance."""
    return task.partition("@")[0]


def accuracy(results: dict, families: Sequence[str]) -> float:
    """Mean test accuracy over the instances of some families."""
    values = [r["accuracy"] for task, r in results["by_task"].items() if family(task) in families]
    return sum(values) / len(values)


def ingredient_shares(searches: Sequence[Trajectory]) -> tuple[float, float]:
    """How often useful ingredients are taken, where they are useful and where they are not."""
    every = set().union(*USEFUL.values())
    here, there = [], []
    for trajectory in searches:
        useful = USEFUL[family(trajectory.task)]
        for turn in trajectory.turns[:2]:
            for candidate in turn.candidates:
                if candidate.status is CandidateStatus.OK:
                    found = read_ingredients(candidate.code)
                    here += [name in found for name in useful]
                    there += [name in found for name in every - useful]
    return sum(here) / max(1, len(here)), sum(there) / max(1, len(there))


COLUMNS = {
    "reward": "mean reward",
    "running": "runs",
    "reward_per_running": "reward per running action",
    "accuracy_2": "accuracy, 2 turns",
    "accuracy_10": "accuracy, 10 turns",
    "useful": "useful ingredients where they help",
    "elsewhere": "the same elsewhere",
}
"""Fields of `Measures` and what a table calls them; the first three and the last two are of the first two turns."""


def table(schedule: str, seeds: Sequence[int], arms: Sequence[str], group: str) -> list[str]:
    """Rows of one schedule on one group: means over seeds, and differences to the warm start and to RLAO."""
    warm = [Cell("rounds8", "rlao", seed).read(f"warm_{group}") for seed in seeds]
    by_arm = {"warm": warm} | {arm: [Cell(schedule, arm, seed).read(group) for seed in seeds] for arm in arms}
    lines = ["| agent | " + " | ".join(COLUMNS.values()) + " | tokens trained |", "|---" * (len(COLUMNS) + 2) + "|"]
    for arm, measured in by_arm.items():
        cells = [f"{sum(getattr(m, c) for m in measured) / len(measured):.3f}" for c in COLUMNS]
        tokens = sum(m.tokens for m in measured) // len(measured)
        lines.append(f"| {TITLES[arm]} | " + " | ".join(cells) + f" | {tokens:,} |")
    for arm in arms:
        lines.append(f"| {TITLES[arm]} − warm start | " + " | ".join(differences(by_arm[arm], warm)) + " | |")
    for arm in [a for a in arms if a != "rlao" and "rlao" in arms]:
        lines.append(f"| RLAO − {TITLES[arm]} | " + " | ".join(differences(by_arm["rlao"], by_arm[arm])) + " | |")
    return lines


def differences(first: Sequence[Measures], second: Sequence[Measures]) -> list[str]:
    """Paired over seeds: mean difference and 95 % interval."""
    return [
        format_difference(mean([getattr(a, c) - getattr(b, c) for a, b in zip(first, second, strict=True)]))
        for c in COLUMNS
    ]


def format_difference(difference: Estimate) -> str:
    """E.g. `+0.31 [+0.25, +0.37]`."""
    return f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


def main() -> None:
    """Runs what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rlao_learns"))
    parser.add_argument("--schedules", default="rounds8:5,rounds3:3,offline:3", help="schedule:seeds,…")
    parser.add_argument("--arms", default="rlao,best,positive")
    parser.add_argument(
        "--only_seeds", default="", help="run these seeds alone, so that several processes share the work"
    )
    parser.add_argument("--tables_only", action="store_true", help="print what is there")
    given = parser.parse_args()
    arms = given.arms.split(",")
    schedules = [(name, range(int(count))) for name, count in (s.split(":") for s in given.schedules.split(","))]
    only = {int(seed) for seed in given.only_seeds.split(",") if seed}
    cells = [Cell(name, arm, seed) for name, seeds in schedules for arm in arms for seed in seeds]
    for cell in [] if given.tables_only else cells:
        if not only or cell.seed in only:
            run_cell(cell, given.out)
    if only:
        return
    for name, seeds in schedules:
        for group, title in (("held_out", "families held out"), ("seen", "families seen in training")):
            print(f"\n### {name}, {len(seeds)} seeds, {title} (simulated)\n")
            print("\n".join(table(name, list(seeds), arms, group)))


if __name__ == "__main__":
    main()
