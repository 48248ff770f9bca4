"""Every file in `hostile/` under every back end that can hold it: it ends as its header says and leaves nothing behind.

The header's fields: `Expect` (status, with the answer where that matters; ` | ` between alternatives), `After` (what
must not be there), and where they differ from the rest `Wall` (seconds), `Runs`, `Asks`, `Machine`, and `Enough:
limits` where the back end `process`, which has no other layer, holds it as well.
"""

import asyncio
import os
import re
from pathlib import Path

import pytest
import pytest_asyncio
from sandbox_host import KEY, LABEL, QUICK, Asked, given, host_around, opened, workflow

from w4s_jax.sandbox import base
from w4s_jax.types import CallRefusedError, Limits

FILES = sorted((Path(__file__).parent / "hostile").glob("*.py"))
GUARDED = ("guard", "bwrap")
pytestmark = pytest.mark.asyncio(loop_scope="module")


def header(path):
    """The fields of a hostile file's opening comment."""
    return dict(re.findall(r"^# (\w+): (.*)$", path.read_text(), re.MULTILINE))


HELD = [
    pytest.param(name, path, id=f"{name}-{path.stem}")
    for name in (*GUARDED, "process")
    for path in FILES
    if name in GUARDED or header(path).get("Enough") == "limits"
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.setattr(base, "MAX_REQUESTS", 60)
        patch.setattr(base, "MAX_PROGRAMS", 10)
        async with opened(request.param, workers=4, allow_unsafe=True) as pool:
            with host_around(pool) as host:
                yield host


async def refusing_after_twenty(call, asked):
    if len(asked.calls) >= 20:
        raise CallRefusedError("too many calls")
    return await asked(call)


@pytest.mark.parametrize(("host", "path"), HELD, indirect=["host"])
async def test_a_hostile_workflow_ends_as_its_header_says_and_leaves_nothing(host, path):
    fields = header(path)
    if fields.get("Machine") not in (None, os.uname().machine):
        pytest.skip(f"needs {fields['Machine']}")
    asked = Asked()
    limits = Limits(
        wall_seconds=float(fields.get("Wall", QUICK.wall_seconds)),
        cpu_seconds=QUICK.cpu_seconds,
        memory_bytes=QUICK.memory_bytes,
        output_bytes=QUICK.output_bytes,
    )
    for _ in range(int(fields.get("Runs", 1))):
        run = await host.pool.run_workflow(
            workflow(path.read_text()), given(host.question), lambda c: refusing_after_twenty(c, asked), limits
        )
    outcomes = [f"{run.status.value} {run.answer}", run.status.value]
    assert set(outcomes) & set(fields["Expect"].split(" | ")), run
    assert len(run.error) <= base.MAX_ERROR
    assert len(run.traceback) <= base.MAX_TRACEBACK
    assert LABEL not in str(run)
    assert "LEAK" not in str(run.answer)
    assert len(asked.calls) <= int(fields.get("Asks", 20))
    assert await host.settled() == host.quiet


async def test_the_hostile_set_is_large_and_every_file_says_what_it_expects():
    assert len(FILES) >= 90
    for path in FILES:
        assert {"Expect", "After"} <= set(header(path)), path.name


@pytest.mark.parametrize("host", GUARDED, indirect=True)
async def test_an_honest_workflow_still_runs_among_hostile_ones(host):
    bad = [workflow((Path(__file__).parent / "hostile" / f"{n}.py").read_text()) for n in ("kills", "frame_garbage")]
    good = workflow("def solver(agent, task):\n    return {'answer': agent.call_llm(task)[0]}")
    runs = await asyncio.gather(
        *(host.pool.run_workflow(w, given(host.question), Asked(), QUICK) for w in [*bad, good] * 10)
    )
    assert [r.answer for r in runs[2::3]] == ["hello"] * 10
