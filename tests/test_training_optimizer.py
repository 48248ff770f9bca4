import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from w4s_jax.training.config import OptimizerConfig
from w4s_jax.training.optimizer import make_schedule, make_transformation
from w4s_jax.types import InputError


def test_the_warm_up_rises_linearly_and_the_cosine_falls_to_its_share():
    rate = make_schedule(
        OptimizerConfig(learning_rate=2.0, schedule_name="cosine", warmup_steps=4, total_steps=12, final_fraction=0.1)
    )
    got = [float(rate(step)) for step in (0, 1, 3, 4, 8, 12, 99)]
    np.testing.assert_allclose(got, [0.5, 1.0, 2.0, 2.0, 2.0 * 0.55, 0.2, 0.2], rtol=1e-6)
    assert float(make_schedule(OptimizerConfig(learning_rate=2.0))(0)) == 2.0


def one_update(config, params, grads):
    tx = make_transformation(config)
    updates, _ = tx.update(grads, tx.init(params), params)
    return optax.apply_updates(params, updates)


def test_adamw_makes_the_first_step_of_its_paper():
    """After one step the moments cancel: θ − η·(g/(|g| + ε) + λθ), and no decay on the norm's scale."""
    params = {"kernel": jnp.array([1.0, -2.0]), "norm": {"scale": jnp.array([1.0, 1.0])}}
    grads = {"kernel": jnp.array([0.3, -0.1]), "norm": {"scale": jnp.array([2.0, -2.0])}}
    new = one_update(OptimizerConfig(learning_rate=0.1, weight_decay=0.5), params, grads)
    np.testing.assert_allclose(new["kernel"], [1.0 - 0.1 * (1 + 0.5), -2.0 - 0.1 * (-1 - 1.0)], rtol=1e-5)
    np.testing.assert_allclose(new["norm"]["scale"], [0.9, 1.1], rtol=1e-5)


def test_sgd_subtracts_the_gradient_times_the_rate():
    new = one_update(OptimizerConfig(name="sgd", learning_rate=0.1), {"w": jnp.ones(2)}, {"w": jnp.array([1.0, -3.0])})
    np.testing.assert_allclose(new["w"], [0.9, 1.3], rtol=1e-6)


def test_adafactor_keeps_rows_and_columns_and_is_not_scaled_by_the_parameter():
    config = OptimizerConfig(name="adafactor", learning_rate=0.1)
    small, large = {"kernel": jnp.full((128, 256), 0.01)}, {"kernel": jnp.full((128, 256), 10.0)}
    kept = sum(x.size for x in jax.tree.leaves(make_transformation(config).init(small)))
    assert kept < 2 * (128 + 256)
    steps = [one_update(config, p, {"kernel": jnp.ones((128, 256))})["kernel"] - p["kernel"] for p in (small, large)]
    np.testing.assert_allclose(steps[0], steps[1], atol=1e-5)
    np.testing.assert_allclose(steps[0], -0.1, rtol=1e-3)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_moments_kept_in_bfloat16_take_half_the_memory_and_follow_those_of_float32(name):
    """100 steps of noisy gradients: the way walked differs by the rounding of the moments alone."""
    rng = np.random.default_rng(0)
    grads = [jnp.asarray(rng.normal(0.3, 1.0, (128, 128)), jnp.float32) for _ in range(100)]

    def walked(dtype):
        tx = make_transformation(OptimizerConfig(name=name, learning_rate=1e-2, moment_dtype=dtype))
        params = {"kernel": jnp.zeros((128, 128))}
        state = tx.init(params)
        for grad in grads:
            updates, state = tx.update({"kernel": grad}, state, params)
            params = optax.apply_updates(params, updates)
            assert updates["kernel"].dtype == jnp.float32
        return params["kernel"], sum(x.nbytes for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating))

    (wide, wide_bytes), (narrow, narrow_bytes) = walked("float32"), walked("bfloat16")
    assert narrow_bytes == wide_bytes / 2
    assert 0 < np.linalg.norm(narrow - wide) < 0.02 * np.linalg.norm(wide)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "lion"}, "optimizer='lion' is unknown; choose one of adamw, adafactor, sgd"),
        ({"schedule_name": "step"}, "schedule='step' is unknown"),
        ({"moment_dtype": "float16"}, "moment_dtype='float16' is unknown; choose one of float32, bfloat16"),
        ({"moment_dtype": "bfloat16", "b2": 0.999}, "b2=0.999 with moment_dtype=bfloat16"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0 must not be negative"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm=nan"),
        ({"schedule_name": "cosine", "warmup_steps": 5}, "total_steps=0 .* must exceed warmup_steps=5"),
    ],
)
def test_an_optimizer_that_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        OptimizerConfig(**options)
