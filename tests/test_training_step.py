import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_training_tree import candidate, random_turns, turn

from w4s_jax.policy.config import Family, ModelConfig
from w4s_jax.policy.lora import LoraConfig
from w4s_jax.policy.sharding import make_mesh
from w4s_jax.policy.transformer import Transformer, param_shapes
from w4s_jax.training.checkpoint import param_digest
from w4s_jax.training.config import OptimizerConfig
from w4s_jax.training.step import Trainer
from w4s_jax.training.tree import build_rows, build_trees, pack
from w4s_jax.training.weights import RewardWeighted
from w4s_jax.types import InputError, NumericsError

CONFIG = ModelConfig(
    family=Family.QWEN3, vocab_size=64, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=48
)
SGD = OptimizerConfig(name="sgd", learning_rate=0.1, max_grad_norm=0.0)
ROWS, LENGTH = 4, 64


@functools.cache
def variables(lora=None, param_dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = param_shapes(CONFIG, param_dtype, lora)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0.0, 0.1, x.shape), x.dtype), shapes)


@functools.cache
def trainer(mesh="data=1", optimizer=SGD, lora=None, param_dtype=jnp.float32):
    devices = int(np.prod([int(axis.split("=")[1]) for axis in mesh.split(",")]))
    return Trainer(
        model=Transformer(config=CONFIG, lora=lora, param_dtype=param_dtype, compute_dtype="float32", remat="none"),
        mesh=make_mesh(mesh, jax.devices()[:devices]),
        optimizer=optimizer,
        loss_chunk=16,
    )


def summed(of, state, batches):
    total = of.zero_grads()
    for batch in batches:
        total = of.accumulate(state, total, batch)
    return total


def trees_of(seeds):
    return [tree for seed in seeds for tree in build_trees(random_turns(np.random.default_rng(seed)), RewardWeighted())]


def assert_close(got, want, tolerance=1e-5):
    """Within `tolerance` of each leaf's norm."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b), jax.tree_util.keystr(path)


@pytest.mark.parametrize("seed", range(12))
def test_packed_trees_have_the_loss_and_the_gradient_of_one_row_per_action(seed):
    """Σ weight·nll over the tree equals row-per-action training exactly; float32, 1e-5 of each leaf's norm."""
    trees, rows = [], []
    for part in range(4):
        turns = random_turns(np.random.default_rng([seed, part]))
        trees += build_trees(turns, RewardWeighted())
        rows += build_rows(turns, RewardWeighted())
    assert sum(t.num_actions for t in trees) == len(rows)
    state = trainer().init_state(variables())
    by_tree = summed(trainer(), state, pack(trees, LENGTH, ROWS))
    # One action alone in each row: no packing, no tree.
    by_row = summed(trainer(), state, [b for i in range(0, len(rows), ROWS) for b in alone(rows[i : i + ROWS])])
    assert_close(by_tree, by_row)


def alone(rows):
    """One batch with a row for each of at most ROWS chains."""
    packed = [pack([row], LENGTH, 1)[0] for row in rows]
    empty = jax.tree.map(np.zeros_like, packed[0])
    return [jax.tree.map(lambda *x: np.concatenate(x), *packed, *([empty] * (ROWS - len(packed))))]


def test_nothing_flows_between_siblings_or_between_trees_of_a_row():
    """Every token id is used once, so that the gradient of its embedding is the flow from its place."""
    first = turn(0, [1, 2, 3], [candidate(0, [4, 5], 1.0), candidate(1, [6, 11], 0.0), candidate(2, [12], 0.0)], 0)
    second = turn(1, [1, 2, 3, 4, 5, 7], [candidate(0, [8, 13], 0.5), candidate(1, [9, 10], 1.0)], 1)
    other = turn(0, [20, 21], [candidate(0, [22, 23], 1.0), candidate(1, [24, 25], 1.0)], 0)
    trees = [t for turns in ([first, second], [other]) for t in build_trees(turns, RewardWeighted())]
    (batch,) = pack(trees, LENGTH, ROWS)
    assert (batch.tokens[0] > 0).sum() == sum(map(len, trees))  # both lie in row 0
    context = {}
    for t in (first, second, other):
        for c in t.candidates:
            context |= {token: {*t.prompt_ids, *c.ids[:i]} for i, token in enumerate(c.ids)}
    state = trainer().init_state(variables())
    for target in np.flatnonzero(batch.target_weight[0]):
        only = np.zeros_like(batch.target_weight)
        only[0, target] = 1.0
        total = summed(trainer(), state, [batch._replace(target_weight=only)])
        flow = np.abs(total.grads["params"]["embed"]["embedding"]).max(axis=1)
        assert set(np.flatnonzero(flow)) == context[int(batch.target_token[0, target])]


@pytest.mark.parametrize("mesh", ["data=4", "fsdp=4", "data=2,fsdp=2", "fsdp=2,tensor=2"])
def test_every_mesh_gives_the_same_loss_and_update(mesh):
    trees = trees_of(range(8))
    actions = sum(tree.num_actions for tree in trees)

    def trained(of):
        state = of.init_state(variables())
        return of.apply(state, summed(of, state, pack(trees, LENGTH, ROWS)), actions)

    one, metrics = trained(trainer())
    many, many_metrics = trained(trainer(mesh))
    assert many_metrics.loss == pytest.approx(metrics.loss, rel=1e-5)
    assert many_metrics.grad_norm == pytest.approx(metrics.grad_norm, rel=1e-5)
    moved = [jax.tree.map(lambda new, old: new - old, jax.device_get(s.params), variables()) for s in (many, one)]
    # Adding the step to the parameter rounds it, so the step itself is compared a little wider.
    assert_close(moved[0], moved[1], 1e-4)
    assert_close(jax.device_get(many.params), jax.device_get(one.params), 1e-6)


def test_accumulating_micro_batches_equals_one_batch():
    trees = trees_of(range(8))
    batches = pack(trees, LENGTH, ROWS)
    state = trainer().init_state(variables())
    whole = summed(trainer(), state, batches)
    empty = jax.tree.map(np.zeros_like, batches[0])
    single = [
        jax.tree.map(lambda x, none, i=i: np.where(np.arange(ROWS)[:, None] == i, x, none), batch, empty)
        for batch in batches
        for i in range(ROWS)
    ]
    assert len(single) == ROWS * len(batches)
    assert_close(summed(trainer(), state, single), whole)


def test_the_update_is_the_mean_over_the_counted_actions():
    trees = trees_of([2, 3])
    state = trainer().init_state(variables())
    total = summed(trainer(), state, pack(trees, LENGTH, ROWS))
    grads, weighted = jax.device_get(total.grads), float(total.metrics.loss)
    new, metrics = trainer().apply(state, total, 7)
    assert metrics.loss == pytest.approx(weighted / 7, rel=1e-6)
    norm = np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in jax.tree.leaves(grads))) / 7
    assert metrics.grad_norm == pytest.approx(norm, rel=1e-5)
    assert (metrics.step, metrics.num_actions, int(new.step)) == (1, 7, 1)
    assert metrics.target_tokens == sum(len(t.target_token) for t in trees)
    want = jax.tree.map(lambda p, g: np.asarray(p) - 0.1 * g / 7, variables(), grads)
    assert_close(jax.device_get(new.params), want, 1e-6)


def test_a_gradient_above_the_limit_is_scaled_to_it():
    of = trainer(optimizer=dataclasses.replace(SGD, learning_rate=1.0, max_grad_norm=0.5))
    state = of.init_state(variables())
    new, metrics = of.apply(state, summed(of, state, pack(trees_of([2]), LENGTH, ROWS)), 1)
    assert metrics.grad_norm > 0.5
    moved = jax.tree.map(lambda new, old: np.asarray(new) - np.asarray(old), new.params, variables())
    assert np.sqrt(sum((m.astype(np.float64) ** 2).sum() for m in jax.tree.leaves(moved))) == pytest.approx(0.5, 1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stops_before_the_update(bad):
    state = trainer().init_state(variables())
    before = param_digest(state._asdict())
    (batch, *_) = pack(trees_of([2]), LENGTH, ROWS)
    weight = batch.target_weight.copy()
    weight[0, 0] = bad
    total = summed(trainer(), state, [batch._replace(target_weight=weight)])
    with pytest.raises(NumericsError, match=r"loss=(nan|inf).* at update 1 must be finite; the update was not made"):
        trainer().apply(state, total, 3)
    assert param_digest(state._asdict()) == before
    _, metrics = trainer().apply(state, summed(trainer(), state, [batch]), 3)
    assert metrics.step == 1


def test_with_adapters_the_base_keeps_its_bits():
    lora = LoraConfig(rank=2, alpha=4.0)
    of = trainer(optimizer=OptimizerConfig(learning_rate=1e-2), lora=lora)
    state = of.init_state(variables(lora))
    assert set(state.params) == {"lora"}
    before, losses = param_digest(state.frozen), []
    batches = pack(trees := trees_of([2]), LENGTH, ROWS)
    for _ in range(3):
        state, metrics = of.apply(state, summed(of, state, batches), sum(t.num_actions for t in trees))
        losses.append(metrics.loss)
    assert param_digest(state.frozen) == before == param_digest({"params": variables(lora)["params"]})
    assert losses[2] < losses[1] < losses[0]
    assert set(state.variables) == {"params", "lora"}


def test_bfloat16_parameters_learn_with_a_float32_optimizer():
    of = trainer(optimizer=OptimizerConfig(learning_rate=1e-2), param_dtype=jnp.bfloat16)
    state = of.init_state(variables(param_dtype=jnp.bfloat16))
    batches = pack(trees := trees_of([2]), LENGTH, ROWS)
    losses = []
    for _ in range(3):
        state, metrics = of.apply(state, summed(of, state, batches), sum(t.num_actions for t in trees))
        losses.append(metrics.loss)
    assert losses[2] < losses[0]
    assert {x.dtype.name for x in jax.tree.leaves(state.params)} == {"bfloat16"}
    assert {x.dtype.name for x in jax.tree.leaves(state.opt_state)} <= {"float32", "int32"}


def test_the_loop_makes_no_implicit_transfer_and_repeats_to_the_bit():
    def run():
        of = trainer()
        state = of.init_state(variables())
        with jax.transfer_guard("disallow"):
            for seed in (2, 3):
                trees = trees_of([seed])
                total = summed(of, state, pack(trees, LENGTH, ROWS))
                state, _ = of.apply(state, total, sum(t.num_actions for t in trees))
        return param_digest(state.params)

    assert run() == run()


def test_rows_that_do_not_divide_over_the_mesh_are_refused():
    of = trainer("data=4")
    with pytest.raises(InputError, match=r"rows_per_batch=3 is not a multiple of data\*fsdp=4 of --mesh"):
        of.put_batch(pack(trees_of([2]), LENGTH, 3)[0])
    with pytest.raises(InputError, match="num_actions=0"):
        of.apply(None, None, 0)


def test_the_step_lowers_from_shapes_alone():
    of = trainer("fsdp=2,tensor=2")
    state, grads = of.abstract_state, of.abstract_grads
    batch = of.abstract_batch(ROWS, LENGTH)
    lowered = of.accumulate_jit.lower(state.params, state.frozen, grads, batch)
    assert jax.tree.leaves(lowered.out_info) == jax.tree.leaves(grads)
    assert [x.dtype for x in batch] == [x.dtype for x in pack(trees_of([2]), LENGTH, ROWS)[0]]
