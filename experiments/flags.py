"""The shared flags: one name, one meaning and one default for every command.

Each group is a function that an entry point calls while its module loads.
Defaults are read from the dataclasses of the library; later flags win over the
flag file; `run.flags` is written so that it re-runs the run.
"""

from __future__ import annotations

from absl import flags

from w4s_jax.executor.client import CALL_TIMEOUT_SECONDS
from w4s_jax.executor.metered import MeteredOptions
from w4s_jax.mdp import RewardConfig
from w4s_jax.rollout.collect import CollectOptions
from w4s_jax.tasks.custom import SCORERS, CustomFormat
from w4s_jax.tasks.splits import NAMES
from w4s_jax.types import InputError, SamplingOptions

FLAGS = flags.FLAGS

MAY_CHANGE_ON_RESUME = frozenset(
    {
        *("json_out", "outcomes", "dry_run", "output_dir", "concurrency", "mesh", "data_dir", "flagfile", "run_dir"),
        *("budget_usd", "budget_tokens", "budget_calls", "budget_seconds"),
        *("executor_base_url", "executor_prices", "meta_agent_base_url", "requests_per_minute", "tokens_per_minute"),
        *("call_timeout", "max_attempts"),
        *("row_length", "rows_per_batch", "remat", "keep_checkpoints", "prompts_in_flight", "export_dtype"),
        *("sandbox", "allow_unsafe_sandbox", "sandbox_workers", "trajectories_in_flight", "distributed"),
    }
)
"""Flags that decide no result (beyond rounding); every other one is refused on an existing run directory."""


def define_run(run_dir: str = "") -> None:
    """Where a run lives and what makes it random."""
    flags.DEFINE_string("run_dir", run_dir, "Folder of the run; the same command on the same folder resumes.")
    flags.DEFINE_integer("seed", 0, "Seed of every draw of the run, splits excepted.")
    flags.DEFINE_string("outcomes", "", "File that remembers outcomes by workflow and item (empty: in --run_dir).")
    flags.DEFINE_string("json_out", "", "Write the result as JSON to this file too.")
    flags.DEFINE_boolean("dry_run", False, "Print the worst case in calls, tokens and USD, and stop.")


def define_tasks() -> None:
    """Which tasks to train and to evaluate on."""
    flags.DEFINE_list("task", ["toy"], "Tasks or groups of tasks, by name; see docs/tasks.md.")
    flags.DEFINE_list("eval_task", [], "Tasks to evaluate on (default: as --task).")
    define_splits()
    define_seed_workflows()


def define_splits() -> None:
    """Where questions come from and how they are split."""
    flags.DEFINE_string("data_dir", "", "Folder with NAME/SPLIT.jsonl files; empty: the Hugging Face hub.")
    flags.DEFINE_list("data_revision", [], "Revision of the hub's data set: REV, or TASK=REV,… (empty: the newest).")
    flags.DEFINE_integer("split_seed", 0, "Seed of the splits, apart from --seed.")
    flags.DEFINE_enum("split_sizes", "", ["", *NAMES], "Whose split sizes (empty: the task's own).")
    flags.DEFINE_integer("train_size", 0, "Items in the train split (0: the task's own).", lower_bound=0)
    flags.DEFINE_integer("validation_size", 0, "Items in the validation split (0: the task's own).", lower_bound=0)
    flags.DEFINE_integer("test_size", 0, "Items in the test split (0: the task's own).", lower_bound=0)
    own = CustomFormat()
    flags.DEFINE_string("input_field", own.input_field, "Field of --task=jsonl:PATH that is given to the workflow.")
    flags.DEFINE_string("target_field", own.target_field, "Field of --task=jsonl:PATH that holds the right answer.")
    flags.DEFINE_string("scorer", own.scorer, f"Of --task=jsonl:PATH: {', '.join(SCORERS)} or python:FILE.py:FUNCTION.")
    flags.DEFINE_string("task_description", "", "Text file that tells the meta-agent what your own task is about.")


def define_seed_workflows() -> None:
    """What a search starts from."""
    flags.DEFINE_list("seed_workflows", [], "Seeds by name or FILE.py to start from (empty: those of the task).")


def define_meta_agent() -> None:
    """Who writes the workflows, and how it is sampled."""
    sampling = SamplingOptions()
    flags.DEFINE_string("meta_agent", "tiny", "JAX checkpoint, Hugging Face folder or id, api:MODEL, or tiny.")
    flags.DEFINE_string("meta_agent_base_url", "", "Base URL of an api:MODEL meta-agent.")
    flags.DEFINE_enum("prompt_template", "full", ["full", "compact"], "compact is for the tiny meta-agent.")
    flags.DEFINE_float("temperature", sampling.temperature, "Sampling temperature of actions.", lower_bound=0.0)
    flags.DEFINE_integer("max_new_tokens", sampling.max_new_tokens, "Most tokens of one action.", 1, 32_768)
    flags.DEFINE_integer("cache_length", 0, "Longest prompt with its new tokens (0: the model's own).", lower_bound=0)
    flags.DEFINE_integer("prompts_in_flight", 8, "Prompts decoded at once on the device.", lower_bound=1)


def define_search(num_turns: int = 0) -> None:
    """The MDP; `num_turns` is what a command has as its own default."""
    collect = CollectOptions()
    flags.DEFINE_integer("num_candidates", collect.num_candidates, "m, actions sampled a turn.", lower_bound=1)
    flags.DEFINE_integer("num_turns", num_turns or collect.num_turns, "Turns of a trajectory.", lower_bound=1)
    flags.DEFINE_integer("turns_in_context", collect.turns_in_context, "Turns of one dialogue.", lower_bound=1)
    flags.DEFINE_integer("max_repairs", collect.max_repairs, "Repairs of one action.", lower_bound=0)
    reward = RewardConfig()
    flags.DEFINE_enum("reward", str(reward.kind), ["paper", "repo"], "Definition of the reward.")
    flags.DEFINE_float("reward_best", reward.best, "Reward of a score above the best.")
    flags.DEFINE_float("reward_improved", reward.improved, "Reward of one above the current workflow's alone.")
    flags.DEFINE_float("reward_otherwise", reward.otherwise, "Reward of any other.")
    flags.DEFINE_float("reward_low_penalty", reward.low_penalty, "Added by repo below reward_low_threshold.")
    flags.DEFINE_float("reward_low_threshold", reward.low_threshold, "Score below which repo adds its penalty.")


def define_device(compute_dtype: str = "bfloat16") -> None:
    """How a model lies on the devices."""
    flags.DEFINE_enum("param_dtype", "float32", ["float32", "bfloat16"], "Type of stored parameters.")
    flags.DEFINE_enum("compute_dtype", compute_dtype, ["float32", "bfloat16"], "Type of matrix products.")
    flags.DEFINE_string("mesh", "", "Device mesh, e.g. data=1,fsdp=4,tensor=2 (empty: all devices on fsdp).")


def define_export() -> None:
    """What a Hugging Face folder is written with."""
    flags.DEFINE_enum("export_dtype", "bfloat16", ["float32", "bfloat16"], "Type of the Hugging Face export.")


def define_training() -> None:
    """RLAO."""
    from w4s_jax.training.optimizer import OptimizerConfig  # only what trains needs JAX

    flags.DEFINE_boolean("distributed", False, "Join the other processes of this run; see docs/launch.md.")
    optimizer = OptimizerConfig()
    flags.DEFINE_float("tau", 0.4, "Temperature of the reward weights exp(r / tau).", lower_bound=1e-3)
    flags.DEFINE_integer("num_rounds", 1, "Rounds of collecting and training.", lower_bound=0)
    flags.DEFINE_integer("trajectories_per_round", 24, "Trajectories collected a round.", lower_bound=1)
    flags.DEFINE_integer("trajectories_per_step", 4, "Trajectories in one optimiser step.", lower_bound=1)
    flags.DEFINE_integer("epochs", 1, "Passes over a round's trajectories.", lower_bound=1)
    flags.DEFINE_list("trajectories", [], "Train on these stored trajectories alone (files or run directories).")
    flags.DEFINE_enum("optimizer", optimizer.name, ["adamw", "adafactor", "sgd"], "Optimiser.")
    flags.DEFINE_float("learning_rate", optimizer.learning_rate, "Learning rate.", lower_bound=0.0)
    flags.DEFINE_enum("schedule", optimizer.schedule_name, ["constant", "cosine"], "Learning rate after its warm-up.")
    flags.DEFINE_integer("warmup_steps", optimizer.warmup_steps, "Steps of linear warm-up.", lower_bound=0)
    flags.DEFINE_enum("moment_dtype", optimizer.moment_dtype, ["float32", "bfloat16"], "Type of kept moments.")
    flags.DEFINE_float("max_grad_norm", optimizer.max_grad_norm, "Clip gradients to this norm (0: none).", 0.0)
    flags.DEFINE_integer("row_length", 8192, "Tokens of one packed row; a tree must fit one.", lower_bound=8)
    flags.DEFINE_integer("rows_per_batch", 1, "Packed rows of one micro-batch and data shard.", lower_bound=1)
    flags.DEFINE_enum(
        "remat", "full", ["none", "dots", "attention", "full"], "How much of a layer the backward pass computes again."
    )
    flags.DEFINE_float("lora_alpha", 16.0, "Strength of the adapters: alpha / rank scales them.", lower_bound=0.0)
    flags.DEFINE_integer("lora_rank", 0, "Rank of LoRA adapters (0: full fine-tuning).", lower_bound=0)
    flags.DEFINE_enum("weights", "rwr", ["rwr", "best", "positive"], "rwr: RLAO; others are its ablations.")
    flags.DEFINE_integer("eval_num_turns", 0, "Turns of the searches before and after (0: num_turns).", lower_bound=0)
    flags.DEFINE_list("eval_after_turns", [], "Test the best workflow after these numbers of turns too.")
    flags.DEFINE_boolean("evaluate_before", True, "Search with the meta-agent as it was before training.")
    flags.DEFINE_integer("trajectories_in_flight", 32, "Trajectories collected at once.", lower_bound=1)
    flags.DEFINE_integer("keep_checkpoints", 2, "Checkpoints kept.", lower_bound=1)


def define_executor() -> None:
    """The strong model, its price and its caps."""
    metered = MeteredOptions()
    flags.DEFINE_enum("executor", "simulated", ["simulated", "openai"], "Kind of executor.")
    flags.DEFINE_string("executor_base_url", "", "Base URL of an OpenAI-compatible server.")
    flags.DEFINE_string("executor_model", "simulated", "Model name at the executor's API.")
    flags.DEFINE_string("executor_prices", "", "JSON, or a file of it: {model: {input, output}}, USD per 1M tokens.")
    flags.DEFINE_integer("executor_max_tokens", 1024, "Most tokens of one reply.", lower_bound=1)
    flags.DEFINE_integer("requests_per_minute", 0, "Rate limit of the executor (0: none).", lower_bound=0)
    flags.DEFINE_integer("tokens_per_minute", 0, "Rate limit of the executor (0: none).", lower_bound=0)
    flags.DEFINE_integer("concurrency", metered.concurrency, "Calls in flight at once.", lower_bound=1)
    flags.DEFINE_float(
        "call_timeout", CALL_TIMEOUT_SECONDS, "Hard limit of one attempt of a call, in seconds.", lower_bound=0.1
    )
    flags.DEFINE_integer(
        "max_attempts", metered.max_attempts, "Attempts of one call, the first included.", lower_bound=1
    )
    flags.DEFINE_string("budget_usd", "", "Cap on USD, or inf; a paid executor needs one.")
    flags.DEFINE_integer("budget_tokens", 0, "Cap on tokens (0: none).", lower_bound=0)
    flags.DEFINE_integer("budget_calls", 0, "Cap on calls (0: none).", lower_bound=0)
    flags.DEFINE_float("budget_seconds", 0.0, "Cap on wall-clock seconds (0: none).", lower_bound=0.0)
    flags.DEFINE_integer("max_calls_per_item", 64, "Most calls of one workflow on one item.", lower_bound=1)
    flags.DEFINE_float("item_timeout", 60.0, "Seconds a workflow may compute on one item.", lower_bound=0.1)


def define_sandbox() -> None:
    """Where workflows run."""
    flags.DEFINE_enum("sandbox", "auto", ["auto", "bwrap", "guard", "process"], "Back end of the sandbox.")
    flags.DEFINE_boolean("allow_unsafe_sandbox", False, "Allow --sandbox=process beside an API key.")
    flags.DEFINE_list("sandbox_packages", ["numpy", "sympy"], "Packages that workflows may import.")
    flags.DEFINE_integer("sandbox_workers", 0, "Zygotes (0: one a core).", lower_bound=0)


def define_all() -> None:
    """Everything that a run has."""
    for define in (
        *(define_run, define_tasks, define_meta_agent, define_search),
        *(define_device, define_export, define_training, define_executor, define_sandbox),
    ):
        define()


def read_budget_usd(value: str) -> float | None:
    """Parses `--budget_usd`: a number, `inf`, or empty for none given.

    Raises:
        InputError: not a positive number.
    """
    if not value:
        return None
    try:
        usd = float(value)
    except ValueError:
        usd = -1.0
    if not usd > 0:
        raise InputError(f"--budget_usd={value!r} is not a positive number; give USD, or inf to set no cap")
    return usd
