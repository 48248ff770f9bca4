"""`experiments.preflight` on the devices of this machine, and what it refuses."""

import importlib.util
import json

import pytest
from rlao_runs import one_line

SMALL = ("--model=tiny", "--row_length=256", "--cache_length=512", "--max_new_tokens=64", "--compute_dtype=float32")
KEYS = {
    *("schema_version", "model", "topology", "mesh", "fits", "bytes_per_chip", "hbm_bytes_per_chip", "flops_per_step"),
    *("collective_bytes", "compile_seconds", "estimated_step_seconds", "estimated_mfu", "largest_batch"),
}


@pytest.fixture(autouse=True)
def _jax_takes_its_usual_share(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)


def preflight(shared, *flags):
    return shared.command.python_to_end("-m", "experiments.preflight", *flags)


def test_a_run_is_compiled_measured_and_written_as_json(shared, tmp_path):
    out = tmp_path / "out.json"
    done = preflight(shared, *SMALL, "--measure", "--nofind_largest", f"--json_out={out}")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found.keys() >= KEYS
    assert {"parameters", "optimizer", "activations", "total"} <= found["bytes_per_chip"].keys()
    assert found["fits"]
    assert found["bytes_per_chip"]["total"] < found["hbm_bytes_per_chip"]
    assert found["bytes_per_chip"]["optimizer"] == pytest.approx(2 * found["bytes_per_chip"]["parameters"], rel=1e-4)
    assert found["measured_step_seconds"] > 0
    assert 0 < found["estimated_mfu"] <= 1
    assert "fits" in done.stdout
    assert "No TPU ran this" not in done.stdout


def test_it_takes_the_flag_file_of_a_run_as_it_is(shared):
    done = preflight(shared, "--flagfile=experiments/flags/quickstart.flags", "--nofind_largest")
    assert done.returncode == 0, done.stderr
    assert "tiny on 1 × cpu" in done.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--topology=v9-3"], "topology='v9-3' is unknown; give v5e, v5p, v6e, a100"),
        (["--topology=v5e-4", "--measure"], "--measure runs the step, and --topology=v5e-4 is not here"),
        (["--num_slices=2"], "--num_slices=2 needs --topology"),
        (["--mesh=fsdp=3"], "mesh='fsdp=3' asks for 3 devices, but 1 are present"),
        (["--model=nothing/like-this"], "--model=nothing/like-this is neither a folder nor a model"),
    ],
)
def test_what_cannot_be_compiled_for_is_one_line(shared, flags, said):
    assert said in one_line(preflight(shared, *SMALL[1:], *flags), 2)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_one_line_says_how_to_get_it(shared):
    assert "needs libtpu" in one_line(preflight(shared, *SMALL, "--topology=v5e-4"), 2)


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is not None, reason="the CUDA plugin is installed")
def test_without_the_cuda_plugin_one_line_says_how_to_get_it(shared):
    line = one_line(preflight(shared, *SMALL, "--topology=h100:8"), 2)
    assert "topology=h100:8 needs jax's CUDA plugin" in line
    assert "pip install 'jax[cuda13]'" in line


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="no CUDA plugin (make aot)")
def test_a_gpu_that_is_not_here_is_compiled_for(shared, tmp_path):
    out = tmp_path / "out.json"
    flags = [
        "--model=qwen2.5-coder-1.5b",
        "--topology=h100",
        "--row_length=4096",
        "--nofind_largest",
        "--nosuggest_mesh",
    ]
    done = preflight(shared, *flags, f"--json_out={out}")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found.keys() >= KEYS
    assert found["hbm_bytes_per_chip"] == 0.75 * 81_559 * 2**20
    assert found["bytes_per_chip"]["parameters"] == pytest.approx(1.544e9 * 4, rel=0.01)
    assert "No GPU ran this" in done.stdout
    assert "cuInit" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (make aot)")
def test_a_model_that_does_not_fit_a_slice_says_so_and_what_would_help(shared, tmp_path):
    out = tmp_path / "out.json"
    flags = ["--model=qwen2.5-coder-3b", "--topology=v5e-4", "--row_length=2048", "--nosampling", "--nosuggest_mesh"]
    done = preflight(shared, *flags, f"--json_out={out}")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert not found["fits"]
    assert found["largest_batch"] == 0
    assert "does NOT fit" in done.stdout
    assert "--lora_rank=16" in done.stdout
    assert "No TPU ran this" in done.stdout
