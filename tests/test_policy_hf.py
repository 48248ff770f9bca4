import json
import pathlib
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_policy import FAMILIES, draw_variables

from w4s_jax.policy import hf
from w4s_jax.policy.hf import load_checkpoint, save_checkpoint
from w4s_jax.policy.sharding import make_mesh, shardings
from w4s_jax.types import CheckpointError, InputError

PARITY = pathlib.Path(__file__).parent / "data" / "parity"
MODELS = ["qwen2_tied", "qwen2_untied", "qwen3_untied", "llama_tied", "llama31_untied", "gemma3_text_tied"]


def raw_tensors(folder):
    """Name → (dtype, shape, bytes) of all files of a folder, read by the format's definition."""
    found = {}
    for path in folder.glob("*.safetensors"):
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + size]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = (entry["dtype"], entry["shape"], data[8 + size + begin : 8 + size + end])
    return found


def write_raw(path, tensors):
    """A safetensors file whose data start at an odd offset, as the format allows."""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (1 - len(text) % 2)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))


@pytest.fixture
def copied(tmp_path):
    """A recorded checkpoint to damage."""
    return pathlib.Path(shutil.copytree(PARITY / "qwen2_tied", tmp_path / "copied"))


def equal(first, second):
    return jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), first, second))


@pytest.mark.parametrize("name", MODELS)
def test_import_then_export_is_the_identity_bit_for_bit(name, tmp_path):
    config, variables = load_checkpoint(PARITY / name, param_dtype=jnp.bfloat16)
    save_checkpoint(tmp_path / "out", config, variables["params"], jnp.bfloat16)
    assert raw_tensors(tmp_path / "out") == raw_tensors(PARITY / name)
    assert hf.load_config(tmp_path / "out") == config


@pytest.mark.parametrize("family", FAMILIES)
def test_export_then_import_is_the_identity_bit_for_bit(family, tmp_path):
    params = draw_variables(FAMILIES[family])["params"]
    save_checkpoint(tmp_path / "out", FAMILIES[family], params, jnp.float32)
    config, variables = load_checkpoint(tmp_path / "out")
    assert config == FAMILIES[family]
    assert equal(variables["params"], params)


def test_a_map_is_stored_as_out_by_in_with_its_heads_in_order(tmp_path):
    params = draw_variables(FAMILIES["llama"])["params"]
    save_checkpoint(tmp_path / "out", FAMILIES["llama"], params, jnp.float32)
    dtype, shape, data = raw_tensors(tmp_path / "out")["model.layers.1.self_attn.k_proj.weight"]
    assert (dtype, shape) == ("F32", [2 * 8, 16])
    stored = np.frombuffer(data, np.float32).reshape(shape)
    # Row 8·head + dim of the file is the map to that head's dim.
    assert stored[8 * 1 + 3, 5] == params["layers"]["k"]["kernel"][1, 5, 1, 3]


def test_small_files_with_an_index_hold_the_same_as_one(tmp_path):
    config, variables = load_checkpoint(PARITY / "qwen3_untied", param_dtype=jnp.bfloat16)
    save_checkpoint(tmp_path / "out", config, variables["params"], jnp.bfloat16, max_shard_bytes=10_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all((tmp_path / "out" / name).stat().st_size < 12_000 for name in files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    stored = raw_tensors(tmp_path / "out")
    assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in stored.values())
    assert stored == raw_tensors(PARITY / "qwen3_untied")
    assert equal(load_checkpoint(tmp_path / "out", param_dtype=jnp.bfloat16)[1], variables)


@pytest.mark.parametrize("piece_bytes", [1, 500, 2**28])
@pytest.mark.parametrize("spec", ["fsdp=4,tensor=2", "fsdp=2,tensor=4"])
def test_loading_onto_a_mesh_in_pieces_gives_the_same_values_in_their_places(spec, piece_bytes, tmp_path, monkeypatch):
    mesh = make_mesh(spec)
    _, whole = load_checkpoint(PARITY / "qwen3_untied")
    monkeypatch.setattr("w4s_jax.policy.hf._PIECE_BYTES", piece_bytes)
    config, placed = load_checkpoint(PARITY / "qwen3_untied", mesh)
    assert equal(placed, whole)
    wanted = shardings(whole, mesh)
    assert jax.tree.all(jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, placed, wanted))
    save_checkpoint(tmp_path / "out", config, placed["params"], jnp.bfloat16)
    assert raw_tensors(tmp_path / "out") == raw_tensors(PARITY / "qwen3_untied")


def test_data_at_an_odd_offset_are_read_alike(copied):
    before = load_checkpoint(copied)[1]
    write_raw(copied / "model.safetensors", raw_tensors(copied))
    assert equal(load_checkpoint(copied)[1], before)


def test_a_tied_unembedding_that_is_stored_as_well_must_be_the_embedding(copied):
    before = load_checkpoint(copied)[1]
    tensors = raw_tensors(copied)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    write_raw(copied / "model.safetensors", tensors)
    assert equal(load_checkpoint(copied)[1], before)
    dtype, shape, data = tensors["lm_head.weight"]
    tensors["lm_head.weight"] = (dtype, shape, bytes(len(data)))
    write_raw(copied / "model.safetensors", tensors)
    with pytest.raises(InputError, match=r"another lm_head\.weight"):
        load_checkpoint(copied)


def test_every_missing_unknown_and_misshaped_tensor_is_named(copied):
    tensors = raw_tensors(copied)
    del tensors["model.layers.0.mlp.up_proj.weight"], tensors["model.norm.weight"]
    tensors["model.layers.0.mlp.extra.weight"] = ("F32", [1], bytes(4))
    dtype, shape, data = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = (dtype, shape[::-1], data)
    write_raw(copied / "model.safetensors", tensors)
    with pytest.raises(InputError) as caught:
        load_checkpoint(copied)
    for part in (
        "missing model.layers.0.mlp.up_proj.weight",
        "missing model.norm.weight",
        "unknown model.layers.0.mlp.extra.weight",
        "model.embed_tokens.weight has shape [32, 96], not [96, 32]",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_quantised_tensor_is_refused_by_name(copied):
    tensors = raw_tensors(copied)
    tensors["model.norm.weight"] = ("I8", [32], bytes(32))
    write_raw(copied / "model.safetensors", tensors)
    with pytest.raises(InputError, match=r"'model\.norm\.weight' in I8"):
        load_checkpoint(copied)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_cut_off_file_is_refused_by_name(copied, keep):
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"model\.safetensors is not a readable"):
        load_checkpoint(copied)


@pytest.mark.parametrize("header", [2**62, 10])
def test_a_lying_header_is_refused(copied, header):
    path = copied / "model.safetensors"
    path.write_bytes(struct.pack("<Q", header) + path.read_bytes()[8:])
    with pytest.raises(InputError, match="not a readable"):
        load_checkpoint(copied)


def test_missing_and_broken_files_are_named(copied, tmp_path):
    with pytest.raises(InputError, match=r"nowhere/config\.json does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    (copied / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(InputError, match=r"gone\.safetensors does not exist"):
        load_checkpoint(copied)
    (copied / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="no weight_map"):
        load_checkpoint(copied)
    (copied / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json cannot be read as JSON"):
        load_checkpoint(copied)


def test_a_tensor_in_two_files_is_refused(copied):
    shutil.copyfile(copied / "model.safetensors", copied / "b.safetensors")
    weight_map = {"a": "model.safetensors", "b": "b.safetensors"}
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match="twice"):
        load_checkpoint(copied)


def test_tokenizer_and_token_ids_travel_with_an_export(copied, tmp_path):
    config, variables = load_checkpoint(copied)
    (copied / "tokenizer.json").write_text("{}")
    (copied / "chat_template.jinja").write_text("{{ messages }}")
    (copied / "notes.txt").write_text("private")
    (copied / "generation_config.json").write_text('{"eos_token_id": [5, 6], "top_p": 0.8}')
    save_checkpoint(tmp_path / "out", config, variables["params"], tokenizer_dir=copied)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    }
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == [5, 6]
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["top_p"] == 0.8


def test_an_existing_folder_is_replaced_only_when_told(copied, tmp_path):
    config, variables = load_checkpoint(copied)
    (copied / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists; choose another folder"):
        save_checkpoint(copied, config, variables["params"])
    assert (copied / "notes.txt").exists()
    save_checkpoint(copied, config, variables["params"], overwrite=True)
    assert not (copied / "notes.txt").exists()
    assert load_checkpoint(copied)[0] == config
    assert [path.name for path in tmp_path.iterdir()] == ["copied"]


def test_an_export_that_dies_leaves_the_old_folder_and_no_half_one(copied, tmp_path, monkeypatch):
    config, variables = load_checkpoint(copied)

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    before = raw_tensors(copied)
    monkeypatch.setattr(hf, "save_file", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(tmp_path / "new", config, variables["params"])
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(copied, config, variables["params"], overwrite=True)
    assert not (tmp_path / "new").exists()
    assert raw_tensors(copied) == before
    monkeypatch.setattr(hf, "save_file", save_file)
    save_checkpoint(tmp_path / "new", config, variables["params"])
    assert load_checkpoint(tmp_path / "new")[0] == config


def test_parameters_of_another_config_are_refused_with_their_names(tmp_path):
    params = draw_variables(FAMILIES["llama"])["params"]
    with pytest.raises(InputError, match=r"\['layers'\]\['q_norm'\]\['scale'\]"):
        save_checkpoint(tmp_path / "out", FAMILIES["qwen3"], params)
    assert not (tmp_path / "out").exists()
