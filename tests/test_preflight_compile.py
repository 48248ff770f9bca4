"""What preflight counts, against hand-worked numbers, the compiler's own count and published totals."""

import dataclasses
import importlib.util
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w4s_jax.policy.attention import tree_attention_reference
from w4s_jax.policy.config import PRESETS, Family, ModelConfig
from w4s_jax.policy.generate import GeneratorConfig
from w4s_jax.policy.lora import LoraConfig
from w4s_jax.policy.sharding import host_mesh, make_mesh
from w4s_jax.policy.transformer import Transformer
from w4s_jax.preflight import plan
from w4s_jax.preflight.chips import CHIPS, SLICES, Chip, Topology
from w4s_jax.preflight.collectives import Traffic
from w4s_jax.preflight.compile import DoesNotFitError, compile_sampler, compile_step, compiled, largest_rows
from w4s_jax.preflight.measure import host_bytes
from w4s_jax.preflight.plan import PreflightConfig, preflight
from w4s_jax.preflight.roofline import Shape, axis_bandwidth, estimate, gradient_flops, hbm_traffic
from w4s_jax.preflight.summary import format_summary, to_json
from w4s_jax.training.config import OptimizerConfig
from w4s_jax.training.losses import GRPO
from w4s_jax.training.step import Trainer
from w4s_jax.types import InputError

SMALL = ModelConfig(
    family=Family.QWEN3,
    vocab_size=512,
    num_layers=1,
    embed_dim=128,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_dim=256,
)


def trainer(mesh="fsdp=4", **options):
    devices = jax.devices()[: math.prod(int(axis.split("=")[1]) for axis in mesh.split(","))]
    mesh = make_mesh(mesh, devices)
    model = Transformer(config=SMALL, mesh=mesh, **{"compute_dtype": "float32", "remat": "none", **options})
    return Trainer(
        model=model, mesh=mesh, optimizer=OptimizerConfig(), attention=tree_attention_reference, loss_chunk=64
    )


def test_flops_of_a_model_small_enough_to_count_by_hand():
    """D = 2, one head of 2, F = 3, V = 5, two layers, 4 tokens: the maps of a layer have 4·4 + 3·6 = 34 weights."""
    config = ModelConfig(
        family=Family.QWEN3, vocab_size=5, num_layers=2, embed_dim=2, num_heads=1, num_kv_heads=1, head_dim=2, mlp_dim=3
    )
    shape = Shape(tokens=4, targets=3, pairs=10)
    maps, logits, attention = 2 * 34 * 4, 2 * 5 * 3, 2 * 2 * 10
    assert gradient_flops(config, shape) == 3 * 2 * maps + 3 * 2 * logits + 12 * attention
    assert gradient_flops(config, shape, remat="full") == 4 * 2 * maps + 4 * 2 * logits + 18 * attention
    assert gradient_flops(config, shape, remat="attention") == 4 * 2 * maps + 4 * 2 * logits + 14 * attention
    assert gradient_flops(config, shape, remat="dots") == 3 * 2 * maps + 4 * 2 * logits + 14 * attention
    assert gradient_flops(config, shape, frozen_base=True) == 2 * 2 * maps + 2 * 2 * logits + 12 * attention
    with_start = gradient_flops(config, shape, frozen_base=True, reference=True)
    assert with_start == 3 * 2 * maps + 3 * 2 * logits + 16 * attention
    assert Shape.full_rows(2, 3) == Shape(tokens=6, targets=6, pairs=12)


def test_flops_are_those_the_compiler_counts_where_nothing_is_in_a_loop():
    """One layer and one chunk. Dense attention computes all T² pairs, with four products backward, not five."""
    of = trainer("data=1")
    lowered = of.accumulate_jit.lower(
        of.abstract_state.params, of.abstract_state.frozen, of.abstract_grads, of.abstract_batch(2, 64)
    )
    counted = lowered.compile().cost_analysis()["flops"]
    dense = Shape(tokens=128, targets=128, pairs=2 * 64 * 64)
    ours = gradient_flops(SMALL, dense, remat="none") - 2 * SMALL.num_heads * SMALL.head_dim * dense.pairs
    assert counted == pytest.approx(ours, rel=0.06)  # norms, softmax and SiLU are not products


@pytest.mark.parametrize(
    ("affine", "limit", "fits", "compiles"),
    [
        ((10, 5), 14.9, 0, [1]),
        ((10, 5), 15, 1, [1, 2]),
        ((10, 5), 20, 2, [1, 2]),
        ((10, 5), 34, 4, [1, 2, 4]),
    ],
)
def test_the_largest_batch_is_found_by_two_compiles_a_line_and_a_third(affine, limit, fits, compiles):
    seen = []

    def bytes_of(rows):
        seen.append(rows)
        return affine[0] + affine[1] * rows

    assert largest_rows(bytes_of, limit) == fits
    assert seen == compiles


@pytest.mark.parametrize("refused", [False, True])
def test_where_memory_bends_upwards_the_largest_batch_is_still_one_that_was_seen_to_fit(refused):
    seen = {}

    def bytes_of(rows):
        seen[rows] = 10 + rows + rows**2 / 100
        if refused and seen[rows] > 100:
            raise DoesNotFitError("the gradient", math.nan)
        return seen[rows]

    found = largest_rows(bytes_of, 100)
    assert seen[found] <= 100
    assert 40 <= found <= 57  # the largest that fits; at most a few compiles are spent on it
    assert len(seen) <= 5
    assert largest_rows(lambda rows: bytes_of(rows) if rows < 2 else bytes_of(99), 50) == 1


def test_memory_is_that_of_the_shards_of_one_chip():
    """fsdp=4 splits all but the scales of the two head norms, which have no axis to split."""
    of = trainer()
    memory = compile_step(of, 4, 64).memory
    whole = sum(x.size for x in jax.tree.leaves(of.abstract_state.params))
    norms = 2 * SMALL.head_dim
    assert memory.parameters == 4 * ((whole - norms) // 4 + norms)
    assert memory.optimizer == 2 * memory.parameters + 3 * 4  # two moments, three counters
    assert memory.gradients == memory.parameters + 3 * 4  # and three sums
    assert memory.total == memory.parameters + memory.optimizer + memory.gradients + memory.activations
    longer = compile_step(of, 4, 256).memory
    assert longer.parameters == memory.parameters
    assert longer.activations > memory.activations


def test_adapters_alone_have_moments_and_gradients():
    memory = compile_step(trainer(lora=LoraConfig(rank=4, alpha=8.0), param_dtype=jnp.bfloat16), 4, 64).memory
    assert memory.gradients < memory.parameters
    assert memory.optimizer == pytest.approx(2 * memory.gradients, rel=0.01)


def test_a_sampler_holds_its_weights_in_the_compute_dtype_and_its_cache():
    config = GeneratorConfig(cache_length=128, max_new_tokens=32, slots=2, samples_per_slot=3, block=32)
    mesh = make_mesh("", jax.devices()[:1])
    model = Transformer(config=SMALL, compute_dtype=jnp.bfloat16, remat="none")
    weights = 2 * sum(x.size for x in jax.tree.leaves(trainer().abstract_state.params))
    cache = 2 * 2 * 1 * 2 * (128 + 3 * 32) * SMALL.num_kv_heads * SMALL.head_dim
    memory = compile_sampler(model, config, mesh).memory
    longer = dataclasses.replace(config, cache_length=256)
    assert memory > weights + cache
    grown = compile_sampler(model, longer, mesh).memory - memory
    assert grown >= 2 * 2 * 1 * 2 * 128 * SMALL.num_kv_heads * SMALL.head_dim


def test_a_compiler_that_runs_out_of_memory_says_how_many_bytes_it_asked_for():
    def failing():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in hbm. Used 20.50G of 15.75G hbm.")

    with pytest.raises(DoesNotFitError, match=r"the gradient needs 20.50 GiB a chip, more than a chip has") as found:
        compiled("the gradient", failing)
    assert found.value.used == 20.5 * 2**30

    def in_other_words():
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (18.02G) "
            "exceeds available HBM (15.75G)."
        )

    with pytest.raises(DoesNotFitError, match=r"needs 18.02 GiB a chip"):
        compiled("the gradient", in_other_words)
    assert str(DoesNotFitError("the update", math.nan)) == "the update needs more memory than a chip has"

    def other():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        compiled("the gradient", other)


def test_the_links_of_a_chip_add_up_to_what_is_published():
    """docs.cloud.google.com/tpu/docs: bidirectional inter-chip bandwidth, GB/s a chip."""
    tpus = {"v5e": 400, "v5p": 1200, "v6e": 800}
    assert {name: CHIPS[name].links * CHIPS[name].link_bandwidth * 2 / 1e9 for name in tpus} == tpus
    nvlink = {"a100": 600, "h100": 900, "h200": 900, "b200": 1800}  # NVIDIA's data sheets: both directions
    assert {name: CHIPS[name].link_bandwidth * 2 / 1e9 for name in nvlink} == nvlink
    assert {*tpus, *nvlink} == set(CHIPS)


@pytest.mark.parametrize(
    ("spec", "chips"),
    [
        *(("v5e-16", 16), ("v5e:4x4", 16), ("v5p-64", 32), ("v5p:2x2x1", 4), ("v6e-256", 256)),
        *(("h200", 1), ("h100:8", 8), ("a100-4", 4)),
    ],
)
def test_a_slice_has_the_chips_that_its_name_says(spec, chips):
    assert Topology.parse(spec).num_chips == chips
    assert Topology.parse(spec, 3).num_chips == 3 * chips


def test_every_cloud_name_counts_chips_or_on_v5p_cores():
    for name in SLICES:
        kind, count = name.split("-")
        assert Topology.parse(name).num_chips * (2 if kind == "v5p" else 1) == int(count)


@pytest.mark.parametrize(
    "spec",
    [
        *("", "v4-8", "v5e", "v5e:4", "v5e:4x4x4", "v5p:2x2", "v5e:0x4", "v5e:4x", "v5e-17"),
        *("h100:16", "h100:0", "h100:2x4", "gpu", "h100:"),
    ],
)
def test_an_unknown_slice_is_refused_with_those_that_are_known(spec):
    with pytest.raises(InputError, match=r"topology='.*' is unknown; give v5e, v5p, v6e, a100, h100, h200, b200"):
        Topology.parse(spec)


def test_an_axis_has_the_bandwidth_of_its_share_of_the_torus():
    """v5e 4x4: lines, not rings, so 50 GB/s a dimension; v5p 4x4x4: rings, 200 GB/s each."""
    mesh = make_mesh("fsdp=4,tensor=2")
    line = axis_bandwidth(Topology.parse("v5e:2x4"), mesh)
    assert line["fsdp"] == pytest.approx(2 * 50e9 * 2 / 3)
    assert line["tensor"] == pytest.approx(2 * 50e9 / 3)
    assert line["data"] == math.inf
    ring = axis_bandwidth(Topology.parse("v5p:4x4x4"), make_mesh("fsdp=8"))
    assert ring["fsdp"] == pytest.approx(600e9 / 2)  # log2(8) of log2(64)
    apart = axis_bandwidth(Topology.parse("v5e:2x2", 2), make_mesh("data=2,fsdp=4"))
    assert apart["data"] == CHIPS["v5e"].network_bandwidth


def test_gpus_of_a_host_are_joined_by_a_switch_and_hosts_by_a_port_each():
    within = axis_bandwidth(Topology.parse("h100:8"), make_mesh("fsdp=4,tensor=2"))
    assert within == {"data": math.inf, "fsdp": 450e9, "tensor": 450e9}
    apart = axis_bandwidth(Topology.parse("h100:4", 2), make_mesh("data=2,fsdp=4"))
    assert (apart["data"], apart["fsdp"]) == (50e9, 450e9)
    across = axis_bandwidth(Topology.parse("h100:4", 2), make_mesh("fsdp=4,tensor=2"))
    assert (across["fsdp"], across["tensor"]) == (50e9, 450e9)


def test_jax_takes_three_quarters_of_a_gpu_or_the_share_that_is_set(monkeypatch):
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    for name in names:
        monkeypatch.setenv(name, "")
    assert CHIPS["h200"].usable == pytest.approx(0.75 * 143_771 * 2**20)
    for name in names:
        monkeypatch.setenv(name, "0.9")
        assert CHIPS["h200"].usable == pytest.approx(0.9 * 143_771 * 2**20)
        monkeypatch.setenv(name, "")
    monkeypatch.setenv(names[0], "much")
    with pytest.raises(InputError, match="XLA_CLIENT_MEM_FRACTION='much' is no number"):
        _ = CHIPS["h200"].usable
    assert CHIPS["v5e"].usable == 15.75 * 2**30


def test_the_longest_term_is_the_estimate_and_their_sum_the_worst():
    chip = CHIPS["v5e"]
    traffic = Traffic({("all-gather", "fsdp"): 50 * 10**9, ("all-reduce", "fsdp+tensor"): 10 * 10**9}, 0)
    found = estimate(
        chip,
        chips=4,
        executed_flops=4 * 197e12 * 2,
        model_flops=3 * 197e12 * 2,
        hbm_bytes=819e9 * 0.5,
        traffic=traffic,
        bandwidth={"fsdp": 100e9, "tensor": 20e9},
    )
    assert found.terms == pytest.approx({"matrix": 2.0, "hbm": 0.5, "network": 0.5 + 0.5})
    assert (found.seconds, found.serial_seconds) == pytest.approx((2.0, 3.5))
    assert found.mfu == pytest.approx(0.75)


def test_hbm_traffic_of_one_product_by_hand():
    """One map D → F of each kind; every operand and result once, two bytes each."""
    config = ModelConfig(
        family=Family.QWEN3, vocab_size=5, num_layers=1, embed_dim=2, num_heads=1, num_kv_heads=1, head_dim=2, mlp_dim=3
    )
    mesh = make_mesh("", jax.devices()[:1])
    attention = 4 * (4 * (2 + 2) + 2 * 2)
    mlp = 3 * (4 * (2 + 3) + 2 * 3)
    shape = Shape(tokens=4, targets=4, pairs=10)
    assert hbm_traffic(config, shape, mesh, passes=3, state_bytes=100) == 2 * 3 * (attention + mlp) + 200


def test_a_host_splits_heads_as_far_as_they_divide_and_prompts_over_the_rest():
    assert dict(host_mesh(jax.devices()[:8], 4).shape) == {"data": 2, "fsdp": 1, "tensor": 4}
    assert dict(host_mesh(jax.devices()[:4], 8).shape) == {"data": 1, "fsdp": 1, "tensor": 4}
    assert dict(host_mesh(jax.devices()[:1], 2).shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("topology", "compiler"),
    [("v5e-4", "libtpu"), ("h100:4", "jax_cuda13_plugin"), ("a100:4", "jax_cuda13_plugin")],
)
def test_a_step_compiles_for_chips_that_are_not_there(topology, compiler):
    if importlib.util.find_spec(compiler) is None:
        pytest.skip(f"{compiler} is not installed (make aot)")
    mesh = make_mesh("fsdp=4", Topology.parse(topology).devices())
    config = PRESETS["Qwen2.5-Coder-0.5B"]
    model = Transformer(config=config, compute_dtype=jnp.bfloat16, remat="full", mesh=mesh)
    found = compile_step(Trainer(model=model, mesh=mesh, optimizer=OptimizerConfig()), 4, 1024)
    assert found.memory.parameters == pytest.approx(494e6 * 4 / 4, rel=0.01)
    assert np.sum(list(found.traffic.bytes.values())) > 494e6  # the weights are gathered at least once, in two bytes
    assert not found.traffic.loops_of_unknown_length


@pytest.mark.parametrize(
    ("topology", "compiler"), [("v5e-8", "libtpu"), ("h200", "jax_cuda13_plugin"), ("h100:8", "jax_cuda13_plugin")]
)
def test_a_decode_step_for_chips_that_are_not_there_copies_no_cache(topology, compiler):
    """Weights and state are what it takes; a copy of the samples' cache alone would be a third more."""
    if importlib.util.find_spec(compiler) is None:
        pytest.skip(f"{compiler} is not installed (make aot)")
    config = PRESETS["Qwen2.5-Coder-0.5B"]
    mesh = host_mesh(Topology.parse(topology).devices(), config.num_kv_heads)
    model = Transformer(config=config, compute_dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, mesh=mesh, remat="none")
    found = compile_sampler(
        model, GeneratorConfig(slots=8, cache_length=8192, max_new_tokens=4096, samples_per_slot=5), mesh
    )
    slots, kv_heads = 8 // mesh.shape["data"], config.num_kv_heads // mesh.shape["tensor"]
    cache = 2 * 2 * config.num_layers * slots * kv_heads * (8192 + 5 * 4096) * config.head_dim
    assert found.memory < found.weights + 1.15 * cache + 2**27


@pytest.mark.parametrize(
    "text",
    ["MemTotal:  8 kB\n", "Buffers: 3 kB\nMemTotal: 8 kB\n", "MemTotal:", "MemTotal: many kB\n", "", None],
)
def test_the_memory_of_a_machine_is_known_without_the_line_that_linux_has(tmp_path, text):
    path = tmp_path / "meminfo"
    if text is not None:
        path.write_text(text)
    by_posix = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert host_bytes(path) == (8192 if text and "8 kB" in text else by_posix)


def test_a_machine_that_says_nothing_of_its_memory_is_one_line(tmp_path, monkeypatch):
    def unknown(_):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    with pytest.raises(InputError, match=r"the memory of this machine is unknown: .*; give --topology"):
        host_bytes(tmp_path / "absent")


def a_run(**changes):
    fields = {"name": "small", "optimizer": OptimizerConfig(), "row_length": 64, "rows_per_batch": 1}
    fields |= {
        "model": Transformer(config=SMALL, compute_dtype="float32", remat="none"),
        "find_largest": False,
        "suggest_mesh": False,
        "mesh": "fsdp=8",
    }
    return PreflightConfig(**fields | changes)


def test_a_preflight_is_a_call_that_says_what_it_compiled(capsys):
    notes = []
    result = preflight(a_run(), notes.append)
    mesh = make_mesh("fsdp=8")
    of = Trainer(
        model=Transformer(config=SMALL, mesh=mesh, compute_dtype="float32", remat="none"),
        mesh=mesh,
        optimizer=OptimizerConfig(),
    )
    assert result.fits
    assert result.fit.memory == compile_step(of, 8, 64).memory
    assert [line.split(" compiled")[0] for line in notes if "compiled" in line] == ["step of 1 row(s) a chip"]
    assert capsys.readouterr() == ("", "")
    json = to_json(result)
    assert (json["tokens_per_step"], json["largest_batch"], json["mesh"]) == (512, None, "fsdp=8")
    assert json["flops_per_step"] == gradient_flops(SMALL, Shape.full_rows(8, 64))
    assert "largest batch   not looked for" in format_summary(result)


def test_what_would_fit_is_said_of_a_run_that_does_not(monkeypatch):
    """A chip of 1 byte, then one that has what it takes: as if tensor=2 were enough."""

    def chip(size):
        return Chip(name="small", hbm_bytes=size, matrix_flops=1e12, hbm_bandwidth=1e11)

    sizes = iter([1.0, 2.0**40])  # of --mesh=fsdp=8, of the first other
    monkeypatch.setattr(plan, "local_chip", lambda _: chip(next(sizes)))
    result = preflight(a_run(suggest_mesh=True), lambda _: None)
    assert not result.fits
    assert result.suggested_mesh == to_json(result)["suggested_mesh"] == "fsdp=4,tensor=2"
    last = format_summary(result).splitlines()[-1]
    assert last.startswith("remedy          try --mesh=fsdp=4,tensor=2, which fits, --lora_rank=16")


def test_a_program_that_the_compiler_refuses_is_an_answer_too(monkeypatch):
    def refused(*_):
        raise DoesNotFitError("the gradient", 20.5 * 2**30)

    monkeypatch.setattr(plan, "compile_step", refused)
    result = preflight(a_run(), lambda _: None)
    assert (result.fits, result.largest_rows, to_json(result)["fits"]) == (False, 0, False)
    assert "small on 8 × cpu does NOT fit: the gradient needs 20.50 GiB a chip" in format_summary(result)


def test_a_start_that_is_kept_takes_the_memory_of_the_parameters():
    plain, kept = (
        compile_step(dataclasses.replace(trainer(), loss=loss), 4, 64).memory
        for loss in (GRPO(), GRPO(kl_coefficient=0.1))
    )
    assert kept.parameters == 2 * plain.parameters
    assert kept.optimizer == plain.optimizer
