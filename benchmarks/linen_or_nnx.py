"""Linen's `apply` or NNX's `split`/`merge`: the small experiment behind the choice.

The gradient of a mean loss through the same decoder (Qwen2 shape, layers stacked and
scanned, each rematerialised), once as `policy/transformer.py` has it and once as a
minimal NNX model. Weights are copied, and the losses must agree before anything is timed.

    python -m benchmarks.linen_or_nnx
"""

import inspect
import statistics
import time

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from w4s_jax.policy import transformer
from w4s_jax.policy.attention import causal_attention
from w4s_jax.policy.config import Family, ModelConfig
from w4s_jax.policy.rope import rope_tables, rotate
from w4s_jax.policy.transformer import Transformer, init_variables

CONFIG = ModelConfig(
    vocab_size=512,
    num_layers=6,
    embed_dim=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=176,
    tie_embeddings=True,
    family=Family.QWEN2,
)
ROWS, LENGTH, ROUNDS, STEPS = 4, 64, 5, 60


class NnxLinear(nnx.Module):
    """A map from the trailing `in_dims` to `out_dims`."""

    def __init__(self, in_dims, out_dims, use_bias=False):
        self.kernel = nnx.Param(jnp.zeros((*in_dims, *out_dims)))
        self.bias = nnx.Param(jnp.zeros(out_dims)) if use_bias else None
        self.in_ndim, self.out_ndim = len(in_dims), len(out_dims)

    def __call__(self, x):  # noqa: D102
        y = jnp.tensordot(x, self.kernel[...], axes=self.in_ndim)
        if self.bias is None:
            return y
        return y + jnp.expand_dims(self.bias[...], tuple(range(y.ndim - self.out_ndim)))


class NnxNorm(nnx.Module):
    """RMS norm."""

    def __init__(self, size, eps):
        self.scale, self.eps = nnx.Param(jnp.ones(size)), eps

    def __call__(self, x):  # noqa: D102
        normed = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return normed * jnp.expand_dims(self.scale[...], tuple(range(x.ndim - 1)))


class NnxBlock(nnx.Module):
    """One layer."""

    def __init__(self, c):
        heads, kv_heads, embed, mlp = (c.num_heads, c.head_dim), (c.num_kv_heads, c.head_dim), c.embed_dim, c.mlp_dim
        self.attn_norm, self.mlp_norm = NnxNorm(embed, c.norm_eps), NnxNorm(embed, c.norm_eps)
        self.q = NnxLinear((embed,), heads, use_bias=True)
        self.k, self.v = (NnxLinear((embed,), kv_heads, use_bias=True) for _ in range(2))
        self.o = NnxLinear(heads, (embed,))
        self.gate, self.up = NnxLinear((embed,), (mlp,)), NnxLinear((embed,), (mlp,))
        self.down = NnxLinear((mlp,), (embed,))

    def __call__(self, x, rope, attend):  # noqa: D102
        y = self.attn_norm(x)
        out, _ = attend(rotate(self.q(y), rope), rotate(self.k(y), rope), self.v(y), None)
        x = x + self.o(out)
        y = self.mlp_norm(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


class NnxTransformer(nnx.Module):
    """The decoder, logits included."""

    def __init__(self, c):
        self.config = c
        self.embedding = nnx.Param(jnp.zeros((c.vocab_size, c.embed_dim)))
        self.layers = nnx.vmap(lambda _: NnxBlock(c), in_axes=0, out_axes=0)(jnp.arange(c.num_layers))
        self.final_norm = NnxNorm(c.embed_dim, c.norm_eps)

    def __call__(self, tokens, positions, attend):  # noqa: D102
        rope = rope_tables(positions, self.config)

        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        @nnx.remat
        def layers(block, x):
            return block(x, rope, attend)

        x = layers(self.layers, jnp.take(self.embedding[...], tokens, axis=0))
        return jnp.einsum("BTD,VD->BTV", self.final_norm(x), self.embedding[...])


def attend(q, k, v, cache):
    return causal_attention(q, k, v, jnp.full(q.shape[0], q.shape[1])), ()


def mean_nll(logits, tokens):
    nll = -jax.nn.log_softmax(logits[:, :-1])
    return jnp.mean(jnp.take_along_axis(nll, tokens[:, 1:, None], axis=-1))


def linen_step(tokens, positions):
    model = Transformer(config=CONFIG, remat="full", compute_dtype="float32")
    variables = jax.jit(init_variables, static_argnums=0)(model, jax.random.key(0))

    def loss(params, tokens):
        hidden, _ = model.apply({"params": params}, tokens, positions, attend)
        return mean_nll(model.apply({"params": params}, hidden, method="unembed"), tokens)

    return loss, variables["params"]


def nnx_step(tokens, positions, linen_params):
    model = NnxTransformer(CONFIG)
    graph, state = nnx.split(model)
    flat = {"/".join(map(str, path)): value for path, value in nnx.to_flat_state(state)}
    for name in flat:
        source = linen_params["embed"]["embedding"] if name == "embedding" else linen_params
        for key in () if name == "embedding" else name.split("/"):
            source = source[key]
        flat[name][...] = source

    def loss(state, tokens):
        return mean_nll(nnx.merge(graph, state)(tokens, positions, attend), tokens)

    return loss, state


def build(loss, params, tokens):
    """The compiled gradient step, and the seconds to trace and to compile it."""
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(jax.value_and_grad(loss)).lower(params, tokens)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return compiled, traced - start, time.perf_counter() - traced


def run(compiled, params, tokens):
    """Seconds of one step, the loss and the gradient's norm."""
    start = time.perf_counter()
    value, grads = jax.block_until_ready(compiled(params, tokens))
    seconds = time.perf_counter() - start
    return seconds, float(value), float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))))


def measure(first, second, tokens):
    """(trace, compile, step) in seconds for two (loss, params): least of the rounds, median of interleaved steps."""
    built = [[build(*which, tokens) for which in (first, second)] for _ in range(ROUNDS)]
    steps = []
    for _ in range(STEPS):
        ours, theirs = (run(built[-1][i][0], which[1], tokens) for i, which in enumerate((first, second)))
        np.testing.assert_allclose(ours[1:], theirs[1:], rtol=1e-5)
        steps.append((ours[0], theirs[0]))
    return [
        (min(r[i][1] for r in built), min(r[i][2] for r in built), statistics.median(step[i] for step in steps))
        for i in range(2)
    ]


def num_lines(*objects):
    """Lines of source that are not blank."""
    return sum(sum(bool(line.strip()) for line in inspect.getsource(item).splitlines()) for item in objects)


def main():
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (ROWS, LENGTH), dtype=np.int32)
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape)
    linen_loss, params = linen_step(tokens, positions)
    nnx_loss, state = nnx_step(tokens, positions, params)
    linen, nnx_ = measure((linen_loss, params), (nnx_loss, state), tokens)
    print(f"jax {jax.__version__}, flax {flax.__version__}, {jax.devices()[0].device_kind}")
    print(f"least of {ROUNDS} builds, median of {STEPS} interleaved steps")
    print(f"{'':24}{'Linen':>10}{'NNX':>10}{'NNX/Linen':>11}")
    rows = ("trace and lower, s", "compile, s", "gradient step, ms"), (1, 1, 1000)
    for name, scale, ours, theirs in zip(*rows, linen, nnx_, strict=True):
        print(f"{name:24}{scale * ours:10.3f}{scale * theirs:10.3f}{theirs / ours:11.2f}")
    modules = (transformer.RMSNorm, transformer.Linear, transformer.Block, transformer.Transformer)
    print(f"{'lines of the modules':24}{num_lines(*modules):10d}", end="")
    print(
        f"{num_lines(NnxLinear, NnxNorm, NnxBlock, NnxTransformer):10d}   (Linen's also has LoRA, caches, meshes, docs)"
    )


if __name__ == "__main__":
    main()
