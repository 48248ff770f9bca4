import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_policy_attention import EXPIRY, LENGTH, PATHS
from tiny_policy import FAMILIES, causal, draw_tokens, draw_variables, logits, make, positions

from w4s_jax.policy.attention import attend_trees, decode_attention, tree_attention_reference
from w4s_jax.policy.lora import LoraConfig
from w4s_jax.policy.rope import rope_tables, rotate
from w4s_jax.policy.transformer import (
    REMAT,
    Transformer,
    init_lora,
    init_variables,
    look_up,
    param_shapes,
)
from w4s_jax.types import InputError


@pytest.mark.parametrize("family", FAMILIES)
def test_no_gradient_flows_from_the_future(family):
    config = dataclasses.replace(FAMILIES[family], tie_embeddings=False)  # else every row of the table is an output
    model = Transformer(config=config, compute_dtype="float32", remat="none")
    variables = draw_variables(config)
    tokens = np.arange(7, dtype=np.int32)[None]  # all different: a row of the table is a position

    @jax.jit
    @jax.grad
    def gradient(variables, t):
        return jnp.sum(jnp.sin(logits(model, variables, tokens)[0, t]))

    for t in (0, 3, 6):
        rows = np.abs(gradient(variables, t)["params"]["embed"]["embedding"]).sum(-1)
        assert np.all(rows[: t + 1] > 0.0)
        assert np.all(rows[t + 1 :] == 0.0)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_a_tree_in_one_row_equals_its_paths_in_rows_of_their_own(family):
    model, variables = make(family)
    tokens = draw_tokens(1, LENGTH)
    depth = np.zeros((1, LENGTH), np.int32)
    for path in PATHS.values():
        depth[0, path] = np.arange(len(path))
    expiry = jnp.asarray([EXPIRY], jnp.int32)

    @jax.jit
    def over_tree(variables):
        hidden, cache = model.apply(variables, tokens, depth, attend_trees(tree_attention_reference, expiry, depth))
        assert cache == ()
        return model.apply(variables, hidden, method="unembed")

    tree = over_tree(variables)
    for path in PATHS.values():
        np.testing.assert_allclose(tree[:, path], logits(model, variables, tokens[:, path]), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_and_decode_equal_the_training_forward(family):
    """Two prompts of 5 and 3 tokens, two samples each, four decoding steps."""
    model, variables = make(family)
    lengths, steps = np.array([5, 3], np.int32), 4
    prompts, written = draw_tokens(2, 5), draw_tokens(4, steps, seed=1).reshape(2, 2, steps)

    @jax.jit
    def prefill(tokens):
        _, (k, v) = model.apply(variables, tokens, positions(2, 5), causal(lengths))
        empty = jnp.zeros((model.config.num_layers, 2, 2, steps, *k.shape[-2:]))
        return k, v, empty, empty

    @jax.jit
    def decode(cache, tokens, step):
        def attend(q, k, v, layer, *window):
            prompt_k, prompt_v, own_k, own_v = layer
            own_k, own_v = own_k.at[:, :, step].set(k), own_v.at[:, :, step].set(v)
            out = decode_attention(q, prompt_k, prompt_v, lengths, own_k, own_v, jnp.full((2, 2), step + 1), *window)
            return out, (prompt_k, prompt_v, own_k, own_v)

        at = jnp.broadcast_to(lengths[:, None] + step, (2, 2))
        hidden, cache = model.apply(variables, tokens, at, attend, cache)
        return model.apply(variables, hidden, method="unembed"), cache

    cache, decoded = prefill(prompts), []
    for step in range(steps):
        out, cache = decode(cache, written[:, :, step], step)
        decoded.append(out)
    for g in range(2):
        for m in range(2):
            row = np.concatenate([prompts[g, : lengths[g]], written[g, m], prompts[g, lengths[g] :]])[None]
            whole = logits(model, variables, row, [lengths[g] + steps])[0, lengths[g] : lengths[g] + steps]
            np.testing.assert_allclose(np.stack(decoded)[:, g, m], whole, atol=1e-5)


@pytest.mark.parametrize("remat", [name for name in REMAT if name != "none"])
def test_rematerialising_changes_no_gradient(remat):
    tokens = draw_tokens(2, 6)

    def grads(remat):
        model, variables = make("qwen2", remat=remat)
        return jax.jit(jax.grad(lambda v: jnp.mean(logits(model, v, tokens) ** 2)))(variables)

    for ours, theirs in zip(jax.tree.leaves(grads(remat)), jax.tree.leaves(grads("none")), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_full_rematerialisation_keeps_nothing_of_a_layer_but_its_input():
    tokens = draw_tokens(2, 6)

    def stacked_residuals(remat):
        model, variables = make("llama", remat=remat)
        _, backward = jax.eval_shape(lambda v: jax.vjp(lambda v: jnp.sum(logits(model, v, tokens)), v), variables)
        # Activations of all layers: [layers=2, rows=2, tokens=6, ...].
        return [leaf.shape for leaf in jax.tree.leaves(backward) if leaf.shape[:3] == (2, 2, 6)]

    assert stacked_residuals("full") == [(2, 2, 6, 16)]
    assert len(stacked_residuals("none")) > len(stacked_residuals("dots")) > 1


def test_an_unknown_remat_policy_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="remat='some' is not known; allowed: none, full, attention, dots"):
        init_variables(Transformer(config=FAMILIES["llama"], remat="some", compute_dtype="float32"), jax.random.key(0))


def test_shapes_are_known_without_allocating():
    shapes = param_shapes(FAMILIES["qwen2"], jnp.bfloat16, LoraConfig(rank=3, alpha=6.0))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    kernel = shapes["params"]["layers"]["k"]["kernel"]
    assert (kernel.shape, kernel.dtype) == ((2, 16, 2, 8), jnp.bfloat16)
    adapter = shapes["lora"]["layers"]["down"]["a"]
    assert (adapter.shape, adapter.dtype) == ((2, 24, 3), jnp.float32)


def test_equal_keys_give_equal_parameters_and_layers_differ_from_one_another():
    init = jax.jit(init_variables, static_argnums=0)
    model = Transformer(
        config=FAMILIES["llama"], lora=LoraConfig(rank=2, alpha=2.0), compute_dtype="float32", remat="none"
    )
    first, second = (init(model, jax.random.key(s)) for s in (0, 0))
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
    kernel = np.asarray(first["params"]["layers"]["gate"]["kernel"])
    assert not np.array_equal(kernel[0], kernel[1])
    assert 0.015 < kernel.std() < 0.025
    assert np.all(np.asarray(first["lora"]["layers"]["gate"]["b"]) == 0.0)
    assert jax.tree.all(jax.tree.map(np.array_equal, first["lora"], init_lora(model, jax.random.key(0))))
    assert np.all(np.asarray(first["lora"]["layers"]["gate"]["a"]).std(axis=(1, 2)) > 0.01)


def test_rotation_is_that_of_complex_numbers():
    config = FAMILIES["llama"]
    x = np.random.default_rng(0).standard_normal((1, 3, 2, config.head_dim)).astype(np.float32)
    at = np.array([[0, 5, 1000]], np.int32)
    half = config.head_dim // 2
    angles = at[0][:, None] * 10_000.0 ** -(np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[None, :, None, :]
    ours = rotate(jnp.asarray(x), rope_tables(at, config))
    # float32 angles near 1000 are off by 6e-5.
    np.testing.assert_allclose(ours, np.concatenate([turned.real, turned.imag], -1), atol=3e-4)


def test_half_precision_activations_keep_float32_logits():
    model, variables = make("qwen3", compute_dtype=jnp.bfloat16)
    attend = causal([4])
    hidden = jax.eval_shape(lambda v: model.apply(v, draw_tokens(1, 4), positions(1, 4), attend)[0], variables)
    assert hidden.dtype == jnp.bfloat16
    assert jax.eval_shape(lambda v, h: model.apply(v, h, method="unembed"), variables, hidden).dtype == jnp.float32


def test_the_embedding_of_a_token_that_stands_often_adds_up_in_float32():
    """4,096 gradients of 1 and one of 2 ** -7; in bfloat16 the sum would stand still at 256."""
    table = jnp.zeros((3, 2), jnp.bfloat16)
    tokens = jnp.zeros((1, 4097), jnp.int32).at[0, -1].set(2)
    weight = jnp.ones(4097, jnp.bfloat16).at[-1].set(2**-7)
    grad = jax.grad(lambda t: jnp.sum(look_up(t, tokens)[0] * weight[:, None]).astype(jnp.float32))(table)
    np.testing.assert_array_equal(np.asarray(grad, np.float32), [[4096, 4096], [0, 0], [2**-7, 2**-7]])
    assert grad.dtype == jnp.bfloat16


def test_a_bfloat16_model_adds_up_its_embedding_in_float32():
    """One token a thousand times; a sum in bfloat16 stands still long before its end."""
    config = dataclasses.replace(FAMILIES["qwen2"], tie_embeddings=False)
    model = Transformer(config=config, param_dtype=jnp.bfloat16, compute_dtype=jnp.bfloat16, remat="none")
    variables = init_variables(model, jax.random.key(0))
    tokens = jnp.zeros((1, 1000), jnp.int32)

    def total(dtype):
        wide = jax.tree.map(lambda x: x.astype(dtype), variables)
        of = model.clone(param_dtype=dtype, compute_dtype=dtype)
        attend = lambda q, k, v, cache: (q, ())  # noqa: E731
        return jax.grad(lambda v: jnp.sum(of.apply(v, tokens, tokens, attend)[0].astype(jnp.float32)[..., 0]))(wide)

    narrow, exact = (
        np.asarray(total(d)["params"]["embed"]["embedding"], np.float64)[0] for d in (jnp.bfloat16, "float32")
    )
    assert np.linalg.norm(narrow - exact) < 0.02 * np.linalg.norm(exact)
