"""The train step as pure functions over a mesh: accumulate micro-batches, then apply one update.

PackedBatch → **accumulate** → GradSum → **apply** → TrainState → checkpoint

Trajectories stream in, so gradients are summed un-normalised in float32, and the
number of actions is given only at `apply`, where the sum becomes the mean over
the actions of the optimiser's global batch (of RLAO: W4S, arXiv 2504.04785). Which
loss is summed is a field, as attention is. Neither the packing, nor the number of
micro-batches, nor the mesh can change that value.

The host looks at the norm before the update: what is not finite raises and leaves
the state as it was. All transfers are explicit, so `jax.transfer_guard("disallow")`
may stand around the loop.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from w4s_jax.policy import sharding
from w4s_jax.policy.attention import attend_trees, tree_attention_for
from w4s_jax.policy.lora import split_trainable
from w4s_jax.policy.transformer import Transformer, init_variables
from w4s_jax.training.config import OptimizerConfig
from w4s_jax.training.cross_entropy import OutputLayer, target_nll
from w4s_jax.training.losses import Loss, LossMetrics, RewardWeightedRegression, packed_loss
from w4s_jax.training.optimizer import make_schedule, make_transformation
from w4s_jax.training.tree import PackedBatch
from w4s_jax.types import InputError, NumericsError

PyTree = Any
Tree = TypeVar("Tree")

REFERENCE = "reference"
"""Name, among what is frozen, of the parameters that training started from, where a loss asks for them."""


class TrainState(NamedTuple):
    """All that training changes, and what is frozen beside it."""

    params: dict[str, PyTree]
    """Collections that learn: `params`, or `lora` alone where the model has adapters."""
    frozen: dict[str, PyTree]
    """Collections that do not: the base under adapters, or the start (`REFERENCE`) that a loss compares with."""
    opt_state: PyTree
    """float32."""
    step: jax.Array
    """int32 scalar: updates made."""

    @property
    def variables(self) -> dict[str, PyTree]:
        """What `model.apply` takes."""
        return _variables(self.params, self.frozen)


class GradSum(NamedTuple):
    """Sums over the micro-batches since the last update."""

    grads: dict[str, PyTree]
    """float32, of the un-normalised loss; laid out as the parameters."""
    metrics: LossMetrics


class StepMetrics(NamedTuple):
    """One update, as Python numbers."""

    step: int
    """Updates made, this one included."""
    loss: float
    """Mean over actions; of RLAO: of weight · mean NLL of the action, nats."""
    nll_per_token: float
    """Mean NLL over the tokens that carry loss, nats."""
    grad_norm: float
    """Global norm of the mean gradient, before clipping."""
    learning_rate: float
    num_actions: int
    target_tokens: int
    measures: Mapping[str, float] = MappingProxyType({})
    """Means over the target tokens of what the loss itself measures, by name (`Loss.measures`)."""


class _Update(NamedTuple):
    """What an update replaces."""

    params: dict[str, PyTree]
    opt_state: PyTree
    step: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trainer:
    """The compiled functions of one model on one mesh; holds no arrays.

    Example:
        >>> trainer = Trainer(model=model, mesh=make_mesh("fsdp=8"), optimizer=OptimizerConfig())  # doctest: +SKIP
        >>> state = trainer.init_state(variables)  # doctest: +SKIP
        >>> total = trainer.zero_grads()  # doctest: +SKIP
        >>> for batch in pack(trees, capacity=8192, rows_per_batch=8):  # doctest: +SKIP
        ...     total = trainer.accumulate(state, total, batch)
        >>> state, metrics = trainer.apply(state, total, sum(tree.num_actions for tree in trees))  # doctest: +SKIP
    """

    model: Transformer
    mesh: Mesh
    """From `policy.sharding.make_mesh`."""
    optimizer: OptimizerConfig
    loss: Loss = dataclasses.field(default_factory=RewardWeightedRegression)
    """What is minimised."""
    attention: sharding.TreeAttention | None = None
    """None: the one for the mesh's devices."""
    loss_chunk: int = 512
    """Targets of a row whose logits are held at once."""

    # --- what the loop calls ---

    def init_state(self, variables: dict[str, PyTree]) -> TrainState:
        """Places variables on the mesh with a fresh optimiser; what learns is copied, as updates are donated."""
        params, _ = split_trainable(variables)
        where = self.state_shardings
        # device_put hands back the very buffers where nothing has to move, whatever may_alias says.
        params = jax.jit(functools.partial(jax.tree.map, jnp.copy))(jax.device_put(params, where.params))
        update = _Update(params, self._init_optimizer(params), self._put(np.int32(0)))
        return TrainState(update.params, self.place_frozen(variables), update.opt_state, update.step)

    def place_frozen(self, variables: dict[str, PyTree]) -> dict[str, PyTree]:
        """Places on the mesh what of the variables does not learn: the `frozen` of a state.

        Args:
            variables: What training started from; not those of a checkpoint, where the loss compares with the start.
        """
        placed: dict[str, PyTree] = jax.device_put(self._frozen(variables), self.state_shardings.frozen)
        return placed

    def _frozen(self, variables: dict[str, PyTree]) -> dict[str, PyTree]:
        params, frozen = split_trainable(variables)
        if self.loss.needs_reference and "params" in params:
            return frozen | {REFERENCE: params["params"]}
        return frozen  # under adapters the start is the base without them

    def zero_grads(self) -> GradSum:
        """The empty sum."""
        return self._zeros()

    def accumulate(self, state: TrainState, total: GradSum, batch: PackedBatch) -> GradSum:
        """Adds the gradient of the un-normalised loss of a micro-batch; `total` is donated.

        Args:
            state: Not changed.
            total: From `zero_grads` or the last `accumulate`.
            batch: From `training.tree`, the whole of it in every process.

        Raises:
            InputError: The rows do not divide over the mesh.
        """
        added: GradSum = self.accumulate_jit(state.params, state.frozen, total, self.put_batch(batch))
        return added

    def apply(self, state: TrainState, total: GradSum, num_actions: int) -> tuple[TrainState, StepMetrics]:
        """One update by the mean over `num_actions`; `state` and `total` are donated.

        Raises:
            InputError: There is no action.
            NumericsError: The loss or the gradient is not finite; nothing was donated or changed.
        """
        if num_actions < 1:
            raise InputError(f"num_actions={num_actions}: an update needs at least one action that trains")
        denominator = self._put(np.float32(num_actions))
        loss, norm, rate, step, sums = jax.device_get(self._measure(total, denominator, state.step))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NumericsError(
                f"loss={loss} and grad_norm={norm} at update {step + 1} must be finite; the update was not made: "
                "lower --learning_rate, or look for overflow in --compute_dtype"
            )
        update = self.update_jit(_Update(state.params, state.opt_state, state.step), total.grads, denominator)
        jax.tree.map(lambda x: x.delete(), total)  # no output could reuse it as a donation; the next needs the memory
        metrics = StepMetrics(
            step=int(step) + 1,
            loss=float(loss),
            nll_per_token=float(sums.nll) / max(float(sums.targets), 1.0),
            grad_norm=float(norm),
            learning_rate=float(rate),
            num_actions=num_actions,
            target_tokens=int(sums.targets),
            measures={name: float(value) / max(float(sums.targets), 1.0) for name, value in sums.measures.items()},
        )
        return TrainState(update.params, state.frozen, update.opt_state, update.step), metrics

    def put_batch(self, batch: PackedBatch) -> PackedBatch:
        """Lays a batch [B, C] over the mesh, its rows split; each process takes its own from the whole."""
        split = sharding.divided(self.mesh, sharding.BATCH_AXES)
        if batch.tokens.shape[0] % split:
            raise InputError(
                f"rows_per_batch={batch.tokens.shape[0]} is not a multiple of data*fsdp={split} of --mesh; "
                f"pack {split} rows, or a multiple"
            )
        return PackedBatch(*(self._put(array, sharding.batch_sharding(self.mesh)) for array in batch))

    # --- shapes and placements, for checkpoints and for compiling ahead of time ---

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state; nothing is allocated."""

        def init() -> TrainState:
            variables = init_variables(self.model, jax.random.key(0))
            params, _ = split_trainable(variables)
            return TrainState(
                params, self._frozen(variables), self._transformation.init(_float32(params)), jnp.int32(0)
            )

        shapes: TrainState = jax.eval_shape(init)
        return self._placed(shapes)

    @functools.cached_property
    def abstract_grads(self) -> GradSum:
        """Shapes, dtypes and shardings of the sums."""

        def init(params: PyTree) -> GradSum:
            zero = jnp.float32(0)
            return GradSum(_float32(params), LossMetrics(zero, zero, zero, dict.fromkeys(self.loss.measures, zero)))

        shapes: GradSum = jax.eval_shape(init, self.abstract_state.params)
        return self._placed(shapes)

    @property
    def state_shardings(self) -> TrainState:
        """A sharding for every leaf of the state."""
        return _shardings(self.abstract_state)

    def abstract_batch(self, rows: int, row_length: int) -> PackedBatch:
        """Shapes, dtypes and shardings of a batch."""
        where = sharding.batch_sharding(self.mesh)
        dtypes = PackedBatch(*(jnp.int32,) * 5, *(jnp.float32,) * 3)
        return PackedBatch(*(_shape((rows, row_length), dtype, where) for dtype in dtypes))

    def _placed(self, tree: Tree) -> Tree:
        where = sharding.shardings(tree, self.mesh)
        placed: Tree = jax.tree.map(lambda x, s: _shape(x.shape, x.dtype, s), tree, where)
        return placed

    def _put(self, array: Any, where: jax.sharding.Sharding | None = None) -> jax.Array:
        # Shard by shard: explicit for the transfer guard, and the devices of other processes cannot be addressed.
        array, where = np.asarray(array), where or sharding.replicated(self.mesh)
        indices = where.addressable_devices_indices_map(array.shape)
        shards = [jax.device_put(array[index], device) for device, index in indices.items()]
        return jax.make_array_from_single_device_arrays(array.shape, where, shards)

    # --- the compiled functions ---

    @functools.cached_property
    def _transformation(self) -> optax.GradientTransformation:
        return make_transformation(self.optimizer)

    @functools.cached_property
    def _init_optimizer(self) -> Callable[[PyTree], PyTree]:
        where = self.state_shardings
        return jax.jit(
            lambda params: self._transformation.init(_float32(params)),
            in_shardings=(where.params,),
            out_shardings=where.opt_state,
        )

    @functools.cached_property
    def _zeros(self) -> Callable[[], GradSum]:
        shapes = self.abstract_grads
        where = _shardings(shapes)
        return jax.jit(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), out_shardings=where)

    @functools.cached_property
    def accumulate_jit(self) -> Any:
        """`(params, frozen, total, batch) → total`, with explicit shardings; `.lower` takes the abstract values."""
        where, sums = self.state_shardings, _shardings(self.abstract_grads)
        rows = PackedBatch(*(sharding.batch_sharding(self.mesh),) * len(PackedBatch._fields))
        return jax.jit(
            self._accumulate,
            in_shardings=(where.params, where.frozen, sums, rows),
            out_shardings=sums,
            donate_argnums=2,
        )

    @functools.cached_property
    def update_jit(self) -> Any:
        """`(_Update, grads, denominator) → _Update`, with explicit shardings; the first is donated."""
        where = self.state_shardings
        state = _Update(where.params, where.opt_state, where.step)
        grads = _shardings(self.abstract_grads.grads)
        return jax.jit(
            self._update,
            in_shardings=(state, grads, sharding.replicated(self.mesh)),
            out_shardings=state,
            donate_argnums=0,
        )

    def lower_update(self) -> Any:
        """`update_jit` lowered for the abstract values."""
        state = self.abstract_state
        denominator = _shape((), jnp.float32, sharding.replicated(self.mesh))
        return self.update_jit.lower(
            _Update(state.params, state.opt_state, state.step), self.abstract_grads.grads, denominator
        )

    def _accumulate(self, params: PyTree, frozen: PyTree, total: GradSum, batch: PackedBatch) -> GradSum:
        grads, metrics = jax.grad(self._loss, has_aux=True)(params, frozen, batch)
        micro = _float32(GradSum(grads, metrics))
        return GradSum(*jax.tree.map(jnp.add, tuple(total), tuple(micro)))

    def _loss(self, params: PyTree, frozen: PyTree, batch: PackedBatch) -> tuple[jax.Array, LossMetrics]:
        hidden, layer = self._forward(self.model, _variables(params, frozen), batch)
        reference = self._reference_logprob(frozen, batch) if self.loss.needs_reference else None
        return packed_loss(self.loss, hidden, batch, layer, reference_logprob_BM=reference, chunk=self.loss_chunk)

    def _reference_logprob(self, frozen: PyTree, batch: PackedBatch) -> jax.Array:
        """Log-probabilities of the targets under the frozen start, [B, M]."""
        start = {"params": frozen.get(REFERENCE, frozen.get("params"))}
        hidden, layer = self._forward(self.model.clone(lora=None), start, batch)
        counts = self.loss.counts(batch.target_weight, batch.target_share)
        nll = target_nll(hidden, batch.target_source, batch.target_token, counts, layer, chunk=self.loss_chunk)
        return -nll

    def _forward(self, model: Transformer, variables: PyTree, batch: PackedBatch) -> tuple[jax.Array, OutputLayer]:
        """Final hidden states [B, T, D] of a batch, and what turns them into logits."""
        apply: Callable[..., Any] = functools.partial(model.clone(mesh=self.mesh).apply, variables)
        config = model.config
        attention = self.attention or tree_attention_for(self.mesh, config.head_dim, windowed=config.is_windowed)
        attention = sharding.by_shard(attention, self.mesh, config.num_kv_heads)
        hidden, _ = apply(batch.tokens, batch.positions, attend_trees(attention, batch.expiry, batch.positions))
        learns = self.model.lora is None
        table = apply(method="output_table")
        return hidden, OutputLayer.of(table, self.mesh, model.compute_dtype, learns=learns)

    @functools.cached_property
    def _measure(self) -> Callable[..., Any]:
        def measure(total: GradSum, denominator: jax.Array, step: jax.Array) -> tuple[Any, ...]:
            norm = optax.tree.norm(total.grads) / denominator
            loss = total.metrics.loss / denominator
            return loss, norm, make_schedule(self.optimizer)(step), step, total.metrics

        return jax.jit(measure, out_shardings=sharding.replicated(self.mesh))

    def _update(self, state: _Update, grads: PyTree, denominator: jax.Array) -> _Update:
        scale = 1.0 / denominator
        if self.optimizer.max_grad_norm:
            norm = optax.tree.norm(grads) / denominator
            scale *= self.optimizer.max_grad_norm / jnp.maximum(norm, self.optimizer.max_grad_norm)
        grads = jax.tree.map(lambda g: g * scale, grads)
        # float32 throughout: a bfloat16 parameter would swallow most updates and has no place in the moments.
        wide = _float32(state.params)
        updates, opt_state = self._transformation.update(grads, state.opt_state, wide)
        params = jax.tree.map(lambda p, w, u: (w + u).astype(p.dtype), state.params, wide, updates)
        return _Update(params, opt_state, state.step + 1)


def _variables(params: dict[str, PyTree], frozen: dict[str, PyTree]) -> dict[str, PyTree]:
    return params | {name: tree for name, tree in frozen.items() if name != REFERENCE}


def _float32(tree: Tree) -> Tree:
    wide: Tree = jax.tree.map(lambda x: x.astype(jnp.float32), tree)
    return wide


def _shape(shape: tuple[int, ...], dtype: Any, where: jax.sharding.Sharding) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def _shardings(tree: Tree) -> Tree:
    where: Tree = jax.tree.map(lambda leaf: leaf.sharding, tree)
    return where
