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

from w4s_jax.policy import blockwise_attention, gpu_attention, tpu_attention
from w4s_jax.policy.kernels import tree_attention_for

AHEAD_OF_TIME = """
import jax, numpy as np
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from w4s_jax.policy.kernels import tree_attention_for

topology = topologies.get_topology_desc(
    platform="tpu", topology_name="v5e:2x2", chip_config_name="default", chips_per_host_bounds=(2, 2, 1), num_slices=1
)
mesh = Mesh(np.array(topology.devices[:1]), ("x",))
attention = tree_attention_for(mesh, 128)
assert attention.__module__.endswith("tpu_attention"), attention

def gradients(q, k, v, expiry):
    return jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v, expiry).astype(jnp.float32)), (0, 1, 2))(q, k, v)

def shape(*sizes, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(mesh, PartitionSpec()))

q, k, expiry = shape(1, 2048, 28, 128), shape(1, 2048, 4, 128), shape(1, 2048, dtype=jnp.int32)
compiled = jax.jit(gradients).lower(q, k, k, expiry).compile()
print(compiled.as_text().count("tpu_custom_call"))
"""


def mesh_of(platform):
    device = SimpleNamespace(platform=platform, device_kind=f"a {platform}")
    return SimpleNamespace(devices=np.array([device], dtype=object))


def test_every_platform_has_its_attention(caplog):
    with caplog.at_level(logging.WARNING, logger="w4s_jax"):
        assert tree_attention_for(mesh_of("tpu"), 128) is tpu_attention.tree_attention
        assert tree_attention_for(mesh_of("gpu"), 64) is gpu_attention.tree_attention
        assert tree_attention_for(mesh_of("cpu"), 80) is blockwise_attention.tree_attention
        assert caplog.text == ""


@pytest.mark.parametrize(("platform", "head_dim"), [("tpu", 80), ("gpu", 80), ("rocm", 128)])
def test_where_there_is_no_kernel_plain_xla_runs_and_says_so(platform, head_dim, caplog):
    with caplog.at_level(logging.WARNING, logger="w4s_jax"):
        assert tree_attention_for(mesh_of(platform), head_dim) is blockwise_attention.tree_attention
    assert f"head_dim={head_dim} on {platform}" in caplog.text


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "dtype"), [(28, 4, 128, "bfloat16"), (14, 2, 64, "float32")])
def test_the_gpu_kernels_lower_for_cuda(heads, kv_heads, head_dim, dtype):
    def gradients(q, k, v, expiry):
        attention = gpu_attention.tree_attention
        return jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v, expiry).astype(jnp.float32)), (0, 1, 2))(q, k, v)

    q, k = (jax.ShapeDtypeStruct((1, 1000, n, head_dim), dtype) for n in (heads, kv_heads))
    expiry = jax.ShapeDtypeStruct((1, 1000), jnp.int32)
    triton = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    lowered = export.export(jax.jit(gradients), platforms=["cuda"], disabled_checks=[triton])(q, k, k, expiry)
    module = str(lowered.mlir_module())
    for kernel in ("forward_kernel", "query_gradient_kernel", "key_gradient_kernel"):
        assert kernel in module


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason='needs libtpu: pip install "jax[tpu]"')
def test_the_tpu_kernels_compile_ahead_of_time():
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", AHEAD_OF_TIME], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 3  # forward and both backward kernels
