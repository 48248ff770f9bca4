"""One run as several processes on this machine.

`python -m launch.local --num_processes=2 -- experiments.rlao --flagfile=…` → processes → **exit code**

Process 0 leads: its output is this command's, and so is its exit code. The others train
with it; their lines carry their number. Ctrl-C and SIGTERM go to process 0, which saves
and sends the others home. Where one ends before its time, all are stopped, and the same
command goes on from what is saved.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

GRACE_SECONDS = 10.0


def start(index: int, given: argparse.Namespace, address: str) -> subprocess.Popen[bytes]:
    """Starts one process; each in a session of its own, so that a Ctrl-C reaches this one alone."""
    environment = os.environ | {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(given.num_processes),
        "JAX_PROCESS_ID": str(index),
        "PYTHONUNBUFFERED": "1",
        "W4S_COMMAND": shlex.join(["python", "-m", "launch.local", *sys.argv[1:]]),
    }
    if given.devices_per_process:
        first = index * given.devices_per_process
        environment["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, range(first, first + given.devices_per_process)))
    module, *arguments = given.command
    command = [sys.executable, "-m", module, *arguments, "--distributed"]
    if index == 0:
        return subprocess.Popen(command, env=environment, start_new_session=True)
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    threading.Thread(target=relay, args=(index, process), daemon=True).start()
    return process


def relay(index: int, process: subprocess.Popen[bytes]) -> None:
    """Prints every line of a process behind its number."""
    assert process.stdout is not None
    for line in process.stdout:
        sys.stderr.write(f"[{index}] {line.decode(errors='replace')}")
        sys.stderr.flush()


def watch(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits until all have ended, or one before its time; returns the exit code of the run."""
    while all(process.poll() is None for process in processes):
        time.sleep(0.1)
    ended = next(index for index, process in enumerate(processes) if process.poll() is not None)
    early = processes[ended].returncode < 0 or (ended > 0 and processes[ended].returncode != 0)
    if early:
        print(f"launch: process {ended} ended with {processes[ended].returncode}; stopping the others", file=sys.stderr)
    deadline = time.monotonic() + (0.0 if early else GRACE_SECONDS)
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.1)
    stop(processes)
    codes = [process.wait() for process in processes]
    code = codes[0] or next((code for code in codes if code), 0)
    if early:
        code = codes[ended]
        if code not in (1, 2):  # refused flags and other bad input: nothing has begun
            print("launch: everything finished is saved; the same command goes on from there", file=sys.stderr)
    return code if code >= 0 else 128 - code


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends what still runs: process 0 may have to finish a write, so it is asked first."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(process.poll() is None for process in running):
        time.sleep(0.1)
    for process in running:
        if process.poll() is None:
            process.kill()


def free_address() -> str:
    """A free port of the loopback, as HOST:PORT."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; what follows `--` is a module and its flags."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument(
        "--devices_per_process", type=int, default=0, help="GPUs of each process, dealt out in order (0: all are seen)"
    )
    parser.add_argument("command", nargs="+", metavar="-- MODULE [FLAGS]", help="e.g. -- experiments.rlao --flagfile=F")
    given = parser.parse_args(argv)
    if given.num_processes < 1:
        parser.error(f"--num_processes={given.num_processes} is not allowed; give at least 1")
    return given


def main(argv: Sequence[str]) -> int:
    """Starts all, forwards what stops them, returns the exit code."""
    given = parse(argv)
    processes: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: object) -> None:
        if processes and processes[0].poll() is None:
            processes[0].send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    address = free_address()
    processes += (start(index, given, address) for index in range(given.num_processes))
    return watch(processes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
