"""What a run is, as one value: nested frozen dataclasses from which every command's flags are derived.

flags, `run.flags`, arguments of `w4s_jax.optimize` → **RunConfig** → environment, search, training

A default stands once: here, or in the dataclass of the library that uses it, which is then asked
for it. What the meta-agent decides of itself (how the packaged one is prompted and sampled, what
a run directory was trained with) is None until `run.meta_agent.resolved` has filled it in.
"""

from __future__ import annotations

import dataclasses

from w4s_jax.executor.client import CALL_TIMEOUT_SECONDS
from w4s_jax.executor.metered import MeteredOptions
from w4s_jax.mdp import RewardConfig, RewardKind
from w4s_jax.rollout.evaluate import EvaluationOptions
from w4s_jax.run.options import names_of, option
from w4s_jax.sandbox import DEFAULT_PACKAGES
from w4s_jax.search.base import SearchOptions, StopRules
from w4s_jax.search.registry import STRATEGIES
from w4s_jax.search.w4s import W4SStrategy
from w4s_jax.tasks.custom import SCORERS, CustomFormat
from w4s_jax.tasks.splits import NAMES
from w4s_jax.training.config import (
    LearnerConfig,
    LossConfig,
    LossKind,
    MomentDtype,
    OptimizerConfig,
    OptimizerName,
    ScheduleName,
)
from w4s_jax.training.weights import RewardWeighted, WeightName
from w4s_jax.types import InputError, SamplingOptions

DTYPES = ("float32", "bfloat16")
TRACKERS = ("wandb", "mlflow")

_search, _evaluation, _metered, _reward = SearchOptions(), EvaluationOptions(), MeteredOptions(), RewardConfig()
_format, _sampling, _stop = CustomFormat(), SamplingOptions(), StopRules()
_learner, _loss, _optimizer = LearnerConfig(), LossConfig(), OptimizerConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Which questions, from where, and how they are split."""

    task: tuple[str, ...] = option(("toy",), "Tasks or groups of tasks, by name; see docs/tasks.md.")
    eval_task: tuple[str, ...] = option((), "Tasks to evaluate on (default: as --task).")
    data_dir: str = option(
        "", "Folder with NAME/SPLIT.jsonl files; empty: the Hugging Face hub.", decides_results=False
    )
    data_revision: tuple[str, ...] = option(
        (), "Revision of the hub's data set: REV, or TASK=REV,… (empty: the newest)."
    )
    split_seed: int = option(0, "Seed of the splits, apart from --seed.")
    split_sizes: str = option("", "Whose split sizes (empty: the task's own).", choices=("", *NAMES))
    train_size: int = option(0, "Items in the train split (0: the task's own).", least=0)
    validation_size: int = option(0, "Items in the validation split (0: the task's own).", least=0)
    test_size: int = option(0, "Items in the test split (0: the task's own).", least=0)
    input_field: str = option(_format.input_field, "Field of --task=jsonl:PATH that is given to the workflow.")
    target_field: str = option(_format.target_field, "Field of --task=jsonl:PATH that holds the right answer.")
    scorer: str = option(_format.scorer, f"Of --task=jsonl:PATH: {', '.join(SCORERS)} or python:FILE.py:FUNCTION.")
    task_description: str = option("", "Text file that tells the meta-agent what your own task is about.")
    seed_workflows: tuple[str, ...] = option((), "Seeds by name or FILE.py to start from (empty: those of the task).")

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The tasks to evaluate on, as they are named."""
        return self.eval_task or self.task


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaAgentConfig:
    """Who writes the workflows, and how it is sampled; None: as it was made or trained."""

    meta_agent: str = option("tiny", "JAX checkpoint, Hugging Face folder or id, api:MODEL, or tiny.")
    base_url: str = option(
        "", "Base URL of an api:MODEL meta-agent.", flag="meta_agent_base_url", decides_results=False
    )
    prompt_template: str | None = option(
        None, "full, or compact for the tiny meta-agent (default: the meta-agent's own, else full).",
        choices=("full", "compact"),
    )  # fmt: skip
    temperature: float | None = option(
        None, f"Sampling temperature of actions (default: the meta-agent's own, else {_sampling.temperature}).", least=0
    )
    max_new_tokens: int | None = option(
        None, f"Most tokens of one action (default: the meta-agent's own, else {_sampling.max_new_tokens}).",
        least=1, most=32_768,
    )  # fmt: skip
    cache_length: int | None = option(
        None, "Longest prompt with its new tokens (default: the meta-agent's own; 0: the model's own).", least=0
    )
    prompts_in_flight: int = option(8, "Prompts decoded at once on the device.", least=1, decides_results=False)

    @property
    def sampling(self) -> SamplingOptions:
        """How actions are sampled, once it is decided; see `run.meta_agent.resolved`."""
        assert self.temperature is not None
        assert self.max_new_tokens is not None
        return SamplingOptions(temperature=self.temperature, max_new_tokens=self.max_new_tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The Markov decision process of one trajectory, and when a search ends."""

    num_candidates: int = option(_search.num_candidates, "m, actions sampled a turn.", least=1)
    num_turns: int = option(_search.num_turns, "Turns of a trajectory.", least=1)
    turns_in_context: int = option(_search.turns_in_context, "Turns of one dialogue.", least=1)
    max_repairs: int = option(_search.max_repairs, "Repairs of one action.", least=0)
    reward: str = option(str(_reward.kind), "Definition of the reward.", choices=tuple(RewardKind))
    reward_best: float = option(_reward.best, "Reward of a score above the best.")
    reward_improved: float = option(_reward.improved, "Reward of one above the current workflow's alone.")
    reward_otherwise: float = option(_reward.otherwise, "Reward of any other.")
    reward_low_penalty: float = option(_reward.low_penalty, "Added by repo below reward_low_threshold.")
    reward_low_threshold: float = option(_reward.low_threshold, "Score below which repo adds its penalty.")

    @property
    def reward_config(self) -> RewardConfig:
        """The definition of the reward with its values."""
        return RewardConfig(
            kind=RewardKind(self.reward),
            best=self.reward_best,
            improved=self.reward_improved,
            otherwise=self.reward_otherwise,
            low_penalty=self.reward_low_penalty,
            low_threshold=self.reward_low_threshold,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizeConfig:
    """A search for the best workflow of a task: how, until when, and whether test is opened."""

    strategy: str = option(W4SStrategy.name, "How to search.", choices=tuple(STRATEGIES))
    patience: int = option(
        _stop.patience, "Stop after so many turns without a better workflow (0: never).", least=0, decides_results=False
    )
    target: float | None = option(
        _stop.target, "Stop at this validation score.", least=0.0, most=1.0, decides_results=False
    )
    test: bool = option(
        False, "Evaluate the best seed and the best workflow on the test split at the end.", decides_results=False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """How a model lies on the devices."""

    param_dtype: str = option("float32", "Type of stored parameters.", choices=DTYPES)
    compute_dtype: str | None = option(
        None, "Type of matrix products (default: the meta-agent's own, else bfloat16).", choices=DTYPES
    )
    mesh: str = option(
        "", "Device mesh, e.g. data=1,fsdp=4,tensor=2 (empty: all devices on fsdp).", decides_results=False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What a Hugging Face folder is written with."""

    export_dtype: str = option("bfloat16", "Type of the Hugging Face export.", choices=DTYPES, decides_results=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """RLAO: rounds of collecting and training, or training on what is stored."""

    distributed: bool = option(
        False, "Join the other processes of this run; see docs/launch.md.", decides_results=False
    )
    tau: float = option(RewardWeighted.tau, "Temperature of the reward weights exp(r / tau).", least=1e-3)
    loss: str = option(
        _loss.kind, "rwr: reward-weighted regression; grpo: GRPO's clipped ratio.", choices=tuple(LossKind)
    )
    weights: str = option(
        str(WeightName.RWR),
        "rwr: RLAO's exp(r / tau); best and positive are its ablations; group: GRPO's advantage.",
        choices=tuple(WeightName),
    )
    clip_low: float = option(_loss.clip_low, "Of grpo: how far below 1 a ratio still counts.", least=0.0, most=1.0)
    clip_high: float = option(_loss.clip_high, "Of grpo: how far above 1.", least=0.0)
    kl_coefficient: float = option(_loss.kl_coefficient, "Of grpo: penalty for leaving the start (0: none).", least=0.0)
    num_rounds: int = option(1, "Rounds of collecting and training.", least=0)
    trajectories_per_round: int = option(24, "Trajectories collected a round.", least=1)
    trajectories_per_step: int = option(_learner.trajectories_per_step, "Trajectories in one optimiser step.", least=1)
    epochs: int = option(1, "Passes over a round's trajectories.", least=1)
    trajectories: tuple[str, ...] = option((), "Train on these stored trajectories alone (files or run directories).")
    optimizer: str = option(_optimizer.name, "Optimiser.", choices=tuple(OptimizerName))
    learning_rate: float = option(_optimizer.learning_rate, "Learning rate.", least=0.0)
    schedule: str = option(_optimizer.schedule_name, "Learning rate after its warm-up.", choices=tuple(ScheduleName))
    warmup_steps: int = option(_optimizer.warmup_steps, "Steps of linear warm-up.", least=0)
    moment_dtype: str = option(_optimizer.moment_dtype, "Type of kept moments.", choices=tuple(MomentDtype))
    max_grad_norm: float = option(_optimizer.max_grad_norm, "Clip gradients to this norm (0: none).", least=0.0)
    row_length: int = option(
        _learner.row_length, "Tokens of one packed row; a tree must fit one.", least=8, decides_results=False
    )
    rows_per_batch: int = option(
        _learner.rows_per_batch, "Packed rows of one micro-batch and data shard.", least=1, decides_results=False
    )
    remat: str = option(
        "full", "How much of a layer the backward pass computes again.",
        choices=("none", "dots", "attention", "full"), decides_results=False,
    )  # fmt: skip
    lora_alpha: float = option(16.0, "Strength of the adapters: alpha / rank scales them.", least=0.0)
    lora_rank: int = option(0, "Rank of LoRA adapters (0: full fine-tuning).", least=0)
    eval_num_turns: int = option(0, "Turns of the searches before and after (0: num_turns).", least=0)
    eval_after_turns: tuple[str, ...] = option((), "Test the best workflow after these numbers of turns too.")
    evaluate_before: bool = option(True, "Search with the meta-agent as it was before training.")
    trajectories_in_flight: int = option(32, "Trajectories collected at once.", least=1, decides_results=False)
    keep_checkpoints: int = option(2, "Checkpoints kept.", least=1, decides_results=False)

    @property
    def loss_config(self) -> LossConfig:
        """What is minimised, with its numbers."""
        return LossConfig(
            kind=self.loss, clip_low=self.clip_low, clip_high=self.clip_high, kl_coefficient=self.kl_coefficient
        )

    @property
    def eval_turns(self) -> tuple[int, ...]:
        """Numbers of turns after which the best workflow is tested too."""
        return tuple(int(turns) for turns in self.eval_after_turns)

    def __post_init__(self) -> None:
        self.loss_config.check_weights(self.weights)
        if self.trajectories and self.num_rounds != 1:
            raise InputError(f"--num_rounds={self.num_rounds} with --trajectories; offline training is one round")
        bad = [turns for turns in self.eval_after_turns if not turns.isdecimal()]
        if bad:
            raise InputError(f"--eval_after_turns has {bad[0]!r}, which is no number of turns; give numbers, e.g. 2,5")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """The strong model, and what one item may ask of it."""

    kind: str = option("simulated", "Kind of executor.", flag="executor", choices=("simulated", "openai"))
    base_url: str = option(
        "", "Base URL of an OpenAI-compatible server.", flag="executor_base_url", decides_results=False
    )
    model: str = option("simulated", "Model name at the executor's API.", flag="executor_model")
    prices: str = option(
        "", "JSON, or a file of it: {model: {input, output}}, USD per 1M tokens.",
        flag="executor_prices", decides_results=False,
    )  # fmt: skip
    max_tokens: int = option(_metered.max_tokens, "Most tokens of one reply.", flag="executor_max_tokens", least=1)
    requests_per_minute: int = option(0, "Rate limit of the executor (0: none).", least=0, decides_results=False)
    tokens_per_minute: int = option(0, "Rate limit of the executor (0: none).", least=0, decides_results=False)
    concurrency: int = option(_metered.concurrency, "Calls in flight at once.", least=1, decides_results=False)
    call_timeout: float = option(
        CALL_TIMEOUT_SECONDS, "Hard limit of one attempt of a call, in seconds.", least=0.1, decides_results=False
    )
    max_attempts: int = option(
        _metered.max_attempts, "Attempts of one call, the first included.", least=1, decides_results=False
    )
    max_calls_per_item: int = option(_evaluation.max_calls_per_item, "Most calls of one workflow on one item.", least=1)
    item_timeout: float = option(_evaluation.item_timeout, "Seconds a workflow may compute on one item.", least=0.1)

    @property
    def simulated(self) -> bool:
        """Whether no model is asked."""
        return self.kind == "simulated"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """The most that a run directory may have spent, earlier processes included."""

    usd: str = option("", "Cap on USD, or inf; a paid executor needs one.", flag="budget_usd", decides_results=False)
    tokens: int = option(0, "Cap on tokens (0: none).", flag="budget_tokens", least=0, decides_results=False)
    calls: int = option(0, "Cap on calls (0: none).", flag="budget_calls", least=0, decides_results=False)
    seconds: float = option(
        0.0, "Cap on wall-clock seconds (0: none).", flag="budget_seconds", least=0.0, decides_results=False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    """Where workflows run."""

    kind: str = option(
        "auto", "Back end of the sandbox.", flag="sandbox", choices=("auto", "bwrap", "guard", "process"),
        decides_results=False,
    )  # fmt: skip
    allow_unsafe: bool = option(
        False, "Allow --sandbox=process beside an API key.", flag="allow_unsafe_sandbox", decides_results=False
    )
    packages: tuple[str, ...] = option(DEFAULT_PACKAGES, "Packages that workflows may import.", flag="sandbox_packages")
    workers: int = option(0, "Zygotes (0: one a core).", flag="sandbox_workers", least=0, decides_results=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where the run's metrics go besides its own folder; see docs/tracking.md."""

    trackers: tuple[str, ...] = option(
        (), f"Trackers that metrics are sent to as well: {', '.join(TRACKERS)}.", decides_results=False
    )
    tracker_project: str = option(
        "", "Project (W&B) or experiment (MLflow); empty: as their environment says, else w4s_jax.",
        decides_results=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for number, name in enumerate(self.trackers):
            if name not in TRACKERS:
                raise InputError(f"--trackers has {name!r}, which is not known; give some of {', '.join(TRACKERS)}")
            if name in self.trackers[:number]:
                raise InputError(f"--trackers names {name} twice; name each once")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run.

    Example:
        >>> RunConfig(run_dir="runs/mine", search=SearchConfig(num_turns=10)).search.num_candidates
        5
    """

    run_dir: str = option("", "Folder of the run; the same command on the same folder resumes.", decides_results=False)
    seed: int = option(0, "Seed of every draw of the run, splits excepted.")
    outcomes: str = option(
        "", "File that remembers outcomes by workflow and item (empty: in --run_dir).", decides_results=False
    )
    tasks: TaskConfig = TaskConfig()
    meta_agent: MetaAgentConfig = MetaAgentConfig()
    search: SearchConfig = SearchConfig()
    optimize: OptimizeConfig = OptimizeConfig()
    device: DeviceConfig = DeviceConfig()
    export: ExportConfig = ExportConfig()
    training: TrainingConfig = TrainingConfig()
    executor: ExecutorConfig = ExecutorConfig()
    budget: BudgetConfig = BudgetConfig()
    sandbox: SandboxConfig = SandboxConfig()
    tracking: TrackingConfig = TrackingConfig()

    def __post_init__(self) -> None:
        if self.training.loss == LossKind.GRPO and self.search.max_repairs and not self.training.trajectories:
            raise InputError(
                f"--loss=grpo with --max_repairs={self.search.max_repairs}: a repaired action was not sampled, so its "
                "log-probabilities are unknown; give --max_repairs=0"
            )


RLAO_OPTIONS = names_of(RunConfig) - names_of(OptimizeConfig)
"""Options of a training run."""
OPTIMIZE_OPTIONS = names_of(RunConfig) - names_of(TrainingConfig) - names_of(ExportConfig) - {"eval_task"}
"""Options of a search."""
EVALUATE_OPTIONS = (
    {"run_dir", "seed", "outcomes"}
    | (names_of(TaskConfig) - {"eval_task", "seed_workflows"})
    | names_of(ExecutorConfig)
    | names_of(BudgetConfig)
    | names_of(SandboxConfig)
)
"""Options of the evaluation of one workflow."""
SIMULATE_OPTIONS = names_of(TaskConfig)
"""Options of the simulated executor's server."""
