"""Bytes between devices against counts by hand, on programs with explicit collectives."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from w4s_jax.policy.sharding import make_mesh
from w4s_jax.preflight.collectives import collectives


def compiled(body, mesh, in_spec, out_spec, shape):
    mapped = jax.shard_map(body, mesh=mesh, in_specs=in_spec, out_specs=out_spec, check_vma=False)
    return jax.jit(mapped).lower(jax.ShapeDtypeStruct(shape, jnp.float32)).compile().as_text()


@pytest.fixture(scope="module")
def mesh():
    return make_mesh("data=2,fsdp=2,tensor=2", jax.devices()[:8])


@pytest.mark.parametrize("axis", ["data", "fsdp", "tensor"])
def test_an_all_reduce_in_a_loop_counts_as_often_as_it_runs(mesh, axis):
    def body(x):
        return jax.lax.fori_loop(0, 5, lambda _, x: jnp.sin(jax.lax.psum(x, axis)), x)

    traffic = collectives(compiled(body, mesh, P(), P(), (16, 8)), mesh)
    # 16 · 8 floats, a ring of 2: twice a half.
    assert traffic.bytes == {("all-reduce", axis): 5 * 16 * 8 * 4}
    assert traffic.loops_of_unknown_length == 0


def test_nested_loops_multiply(mesh):
    def body(x):
        def inner(_, x):
            return jnp.sin(jax.lax.psum(x, "fsdp"))

        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.cos(jax.lax.fori_loop(0, 4, inner, x)), x)

    traffic = collectives(compiled(body, mesh, P(), P(), (8,)), mesh)
    assert traffic.bytes == {("all-reduce", "fsdp"): 12 * 8 * 4}


def test_a_gather_over_two_axes_is_named_after_both(mesh):
    gather = functools.partial(jax.lax.all_gather, axis_name=("data", "fsdp"), axis=0, tiled=True)
    traffic = collectives(compiled(gather, mesh, P(("data", "fsdp")), P(), (32, 4)), mesh)
    assert traffic.bytes == {("all-gather", "data+fsdp"): 32 * 4 * 4 * 3 // 4}


def test_a_scatter_counts_what_was_reduced(mesh):
    scatter = functools.partial(jax.lax.psum_scatter, axis_name="fsdp", scatter_dimension=0, tiled=True)
    traffic = collectives(compiled(scatter, mesh, P(), P("fsdp"), (32, 4)), mesh)
    sent = sum(traffic.bytes.values())
    # As a scatter, half of 32 · 4 floats; the CPU may do it as an all-reduce, twice that.
    assert (set(traffic.bytes), sent) in (
        ({("reduce-scatter", "fsdp")}, 32 * 4 * 4 // 2),
        ({("all-reduce", "fsdp")}, 32 * 4 * 4),
    )


def test_a_permutation_sends_everything(mesh):
    def body(x):
        return jax.lax.ppermute(x, "tensor", [(0, 1), (1, 0)])

    traffic = collectives(compiled(body, mesh, P("tensor"), P("tensor"), (32, 4)), mesh)
    assert traffic.bytes == {("collective-permute", "tensor"): 16 * 4 * 4}


def test_a_loop_whose_length_depends_on_data_is_counted_once_and_reported(mesh):
    def body(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 100.0, lambda x: 1.0 + jax.lax.psum(x, "data"), x)

    traffic = collectives(compiled(body, mesh, P(), P(), (8,)), mesh)
    assert traffic.bytes == {("all-reduce", "data"): 8 * 4}
    assert traffic.loops_of_unknown_length == 1


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", "tensor"),
        ("replica_groups=[4,2]<=[8]", "tensor"),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", "data+fsdp"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", "data"),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", "data"),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2], device_ids=([4,2]T(1,0)) {'a'}", "tensor"),
        ("replica_groups={}", "data+fsdp+tensor"),
    ],
)
def test_every_spelling_of_groups_is_read(mesh, groups, axes):
    text = f"ENTRY %main (p: f32[4]) -> f32[4] {{\n  %r = bf16[4,8]{{1,0}} all-reduce(%p), {groups}, to_apply=%add\n}}"
    ((kind, named), size), *rest = collectives(text, mesh).bytes.items()
    assert (kind, named, rest) == ("all-reduce", axes, [])
    n = 2 ** len(axes.split("+"))
    assert size == 2 * 4 * 8 * 2 * (n - 1) // n


def test_a_loop_without_a_trip_count_is_counted_by_its_condition(mesh):
    """As in the text of TPU programs."""
    text = """
%below.1 (p: (s32[], f32[4])) -> pred[] {
  %six = s32[]{:T(128)} constant(6), backend_config={}
  %p = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %six), direction=LT
}
%body.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %r = f32[4]{0} all-reduce(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
}
ENTRY %main (p: f32[4]) -> f32[4] {
  %w = (s32[]{:T(128)}, f32[4]{0}) while(%t), condition=%below.1, body=%body.1, metadata={}
}
"""
    traffic = collectives(text, mesh)
    assert traffic.bytes == {("all-reduce", "tensor"): 6 * 4 * 4}
    assert traffic.loops_of_unknown_length == 0


def test_an_asynchronous_gather_counts_its_result(mesh):
    text = (
        "ENTRY %main (p: f32[4]) -> f32[4] {\n"
        "  %s = ((bf16[4,8]{1,0}, f32[2]{0}), (bf16[8,8]{1,0}, f32[4]{0})) all-gather-start(%p, %q), "
        "replica_groups={{0,1},{2,3},{4,5},{6,7}}, dimensions={0}\n"
        "  %d = (bf16[8,8]{1,0}, f32[4]{0}) all-gather-done(%s)\n}"
    )
    assert collectives(text, mesh).bytes == {("all-gather", "tensor"): (8 * 8 * 2 + 4 * 4) // 2}
