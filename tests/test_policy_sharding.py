import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from tiny_policy import FAMILIES, draw_tokens, draw_variables, logits

from w4s_jax.policy.attention import Window, tree_attention_reference
from w4s_jax.policy.config import PRESETS
from w4s_jax.policy.lora import LoraConfig
from w4s_jax.policy.parameters import LOGICAL_AXES
from w4s_jax.policy.sharding import (
    batch_sharding,
    by_shard,
    fallbacks,
    host_mesh,
    local_copy,
    make_mesh,
    replicated,
    shardings,
)
from w4s_jax.policy.transformer import Transformer, param_shapes
from w4s_jax.types import InputError

LORA = LoraConfig(rank=2, alpha=4.0)
MESHES = [
    ("qwen2", "fsdp=8"),
    ("gemma3", "fsdp=4,tensor=2"),
    ("qwen3", "data=2,fsdp=2,tensor=2"),
    ("qwen2", "fsdp=2,tensor=4"),
]
TOKENS = draw_tokens(8, 6)


def run(family, mesh=None):
    """Logits and gradients of a model with adapters, sharded over a mesh where one is given."""
    model = Transformer(config=FAMILIES[family], lora=LORA, remat="full", mesh=mesh, compute_dtype="float32")
    variables, tokens = draw_variables(model.config, LORA), TOKENS
    if mesh is not None:
        variables = jax.device_put(variables, shardings(variables, mesh))
        tokens = jax.device_put(tokens, batch_sharding(mesh))

    def loss(variables, tokens):
        out = logits(model, variables, tokens)
        return jnp.mean(jnp.sin(out)), out

    return variables, jax.jit(jax.grad(loss, has_aux=True))(variables, tokens)


@pytest.fixture(scope="module")
def alone():
    return {family: run(family)[1] for family in ("qwen2", "qwen3", "gemma3")}


@pytest.mark.parametrize(("family", "spec"), MESHES)
def test_a_sharded_model_computes_what_one_device_does(alone, family, spec):
    mesh = make_mesh(spec)
    variables, (grads, out) = run(family, mesh)
    grads_alone, out_alone = alone[family]
    np.testing.assert_allclose(out, out_alone, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_alone), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    kernel = variables["params"]["layers"]["q"]["kernel"]
    assert kernel.addressable_shards[0].data.size * mesh.shape["fsdp"] * mesh.shape["tensor"] == kernel.size


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_knows_every_leaf_of_every_model(name):
    mesh = make_mesh("data=8")
    assert fallbacks(param_shapes(PRESETS[name], lora=LORA), mesh) == ()


def test_the_table_has_no_leaf_that_no_model_has():
    used = set()
    for config in FAMILIES.values():
        for path, _ in jax.tree_util.tree_leaves_with_path(param_shapes(config, lora=LORA)):
            names = [key.key for key in path]
            used |= {names[-1], "/".join(names[-2:])}
    assert set(LOGICAL_AXES) <= used


def test_an_attention_with_a_window_computes_on_shards_what_it_does_alone():
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(4, 12, heads, 8)).astype(np.float32) for heads in (4, 2, 2))
    expiry, positions = np.full((4, 12), 12, np.int32), np.tile(np.arange(12, dtype=np.int32), (4, 1))
    inputs = (q, k, v, expiry, Window(positions, np.int32(3)))
    mesh = make_mesh("data=2,fsdp=2,tensor=2")
    sharded = jax.jit(by_shard(tree_attention_reference, mesh, 2))(*inputs)
    np.testing.assert_allclose(sharded, tree_attention_reference(*inputs), atol=1e-6)


def test_placements_follow_the_table():
    placed = shardings(param_shapes(FAMILIES["qwen2"]), make_mesh("data=2,fsdp=2,tensor=2"))["params"]
    assert placed["embed"]["embedding"].spec == PartitionSpec("tensor", "fsdp")
    assert placed["layers"]["q"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert placed["layers"]["o"]["kernel"].spec == PartitionSpec(None, "tensor", None, "fsdp")
    assert placed["layers"]["down"]["kernel"].spec == PartitionSpec(None, "tensor", "fsdp")


def test_an_axis_that_does_not_divide_is_replicated_and_named():
    mesh = make_mesh("fsdp=2,tensor=4")
    shapes = param_shapes(FAMILIES["llama"])
    placed = shardings(shapes, mesh)["params"]["layers"]["k"]["kernel"]
    assert placed.spec == PartitionSpec(None, "fsdp", None, None)
    lines = fallbacks(shapes, mesh)
    assert len(lines) == 2
    assert lines[0] == "params/layers/k/kernel (2, 16, 2, 8): kv_heads=2 is not a multiple of tensor=4"


def test_optimiser_moments_are_placed_as_their_parameters():
    mesh = make_mesh("fsdp=4,tensor=2")
    params = param_shapes(FAMILIES["qwen3"])["params"]
    state = jax.eval_shape(optax.adamw(1e-3).init, params)
    placed, wanted = shardings(state, mesh), shardings(params, mesh)
    moments = placed[0]
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, moments.mu, wanted))
    assert jax.tree.all(jax.tree.map(lambda a, b: a == b, moments.nu, wanted))
    assert moments.count == replicated(mesh)
    assert fallbacks(state, mesh) == ()


def test_factored_moments_are_replicated_and_named():
    state = jax.eval_shape(
        optax.adafactor(1e-3, min_dim_size_to_factor=8).init, param_shapes(FAMILIES["llama"])["params"]
    )
    mesh = make_mesh("fsdp=8")
    assert all(isinstance(leaf, jax.sharding.NamedSharding) for leaf in jax.tree.leaves(shardings(state, mesh)))
    assert any("v_row" in line and "not in the table" in line for line in fallbacks(state, mesh))


def test_left_out_axes_have_size_one():
    assert dict(make_mesh("fsdp=8").shape) == {"data": 1, "fsdp": 8, "tensor": 1}
    assert dict(make_mesh("", jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(" tensor=2, data=4 ").shape) == {"data": 4, "fsdp": 1, "tensor": 2}


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("model=8", "unknown axis 'model'; allowed: data, fsdp, tensor"),
        ("fsdp=4", "asks for 4 devices, but 8 are present"),
        ("fsdp=4,fsdp=2", "'fsdp' twice"),
        ("fsdp=0", "fsdp=0"),
        ("fsdp=-8", "fsdp=-8"),
        ("fsdp", "positive whole number"),
        ("fsdp=4,tensor=x", "tensor=x"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused_with_its_reason(spec, named):
    with pytest.raises(InputError, match=named):
        make_mesh(spec)


def test_a_local_copy_lies_on_the_other_mesh_and_outlives_the_original():
    variables = draw_variables(FAMILIES["qwen3"], LORA)
    want = jax.tree.map(np.asarray, variables)
    spread = jax.device_put(variables, shardings(variables, make_mesh("fsdp=8")))
    here = host_mesh(jax.devices(), 2)
    assert dict(here.shape) == {"data": 4, "fsdp": 1, "tensor": 2}
    copied = local_copy(spread, here)
    jax.tree.map(lambda leaf: leaf.delete(), spread)
    assert jax.tree.all(jax.tree.map(np.array_equal, copied, want))
    where = shardings(variables, here)
    assert jax.tree.all(jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, copied, where))


def test_slices_of_a_pod_have_to_divide_data():
    """Two slices of four described devices; only which slice they are in is asked."""
    devices = [types.SimpleNamespace(slice_index=index // 4, platform="tpu") for index in range(8)]
    with pytest.raises(InputError, match=r"mesh='data=1,fsdp=8' has data=1 over 2 slices; make data a multiple of 2"):
        make_mesh("data=1,fsdp=8", devices)
