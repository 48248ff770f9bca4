import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w4s_jax.policy.sharding import batch_sharding, make_mesh
from w4s_jax.preflight.collectives import collectives
from w4s_jax.training.cross_entropy import OutputLayer, Plan, chunked_nll
from w4s_jax.training.losses import RewardWeightedRegression, packed_loss
from w4s_jax.training.tree import PackedBatch
from w4s_jax.types import InputError

B, T, M, D, V = 3, 17, 13, 8, 50


@pytest.fixture
def given():
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.1, 2.0, (B, M)) * (np.arange(M)[None, :] < np.array([[13], [4], [0]]))
    return {
        "hidden": rng.normal(size=(B, T, D)),
        "table": rng.normal(size=(D, V)),
        "source": rng.integers(0, T, (B, M)),
        "token": rng.integers(0, V, (B, M)),
        "weight": weight,
    }


def by_numpy(given, denominator):
    """The loss and its gradients in float64: d loss / d logits = weight · (softmax − one-hot)."""
    rows = np.arange(B)[:, None]
    sources = given["hidden"][rows, given["source"]]
    logits = sources @ given["table"]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    nll = -np.log(p[rows, np.arange(M)[None, :], given["token"]])
    d_logits = (p - np.eye(V)[given["token"]]) * given["weight"][..., None] / denominator
    d_hidden = np.zeros_like(given["hidden"])
    np.add.at(d_hidden, (rows, given["source"]), d_logits @ given["table"].T)
    return (given["weight"] * nll).sum() / denominator, d_hidden, np.einsum("BMD,BMV->DV", sources, d_logits)


def targets(source, token, weight):
    """A batch that has nothing but what reward-weighted regression reads."""
    rest = dict.fromkeys(("tokens", "positions", "expiry", "target_share", "behaviour_logprob"))
    return PackedBatch(**rest, target_source=source, target_token=token, target_weight=weight)


def loss(hidden, table, given, denominator, chunk):
    batch = targets(
        jnp.asarray(given["source"], jnp.int32),
        jnp.asarray(given["token"], jnp.int32),
        jnp.asarray(given["weight"], jnp.float32),
    )
    layer = OutputLayer.of(table.T, make_mesh("", jax.devices()[:1]), jnp.float32)
    return packed_loss(RewardWeightedRegression(), hidden, batch, layer, denominator, chunk=chunk)


@pytest.mark.parametrize("chunk", [1, 4, 13, 512])
def test_the_loss_and_its_gradients_are_those_of_float64_at_any_chunk(given, chunk):
    hidden, table = jnp.asarray(given["hidden"], jnp.float32), jnp.asarray(given["table"], jnp.float32)
    grad = jax.jit(jax.value_and_grad(lambda h, t: loss(h, t, given, 7.0, chunk), argnums=(0, 1), has_aux=True))
    (value, metrics), grads = grad(hidden, table)
    want, *want_grads = by_numpy(given, 7.0)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(metrics.loss / 7.0, want, rtol=1e-5)
    assert metrics.targets == 17
    for got, expected in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.linalg.norm(expected))


@pytest.mark.parametrize("spec", ["data=2,fsdp=2", "data=4", "fsdp=2,tensor=2", "fsdp=3", "tensor=4"])
def test_a_vocabulary_split_over_devices_gives_the_loss_and_gradients_of_float64(given, spec):
    mesh = make_mesh(spec, jax.devices()[: 3 if spec == "fsdp=3" else 4])

    def split(hidden, table_VD):
        weighted = {key: jnp.asarray(given[key], jnp.int32) for key in ("source", "token")}
        layer = OutputLayer.of(table_VD, mesh, jnp.float32)
        batch = targets(weighted["source"], weighted["token"], jnp.asarray(given["weight"], jnp.float32))
        return packed_loss(RewardWeightedRegression(), hidden, batch, layer, 7.0, chunk=4)[0]

    hidden, table_VD = jnp.asarray(given["hidden"], jnp.float32), jnp.asarray(given["table"].T, jnp.float32)
    value, grads = jax.jit(jax.value_and_grad(split, argnums=(0, 1)))(hidden, table_VD)
    want, want_hidden, want_table = by_numpy(given, 7.0)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(grads[0], want_hidden, atol=1e-5 * np.linalg.norm(want_hidden))
    np.testing.assert_allclose(grads[1], want_table.T, atol=1e-5 * np.linalg.norm(want_table))


@pytest.mark.parametrize("spec", ["fsdp=4", "data=2,fsdp=2", "data=4", "fsdp=2,tensor=2"])
def test_more_chunks_do_not_send_the_table_again(spec):
    """V = 1,024 and D = 16: the table has 64 KiB, the hidden states of all four rows 16 KiB."""
    mesh = make_mesh(spec, jax.devices()[:4])
    rows, whole = batch_sharding(mesh), jax.NamedSharding(mesh, jax.P(None, "fsdp"))

    def sent(chunk):
        def loss(hidden, table_VD, index, weight):
            layer = OutputLayer.of(table_VD, mesh, jnp.float32)
            batch = targets(index, index, weight)
            return packed_loss(RewardWeightedRegression(), hidden, batch, layer, chunk=chunk)[0]

        args = [((4, 64, 16), jnp.float32, rows), ((1024, 16), jnp.float32, whole)]
        args += [((4, 64), jnp.int32, rows), ((4, 64), jnp.float32, rows)]
        shapes = [jax.ShapeDtypeStruct(shape, dtype, sharding=where) for shape, dtype, where in args]
        grad = jax.jit(jax.grad(loss, argnums=(0, 1)), out_shardings=(rows, whole))
        traffic = collectives(grad.lower(*shapes).compile().as_text(), mesh)
        assert not traffic.loops_of_unknown_length
        return sum(traffic.bytes.values())

    assert sent(chunk=4) - sent(chunk=64) < 16 * 1024


def sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (int(np.prod(v.aval.shape)) for v in equation.outvars)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def test_no_array_of_tokens_by_vocabulary_exists_forward_or_backward(given):
    hidden, table = jnp.asarray(given["hidden"], jnp.float32), jnp.asarray(given["table"], jnp.float32)
    assert 2 * max(hidden.size, table.size) < B * M * V  # else the bound below would say nothing

    def largest(chunk):
        grad = jax.grad(lambda h, t: loss(h, t, given, 1.0, chunk)[0], argnums=(0, 1))
        return max(sizes(jax.make_jaxpr(grad)(hidden, table).jaxpr))

    assert largest(M) == B * M * V
    assert largest(2) < B * M * V / 2


def test_a_chunk_without_targets_is_not_computed_forward_or_backward(given, monkeypatch):
    chunks, logits = [], Plan.logits
    given["weight"][0, 4:] = 0.0  # now no row has more than 4 targets

    def counted(plan, *args):
        jax.debug.callback(lambda: chunks.append(1))
        return logits(plan, *args)

    monkeypatch.setattr(Plan, "logits", counted)
    hidden, table = jnp.asarray(given["hidden"], jnp.float32), jnp.asarray(given["table"], jnp.float32)
    value, grads = jax.value_and_grad(lambda h, t: loss(h, t, given, 1.0, 4)[0], argnums=(0, 1))(hidden, table)
    jax.effects_barrier()
    want, *want_grads = by_numpy(given, 1.0)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for got, expected in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.linalg.norm(expected))
    assert len(chunks) == 2


def test_the_table_of_a_bfloat16_model_has_a_gradient_that_adds_up_in_float32():
    """Over 256 chunks of one target each; one rounding to bfloat16 at the end costs 2e-3 of it, one a chunk 3e-2."""
    rng = np.random.default_rng(0)
    targets, words, dim = 256, 32, 16
    hidden, table = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((1, targets, dim), (words, dim)))
    token = rng.integers(0, words, (1, targets))
    mesh = make_mesh("", jax.devices()[:1])

    def total(table_VD, chunk):
        layer = OutputLayer.of(table_VD, mesh, jnp.bfloat16)
        return jnp.sum(chunked_nll(hidden, jnp.asarray(token), jnp.ones((1, targets), bool), layer, chunk=chunk))

    grad = jax.grad(total)(table, 1)
    wide = np.asarray(hidden, np.float64)[0]
    p = np.exp(wide @ np.asarray(table, np.float64).T)
    p = (p / p.sum(-1, keepdims=True) - np.eye(words)[token[0]]).T @ wide
    assert grad.dtype == jnp.bfloat16
    assert np.linalg.norm(np.asarray(grad, np.float64) - p) < 4e-3 * np.linalg.norm(p)


@pytest.mark.parametrize("spec", ["", "fsdp=2,tensor=2"])
def test_a_table_that_does_not_learn_has_no_gradient_and_its_hidden_states_the_same(given, spec):
    mesh = make_mesh(spec, jax.devices()[: 4 if spec else 1])
    hidden, table = jnp.asarray(given["hidden"], jnp.float32), jnp.asarray(given["table"].T, jnp.float32)
    token, counts = jnp.asarray(given["token"], jnp.int32), jnp.asarray(given["weight"]) != 0

    def grads(learns):
        def total(hidden, table_VD):
            layer = OutputLayer.of(table_VD, mesh, jnp.float32, learns=learns)
            return jnp.sum(chunked_nll(hidden[:, : token.shape[1]], token, counts, layer, chunk=4))

        return jax.jit(jax.grad(total, argnums=(0, 1)))(hidden, table)

    (d_hidden, d_table), (same, nothing) = grads(True), grads(False)
    np.testing.assert_allclose(same, d_hidden, rtol=1e-6, atol=1e-7)
    assert np.any(d_table)
    assert not np.any(nothing)


def test_targets_of_unequal_shapes_are_refused(given):
    given["token"] = given["token"][:, :-1]
    with pytest.raises(InputError, match=r"targets \(3, 13\), \(3, 12\), \(3, 13\) must be equal"):
        loss(jnp.zeros((B, T, D)), jnp.zeros((D, V)), given, 1.0, 4)
