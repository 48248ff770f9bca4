"""`experiments.export`, run as a user runs it, on runs with and without adapters."""

import numpy as np
import pytest
from rlao_runs import one_line
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def adapted(shared):
    """A run that trained adapters of rank 2 on stored trajectories."""
    run_dir = shared.root / "adapted"
    done = shared.command.finish(
        run_dir, f"--trajectories={shared.run_dir}", "--num_rounds=1", "--noevaluate_before", "--lora_rank=2"
    )
    assert done.returncode == 0, done.stderr
    return run_dir


def export(shared, *arguments):
    return shared.command.python_to_end("-m", "experiments.export", *arguments)


def test_the_export_of_a_run_is_the_one_that_the_run_made(shared, tmp_path):
    done = export(shared, f"--model={shared.run_dir}", f"--output_dir={tmp_path / 'out'}", "--export_dtype=float32")
    assert done.returncode == 0, done.stderr
    ours, of_run = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", shared.run_dir / "hf"))
    assert ours.keys() == of_run.keys()
    for name, tensor in of_run.items():
        np.testing.assert_array_equal(ours[name], tensor)
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_an_adapter_on_its_base_is_the_merged_export_of_its_run(shared, adapted, tmp_path):
    done = export(shared, f"--model={adapted}", f"--output_dir={tmp_path / 'adapter'}", "--adapter")
    assert done.returncode == 0, done.stderr
    assert f"for {shared.command.agent}" in done.stdout
    base = load_file(shared.command.agent / "model.safetensors")
    merged = load_file(adapted / "hf" / "model.safetensors")
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    stem = "model.layers.0.mlp.down_proj"
    scaling = 16.0 / 2
    a, b = (adapter[f"base_model.model.{stem}.lora_{x}.weight"].astype(np.float64) for x in "AB")
    assert np.max(np.abs(b)) > 0  # it has learnt
    np.testing.assert_allclose(base[f"{stem}.weight"] + scaling * b @ a, merged[f"{stem}.weight"], atol=1e-6)


def test_weights_are_exported_with_their_adapters_merged(shared, adapted, tmp_path):
    done = export(shared, f"--model={adapted}", f"--output_dir={tmp_path / 'out'}", "--export_dtype=float32")
    assert done.returncode == 0, done.stderr
    ours, of_run = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", adapted / "hf"))
    for name, tensor in of_run.items():
        np.testing.assert_array_equal(ours[name], tensor)


def test_what_cannot_be_exported_is_one_line(shared, tmp_path):
    said = one_line(export(shared, f"--model={shared.run_dir}", f"--output_dir={tmp_path / 'a'}", "--adapter"), 2)
    assert "trained no adapters" in said
    said = one_line(export(shared, f"--model={shared.run_dir}", f"--output_dir={tmp_path}"), 2)
    assert "exists" in said
    assert "--output_dir" in one_line(export(shared, "--model=tiny"), 2)
