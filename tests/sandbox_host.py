"""What the sandbox's tests share: which back ends work here, and a host that a hostile workflow must not touch."""

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest

from w4s_jax.sandbox import open_sandbox
from w4s_jax.types import InputError, Limits, SolverInput, Workflow

BACK_ENDS = ("process", "guard", "bwrap")
QUICK = Limits(wall_seconds=30.0, cpu_seconds=1.0, memory_bytes=256 << 20, output_bytes=1 << 16)
KEY = "sk-canary-5b1d"
LABEL = "label-canary-90c2"


@contextlib.asynccontextmanager
async def opened(name, **options):
    """A back end's sandbox; the test is skipped, with the reason, where it does not work on this machine."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            pool = await stack.enter_async_context(open_sandbox(name, **options))
        except InputError as error:
            pytest.skip(str(error))
        yield pool


def workflow(code):
    """A workflow of this code."""
    return Workflow(name="test", code=code)


def given(question="q", **fields):
    """What a workflow gets of an item."""
    return SolverInput(question=question, **fields)


class Asked:
    """An `ask` that counts its calls and answers each at once, or when `gate` opens."""

    def __init__(self, text="hello", gate=None):
        self.calls, self.text, self.gate = [], text, gate

    async def __call__(self, call):
        self.calls.append(call)
        if self.gate:
            await self.gate.wait()
        if call.messages[-1].content == "slow":
            await asyncio.sleep(2)
        return [self.text] * call.n


@dataclasses.dataclass
class Host:
    """Files that everybody may write, and the processes that must live."""

    folder: Path
    pool: object
    quiet: dict | None = None
    """The state before any item ran."""

    @property
    def label(self):
        return self.folder / "label"

    @property
    def question(self):
        """All a hostile workflow is given: where to strike."""
        return json.dumps(
            {
                "folder": str(self.folder),
                "label": str(self.label),
                "repository": str(Path(__file__).parent.parent),
                "pool": os.getpid(),
                "canary": KEY,
            }
        )

    @property
    def zygote(self):
        return self.pool._link._process.pid

    def state(self):
        """Everything that must be the same after a hostile item."""
        here = self.label.stat()
        return {
            "zygote": self.zygote,
            "files": sorted(os.listdir(self.folder)),
            "label": self.label.read_text(),
            "mode": (here.st_mode, here.st_uid, here.st_mtime_ns, here.st_nlink, os.listxattr(self.label)),
            "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
            "strays": sorted(p for where in ("/tmp", "/dev/shm", "/var/tmp") for p in _w4s_files(where)),
            "children": descendants(self.zygote),
        }

    async def settled(self):
        """The state once every child had time to leave."""
        for _ in range(150):
            if (after := self.state()) == self.quiet:
                break
            await asyncio.sleep(0.02)
        return after


@contextlib.contextmanager
def host_around(pool):
    """A folder and a label that only the sandbox protects: their modes let everybody in."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-host-"))
    try:
        host = Host(folder=folder, pool=pool)
        host.label.write_text(LABEL)
        folder.chmod(0o777)
        host.label.chmod(0o666)
        host.quiet = host.state() | {"children": descendants(host.zygote, orphans=False)}
        yield host
    finally:
        shutil.rmtree(folder)


def descendants(pid, *, orphans=True):
    """Processes that come from `pid`, however deep, and orphans under a user id of the sandbox's own."""
    parents, lost = {}, set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if entry.stat().st_uid >= 0x70000000 and parents[int(entry.name)] == 1:
                    lost.add(int(entry.name))
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found | lost if orphans else found)


def _w4s_files(where):
    with contextlib.suppress(OSError):
        return [os.path.join(where, name) for name in os.listdir(where) if name.startswith("w4s-")]
    return []
