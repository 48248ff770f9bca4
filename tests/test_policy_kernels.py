"""Which attention runs where, and that the kernels compile for chips that are not here."""

import importlib.util
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

from w4s_jax.policy.attention import (
    cache_xla,
    cached_attention_for,
    choose,
    tree_attention_for,
    tree_attention_reference,
    tree_gpu,
    tree_tpu,
    tree_xla,
)
from w4s_jax.policy.config import Family, ModelConfig
from w4s_jax.policy.transformer import Transformer, param_shapes

AHEAD_OF_TIME = """
import sys
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from w4s_jax.policy.attention import tree_attention_for
from w4s_jax.policy.sharding import make_mesh
from w4s_jax.preflight.chips import Topology
from w4s_jax.preflight.described import compiling_for

topology, module, head_dim, dtype = sys.argv[1:]
mesh = make_mesh("", Topology.parse(topology).devices()[:1])
attention = tree_attention_for(mesh, int(head_dim))
assert attention.__module__.endswith(module), attention

def gradients(q, k, v, expiry):
    return jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v, expiry).astype(jnp.float32)), (0, 1, 2))(q, k, v)

def shape(*sizes, dtype=jnp.dtype(dtype)):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(mesh, PartitionSpec()))

q, k, expiry = shape(1, 2000, 28, int(head_dim)), shape(1, 2000, 4, int(head_dim)), shape(1, 2000, dtype=jnp.int32)
with compiling_for(mesh):
    compiled = jax.jit(gradients).lower(q, k, k, expiry).compile()
print(sum(map(compiled.as_text().count, ("tpu_custom_call", "xla.gpu.triton"))))
"""


def mesh_of(platform):
    device = SimpleNamespace(platform=platform, device_kind=f"a {platform}")
    return SimpleNamespace(devices=np.array([device], dtype=object))


def test_every_platform_has_its_attention(caplog):
    with caplog.at_level(logging.WARNING, logger="w4s_jax"):
        assert tree_attention_for(mesh_of("tpu"), 128) is tree_tpu.tree_attention
        assert tree_attention_for(mesh_of("gpu"), 64) is tree_gpu.tree_attention
        assert tree_attention_for(mesh_of("cpu"), 80) is tree_xla.tree_attention
        assert caplog.text == ""


@pytest.mark.parametrize(("platform", "head_dim"), [("tpu", 80), ("gpu", 80), ("gpu", 256), ("rocm", 128)])
def test_where_there_is_no_kernel_plain_xla_runs_and_says_so(platform, head_dim, caplog):
    with caplog.at_level(logging.WARNING, logger="w4s_jax"):
        assert tree_attention_for(mesh_of(platform), head_dim) is tree_xla.tree_attention
    assert f"head_dim={head_dim} on {platform}" in caplog.text


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_sliding_windows_are_served_by_plain_xla_which_is_said(platform, caplog):
    with caplog.at_level(logging.WARNING, logger="w4s_jax"):
        assert tree_attention_for(mesh_of(platform), 64, windowed=True) is tree_xla.tree_attention
        decoding = cached_attention_for(mesh_of(platform).devices[0], 64, 512, windowed=True)
    assert decoding.func is cache_xla.cached_attention
    assert f"no attention kernel for sliding windows and head_dim=64 on {platform}" in caplog.text


def test_a_jax_without_triton_still_attends_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(choose, "tree_gpu", None)
    with caplog.at_level(logging.WARNING, logger="w4s_jax"):
        assert tree_attention_for(mesh_of("gpu"), 128) is tree_xla.tree_attention
    assert f"jax {jax.__version__}" in caplog.text


def lowered_for_cuda(function, *shapes):
    """Text of a program for an H200, lowered on a machine that has none."""
    device = AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="gpu")
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
    triton = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    with use_abstract_mesh(mesh):
        lowered = export.export(jax.jit(function), platforms=["cuda"], disabled_checks=[triton])(*shapes)
    return str(lowered.mlir_module())


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "dtype"), [(28, 4, 128, "bfloat16"), (14, 2, 64, "float32")])
def test_the_gpu_kernels_lower_for_cuda(heads, kv_heads, head_dim, dtype):
    def gradients(q, k, v, expiry):
        attention = tree_gpu.tree_attention
        return jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v, expiry).astype(jnp.float32)), (0, 1, 2))(q, k, v)

    q, k = (jax.ShapeDtypeStruct((1, 1000, n, head_dim), dtype) for n in (heads, kv_heads))
    module = lowered_for_cuda(gradients, q, k, k, jax.ShapeDtypeStruct((1, 1000), jnp.int32))
    for kernel in ("forward_kernel", "query_gradient_kernel", "key_gradient_kernel"):
        assert module.count(f'name = "{kernel}", num_stages') == 1


@pytest.mark.parametrize(("remat", "forward"), [("none", 1), ("dots", 1), ("attention", 1), ("full", 2)])
def test_only_full_rematerialisation_attends_twice(remat, forward):
    config = ModelConfig(
        family=Family.QWEN3,
        vocab_size=64,
        num_layers=2,
        embed_dim=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        mlp_dim=48,
    )
    model = Transformer(config=config, remat=remat, compute_dtype="float32")
    tokens = jax.ShapeDtypeStruct((1, 128), jnp.int32)

    def gradient(variables, tokens):
        def attend(q, k, v, cache):
            return tree_gpu.tree_attention(q, k, v, jnp.full((1, 128), 128)), ()

        return jax.grad(lambda v: jnp.sum(model.apply(v, tokens, tokens, attend)[0]))(variables)

    module = lowered_for_cuda(gradient, param_shapes(config), tokens)
    assert module.count('name = "forward_kernel", num_stages') == forward
    assert module.count('name = "key_gradient_kernel", num_stages') == 1


@pytest.mark.parametrize(
    ("topology", "compiler", "module", "head_dim", "dtype"),
    [
        ("v5e-4", "libtpu", "tree_tpu", 128, "bfloat16"),
        ("h200", "jax_cuda13_plugin", "tree_gpu", 128, "bfloat16"),
        ("h200", "jax_cuda13_plugin", "tree_gpu", 128, "float32"),
        ("a100", "jax_cuda13_plugin", "tree_gpu", 64, "bfloat16"),
        ("b200", "jax_cuda13_plugin", "tree_gpu", 128, "bfloat16"),
    ],
)
def test_the_kernels_compile_ahead_of_time(topology, compiler, module, head_dim, dtype):
    if importlib.util.find_spec(compiler) is None:
        pytest.skip(f"{compiler} is not installed (make aot)")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", AHEAD_OF_TIME, topology, module, str(head_dim), dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 3  # forward and both backward kernels


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU here")
@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_on_a_gpu_the_kernels_are_the_reference(dtype, error):
    """Output and gradients of random nested expiries, as the chip computes them."""
    rng = np.random.default_rng(0)
    index = np.arange(1000)
    expiry = jnp.asarray(np.minimum(1000, index + 1 + rng.integers(0, 600, 1000))[None], jnp.int32)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 1000, n, 64)), dtype) for n in (14, 2, 2))

    def grads(attention):
        total = lambda q, k, v: jnp.sum(attention(q, k, v, expiry).astype(jnp.float32) ** 2)  # noqa: E731
        return (attention(q, k, v, expiry), *jax.grad(total, (0, 1, 2))(q, k, v))

    exact = jax.jit(tree_attention_reference)
    for ours, theirs in zip(jax.jit(grads, static_argnums=0)(tree_gpu.tree_attention), grads(exact), strict=True):
        ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
        assert np.linalg.norm(ours - theirs) < error * np.linalg.norm(theirs)
