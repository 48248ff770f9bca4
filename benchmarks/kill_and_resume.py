"""Does a run survive `kill -9` at any moment? `python -m benchmarks.kill_and_resume --out=DIR`.

uninterrupted run → (start, SIGKILL at a random moment, same command again) × 20 → **table of verdicts**

Moments are uniform over the wall clock of the uninterrupted run, from its set-up to its
end: searches, rounds, checkpoints, the closing evaluation, the export. After each, the
resumed run must equal the uninterrupted one: exported parameters and metrics to the bit,
the same turns, every stored turn kept as it was, and every committed call bought once.
The run is a small one: a scripted meta-agent and a simulated executor.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.scripted_agent import MAX_NEW_TOKENS, MAX_POSITIONS, write_scripted_agent

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    *("--task=toy_units", "--validation_size=4", "--test_size=4", "--temperature=1.0"),
    *(f"--max_new_tokens={MAX_NEW_TOKENS}", f"--cache_length={MAX_POSITIONS}", "--prompts_in_flight=2"),
    *("--num_candidates=2", "--num_turns=2", "--num_rounds=2", "--trajectories_per_round=2"),
    *("--trajectories_per_step=1", "--learning_rate=1e-2", f"--row_length={MAX_POSITIONS}", "--remat=none"),
    *("--compute_dtype=float32", "--export_dtype=float32", "--sandbox_workers=2"),
)
"""Twelve turns: a search before, two rounds of two trajectories, a search after."""
NUM_TURNS = 12
PATIENCE = 600.0
"""Seconds that a run may take before it counts as hung."""


# --- runs -----------------------------------------------------------------------


def environment(compiled: Path) -> dict[str, str]:
    """One CPU device, no key, no network, and compiled programs kept in `compiled`."""
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "OPENAI_API_KEY", "OPENAI_BASE_URL")}
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "HF_HUB_OFFLINE": "1",
    }


@dataclasses.dataclass(frozen=True)
class Command:
    """`experiments.rlao` with the flags of this benchmark, in an environment."""

    agent: Path
    compiled: Path

    def start(self, run_dir: Path, *flags: str) -> subprocess.Popen[str]:
        """Starts it; its output goes to the returned process's pipes."""
        arguments = ["-m", "experiments.rlao", *FLAGS, f"--meta_agent={self.agent}", f"--run_dir={run_dir}", *flags]
        return self.python(*arguments)

    def python(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts Python in the repository."""
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment(self.compiled),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def python_to_end(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs Python in the repository to its end."""
        return ended(self.python(*arguments))

    def finish(self, run_dir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        """Runs it to its end, whatever that is."""
        return ended(self.start(run_dir, *flags))


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Waits for the end of a process.

    Raises:
        subprocess.TimeoutExpired: It took longer than `PATIENCE`; it is killed.
    """
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def stopped_when(process: subprocess.Popen[str], moment: Callable[[], bool], number: int) -> str:
    """Sends a signal as soon as `moment()` holds, waits for the end and returns standard error.

    A process that ends before its moment comes is left to end.
    """
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not moment():
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(f"the moment to stop did not come within {PATIENCE:.0f} seconds")
        time.sleep(0.005)
    if process.poll() is None:
        process.send_signal(number)
    return ended(process).stderr


def turns_stored(run_dir: Path) -> int:
    """Whole lines of `trajectories.jsonl`."""
    with contextlib.suppress(FileNotFoundError):
        return (run_dir / "trajectories.jsonl").read_bytes().count(b"\n")
    return 0


# --- what a run left ------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Left:
    """What a run directory holds, finished or not."""

    turns: frozenset[str]
    """Lines of `trajectories.jsonl`; their order is that in which they were finished."""
    calls: Mapping[str, int]
    """Replies bought, by key of the cache."""
    steps: tuple[str, ...]
    """Checkpoints."""
    metrics: str = ""
    parameters: str = ""
    """SHA-256 of the export."""
    summary: str = ""
    """Everything in it but times, cache hits and paths."""

    @classmethod
    def of(cls, run_dir: Path) -> Left:
        """Reads a run directory without touching it."""
        lines = _text(run_dir / "trajectories.jsonl").splitlines(keepends=True)
        weights = run_dir / "hf" / "model.safetensors"
        return cls(
            turns=frozenset(line for line in lines if line.endswith("\n")),
            calls=_replies(run_dir),
            steps=tuple(sorted(p.name for p in (run_dir / "checkpoints").glob("step_*[0-9]"))),
            metrics=_text(run_dir / "metrics.jsonl"),
            parameters=hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else "",
            summary=_comparable(_text(run_dir / "summary.json")),
        )


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _replies(run_dir: Path) -> Counter[str]:
    """Keys of committed replies; from a copy, since opening a file that a killed process left recovers it."""
    with tempfile.TemporaryDirectory() as folder:
        for path in run_dir.glob("calls.sqlite*"):
            shutil.copy(path, folder)
        if not (Path(folder) / "calls.sqlite").exists():
            return Counter()
        with contextlib.closing(sqlite3.connect(Path(folder) / "calls.sqlite")) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'calls'").fetchone():
                return Counter()
            return Counter(key for (key,) in db.execute("SELECT key FROM calls WHERE outcome = 'reply'"))


_NOT_COMPARED = ("seconds", "cache_hits", "faults", "best_workflow", "checkpoint", "hf_export", "report")


def _comparable(summary: str) -> str:
    fields = json.loads(summary, parse_float=lambda text: round(float(text), 12)) if summary else {}  # sums of USD
    return json.dumps({name: value for name, value in fields.items() if name not in _NOT_COMPARED}, sort_keys=True)


def differences(wanted: Left, found: Left, stored: Sequence[Left] = ()) -> list[str]:
    """What a resumed run got wrong; empty where it equals the uninterrupted one.

    Args:
        wanted: The uninterrupted run.
        found: The resumed one.
        stored: What it held at each kill.
    """
    wrong = [
        f"{name} differ"
        for name in ("parameters", "metrics", "turns", "summary", "steps")
        if getattr(wanted, name) != getattr(found, name)
    ]
    if set(found.calls) != set(wanted.calls):
        wrong.append(f"{len(set(found.calls) ^ set(wanted.calls))} calls are not those of the uninterrupted run")
    twice = [key for key, count in found.calls.items() if count > 1]
    if twice:
        wrong.append(f"{len(twice)} committed calls were bought again")
    for left in stored:
        if not left.turns <= found.turns:
            wrong.append(f"{len(left.turns - found.turns)} stored turns were lost or changed")
        if not set(left.calls) <= set(found.calls):
            wrong.append("committed calls were lost")
    return wrong


# --- the benchmark --------------------------------------------------------------


def main() -> int:
    """Prints the table; 0 when every resumed run equals the uninterrupted one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs; must not exist")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    command = Command(write_scripted_agent(options.out / "agent"), options.out / "compiled")
    _finished(command, options.out / "warm-up")  # fills the cache of compiled programs
    process = command.start(options.out / "uninterrupted")
    began = _set_up(process, options.out / "uninterrupted")
    _must_have_finished(ended(process), options.out / "uninterrupted")
    seconds = time.monotonic() - began
    wanted = Left.of(options.out / "uninterrupted")
    print(f"uninterrupted: {seconds:.1f} s, {len(wanted.turns)} turns, {sum(wanted.calls.values())} calls")
    print(f"{'killed at':>10}  {'turns':>5}  {'calls':>5}  {'checkpoint':<14}  verdict")
    rng, failed = random.Random(options.seed), 0
    for number in range(options.moments):
        moment, run_dir = rng.uniform(0.0, seconds), options.out / f"killed-{number:02d}"
        process = command.start(run_dir)
        stop_at = _set_up(process, run_dir) + moment
        stopped_when(process, lambda at=stop_at: time.monotonic() >= at, signal.SIGKILL)
        stored = Left.of(run_dir)
        _finished(command, run_dir)
        wrong = differences(wanted, Left.of(run_dir), [stored])
        failed += bool(wrong)
        step = stored.steps[-1] if stored.steps else "none"
        verdict = "; ".join(wrong) or "equal to the bit"
        print(
            f"{moment:>8.2f} s  {len(stored.turns):>5}  {sum(stored.calls.values()):>5}  {step:<14}  {verdict}",
            flush=True,
        )
    print(f"{options.moments - failed} of {options.moments} resumed runs equal the uninterrupted one")
    return 1 if failed else 0


def _set_up(process: subprocess.Popen[str], run_dir: Path) -> float:
    """Waits until a run has written what it is; returns when that was."""
    while process.poll() is None and not (run_dir / "versions.json").exists():
        time.sleep(0.005)
    return time.monotonic()


def _finished(command: Command, run_dir: Path) -> None:
    _must_have_finished(command.finish(run_dir), run_dir)


def _must_have_finished(done: subprocess.CompletedProcess[str], run_dir: Path) -> None:
    if done.returncode:
        raise SystemExit(f"{run_dir} ended with {done.returncode}:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
