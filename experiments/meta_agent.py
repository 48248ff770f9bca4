"""Loads a meta-agent, or any model: the packaged tiny one, a Hugging Face folder or id, or a run directory.

--meta_agent → **MetaAgent** → LocalPolicy, Trainer, export; --model → **Loaded** → score
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import Mesh

import w4s_jax.policy
from w4s_jax.policy.chat import Chat
from w4s_jax.policy.config import ModelConfig
from w4s_jax.policy.hf import load_checkpoint
from w4s_jax.policy.lora import LoraConfig
from w4s_jax.policy.sharding import make_mesh
from w4s_jax.policy.transformer import Transformer, init_lora
from w4s_jax.training.checkpoint import Checkpoints
from w4s_jax.types import InputError

FLAGS = flags.FLAGS
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

    folder: Path
    """Hugging Face folder that config and tokenizer are from."""
    config: ModelConfig
    variables: dict[str, Any]


def mesh_of_flags() -> Mesh:
    """The mesh of `--mesh`; all devices on `fsdp` where it is empty.

    Raises:
        InputError: it does not fit the devices.
    """
    return make_mesh(FLAGS.mesh or f"fsdp={jax.device_count()}")


def load_meta_agent(spec: str, mesh: Mesh) -> MetaAgent:
    """Reads a meta-agent onto a mesh, with fresh adapters where `--lora_rank` asks for them.

    Raises:
        InputError: it is none of what `--meta_agent` can be, or cannot be read.
        CheckpointError: a run directory holds no readable checkpoint.
    """
    if spec.startswith("api:"):
        raise InputError(
            f"--meta_agent={spec} cannot be trained here; collect with it elsewhere and give --trajectories=, "
            "and a Hugging Face folder or id as --meta_agent"
        )
    folder, config, variables = load_model(spec, mesh, FLAGS.param_dtype, flag="meta_agent")
    lora = LoraConfig(rank=FLAGS.lora_rank, alpha=FLAGS.lora_alpha) if FLAGS.lora_rank else None
    model = Transformer(
        config=config,
        compute_dtype=jnp.dtype(FLAGS.compute_dtype),
        param_dtype=jnp.dtype(FLAGS.param_dtype),
        remat=FLAGS.remat,
        lora=lora,
        mesh=mesh,
    )
    if lora is not None:
        variables["lora"] = init_lora(model, jax.random.key(FLAGS.seed))
    return MetaAgent(name=spec, folder=folder, config=config, model=model, variables=variables, chat=Chat.load(folder))


def load_model(spec: str, mesh: Mesh, param_dtype: str, *, flag: str) -> Loaded:
    """Reads parameters onto a mesh.

    Args:
        spec: `tiny`, a Hugging Face folder or id, or a run directory.
        mesh: From `policy.sharding.make_mesh`.
        param_dtype: Dtype of the parameters, by name.
        flag: The flag that `spec` was given by, for errors.

    Raises:
        InputError: it is none of these, or cannot be read.
        CheckpointError: a run directory holds no readable checkpoint.
    """
    run = Path(spec)
    base = _meta_agent_of(run, flag) if (run / "run.flags").is_file() else spec
    folder = find_folder(base, flag)
    config, variables = load_checkpoint(folder, mesh, jnp.dtype(param_dtype))
    return Loaded(folder, config, variables if base == spec else _restored(run, variables))


def find_folder(spec: str, flag: str = "meta_agent") -> Path:
    """The local folder of a checkpoint; an id is fetched from the hub.

    Raises:
        InputError: no such folder, and no such id can be fetched; `flag` is named.
    """
    if spec == "tiny":
        return TINY
    if Path(spec).is_dir():
        return Path(spec)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
        return Path(snapshot_download(spec, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--{flag}={spec} is neither a folder nor a model that can be fetched ({reason}); "
            "give tiny, a Hugging Face folder or id, or a run directory"
        ) from None


def _meta_agent_of(run: Path, flag: str) -> str:
    lines = (run / "run.flags").read_text().splitlines()
    found = dict(line.removeprefix("--").split("=", 1) for line in lines if "=" in line)
    if int(found.get("lora_rank") or 0):
        raise InputError(f"--{flag}={run} trained adapters; give its export {run / 'hf'} instead")
    return found.get("meta_agent", "tiny")


def _restored(run: Path, variables: dict[str, Any]) -> dict[str, Any]:
    params, _ = Checkpoints(directory=str((run / "checkpoints").resolve())).restore_params(variables)
    return params
