"""What does the sandbox cost? `python -m benchmarks.sandbox`.

back end → {start, one item alone, many items at once, 640 that wait} → **seconds, items/s, CPU, memory**

The executor answers at once, so that what is measured is the sandbox: a fork, the guard,
the workflow compiled and run, the frames, the reaping. Items that do the same work pass
through every back end in turns, `--sweeps` times, and medians are printed with the ratio to
the back end `process`, which has limits and no other layer. `waiting` starts as many
children as the pool allows, lets each make a call that nobody answers, and reads what they
hold from `/proc`: the proportional set size (a page shared by k processes counts 1/k) and
what is a child's alone. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from w4s_jax.sandbox import open_sandbox
from w4s_jax.sandbox.base import MAX_CHILDREN
from w4s_jax.types import InputError, Limits, LLMCall, RunStatus, Sandbox, SolverInput, Workflow

BACK_ENDS = ("process", "guard", "bwrap")
WORK = {
    "no call": "def solver(agent, task):\n    return {'answer': 1}\n",
    "one call": "def solver(agent, task):\n    return {'answer': agent.call_llm(task)[0]}\n",
    "five calls": "def solver(agent, task):\n    return {'answer': [agent.call_llm(task)[0] for _ in range(5)][0]}\n",
    "one call, one program": (
        "def solver(agent, task):\n    return {'answer': agent.call_llm(task)[0] + agent.execute_code('6 * 7')}\n"
    ),
    "one call, numpy": (
        "import numpy\ndef solver(agent, task):\n"
        "    return {'answer': agent.call_llm(task)[0] + str(numpy.eye(2).sum())}\n"
    ),
}
GIVEN = SolverInput(question="What is 6 * 7?")
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_MIB = 1 << 20
_REAPED_SECONDS = 0.5
"""After which no child of a finished item is left."""


class Cpu(NamedTuple):
    """Seconds of CPU."""

    pool: float
    """Of this process."""
    zygotes: float
    children: float
    """Of those that have ended."""


class Sweep(NamedTuple):
    """One kind of work, many items at once."""

    items_per_second: float
    pool_ms: float
    """Of CPU an item; the next two likewise."""
    zygote_ms: float
    child_ms: float


class Waiting(NamedTuple):
    """Children that wait for the executor."""

    count: int
    seconds: float
    """Until all of them waited."""
    pss: float
    """MiB a child: its share of everything that it maps."""
    own: float
    """MiB a child: pages that no other process has."""
    pool: float
    """MiB that this process grew by, a child."""


# --- reading /proc ------------------------------------------------------------


def offspring(pid: int) -> list[int]:
    """Every process that `pid` started, directly or not, parents first."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *offspring(child)]
    return found


def pythons() -> list[int]:
    """Zygotes and their children: of our own offspring, what runs a Python (bwrap stands in front of it)."""
    return [pid for pid in offspring(os.getpid()) if Path(f"/proc/{pid}/comm").read_text().startswith("python")]


def cpu() -> Cpu:
    """What was spent so far, by whom; asked while no child is alive."""
    own = ended = 0.0
    for pid in pythons():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        own += (int(fields[11]) + int(fields[12])) / _TICKS
        ended += (int(fields[13]) + int(fields[14])) / _TICKS
    return Cpu(time.process_time(), own, ended)


def held(pid: int) -> tuple[float, float]:
    """(proportional set size, pages of its own) of a process, in MiB; a guarded child shows them to root alone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except PermissionError:
        return math.nan, math.nan
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kib["Pss"] / 1024, (kib["Private_Dirty"] + kib["Private_Clean"]) / 1024


def resident() -> float:
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB


# --- measuring ----------------------------------------------------------------


async def at_once(call: LLMCall) -> Sequence[str]:
    """The executor of this benchmark."""
    return ["x"] * call.n


async def run(sandbox: Sandbox, code: str) -> None:
    """One item that must succeed."""
    done = await sandbox.run_workflow(Workflow(name="bench", code=code), GIVEN, at_once, Limits())
    if done.status is not RunStatus.OK:
        raise SystemExit(f"sandbox {sandbox.name}: {done.status}: {done.error}")


async def started(name: str) -> tuple[float, float]:
    """Seconds from nothing to the first answer, and to the first one that needed numpy."""
    begun = time.perf_counter()
    async with open_sandbox(name) as sandbox:
        await run(sandbox, WORK["no call"])
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        await run(sandbox, WORK["one call, numpy"])
        return first, time.perf_counter() - begun


async def alone(sandbox: Sandbox, items: int) -> list[float]:
    """Milliseconds of items that run one after the other."""
    took = []
    for _ in range(items):
        begun = time.perf_counter()
        await run(sandbox, WORK["no call"])
        took.append(1e3 * (time.perf_counter() - begun))
    return took


async def many(sandbox: Sandbox, code: str, items: int) -> Sweep:
    """Items that are all wanted at once."""
    await run(sandbox, code)
    await asyncio.sleep(_REAPED_SECONDS)
    before, begun = cpu(), time.perf_counter()
    await asyncio.gather(*(run(sandbox, code) for _ in range(items)))
    seconds = time.perf_counter() - begun
    await asyncio.sleep(_REAPED_SECONDS)
    spent = [1e3 * (b - a) / items for a, b in zip(before, cpu(), strict=True)]
    return Sweep(items / seconds, *spent)


async def waiting(sandbox: Sandbox) -> Waiting:
    """As many children as may be, each in the middle of a call."""
    everybody, gate = asyncio.Event(), asyncio.Event()
    asked = 0

    async def ask(call: LLMCall) -> Sequence[str]:
        nonlocal asked
        asked += 1
        if asked == MAX_CHILDREN:
            everybody.set()
        await gate.wait()
        return ["x"]

    workflow = Workflow(name="bench", code=WORK["one call"])
    before, begun = resident(), time.perf_counter()
    runs = [asyncio.create_task(sandbox.run_workflow(workflow, GIVEN, ask, Limits())) for _ in range(MAX_CHILDREN)]
    await everybody.wait()
    seconds, grown = time.perf_counter() - begun, resident() - before
    children = [pid for pid in pythons() if not offspring(pid)]
    pss, own = (statistics.mean(sizes) for sizes in zip(*map(held, children), strict=True))
    gate.set()
    await asyncio.gather(*runs)
    return Waiting(len(children), seconds, pss, own, grown / len(children))


# --- the tables ---------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n" + "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


async def starts(names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Start-up of each back end; of one that does not work here it is said why."""
    found = {}
    for name in names:
        try:
            found[name] = await started(name)
        except InputError as error:
            print(f"{name}: {error}")
    rows = [(name, f"{first:.2f}", f"{warm:.2f}") for name, (first, warm) in found.items()]
    print(table(("back end", "s to the first answer", "s to the first answer with numpy"), rows), flush=True)
    return found


async def alones(names: Sequence[str], items: int) -> dict[str, list[float]]:
    """Items one after the other."""
    found = {}
    for name in names:
        async with open_sandbox(name) as sandbox:
            found[name] = await alone(sandbox, items)
    rows = [
        (name, f"{statistics.median(took):.2f}", f"{statistics.quantiles(took, n=100)[98]:.2f}")
        for name, took in found.items()
    ]
    print(table(("back end", "ms of an item alone, median", "99th percentile"), rows), flush=True)
    return found


async def sweeps(names: Sequence[str], items: int, count: int) -> dict[str, dict[str, list[Sweep]]]:
    """Many items at once, back ends in turns."""
    found: dict[str, dict[str, list[Sweep]]] = {work: {name: [] for name in names} for work in WORK}
    for _ in range(count):
        for name in names:
            async with open_sandbox(name) as sandbox:
                for work, code in WORK.items():
                    found[work][name].append(await many(sandbox, code, items))
    rows = []
    for work, by_name in found.items():
        first = median(by_name[names[0]])
        for name, each in by_name.items():
            middle = median(each)
            ratio = middle.items_per_second / first.items_per_second
            rows.append(
                (work, name, f"{middle.items_per_second:.0f}", f"{ratio:.2f}", *(f"{x:.2f}" for x in middle[1:]))
            )
    header = ("work", "back end", "items/s", f"of {names[0]}", "CPU ms an item: pool", "zygote", "child")
    print(table(header, rows), flush=True)
    return found


def median(each: Sequence[Sweep]) -> Sweep:
    """Of each number by itself."""
    return Sweep(*(statistics.median(values) for values in zip(*each, strict=True)))


async def waits(names: Sequence[str]) -> dict[str, Waiting]:
    """As many children as may be, all waiting."""
    found = {}
    for name in names:
        async with open_sandbox(name) as sandbox:
            found[name] = await waiting(sandbox)
    rows = [
        (name, w.count, f"{w.seconds:.2f}", f"{w.pss:.2f}", f"{w.own:.2f}", f"{1024 * w.pool:.0f}")
        for name, w in found.items()
    ]
    header = ("back end", "waiting", "s until all wait", "MiB a child (PSS)", "of its own", "KiB of the pool's a child")
    print(table(header, rows), flush=True)
    return found


async def measure(given: argparse.Namespace) -> None:
    """Every table."""
    print(
        f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}; medians of {given.sweeps}"
    )
    found = await starts(given.back_ends)
    names = list(found)
    result = {
        "start": found,
        "alone": await alones(names, given.items),
        "sweeps": await sweeps(names, given.items, given.sweeps),
        "waiting": await waits(names),
    }
    if given.json_out:
        given.json_out.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--back_ends", default=",".join(BACK_ENDS), type=lambda text: text.split(","))
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument("--sweeps", type=int, default=5)
    parser.add_argument("--json_out", type=Path)
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
