"""A folder to write to, for tasks that ask for one: of its size, of one item, and of nobody else."""

import asyncio
import dataclasses
import os
import time

import pytest
import pytest_asyncio
from sandbox_host import QUICK, Asked, descendants, given, host_around, opened, workflow

from w4s_jax.types import InputError, Limits, RunStatus

pytestmark = pytest.mark.asyncio(loop_scope="module")
SIZE = 1 << 20
WITH_SCRATCH = dataclasses.replace(QUICK, scratch_bytes=SIZE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox():
    async with opened("bwrap", workers=2) as sandbox:
        yield sandbox


async def run(sandbox, code, limits=WITH_SCRATCH, question="q", ask=None):
    return await sandbox.run_workflow(workflow(code), given(question), ask or Asked(), limits)


async def test_files_are_made_changed_and_removed_as_a_workflow_expects(sandbox):
    code = """
import json, os, shutil, sqlite3, tempfile, zipfile

def solver(agent, task):
    os.makedirs("a/b")
    with open("a/b/data.json", "w") as file:
        json.dump({"x": [1, 2]}, file)
    shutil.copy2("a/b/data.json", "copy.json")
    os.rename("copy.json", "moved.json")
    with zipfile.ZipFile("all.zip", "w") as archive:
        archive.write("moved.json")
    with tempfile.TemporaryDirectory() as folder:
        open(os.path.join(folder, "t"), "w").close()
        inside = folder.startswith(os.getcwd())
    base = sqlite3.connect("base.db")
    base.execute("CREATE TABLE t (x)")
    base.execute("INSERT INTO t VALUES (42)")
    base.commit()
    shutil.rmtree("a")
    found = base.execute("SELECT x FROM t").fetchone()[0]
    return {"answer": f"{found} {inside} {sorted(os.listdir('.'))}"}
"""
    ended = await run(sandbox, code)
    assert ended.answer == "42 True ['all.zip', 'base.db', 'moved.json']", ended


async def test_a_program_finds_what_its_workflow_wrote(sandbox):
    code = """
def solver(agent, task):
    with open("numbers.txt", "w") as file:
        file.write("1 2 3")
    return {"answer": agent.execute_code("sum(map(int, open('numbers.txt').read().split()))")}
"""
    assert (await run(sandbox, code)).answer == "6"


async def test_the_folder_is_of_the_size_asked_for(sandbox):
    code = """
import errno

def solver(agent, task):
    written = 0
    try:
        for number in range(100):
            with open(str(number), "wb") as file:
                written += file.write(bytes(100_000))
    except OSError as error:
        return {"answer": f"{written} {errno.errorcode[error.errno]}"}
"""
    written, error = (await run(sandbox, code)).answer.split()
    assert error == "ENOSPC"
    assert int(written) <= SIZE
    ended = await run(sandbox, "def solver(a, t):\n    open('f', 'wb').write(bytes(2 << 20))\n    return {'answer': 1}")
    assert ended.error.startswith("OSError: [Errno 27] File too large")


async def test_the_folder_holds_no_more_files_than_it_has_pages(sandbox):
    code = """
import errno, os

def solver(agent, task):
    try:
        for number in range(100_000):
            os.mkdir(str(number))
    except OSError as error:
        return {"answer": f"{number} {errno.errorcode[error.errno]}"}
"""
    made, error = (await run(sandbox, code)).answer.split()
    assert error == "ENOSPC"
    assert int(made) <= SIZE // 4096


async def test_nothing_passes_from_item_to_item_and_nothing_is_left(sandbox):
    code = """
import os

def solver(agent, task):
    found = os.listdir(".")
    open("mark", "w").close()
    return {"answer": str(found)}
"""
    for _ in range(2):
        assert (await run(sandbox, code)).answer == "[]"
    with_none = await run(sandbox, code, QUICK)
    assert with_none.status is RunStatus.EXCEPTION


async def test_nothing_else_can_be_written(sandbox):
    code = """
import json, os, socket

def solver(agent, task):
    where = json.loads(task)
    leaks = []
    def attempt(name, do):
        try:
            do()
            leaks.append(name)
        except OSError:
            pass
    library = os.path.dirname(os.__file__)
    for path in (where["folder"], "/", "/tmp", "/dev", "/dev/shm", "/usr", "/etc", "/proc", library):
        attempt(path, lambda: open(os.path.join(path, "w4s-leak"), "w"))
        attempt(f"chmod {path}", lambda: os.chmod(path, 0o777))
        attempt(f"utime {path}", lambda: os.utime(path))
        attempt(f"rename {path}", lambda: os.rename(path, path + "x"))
    attempt("label", lambda: open(where["label"]).read())
    attempt("symlink", lambda: os.symlink("/", "link"))
    attempt("device", lambda: os.mknod("node", 0o60600, os.makedev(8, 0)))
    attempt("fifo", lambda: os.mkfifo("fifo"))
    attempt("socket", lambda: socket.socket(socket.AF_UNIX).bind("s"))
    attempt("chown", lambda: os.chown(".", 0, 0))
    with open("program", "w") as file:
        file.write("#!/bin/sh")
    os.chmod("program", 0o4755)
    attempt("exec", lambda: os.execv("./program", ["program"]))
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}
"""
    await asyncio.sleep(0.5)  # children of earlier tests have left
    with host_around(sandbox) as host:
        assert (await run(sandbox, code, question=host.question)).answer == "contained"
        assert await host.settled() == host.quiet


async def test_a_run_that_timed_out_begins_its_second_try_with_an_empty_folder(sandbox):
    code = """
import os, time

def solver(agent, task):
    if os.listdir("."):
        return {"answer": "LEAK"}
    open("mark", "w").close()
    time.sleep(60)
"""
    begun = time.monotonic()
    ended = await run(sandbox, code, dataclasses.replace(WITH_SCRATCH, wall_seconds=0.3))
    assert ended.status is RunStatus.TIMEOUT
    assert 0.6 <= time.monotonic() - begun < 5.0


async def test_no_process_outlives_its_item(sandbox):
    before = descendants(os.getpid(), orphans=False)
    for _ in range(3):
        await run(sandbox, "def solver(agent, task):\n    return {'answer': 1}")
    assert descendants(os.getpid(), orphans=False) == before


@pytest.mark.parametrize("name", ["guard", "process"])
async def test_a_back_end_that_cannot_bound_it_refuses(name):
    async with opened(name, workers=1, packages=()) as sandbox:
        with pytest.raises(InputError, match=rf"sandbox '{name}' cannot give; use --sandbox=bwrap"):
            await run(sandbox, "def solver(agent, task):\n    return {'answer': 1}")


async def test_a_size_that_cannot_be_is_refused(sandbox):
    with pytest.raises(InputError, match="scratch_bytes=-1"):
        await run(sandbox, "", Limits(scratch_bytes=-1))
