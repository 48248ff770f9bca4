import functools
import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from w4s_jax.policy import sharding
from w4s_jax.training.checkpoint import Checkpoints, param_digest
from w4s_jax.training.step import TrainState
from w4s_jax.types import CheckpointError

ADAM = optax.adamw(optax.constant_schedule(1e-3))


@functools.cache
def mesh(spec, devices=4):
    return sharding.make_mesh(spec, jax.devices()[:devices])


def state_on(mesh, step, width=64, dtype=jnp.bfloat16):
    """A state of odd dtypes with values that depend on the step."""
    rng = np.random.default_rng(step)
    params = {
        "params": {
            "embed": {"embedding": jnp.asarray(rng.normal(size=(32, width)), jnp.float32)},
            "layers": {"q": {"kernel": jnp.asarray(rng.normal(size=(2, width, 4, 8)), dtype)}},
        }
    }
    state = TrainState(params, {}, ADAM.init(params), jnp.asarray(step, jnp.int32))
    return jax.device_put(state, sharding.shardings(state, mesh))


def equal(a, b):
    return param_digest(a._asdict()) == param_digest(b._asdict())


def saved(tmp_path, steps, keep=3):
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"), keep=keep)
    for step in steps:
        checkpoints.save(state_on(mesh("fsdp=4"), step), {"position": 10 * step})
    checkpoints.wait()
    return checkpoints


def test_a_state_comes_back_on_another_mesh_to_the_bit(tmp_path):
    checkpoints = saved(tmp_path, [3])
    like = state_on(mesh("fsdp=2,tensor=2"), 0)._replace(frozen={"params": "as it was"})
    state, extra, rejected = checkpoints.restore(like)
    assert equal(state._replace(frozen={}), state_on(mesh("fsdp=4"), 3))
    assert state.frozen == {"params": "as it was"}
    assert type(state.opt_state) is type(like.opt_state)
    for got, want in zip(jax.tree.leaves(state.params), jax.tree.leaves(like.params), strict=True):
        assert got.sharding == want.sharding
    assert (extra, rejected) == ({"position": 30}, ())


def test_parameters_come_back_alone(tmp_path):
    like = state_on(mesh("data=4"), 0)
    params, extra = saved(tmp_path, [1, 2]).restore_params(like.params, step=1)
    assert param_digest(params) == param_digest(state_on(mesh("data=4"), 1).params)
    assert extra == {"position": 10}


def test_the_newest_are_kept(tmp_path):
    assert saved(tmp_path, range(1, 6), keep=3).steps() == (3, 4, 5)


def largest_file(directory):
    return max((p for p in pathlib.Path(directory).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(directory):
    path = largest_file(directory)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def cut(directory):
    path = largest_file(directory)
    path.write_bytes(path.read_bytes()[:100])


def lose_manifest(directory):
    shutil.rmtree(pathlib.Path(directory) / "manifest")


def scribble(directory):
    (pathlib.Path(directory) / "manifest" / "metadata").write_text('{"extra": {"posi')


# Orbax leaves the coroutines of a failed read unawaited; they are collected before another test has to.
orphans = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")


@orphans
@pytest.mark.parametrize("harm", [flip, cut, lose_manifest, scribble, lambda d: largest_file(d).unlink()])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(tmp_path, harm):
    checkpoints = saved(tmp_path, [1, 2])
    harm(tmp_path / "checkpoints" / "step_00000002")
    state, extra, rejected = checkpoints.restore(state_on(mesh("fsdp=4"), 0))
    assert equal(state, state_on(mesh("fsdp=4"), 1))
    assert extra == {"position": 10}
    assert len(rejected) == 1
    assert "step_00000002 cannot be read" in rejected[0]
    # Training goes on and saves the same step again; the damaged one is still there to look at.
    checkpoints.save(state_on(mesh("fsdp=4"), 2), {})
    assert checkpoints.steps() == (1, 2)
    assert (tmp_path / "checkpoints" / "step_00000002.rejected").is_dir()
    gc.collect()


@orphans
def test_a_step_that_was_rejected_before_can_be_rejected_again(tmp_path):
    checkpoints = saved(tmp_path, [1, 2])
    (tmp_path / "checkpoints" / "step_00000002.rejected").mkdir()
    flip(tmp_path / "checkpoints" / "step_00000002")
    state, _, rejected = checkpoints.restore(state_on(mesh("fsdp=4"), 0))
    assert equal(state, state_on(mesh("fsdp=4"), 1))
    assert len(rejected) == 1
    assert (tmp_path / "checkpoints" / "step_00000002.rejected1").is_dir()
    gc.collect()


@orphans
def test_reading_parameters_alone_moves_nothing(tmp_path):
    """Whoever scores or exports somebody else's run must not rename its checkpoints."""
    checkpoints = saved(tmp_path, [1, 2])
    flip(tmp_path / "checkpoints" / "step_00000002")
    params, _ = checkpoints.restore_params(state_on(mesh("fsdp=4"), 0).params)
    assert param_digest(params) == param_digest(state_on(mesh("fsdp=4"), 1).params)
    assert checkpoints.steps() == (1, 2)
    gc.collect()


@orphans
def test_when_none_can_be_read_each_is_named_and_stays(tmp_path):
    checkpoints = saved(tmp_path, [1, 2])
    for step in (1, 2):
        flip(tmp_path / "checkpoints" / f"step_0000000{step}")
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read.*step_00000002 .*step_00000001 "):
        checkpoints.restore(state_on(mesh("fsdp=4"), 0))
    assert checkpoints.steps() == (1, 2)
    gc.collect()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*nowhere: it holds none"):
        Checkpoints(str(tmp_path / "nowhere")).restore(state_on(mesh("fsdp=4"), 0))
    with pytest.raises(CheckpointError, match=r"no checkpoint 7 in .*it holds the steps \[1\]"):
        saved(tmp_path, [1]).restore(state_on(mesh("fsdp=4"), 0), step=7)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"width": 32}, r"params.embed.embedding is \['float32', \[32, 64\]\] there, \['float32', \[32, 32\]\] here"),
        ({"dtype": jnp.float32}, r"layers.q.kernel is \['bfloat16'"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_never_set_aside(tmp_path, like, message):
    checkpoints = saved(tmp_path, [1, 2])
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore(state_on(mesh("fsdp=4"), 0, **like))
    assert checkpoints.steps() == (1, 2)


def test_a_step_is_never_written_over(tmp_path):
    with pytest.raises(CheckpointError, match="step_00000001 exists"):
        saved(tmp_path, [1, 1])


def test_a_full_disk_is_named_before_the_write(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(CheckpointError, match=r"has 0.00 GiB free, a checkpoint takes .* choose another --run_dir"):
        saved(tmp_path, [1])


def run_child(tmp_path, code):
    """Runs `code` after a first good checkpoint, with this module's helpers at hand."""
    given = f"""
        import os, pathlib, resource, signal, sys, threading
        import conftest
        from test_training_checkpoint import *
        root = pathlib.Path({str(tmp_path)!r})
        checkpoints = saved(root, [1])
    """
    here = pathlib.Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}:{here.parent}"}
    script = textwrap.dedent(given) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)


def test_a_kill_in_the_middle_of_a_save_leaves_the_last_good_one(tmp_path):
    child = run_child(
        tmp_path,
        """
        def kill_when_it_writes():
            while not list(root.glob("checkpoints/step_00000002*tmp/*/ocdbt*")):
                pass
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill_when_it_writes).start()
        checkpoints.save(state_on(mesh("fsdp=4"), 2, width=1 << 15), {})
        checkpoints.wait()
        """,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr[-2000:]
    assert list(tmp_path.glob("checkpoints/*tmp"))
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    state, extra, rejected = checkpoints.restore(state_on(mesh("fsdp=4"), 0))
    assert equal(state, state_on(mesh("fsdp=4"), 1))
    assert (extra, rejected) == ({"position": 10}, ())
    checkpoints.save(state_on(mesh("fsdp=4"), 2), {})
    assert checkpoints.steps() == (1, 2)
    assert not list(tmp_path.glob("checkpoints/*tmp"))


def test_a_write_that_fails_is_named_and_leaves_the_last_good_one(tmp_path):
    child = run_child(
        tmp_path,
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # like a full disk: write() fails
        try:
            checkpoints.save(state_on(mesh("fsdp=4"), 2, width=1024), {})
            checkpoints.wait()
        except CheckpointError as error:
            print(error)
        """,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    assert "step_00000002 could not be written, the checkpoints before it are whole; free space" in child.stdout
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]


def test_a_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    """The buffers are overwritten while the disk is still busy; the fingerprints would show it."""
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    for step in (1, 2, 3):
        state = state_on(mesh("fsdp=4"), step, width=1 << 12)
        checkpoints.save(state, {"position": step})
        jax.block_until_ready(overwrite(state))
    restored, extra, rejected = checkpoints.restore(state_on(mesh("fsdp=4"), 0, width=1 << 12))
    assert (extra, rejected) == ({"position": 3}, ())
    assert equal(restored, state_on(mesh("fsdp=4"), 3, width=1 << 12))


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """The rename that makes it whole is held back until `save` has returned."""
    go_on, rename, renamed = threading.Event(), os.rename, []

    def held(*args, **kwargs):
        renamed.append(go_on.wait(60))
        rename(*args, **kwargs)

    monkeypatch.setattr(os, "rename", held)
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"))
    checkpoints.save(state_on(mesh("fsdp=4"), 1), {})
    assert not (tmp_path / "checkpoints" / "step_00000001").exists()
    go_on.set()
    assert checkpoints.steps() == (1,)
    assert renamed
    assert all(renamed)


def test_a_digest_changes_with_one_bit_a_name_or_a_shape():
    base = {"a": np.zeros(4, np.float32)}
    others = [{"a": np.array([0, 0, 0, -0.0], np.float32)}, {"b": base["a"]}, {"a": base["a"].reshape(2, 2)}]
    assert len({param_digest(tree) for tree in (base, *others)}) == 4
    assert param_digest({"a": jnp.zeros(4)}) == param_digest(base)
