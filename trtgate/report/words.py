"""How numbers, verdicts and names are written, in every medium alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from trtgate.compare import Change
from trtgate.records import EngineRecord
from trtgate.report.page import Cell
from trtgate.tasks.against import scores_in
from trtgate.verdict.metrics import BY_NAME
from trtgate.verdict.outcome import Outcome
from trtgate.verdict.paired import change_text
from trtgate.verdict.policy import GOOD, SEVERITY, worst


def milliseconds(seconds: float) -> str:
    """Three significant digits at least, as milliseconds."""
    value = seconds * 1e3
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def time_cell(seconds: float | None) -> Cell:
    """Milliseconds, or a dash for what was not measured."""
    return Cell("-") if seconds is None else Cell(milliseconds(seconds), value=seconds)


# Before a number that something speaks against.
MARK = "~"


def latency_cell(record: EngineRecord) -> Cell:
    """The latency, marked where a warning stands in the notes."""
    cell = time_cell(record.value("latency"))
    return Cell(f"{MARK}{cell.text}", value=cell.value) if record.warnings and cell.value else cell


def floor_cell(floor: float | None, form: str) -> Cell:
    """What a number must reach; empty where that is nothing."""
    return Cell("") if floor is None else Cell(format(floor, form), value=floor)


def number_cell(value: float | None, form: str) -> Cell:
    """A number in a format, or a dash for what was not measured."""
    return Cell("-") if value is None else Cell(format(value, form), value=value)


def amount_text(metric: str, value: float | None) -> str:
    """A metric's number in the unit that people know it by."""
    if value is None:
        return "-"
    known = BY_NAME.get(metric)
    if known is None:
        return f"{value:.1%}"
    if metric in {"cold_start", "build_seconds"}:
        return f"{value:.2f} s"
    return {
        "s": lambda: f"{milliseconds(value)} ms",
        "bytes": lambda: f"{value / 1e6:.1f} MB",
        "1/s": lambda: f"{value:.0f}/s",
        "x": lambda: f"{value:.2f}" if metric == "speedup" else f"{value / 1e6:.4g} million",
    }[known.unit]()


def metric_words(name: str) -> str:
    """A metric's name as people write it."""
    return name.replace("_", " ")


def speedup_cell(record: EngineRecord) -> Cell:
    """The speedup with its interval, where there are rounds."""
    if record.is_reference:
        return Cell("reference")
    bounds = record.speedup_interval()
    if not record.rounds:
        return Cell("-")
    interval = f" [{bounds[0]:.2f},{bounds[1]:.2f}]" if bounds else ""
    return Cell(f"{record.speedup:.2f}{interval}", value=record.speedup)


def agreement_cell(record: EngineRecord) -> Cell:
    """Top-1 agreement with its lower bound, or why there is none; empty for the reference."""
    if record.weights == "untrained":
        return Cell("untrained")
    if record.scores and not record.agreement and not record.is_reference:
        return _score_cell(record.scores)
    if record.is_reference or not record.agreement:
        return Cell("" if record.is_reference else "not measured")
    share = record.agreement["top1"] / record.agreement["n"]
    low = record.agreement.get("low")
    return Cell(f"{share:.1%}" + ("" if low is None else f" ({low:.1%})"), value=share)


def _score_cell(scores: Mapping[str, Any]) -> Cell:
    """The share that agrees where there is one, else the output with the most noise."""
    if not scores["finite"]:
        return Cell("not finite")
    found = list(scores_in(scores).values())
    shares = [each for each in found if each.unit == "%"]
    noisy = [each for each in found if each.unit == "dB"]
    chosen = min(shares or noisy or found, key=lambda each: each.value, default=None)
    if chosen is None or not math.isfinite(chosen.value):
        return Cell("exact")
    low = "" if chosen.low is None else f" ({chosen.text(chosen.low)})"
    return Cell(f"{chosen.text(chosen.value)}{low}", value=chosen.value)


def floors_cell(record: EngineRecord) -> Cell:
    """What a run without a baseline can say: whether its floors are met. No upgrade is judged by that."""
    if not record.verdicts:
        return Cell("")
    return floors_met(worst(record.verdicts).outcome)


def floors_met(outcome: Outcome) -> Cell:
    """The verdict on floors, without a baseline."""
    return Cell("floors met", Outcome.PASS) if outcome in GOOD else Cell(outcome.value, outcome)


def moved_cell(change: Change | None) -> Cell:
    """How far a metric moved, as its rule estimates it."""
    if change is None or not change.verdict.estimate:
        return Cell("-")
    return Cell(change_text(math.log(change.verdict.estimate)), value=change.verdict.estimate)


def bounds_cell(change: Change | None) -> Cell:
    """The same with its interval, where there is one."""
    moved, verdict = moved_cell(change), change.verdict if change else None
    if verdict is None or not verdict.low or not verdict.high:
        return moved
    interval = f"[{change_text(math.log(verdict.low))},{change_text(math.log(verdict.high))}]"
    return Cell(f"{moved.text} {interval}", value=moved.value)


def counted(outcomes: Iterable[Outcome]) -> str:
    """How many of each, the worst first: 1 REGRESSED, 3 PASS."""
    some = list(outcomes)
    return ", ".join(f"{some.count(outcome)} {outcome.value}" for outcome in SEVERITY if outcome in some)


def fidelity_text(found: Mapping[str, Any]) -> str:
    """How the answers of two sides agree, from the summary of a comparison by any task."""
    if "text" in found:
        return str(found["text"]) if found["finite"] else "the answers hold NaN or infinity"
    if not found.get("finite", True):
        return "the logits hold NaN or infinity"
    if found["cosine"] is None:
        return "no photo has a finite logit"
    sqnr = "the same to the last bit" if found["sqnr_db"] is None else f"SQNR {found['sqnr_db']:.1f} dB"
    return f"top-1 {found['top1']}/{found['n']}, worst cosine {found['cosine']:.4f}, {sqnr}"


def photos_text(agreement: Mapping[str, Any]) -> str:
    """How many photos an agreement rests on: crops of one are no independent ones."""
    n, photos = agreement["n"], agreement.get("photos", agreement["n"])
    return f"{n} photos" if photos == n else f"{n} crops of {photos} photos"


RUNTIMES = ("tensorrt", "onnxruntime", "openvino", "torch")


def stack_lines(stack: Mapping[str, Any]) -> tuple[str, ...]:
    """What a run was measured on, and with which runtimes."""
    runtimes = [f"{name} {stack[name]}" for name in RUNTIMES if stack.get(name)]
    if stack.get("gpu"):
        return (
            ", ".join([f"{stack['gpu']}, driver {stack['driver']}, CUDA {stack['cuda']}", *runtimes]),
            f"reference: eager FP32, cuDNN {stack['cudnn']} on without benchmark mode, TF32 off",
        )
    return (", ".join([f"{stack['cpu']}, {stack['threads']} threads", *runtimes]),)


def stack_words(stack: Mapping[str, Any]) -> str:
    """What tells one machine of a fleet from another: processor, driver and runtimes."""
    known = {name: stack.get(name) for name in ("driver", "cuda", *RUNTIMES)}
    words = [str(stack.get("gpu") or stack.get("cpu")), *(f"{name} {value}" for name, value in known.items() if value)]
    return ", ".join(words)
