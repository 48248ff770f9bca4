"""Loads a meta-agent, or any model: the packaged tiny one, a Hugging Face folder or id, or a run directory.

--meta_agent → **MetaAgent** → LocalPolicy, Trainer, export; --model → **Loaded** → score, export
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

import w4s_jax.policy
from w4s_jax.errors import first_line
from w4s_jax.policy.chat import Chat
from w4s_jax.policy.config import ModelConfig
from w4s_jax.policy.generate import GeneratorConfig
from w4s_jax.policy.hf import load_checkpoint, load_config
from w4s_jax.policy.lora import LoraConfig, merge
from w4s_jax.policy.sharding import make_mesh
from w4s_jax.policy.transformer import Transformer, init_lora
from w4s_jax.run.config import RunConfig
from w4s_jax.run.directory import flags_of
from w4s_jax.training.checkpoint import Checkpoints
from w4s_jax.types import InputError

TINY = Path(w4s_jax.policy.__file__).parent / "tiny"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetaAgent:
    """A model with its variables and tokenizer."""

    name: str
    """As `--meta_agent` spelt it."""
    folder: Path
    """Hugging Face folder that config and tokenizer are from."""
    config: ModelConfig
    model: Transformer
    variables: dict[str, Any]
    """As they were loaded; empty when they have become a state of training."""
    num_parameters: int
    chat: Chat

    @property
    def tokenizer_hash(self) -> str:
        """SHA-256 of tokenizer and chat template, in hex."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob("*token*.json")) + sorted(self.folder.glob("*.jinja")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the folder's safetensors, in hex."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.glob("*.safetensors")):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


class Loaded(NamedTuple):
    """What a checkpoint holds, without a tokenizer."""

    base: str
    """What the run directory was trained from, as its `--meta_agent` spelt it; else the model itself."""
    folder: Path
    """Hugging Face folder that config and tokenizer are from."""
    config: ModelConfig
    variables: dict[str, Any]
    """`params`, and `lora` where a run trained adapters."""
    lora: LoraConfig | None

    @property
    def merged(self) -> dict[str, Any]:
        """The variables of a model without adapters that computes the same."""
        if self.lora is None:
            return self.variables
        return {"params": merge(self.variables["params"], self.variables["lora"], self.lora)}


def open_mesh(spec: str) -> Mesh:
    """The mesh of `--mesh`; all devices on `fsdp` where it is empty.

    Raises:
        InputError: It does not fit the devices.
    """
    return make_mesh(spec or f"fsdp={jax.device_count()}")


def load_meta_agent(config: RunConfig, mesh: Mesh) -> MetaAgent:
    """Reads a meta-agent onto a mesh, with fresh adapters where `--lora_rank` asks for them.

    Raises:
        InputError: It is none of what `--meta_agent` can be, or cannot be read.
        CheckpointError: A run directory holds no readable checkpoint.
    """
    spec = config.meta_agent.meta_agent
    if spec.startswith("api:"):
        raise InputError(
            f"--meta_agent={spec} cannot be trained here; collect with it by experiments.optimize and give its "
            "--run_dir as --trajectories=, and a Hugging Face folder or id as --meta_agent"
        )
    loaded = load_model(spec, mesh, config.device.param_dtype, flag="meta_agent")
    variables = loaded.merged
    model = make_model(loaded.config, config, mesh)
    if model.lora is not None:
        variables["lora"] = init_lora(model, jax.random.key(config.seed))
    return MetaAgent(
        name=spec,
        folder=loaded.folder,
        config=loaded.config,
        model=model,
        variables=variables,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(variables)),
        chat=Chat.load(loaded.folder),
    )


def make_model(shape: ModelConfig, config: RunConfig, mesh: Mesh | None) -> Transformer:
    """The decoder that a run trains."""
    device, training = config.device, config.training
    return Transformer(
        config=shape,
        compute_dtype=jnp.dtype(device.compute_dtype),
        param_dtype=jnp.dtype(device.param_dtype),
        remat=training.remat,
        lora=LoraConfig(rank=training.lora_rank, alpha=training.lora_alpha) if training.lora_rank else None,
        mesh=mesh,
    )


def generator_config(shape: ModelConfig, config: RunConfig) -> GeneratorConfig:
    """The shapes of decoding that a run asks for."""
    agent = config.meta_agent
    return GeneratorConfig(
        cache_length=agent.cache_length or min(shape.max_positions, 16_384),
        max_new_tokens=agent.sampling.max_new_tokens,
        slots=agent.prompts_in_flight,
        samples_per_slot=config.search.num_candidates,
    )


def load_model(spec: str, mesh: Mesh, param_dtype: str, *, flag: str) -> Loaded:
    """Reads parameters onto a mesh.

    Args:
        spec: `tiny`, a Hugging Face folder or id, or a run directory.
        mesh: From `policy.sharding.make_mesh`.
        param_dtype: Dtype of the parameters, by name.
        flag: The flag that `spec` was given by, for errors.

    Raises:
        InputError: It is none of these, or cannot be read.
        CheckpointError: A run directory holds no readable checkpoint.
    """
    run = Path(spec)
    of_a_run = run.resolve().parent.parent
    if run.parent.name == "checkpoints" and (of_a_run / "run.flags").is_file():
        raise InputError(f"--{flag}={spec} is a checkpoint of a run; give the run, {of_a_run}: its newest one is read")
    if not (run / "run.flags").is_file():
        folder = find_folder(spec, flag)
        config, variables = load_checkpoint(folder, mesh, jnp.dtype(param_dtype))
        return Loaded(spec, folder, config, variables, lora=None)
    given = flags_of(run)
    if "trajectories_per_round" not in given:
        raise InputError(
            f"--{flag}={spec} holds a search, not a training run, so there is no model in it; train one on it with "
            f"experiments.rlao --trajectories={spec}"
        )
    base = given.get("meta_agent", "tiny")
    loaded = load_model(base, mesh, param_dtype, flag=flag)
    config, variables = loaded.config, loaded.merged
    lora = _lora_of(given)
    checkpoints = Checkpoints(str((run / "checkpoints").resolve()))
    if lora is None:
        variables, _ = checkpoints.restore_params(variables)
        return Loaded(base, loaded.folder, config, variables, lora=None)
    model = Transformer(
        config=config, param_dtype=jnp.dtype(param_dtype), lora=lora, mesh=mesh, compute_dtype="float32", remat="none"
    )
    adapters, _ = checkpoints.restore_params({"lora": init_lora(model, jax.random.key(0))})
    return Loaded(base, loaded.folder, config, variables | adapters, lora)


def find_config(spec: str, flag: str) -> ModelConfig:
    """The shape of a model, without its weights; for a run directory, of what it was trained from.

    Raises:
        InputError: As `find_folder`, or its config is not one that is implemented.
    """
    if (Path(spec) / "run.flags").is_file():
        return find_config(flags_of(Path(spec)).get("meta_agent", "tiny"), flag)
    return load_config(find_folder(spec, flag, patterns=("config.json",)))


def find_folder(
    spec: str, flag: str = "meta_agent", patterns: Sequence[str] = ("*.json", "*.safetensors", "*.jinja", "*.txt")
) -> Path:
    """The local folder of a checkpoint; an id is fetched from the hub, as far as `patterns` go.

    Raises:
        InputError: No such folder, and no such id can be fetched; `flag` is named.
    """
    if spec == "tiny":
        return TINY
    if Path(spec).is_dir():
        return Path(spec)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"--{flag}={spec} is neither a folder nor a model that can be fetched ({first_line(error)}); "
            "give tiny, a Hugging Face folder or id, a run directory, or api:MODEL for one behind an API"
        ) from None


def _lora_of(given: Mapping[str, str]) -> LoraConfig | None:
    rank = int(given.get("lora_rank") or 0)
    return LoraConfig(rank=rank, alpha=float(given["lora_alpha"])) if rank else None
