"""A meta-agent that writes running workflows without having learnt anything: a table of which token follows which.

pieces of workflows → tokenizer + Qwen3 weights → **Hugging Face folder** → `--meta_agent=`

Its one layer starts as the identity, its embeddings are one-hot for the pieces, and
its unembedding is the table, so an action is a walk over pieces: an instruction, a
number of samples, an ending, sometimes one that raises and has to be repaired. All of
it is an ordinary checkpoint that RLAO trains. Tests and benchmarks of the machinery
use it: made in a second, decoded in a dozen tokens, and its rewards differ.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from w4s_jax.mdp import initial_state
from w4s_jax.policy.config import Family, ModelConfig
from w4s_jax.policy.hf import save_checkpoint
from w4s_jax.policy.transformer import Transformer, init_variables
from w4s_jax.prompts import FullTemplate
from w4s_jax.tasks.toy import FAMILIES
from w4s_jax.types import Evaluated, Feedback, State
from w4s_jax.workflows import seeds_for

PyTree = Any

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
START = "\n"
"""The last token of every prompt, where the walk begins."""
OPENING = "Another instruction.\n```python\ndef solver(agent, task):\n    ask = task + '\\n"
INSTRUCTIONS = (
    "Give only the final number.",
    "Think step by step. End with: Answer: <number>",
    "Write down the units and convert them. End with: Answer: <number>",
)
SAMPLES = tuple(
    "'\n    replies = agent.call_llm([{'role': 'user', 'content': ask}], "
    f"temperature={temperature}, num_of_response={count})\n"
    for temperature, count in ((0.0, 1), (0.8, 3))
)
RAISES = "'\n    replies = agent.nothing\n"
ENDING = (
    "    answers = [agent.extract_answer_str(r) for r in replies]\n"
    "    return {'answer': max(answers, key=answers.count)}\n```"
)
WALK = {
    START: (OPENING,),
    OPENING: INSTRUCTIONS,
    **dict.fromkeys(INSTRUCTIONS, (*SAMPLES, RAISES)),
    **dict.fromkeys((*SAMPLES, RAISES), (ENDING,)),
    ENDING: (SPECIAL[2],),
}
"""The pieces that may follow a piece, equally likely."""
MAX_POSITIONS = 2048
MAX_NEW_TOKENS = 8
"""A walk takes five."""
WIDTH, LOGIT = 32, 20.0


def write_scripted_agent(folder: Path, *, seed: int = 0) -> Path:
    """Makes the checkpoint in `folder` and returns it."""
    with tempfile.TemporaryDirectory() as tokenizer_folder:
        ids = _write_tokenizer(Path(tokenizer_folder))
        config = ModelConfig(
            vocab_size=len(ids),
            num_layers=1,
            embed_dim=WIDTH,
            num_heads=2,
            num_kv_heads=1,
            head_dim=WIDTH // 2,
            mlp_dim=2 * WIDTH,
            rope_theta=10_000.0,
            tie_embeddings=False,
            family=Family.QWEN3,  # for Qwen2 folders transformers puts a pre-tokenizer of its own in place of ours
            max_positions=MAX_POSITIONS,
        )
        params = init_variables(
            Transformer(config=config, compute_dtype="float32", remat="none"), jax.random.key(seed)
        )["params"]
        save_checkpoint(
            folder,
            config,
            _with_table(params, ids, np.random.default_rng(seed)),
            dtype=jnp.float32,
            tokenizer_dir=tokenizer_folder,
            generation={"eos_token_id": ids[SPECIAL[2]]},
            overwrite=True,
        )
    return folder


def _write_tokenizer(folder: Path) -> dict[str, int]:
    """A byte-level BPE of the full prompt, with a token of its own for a line's end and for every piece."""
    from transformers import PreTrainedTokenizerFast  # takes seconds to import

    core = Tokenizer(models.BPE())
    lines = pre_tokenizers.Split(Regex(r"\n"), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        [message.content for message in FullTemplate().opening(_example_state())] * 2,  # pairs seen once are not merged
        trainers.BpeTrainer(
            vocab_size=4000,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.add_tokens([AddedToken(piece, normalized=False) for piece in WALK if piece != START])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        chat_template=TEMPLATE,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    return {START if name == "Ċ" else name: id_ for name, id_ in tokenizer.get_vocab().items()}


def _example_state() -> State:
    """What a full prompt is made from, so that its lines are few tokens."""
    nothing = Feedback(score=0.25, accuracy=0.25, n=4)
    seeds = tuple(Evaluated(workflow=workflow, feedback=nothing) for workflow in seeds_for("toy"))
    return initial_state("toy_units", FAMILIES["toy_units"].description, seeds)


def _with_table(params: PyTree, ids: dict[str, int], rng: np.random.Generator) -> PyTree:
    """Writes the table into embedding and unembedding, and lets attention and MLP add nothing at first."""
    embedding = rng.normal(0.0, 1.0, (len(ids), WIDTH)).astype(np.float32)
    embedding[:, : len(WALK)] = 0.0
    unembedding = np.zeros((WIDTH, len(ids)), np.float32)
    for axis, (piece, following) in enumerate(WALK.items()):
        embedding[ids[piece]] = np.eye(WIDTH, dtype=np.float32)[axis]
        for successor in following:
            unembedding[axis, ids[successor]] = LOGIT / np.sqrt(WIDTH)  # the norm makes a one-hot this long
    silent = {name: jax.tree.map(jnp.zeros_like, params["layers"][name]) for name in ("o", "down")}
    return params | {
        "embed": {"embedding": jnp.asarray(embedding)},
        "unembed": jnp.asarray(unembedding),
        "layers": params["layers"] | silent,
    }
