"""GRPO: a table worked by hand, float64 on a batch of trees, and the identities that the loss must keep."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_training_losses import sizes
from test_training_step import LENGTH, ROWS, alone, assert_close, summed, trainer, variables
from test_training_tree import candidate, random_turns, turn, visible

from w4s_jax.policy.lora import LoraConfig
from w4s_jax.policy.sharding import make_mesh
from w4s_jax.training.config import LearnerConfig, LossConfig
from w4s_jax.training.cross_entropy import OutputLayer
from w4s_jax.training.learner import Learner, train_on
from w4s_jax.training.losses import (
    GRPO,
    RewardWeightedRegression,
    Targets,
    make_loss,
    packed_loss,
)
from w4s_jax.training.tree import build_rows, build_trees, pack
from w4s_jax.training.weights import (
    BestAction,
    GroupAdvantage,
    PositiveReward,
    RewardWeighted,
    WeightName,
    effective_sample_size,
    make_weights,
)
from w4s_jax.types import CandidateStatus, InputError, Trajectory

LOSS = GRPO(clip_low=0.2, clip_high=0.3, kl_coefficient=0.5)


def sampled(turns, seed=0):
    """The turns with a log-probability for every id."""
    rng = np.random.default_rng(seed)

    def of(c):
        return dataclasses.replace(c, logprobs=tuple(rng.normal(-4.0, 0.5, len(c.ids)).tolist()))

    return [dataclasses.replace(t, candidates=tuple(map(of, t.candidates))) for t in turns]


def trees_of(seeds, build=build_trees):
    turns = (sampled(random_turns(np.random.default_rng(seed)), seed) for seed in seeds)
    return [tree for given in turns for tree in build(given, GroupAdvantage())]


def with_loss(loss, **options):
    return dataclasses.replace(trainer(**options), loss=loss)


@functools.cache
def _forward(lora):
    model = trainer(lora=lora).model

    def attend(q, k, v, _):
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
        scores = jnp.einsum("BTNH,BSNH->BNTS", q, k) / math.sqrt(q.shape[-1])
        scores = jnp.where(jnp.tril(jnp.ones((1, 1, LENGTH, LENGTH), bool)), scores, -jnp.inf)
        return jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(scores, axis=-1), v), ()

    def logprobs(variables, tokens):
        hidden, _ = model.apply(variables, tokens, jnp.arange(LENGTH)[None, :], attend)
        return jax.nn.log_softmax(model.apply(variables, hidden, method="unembed"), axis=-1)[0]

    return jax.jit(logprobs)


def logprobs_of(prompt, ids, given, lora=None):
    """Of `ids` behind `prompt`: one row of plain text, causal, without a tree or a chunk."""
    text = np.zeros((1, LENGTH), np.int32)
    text[0, : len(prompt) + len(ids)] = prompt + ids
    table = np.asarray(_forward(lora)(given, text), np.float64)
    return table[np.arange(len(prompt) - 1, len(prompt) + len(ids) - 1), list(ids)]


# --- the value ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advantage", "ratios", "surrogate", "clipped"),
    [
        (1.0, (1.5, 1.1), (1.3 + 1.1) / 2, 0.5),  # above 1 + high: held; inside: as it is
        (1.0, (0.5, 1.0), (0.5 + 1.0) / 2, 0.0),  # a good action that became unlikely is not held
        (-1.0, (0.5, 0.9), -(0.8 + 0.9) / 2, 0.5),  # below 1 − low: held
        (-1.0, (1.5, 1.0), -(1.5 + 1.0) / 2, 0.0),  # a bad action that became likely is not held
        (-2.0, (0.5, 0.5), -2 * 0.8, 1.0),
        (0.0, (0.5, 1.5), 0.0, 0.0),
    ],
)
def test_two_tokens_have_the_loss_that_was_worked_by_hand(advantage, ratios, surrogate, clipped):
    """p_behaviour = 1/4 and p_start = p/2: KL = 1/2 − ln(1/2) − 1 a token; the third column is padding."""
    p = 0.25 * np.array([[*ratios, 4.0]])
    columns = np.array([[1.0, 1.0, 0.0]])
    targets = Targets(
        nll=jnp.asarray(-np.log(p) * columns, jnp.float32),
        weight=jnp.asarray(advantage / 2 * columns, jnp.float32),
        share=jnp.asarray(columns / 2, jnp.float32),
        behaviour_logprob=jnp.asarray(math.log(0.25) * columns, jnp.float32),
        reference_logprob=jnp.asarray((np.log(p) - math.log(2.0)) * columns, jnp.float32),
    )
    kl = 0.5 + math.log(2.0) - 1.0
    value, metrics = LOSS(targets, 4.0)
    assert float(value) == pytest.approx((-surrogate + 0.5 * kl) / 4, abs=1e-6)
    assert float(metrics.loss) == pytest.approx(-surrogate + 0.5 * kl, abs=1e-6)
    means = {name: float(total / metrics.targets) for name, total in metrics.measures.items()}
    assert means == pytest.approx({"clip_fraction": clipped, "mean_ratio": np.mean(ratios), "kl": kl}, abs=1e-6)
    without = dataclasses.replace(LOSS, kl_coefficient=0.0)(targets._replace(reference_logprob=None))
    assert float(without[0]) == pytest.approx(-surrogate, abs=1e-6)
    assert without[1].measures.keys() == {"clip_fraction", "mean_ratio"}

    # Where the clip holds a token nothing pushes it; elsewhere d(−ratio·w)/d nll = ratio·w.
    push = jax.grad(lambda nll: dataclasses.replace(LOSS, kl_coefficient=0.0)(targets._replace(nll=nll))[0])
    low, high = (0.8, np.inf) if advantage < 0 else (0.0, 1.3)
    free = [r * advantage / 2 if low < r < high else 0.0 for r in ratios]
    np.testing.assert_allclose(push(targets.nll), [[*free, 0.0]], atol=1e-6)


def by_numpy(batch, hidden, table, reference):
    """The summed loss in float64, target by target."""
    total = 0.0
    for b, j in zip(*np.nonzero(batch.target_share), strict=True):
        logits = hidden[b, batch.target_source[b, j]] @ table.T
        logprob = logits[batch.target_token[b, j]] - np.log(np.exp(logits).sum())
        ratio, weight = (
            np.exp(logprob - np.float64(batch.behaviour_logprob[b, j])),
            np.float64(batch.target_weight[b, j]),
        )
        total -= min(ratio * weight, np.clip(ratio, 0.8, 1.3) * weight)
        away = reference[b, j] - logprob
        total += 0.5 * np.float64(batch.target_share[b, j]) * (np.exp(away) - away - 1)
    return total


def test_a_batch_of_trees_has_the_loss_of_float64_and_the_gradient_of_finite_differences():
    rng = np.random.default_rng(0)
    (batch,) = pack(trees_of([2, 3]), LENGTH, 2)
    hidden, table = rng.normal(0, 0.5, (2, LENGTH, 8)), rng.normal(0, 0.5, (64, 8))
    reference = rng.normal(-4.2, 0.3, batch.target_weight.shape)
    mesh = make_mesh("", jax.devices()[:1])

    def value(hidden, table):
        layer = OutputLayer.of(table, mesh, jnp.float32)
        reference_logprob = jnp.asarray(reference, jnp.float32)
        return packed_loss(LOSS, hidden, batch, layer, reference_logprob_BM=reference_logprob, chunk=16)

    given = jnp.asarray(hidden, jnp.float32), jnp.asarray(table, jnp.float32)
    (got, metrics), grads = jax.value_and_grad(value, argnums=(0, 1), has_aux=True)(*given)
    assert float(got) == pytest.approx(by_numpy(batch, hidden, table, reference), rel=1e-5)
    assert 0 < metrics.measures["clip_fraction"] < metrics.targets == (batch.target_share > 0).sum()
    for _ in range(8):
        along = rng.normal(size=hidden.shape), rng.normal(size=table.shape)
        step = 1e-6
        ahead, behind = (
            by_numpy(batch, hidden + sign * along[0], table + sign * along[1], reference) for sign in (step, -step)
        )
        slope = sum(np.sum(np.asarray(g, np.float64) * a) for g, a in zip(grads, along, strict=True))
        assert slope == pytest.approx((ahead - behind) / (2 * step), rel=2e-4, abs=1e-4)


def test_no_array_of_tokens_by_vocabulary_exists_under_it():
    (batch,) = pack(trees_of([2, 3]), LENGTH, 2)
    mesh = make_mesh("", jax.devices()[:1])

    def value(hidden, table, chunk):
        layer = OutputLayer.of(table, mesh, jnp.float32)
        return packed_loss(GRPO(), hidden, batch, layer, chunk=chunk)[0]

    def largest(chunk):
        shapes = jnp.zeros((2, LENGTH, 8)), jnp.zeros((512, 8))
        return max(sizes(jax.make_jaxpr(jax.grad(lambda *x: value(*x, chunk), argnums=(0, 1)))(*shapes).jaxpr))

    assert largest(LENGTH) == 2 * LENGTH * 512
    assert largest(8) == 2 * 8 * 512


# --- identities -------------------------------------------------------------------


def test_packed_trees_have_the_loss_and_the_gradient_of_one_row_per_action():
    of = with_loss(LOSS)
    trees, rows = trees_of(range(6)), trees_of(range(6), build_rows)
    state = of.init_state(variables())
    state = state._replace(frozen={"reference": jax.tree.map(lambda x: x * 0.9, state.params["params"])})
    by_tree = summed(of, state, pack(trees, LENGTH, ROWS))
    by_row = summed(of, state, [b for i in range(0, len(rows), ROWS) for b in alone(rows[i : i + ROWS])])
    assert 0 < by_tree.metrics.measures["clip_fraction"] < by_tree.metrics.targets
    assert by_tree.metrics.measures["kl"] > 0
    assert_close(by_tree, by_row)


@pytest.mark.parametrize("mesh", ["data=2,fsdp=2"])
def test_micro_batches_and_data_shards_change_no_value(mesh):
    trees = trees_of(range(6))
    one = with_loss(LOSS)
    state = one.init_state(variables())
    whole = summed(one, state, pack(trees, LENGTH, ROWS))
    many = with_loss(LOSS, mesh=mesh)
    smaller = [batch for tree in trees for batch in pack([tree], LENGTH, ROWS)]
    assert_close(jax.device_get(summed(many, many.init_state(variables()), smaller)), jax.device_get(whole))


def test_a_first_update_on_its_own_samples_is_the_policy_gradient():
    """At ratio 1: the gradient of weight·nll, and a loss of minus the sum of the advantages."""
    turns = [t for seed in range(4) for t in random_turns(np.random.default_rng(seed), 1)]
    state = trainer().init_state(variables())

    def own(t, c):
        return dataclasses.replace(c, logprobs=tuple(logprobs_of(t.prompt_ids, c.ids, state.variables).tolist()))

    turns = [dataclasses.replace(t, candidates=tuple(own(t, c) for c in t.candidates)) for t in turns]
    trees = [tree for t in turns for tree in build_trees([t], GroupAdvantage(), needs_behaviour=True)]
    batches = pack(trees, LENGTH, ROWS)
    ratio = summed(with_loss(GRPO()), state, batches)
    plain = summed(with_loss(RewardWeightedRegression()), state, batches)
    assert_close(ratio.grads, plain.grads)
    advantages = sum(float(np.sum(tree.action_weights)) for tree in trees)
    assert float(ratio.metrics.loss) == pytest.approx(-advantages, abs=1e-4)
    assert float(ratio.metrics.measures["mean_ratio"] / ratio.metrics.targets) == pytest.approx(1.0, abs=1e-4)
    assert ratio.metrics.measures["clip_fraction"] == 0


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, alpha=4.0)])
def test_the_kl_is_to_the_frozen_start_without_its_adapters(lora):
    of = with_loss(GRPO(kl_coefficient=0.1), lora=lora)
    given = variables(lora)
    start = given if lora is None else given | {"lora": jax.tree.map(jnp.zeros_like, given["lora"])}
    state = of.init_state(start)
    assert set(state.frozen) == {"reference" if lora is None else "params"}
    assert set(state.variables) == set(given)  # what samples is not given the start, too
    batches = pack(trees := trees_of([2]), LENGTH, ROWS)
    before = jax.device_get(state.frozen)
    _, first = of.apply(state, summed(of, state, batches), 4)
    assert first.measures["kl"] == pytest.approx(0.0, abs=1e-7)
    # Elsewhere: against log-probabilities of both models, token by token.
    state = of.init_state(start)
    moved = jax.tree.map(lambda x: (2.0 if lora is None else 10.0) * x, {name: given[name] for name in state.params})
    state = state._replace(params=moved)
    later = summed(of, state, batches).metrics
    away = []
    for t in sampled(random_turns(np.random.default_rng(2)), 2):
        for c in (c for c in t.candidates if c.status is CandidateStatus.OK):
            now = logprobs_of(t.prompt_ids, c.ids, given | moved, lora)
            away += list(logprobs_of(t.prompt_ids, c.ids, {"params": given["params"]}) - now)
    assert len(away) == sum(len(tree.target_token) for tree in trees)
    assert float(later.measures["kl"] / later.targets) == pytest.approx(np.mean(np.expm1(away) - away), rel=1e-3)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.frozen), before)


# --- which actions can train ------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_each_log_probability_lies_at_its_target(seed):
    """Reads (context, token, share, log-probability) back through the mask."""
    turns = sampled(random_turns(np.random.default_rng(seed)), seed)
    got = []
    for batch in pack(build_trees(turns, RewardWeighted(), needs_behaviour=True), 128, 1):
        mask = visible(batch.expiry[0])
        for j in np.flatnonzero(batch.target_share[0]):
            seen = tuple(batch.tokens[0][mask[batch.target_source[0, j]]].tolist())
            columns = batch.target_token[0, j], batch.target_share[0, j], batch.behaviour_logprob[0, j]
            got.append((seen, *map(float, columns)))
    want = [
        ((*map(int, t.prompt_ids + c.ids[:i]),), float(c.ids[i]), *map(float, np.float32((1 / len(c.ids), logprob))))
        for t in turns
        for c in t.candidates
        if c.status is CandidateStatus.OK
        for i, logprob in enumerate(c.logprobs)
    ]
    assert sorted(got) == sorted(want)


def two(**fields):
    """A turn with a sampled action and one that `fields` change."""
    good = dataclasses.replace(candidate(4, [4, 5], 1.0), logprobs=(-1.0, -2.0))
    other = dataclasses.replace(candidate(7, [6], 0.0), logprobs=(-1.0,))
    return turn(2, [1, 2, 3], [good, dataclasses.replace(other, **fields)], 4)


@pytest.mark.parametrize(
    "fields", [{"logprobs": (), "repairs": 1}, {"logprobs": (-1.0, -1.0)}, {"logprobs": (math.nan,)}]
)
def test_an_action_that_was_not_sampled_is_refused_by_name_before_anything_is_trained(fields):
    learner = Learner(with_loss(GRPO()), None, GroupAdvantage(), LearnerConfig(row_length=64))
    learner.check(Trajectory(round=0, index=3, task="t", turns=(two(),)))
    for take in (learner.check, learner.feed):
        with pytest.raises(InputError, match="trajectory 3 of round 0, turn 2, candidate 7 has no log-probabilities"):
            take(Trajectory(round=0, index=3, task="t", turns=(two(**fields),)))
    # No loss is on a skipped one, and reward-weighted regression asks for none.
    build_trees([two(status=CandidateStatus.SKIPPED, **fields)], GroupAdvantage(), needs_behaviour=True)
    (tree,) = build_trees([two(**fields)], RewardWeighted())
    np.testing.assert_array_equal(tree.behaviour_logprob, np.float32([-1.0, -2.0, math.nan]))


def test_what_was_recorded_of_another_tokenizer_is_not_taken_for_ours():
    foreign = dataclasses.replace(two(), prompt_ids=())

    def tokenise(_):
        return [1], [[2, 3], [4]]

    with pytest.raises(InputError, match="candidate 4 has no log-probabilities"):
        build_trees([foreign], GroupAdvantage(), tokenise, needs_behaviour=True)


def test_the_learner_reports_what_the_loss_measures():
    turns = tuple(sampled(random_turns(np.random.default_rng(2)), 2))
    of = with_loss(GRPO())
    learner = Learner(
        of, of.init_state(variables()), GroupAdvantage(), LearnerConfig(row_length=LENGTH, rows_per_batch=4)
    )
    (record,) = train_on(learner, [Trajectory(round=0, index=0, task="t", turns=turns)])
    assert record.metrics.measures.keys() == {"clip_fraction", "mean_ratio"}
    assert record.metrics.measures["mean_ratio"] > 0
    assert 0 < record.effective_sample_size <= record.metrics.num_actions


# --- by name ----------------------------------------------------------------------


def test_a_config_makes_its_loss():
    assert make_loss(LossConfig()) == RewardWeightedRegression()
    given = LossConfig(kind="grpo", clip_low=0.1, clip_high=0.28, kl_coefficient=0.04)
    assert make_loss(given) == GRPO(clip_low=0.1, clip_high=0.28, kl_coefficient=0.04)


def test_a_name_makes_its_weights():
    made = {name: make_weights(name, tau=0.3) for name in WeightName}
    assert made == {
        "rwr": RewardWeighted(tau=0.3),
        "best": BestAction(),
        "positive": PositiveReward(),
        "group": GroupAdvantage(),
    }
    with pytest.raises(InputError, match="weights='other' is unknown; choose one of rwr, best, positive, group"):
        make_weights("other")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "ppo"}, "loss='ppo' is unknown; choose one of rwr, grpo"),
        ({"kind": "grpo", "clip_low": 1.0}, r"clip_low=1.0 must lie between 0 and 1"),
        ({"kind": "grpo", "clip_high": 0.0}, r"clip_high=0.0 must be positive"),
        ({"kind": "grpo", "kl_coefficient": -1.0}, r"kl_coefficient=-1.0 must be finite and not negative"),
        ({"kl_coefficient": 0.1}, r"kl_coefficient=0.1 does nothing with loss=rwr; leave it out, or give --loss=grpo"),
    ],
)
def test_numbers_that_make_no_loss_are_refused(config, words):
    with pytest.raises(InputError, match=words):
        LossConfig(**config)
    if config.pop("kind", None) == "grpo":
        with pytest.raises(InputError, match=words):
            GRPO(**config)


@pytest.mark.parametrize("weights", ["rwr", "best", "positive"])
def test_a_clipped_ratio_takes_advantages_alone(weights):
    with pytest.raises(InputError, match=f"weights='{weights}' does not go with loss=grpo; give --weights=group"):
        LossConfig(kind="grpo").check_weights(weights)
    LossConfig(kind="grpo").check_weights("group")
    for name in WeightName:
        LossConfig().check_weights(name)


def test_signed_weights_are_worth_as_many_actions_as_their_sizes():
    assert effective_sample_size([1.0, -1.0]) == pytest.approx(2.0)
    assert effective_sample_size([3.0, -1.0]) == pytest.approx(16 / 10)
