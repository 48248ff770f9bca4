"""A preflight's result for people and for programs.

PreflightResult → **format_summary, to_json** → standard output, `--json_out`
"""

from __future__ import annotations

import dataclasses
from typing import Any

from w4s_jax.preflight import roofline
from w4s_jax.preflight.plan import Fit, PreflightResult, format_bytes
from w4s_jax.preflight.roofline import Estimate, Shape


def to_json(result: PreflightResult) -> dict[str, Any]:
    """The result under keys that other programs may rely on; `docs/preflight.md` says what they mean."""
    target, fit, time = result.target, result.fit, result.estimate
    if fit is None or time is None:
        return {
            "model": result.config.name,
            "topology": target.name,
            "mesh": str(dict(target.mesh.shape)),
            "hbm_bytes_per_chip": target.chip.usable,
            "fits": False,
            "largest_batch": 0,
            "suggested_mesh": result.suggested_mesh,
        }
    rows = fit.rows * target.shards
    json = {
        "model": result.config.name,
        "topology": target.name,
        "mesh": _mesh_spec(result),
        "fits": result.fits,
        "bytes_per_chip": {**dataclasses.asdict(fit.memory), "total": fit.memory.total},
        "hbm_bytes_per_chip": target.chip.usable,
        "rows_per_batch": fit.rows,
        "tokens_per_step": rows * result.config.row_length,
        "flops_per_step": _flops(result, rows),
        "collective_bytes": _traffic(fit),
        "loops_of_unknown_length": fit.step.traffic.loops_of_unknown_length,
        "compile_seconds": round(fit.step.seconds, 1),
        "estimated_step_seconds": time.seconds,
        "estimated_terms": time.terms,
        "estimated_serial_seconds": time.serial_seconds,
        "estimated_mfu": time.mfu,
        "largest_batch": result.largest_rows,
    }
    if not result.fits:
        json["suggested_mesh"] = result.suggested_mesh
    if result.step_seconds is not None:
        json["measured_step_seconds"] = result.step_seconds
    return json


def format_summary(result: PreflightResult) -> str:
    """The result as people read it."""
    config, target, fit, time = result.config, result.target, result.fit, result.estimate
    if fit is None or time is None:
        return f"{config.name} on {target.name} does NOT fit: {result.refusal}\nremedy          {_remedy(result)}"
    lines = [
        f"{config.name} on {target.name}, mesh {_mesh_spec(result)}, {fit.rows} row(s) of {config.row_length:,} tokens "
        "a chip",
        *_memory_lines(result, fit),
        *_work_lines(result, fit, time),
    ]
    if config.topology:
        kind = "GPU" if target.chip.gpu else "TPU"
        lines.append(
            f"No {kind} ran this: memory is the compiler's, the time a roofline estimate from published rates."
        )
    if not result.fits:
        lines.append(f"remedy          {_remedy(result)}")
    if result.step_seconds is not None:
        ratio = result.step_seconds / time.seconds
        lines.append(f"measured        {result.step_seconds:.3g} s, {ratio:.2f} × the estimate")
    return "\n".join(lines)


def _memory_lines(result: PreflightResult, fit: Fit) -> list[str]:
    kinds = "  ".join(f"{kind} {format_bytes(value)}" for kind, value in dataclasses.asdict(fit.memory).items())
    verdict = "fits" if result.fits else "does NOT fit"
    largest = result.largest_rows
    return [
        f"memory a chip   {format_bytes(fit.memory.total)} of {format_bytes(result.target.chip.usable)}: {verdict}",
        f"                {kinds}",
        f"largest batch   {'not looked for' if largest is None else f'--rows_per_batch={largest}'}",
    ]


def _work_lines(result: PreflightResult, fit: Fit, time: Estimate) -> list[str]:
    rows = fit.rows * result.target.shards
    sent = ", ".join(
        f"{kind} over {axes} {format_bytes(value)}"
        for kind, by_axes in _traffic(fit).items()
        for axes, value in by_axes.items()
    )
    terms = ", ".join(f"{term} {value:.3g} s" for term, value in time.terms.items())
    longest = max(time.terms, key=lambda term: time.terms[term])
    lines = [
        f"work a step     {rows * result.config.row_length:,} tokens, {_flops(result, rows) / 1e12:,.3g} TFLOP",
        f"sent by a chip  {sent or 'nothing'}",
        f"estimate        {time.seconds:.3g} s a step, bound by {longest} ({terms}; one after another "
        f"{time.serial_seconds:.3g} s)",
        f"utilisation     at most {100 * time.mfu:.0f} % of peak, recomputation not counted as work",
    ]
    if unknown := fit.step.traffic.loops_of_unknown_length:
        lines.append(
            f"warning: loops of unknown length: {unknown}; what they send was counted once, so the network may take "
            "longer"
        )
    return lines


def _remedy(result: PreflightResult) -> str:
    """What makes a run smaller, beginning with a mesh that was found to fit."""
    config, chip = result.config, result.target.chip
    ideas = [f"--mesh={result.suggested_mesh}, which fits"] if result.suggested_mesh else []
    ideas += ["XLA_CLIENT_MEM_FRACTION=0.92, as jax takes less of a GPU"] if chip.usable < 0.92 * chip.hbm_bytes else []
    ideas += [] if config.model.lora else ["--lora_rank=16 --param_dtype=bfloat16"]
    ideas += [] if config.optimizer.moment_dtype == "bfloat16" else ["--moment_dtype=bfloat16"]
    ideas += ["fewer --rows_per_batch"] if config.rows_per_batch > 1 else []
    ideas += ["a shorter --row_length"]
    ideas += ["fewer --prompts_in_flight or a shorter --cache_length"] if config.generator else []
    ideas += ["a larger slice" if config.topology and not chip.gpu else "more devices"]
    return "try " + ", ".join(ideas)


def _mesh_spec(result: PreflightResult) -> str:
    return ",".join(f"{axis}={size}" for axis, size in result.target.mesh.shape.items() if size > 1) or "data=1"


def _flops(result: PreflightResult, rows: int) -> int:
    model = result.config.model
    return roofline.gradient_flops(
        model.config,
        Shape.full_rows(rows, result.config.row_length),
        frozen_base=model.lora is not None,
        reference=result.config.loss.needs_reference,
    )


def _traffic(fit: Fit) -> dict[str, dict[str, int]]:
    """Bytes that a chip sends, by kind and mesh axes."""
    traffic: dict[str, dict[str, int]] = {}
    for (kind, axes), sent in sorted(fit.step.traffic.bytes.items()):
        traffic.setdefault(kind, {})[axes] = sent
    return traffic
