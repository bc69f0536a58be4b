"""Saved sessions against saved sessions, from the command line."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from tests.faults.table import Fault
from tests.saved import save, sessions
from trtgate import baseline
from trtgate.__main__ import main
from trtgate.baseline import saved_sessions
from trtgate.compare import ANSWERS, Change, Comparison, Report, compare_records
from trtgate.compared import report_from_json, report_to_json
from trtgate.expectations import read_expectations
from trtgate.processes import orderly_endings
from trtgate.records import EngineRecord, Key, SessionRecord, from_json, joined, to_json
from trtgate.tasks.base import Outputs, Task
from trtgate.tasks.detection import Detection, from_outputs
from trtgate.tasks.segmentation import Segmentation
from trtgate.verdict.answers import answers_of
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import exit_status

from .test_tasks import Some, moved_class, rare, rounded, sure_of


def edit(name: str, change: Any, which: Any = range(99)) -> None:
    """Change saved sessions of a name: `change` gets a session's records and its place among them."""
    for index, path in enumerate(sorted(Path(".benchmarks").rglob(f"*_{name}.json"))):
        if index in which:
            document = json.loads(path.read_text())
            change([each["extra_info"]["trtgate"] for each in document["benchmarks"]], index)
            path.write_text(json.dumps(document))


def scale(record: dict[str, Any], by: float, *names: str) -> None:
    """Make an engine slower."""
    for name in names or ("latency", *({"typical", "tail"} & record["series"].keys())):
        record["series"][name] = [by * value for value in record["series"][name]]


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("new", "status", "outcome"),
    [
        ({}, 0, "PASS"),
        ({"engine": 0.8e-3}, 0, "IMPROVED"),
        ({"engine": 1.08e-3}, 1, "REGRESSED"),
        # A faster reference shrinks the speedup: that is printed, and no fault of the engine.
        ({"reference": 3.6e-3}, 0, "PASS"),
        # A driver that slows both leaves the speedup alone; the absolute latency is gated too.
        ({"engine": 1.1e-3, "reference": 4.4e-3}, 1, "REGRESSED"),
    ],
)
def test_five_sessions_against_five(
    new: dict[str, Any], status: int, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions("before", 1)
    sessions("after", 6, **new)
    assert main(["compare", "before", "after"]) == status
    assert outcome in capsys.readouterr().out


def unsteady_reference(name: str, first: int, references: tuple[float, ...], **keywords: Any) -> None:
    for number, reference in enumerate(references, first):
        save(number, name, reference=reference, **keywords)


UNSTEADY = (3.2e-3, 5.8e-3, 4.0e-3, 3.4e-3, 4.8e-3)


@pytest.mark.parametrize(("engine", "status", "outcome"), [(1e-3, 0, "PASS"), (1.08e-3, 1, "REGRESSED")])
def test_noise_of_the_reference_fails_no_engine_and_hides_none(
    engine: float, status: int, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unsteady_reference("before", 1, UNSTEADY)
    unsteady_reference("after", 6, UNSTEADY[::-1], engine=engine)
    assert main(["compare", "before", "after"]) == status
    text = capsys.readouterr().out
    assert f"resnet50 onnxruntime-int8 batch 1: {outcome}" in text
    assert "(printed, not gated)" in text


@pytest.mark.parametrize(
    ("slower", "status", "outcome"), [(1.0, 0, "PASS (yardstick)"), (2.5, 1, "REGRESSED (slower)")]
)
def test_the_reference_fails_only_by_a_proven_regression(
    slower: float, status: int, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, first, factor in (("before", 1, 1.0), ("after", 6, slower)):
        for number, seconds in enumerate(UNSTEADY, first):
            save(number, name, engines=("pytorch-fp32", "onnxruntime-int8"))
            edit(name, lambda records, index, by=factor * seconds / 1e-3: scale(records[0], by), [number - first])
    assert main(["compare", "before", "after"]) == status
    assert f"resnet50 pytorch-fp32 batch 1: {outcome}" in capsys.readouterr().out


def test_what_is_open_of_the_reference_alone_is_no_pass(capsys: pytest.CaptureFixture[str]) -> None:
    for name, first in (("before", 1), ("after", 6)):
        for number, seconds in enumerate(UNSTEADY, first):
            save(number, name, seconds, seconds, engines=("pytorch-fp32",))
    assert main(["compare", "before", "after"]) == 6


def test_both_parts_of_a_changed_speedup_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6, reference=3.6e-3)
    main(["compare", "before", "after"])
    assert "speedup: 4.00 -> 3.60 (printed, not gated); engine +0.0%, reference -10.0%" in capsys.readouterr().out


def test_a_slower_clock_is_told_from_more_cycles(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, clock=2000.0)
    sessions("after", 6, engine=1.25e-3, clock=1600.0)
    assert main(["compare", "before", "after"]) == 1
    assert "clock 2000 -> 1600 MHz, cycles +0.0%" in capsys.readouterr().out


def test_a_link_that_got_slower_is_found_though_computing_did_not(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, series={"end_to_end": (2.0e-3,) * 15})
    sessions("after", 6, series={"end_to_end": (2.4e-3,) * 15})
    assert main(["compare", "before", "after"]) == 1
    assert "end to end: REGRESSED (slower), slower by +20.0%" in capsys.readouterr().out


def test_fixed_work_tells_the_machine_from_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, controls={"control-matmul": 1e-3, "control-copy": 2e-3})
    sessions("after", 6, engine=1.2e-3, controls={"control-matmul": 1.2e-3, "control-copy": 2e-3})
    assert main(["compare", "before", "after"]) == 7
    text = capsys.readouterr().out
    assert "INVALID (machine_changed)" in text
    assert "engine +20.0%, reference +0.0%, control-matmul +20.0%, control-copy +0.0%" in text
    # Both sides in one run mind no change of the machine.
    assert "or race both stacks (python -m trtgate ab)" in " ".join(text.split())


@pytest.mark.parametrize(
    ("engine", "work", "status"),
    [
        (1.0, 1.07, 0),  # what is slower hides no slowdown
        (0.97, 1.07, 0),
        (1.07, 1.07, 7),
        (1.0, 0.93, 7),  # the machine may have become faster, and the engine slower
        (1.0, 1.3, 7),  # another machine
    ],
)
def test_a_slower_machine_on_which_all_passes_is_no_doubt(
    engine: float, work: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions("before", 1, controls={"control-matmul": 1e-3, "control-copy": 2e-3})
    sessions("after", 6, engine=1e-3 * engine, controls={"control-matmul": 1e-3, "control-copy": 2e-3 * work})
    assert main(["compare", "before", "after"]) == status
    text = capsys.readouterr().out
    assert ("control-copy changed by +7.0%: the machine was slower" in text) == (status == 0)


@pytest.mark.parametrize(
    ("engine", "work", "delta", "status"),
    [
        (1.0, 0.97, 0.05, 0),
        (1.0, 0.97, 0.02, 7),  # the engine may have become 3 % slower, which a delta of 2 % is to find
        (1.035, 1.03, 0.02, 7),  # nor is that the stack's
        (1.0, 1.03, 0.02, 0),  # what is slower hides no slowdown
        (1.035, 1.01, 0.02, 1),
    ],
)
def test_fixed_work_may_move_by_no_more_than_engines(
    engine: float, work: float, delta: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.toml").write_text(f"[default]\ndelta = {delta}\n")
    sessions("before", 1, controls={"control-matmul": 1e-3})
    sessions("after", 6, engine=1e-3 * engine, controls={"control-matmul": 1e-3 * work})
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) == status
    assert ("INVALID (machine_changed)" in capsys.readouterr().out) == (status == 7)


@pytest.mark.parametrize(
    ("by", "spread", "status"),
    [
        (0.94, 0.0, 7),  # it may hide a slowdown
        (0.94, 0.12, 0),  # processes of one side differ by twice as much
        (0.6, 0.12, 7),
    ],
)
def test_fixed_work_moves_by_more_than_its_processes_differ_by(
    by: float, spread: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, first, factor in (("before", 1, 1.0), ("after", 6, by)):
        sessions(name, first, controls={"control-matmul": 1e-3, "control-copy": 2e-3})

        def spread_out(records: list[dict[str, Any]], index: int, factor: float = factor) -> None:
            seconds = 2e-3 * factor * (1 + spread * (index - 2) / 2)
            for record in records:
                record["controls"]["control-copy"] = seconds

        edit(name, spread_out)
    assert main(["compare", "before", "after"]) == status
    text = capsys.readouterr().out
    assert ("INVALID (machine_changed)" in text) == (status == 7)
    assert f"control-copy {100 * (by - 1):+.1f}%" in text


# A matrix product, a copy and an engine, in three states of one machine: alone, apart and beside a neighbour.
ALONE, APART, BESIDE = (1.0, 1.0, 1.0), (1.0, 0.5, 1.35), (1.25, 1.2, 1.5)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ([ALONE] * 8, [APART] * 5 + [BESIDE] * 3, 7),  # slower, and no stack's fault
        ([ALONE] * 8, [ALONE] * 4 + [APART] * 5 + [BESIDE] * 7, 7),  # whose fixed work has the other side's medians
        ([ALONE] * 2 + [APART] * 7 + [BESIDE] * 7, [(1.0, 1.0, 1.2)] * 8, 7),  # quieter, which hides a slower stack
        ([ALONE] * 8, [ALONE] * 7 + [APART], 6),  # one of eight is open, and no other machine
    ],
)
def test_a_mixture_of_states_is_compared_with_no_state(
    old: list[tuple[float, ...]], new: list[tuple[float, ...]], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name, states in ((1, "before", old), (2, "after", new)):
        some = np.array(states) * (1 + 0.01 * (np.arange(len(states))[:, None] * 7 % 5))
        fixed = {"control-matmul": 1e-3 * some[:, 0], "control-copy": 2e-3 * some[:, 1]}
        save(number, name, controls={work: float(np.median(each)) for work, each in fixed.items()})
        times = [float(each) for each in 1e-3 * some[:, 2]]
        series = {"latency": times, "typical": times, "tail": times, "reference_latency": times}
        told = {work: each.tolist() for work, each in fixed.items()}
        processes = {"processes": [1] * len(states), "series": series, "controls_by_process": told}
        edit(name, lambda records, index, of=processes: records[0].update(of))
    assert main(["compare", "before", "after"]) == status
    assert ("INVALID (disturbed)" in capsys.readouterr().out) == (status == 7)


@pytest.mark.parametrize(
    ("by", "status"),
    [
        (0.92, 7),  # what hides 8 % of a memory-bound engine, however far apart either side's own copies lie
        (0.97, 0),
        (1.08, 0),  # a slower machine hides none
    ],
)
def test_copies_that_differ_by_a_fifth_hide_no_faster_memory(
    by: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = [2e-3 * (1 + 0.012 * index) for index in range(-8, 8)]
    for number, name, factor in ((1, "before", 1.0), (2, "after", by)):
        some = tuple(factor * each for each in seconds)
        guards = {"typical": (1e-3,), "tail": (1.1e-3,)}
        controls = {"control-copy": float(np.median(some))}
        save(number, name, series=guards, controls=controls, controls_by_process={"control-copy": some})
        edit(name, lambda records, index: spread_over(records[0], 16, {}))
    assert main(["compare", "before", "after"]) == status
    assert ("INVALID (machine_changed)" in capsys.readouterr().out) == (status == 7)


@pytest.mark.parametrize(
    ("enqueue", "slower", "host", "status"),
    [
        (0.9e-3, 1.8, 1.7, 7),  # the host's number, and the host was slow
        (0.9e-3, 1.8, 1.0, 1),  # the host's number, and the host was as fast as ever: a slower driver, say
        (0.1e-3, 1.8, 1.7, 1),  # a GPU that is kept busy does not care
        (0.1e-3, 1.0, 1.7, 0),
    ],
)
def test_a_slow_host_is_no_regression_of_what_waits_for_it(
    enqueue: float, slower: float, host: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = {"control-matmul": 1e-3, "control-copy": 2e-3}
    sessions("before", 1, enqueue_seconds=enqueue, controls={**gpu, "control-host": 1e-4})
    after = {"engine": 1e-3 * slower, "enqueue_seconds": enqueue}
    sessions("after", 6, **after, controls={**gpu, "control-host": 1e-4 * host})
    assert main(["compare", "before", "after"]) == status
    assert ("control-host changed by +70.0%, so the host did" in capsys.readouterr().out) == (status == 7)


def test_a_machine_that_changed_is_told_before_its_host(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever came first in the record: what no engine can be judged on says more than what this one cannot."""
    for name, first, by in (("before", 1, 1.0), ("after", 6, 1.7)):
        controls = {"control-host": 1e-4 * by, "control-matmul": 1e-3 * by, "control-copy": 2e-3}
        sessions(name, first, enqueue_seconds=0.9e-3, controls=controls)
    assert main(["compare", "before", "after"]) == 7
    assert "INVALID (machine_changed)" in capsys.readouterr().out


def test_a_slow_host_fails_no_yardstick_beside_other_engines(capsys: pytest.CaptureFixture[str]) -> None:
    """Seen on an H100: eager PyTorch, which its host hands over kernel by kernel, took 5 ms in place of 2.7."""
    both, gpu = ("pytorch-fp32", "onnxruntime-int8"), {"control-matmul": 1e-3, "control-copy": 2e-3}
    for name, first, host in (("before", 1, 1.0), ("after", 6, 1.7)):
        sessions(name, first, engines=both, controls={**gpu, "control-host": 1e-4 * host})
        for number in range(5):
            edit(name, lambda records, index, by=host: waits_for_its_host(records[0], by), [number])
    assert main(["compare", "before", "after"]) == 0
    text = capsys.readouterr().out
    assert "resnet50 pytorch-fp32 batch 1: PASS (yardstick)" in text
    assert "control-host changed by +70.0%, so the host did" in text
    assert main(["compare", "after", "before"]) == 0


def waits_for_its_host(record: dict[str, Any], by: float) -> None:
    scale(record, by)
    record["enqueue_seconds"] = 2e-3


def test_the_layers_that_changed_are_named_the_worst_first(capsys: pytest.CaptureFixture[str]) -> None:
    before = {"conv1": {"ms": 0.4, "type": "int8"}, "conv2": {"ms": 0.3, "type": "int8"}, "fc": {"ms": 0.3, "type": ""}}
    after = {
        "conv1": {"ms": 0.4, "type": "int8"},
        "conv2": {"ms": 0.6, "type": "float16"},
        "pool": {"ms": 0.1, "type": ""},
    }
    sessions("before", 1, layer_times=before)
    sessions("after", 6, engine=1.2e-3, layer_times=after)
    assert main(["compare", "before", "after"]) == 1
    text = capsys.readouterr().out
    assert "layer conv2: 0.3000 -> 0.6000 ms (+0.3000), int8 -> float16" in text
    assert "layer fc: 0.3000 -> none ms" in text
    assert "conv1" not in text


def test_limits_of_a_models_own_file_are_those_of_the_newest_session(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, summary={"limits": {"resnet50": {"delta": 0.01}}})
    sessions("after", 6, engine=1.08e-3)
    save(11, "after", engine=1.08e-3, summary={"limits": {"resnet50": {"delta": 0.3}}, "own": ["resnet50"]})
    assert main(["compare", "before", "after"]) == 0
    # The file that the user edits has the last word.
    Path("mine.toml").write_text("[models.resnet50.engines.onnxruntime-int8]\ndelta = 0.03\n")
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) == 1
    save(12, "after", engine=1.08e-3, summary={"limits": {"resnet50": {"dleta": 0.3}}})
    capsys.readouterr()
    assert main(["compare", "before", "after"]) == 2
    assert "0012_after.json: key dleta in [limits.resnet50] is unknown; did you mean delta?" in capsys.readouterr().err


def test_four_sessions_are_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    save(6, "after")
    assert main(["compare", "before", "after"]) == 6
    assert "underpowered" in capsys.readouterr().out


def test_json_and_markdown_say_the_same(tmp_path: Path) -> None:
    sessions("before", 1, engines=("onnxruntime-int8", "openvino-int8"))
    sessions("after", 6, engine=1.2e-3, changes={"onnxruntime": "99.0"})
    status = main(["compare", "before", "after", "--json", "out.json", "--markdown", "out.md"])
    assert status == 1
    report = json.loads(Path("out.json").read_text())
    assert report["engines"][0]["decision"]["verdict"] == "REGRESSED"
    assert report["missing"][0]["engine"] == "openvino-int8"
    assert any("99.0" in change for change in report["stack_changes"])
    text = Path("out.md").read_text()
    assert "| resnet50 | onnxruntime-int8 | 1 | 1.0" in text
    assert "| resnet50 | openvino-int8 | 1 | | | | | | REGRESSED | missing |" in text


def test_an_unfinished_race_is_invalid(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6)
    path = Path(".benchmarks/Linux/0007_after.json")
    document = json.loads(path.read_text())
    document["benchmarks"][0]["extra_info"]["trtgate"]["complete"] = False
    path.write_text(json.dumps(document))
    assert main(["compare", "before", "after"]) == 7
    assert "INVALID" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["before", "later"], "later"),
        (["before", "after", "--expectations", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6)
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_another_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, changes={"gpu": "NVIDIA T4"})
    sessions("after", 6, changes={"gpu": "NVIDIA L4"})
    assert main(["compare", "before", "after"]) == 2
    assert "another gpu" in capsys.readouterr().err


def test_a_reference_slower_by_what_many_verdicts_make_by_chance_fails_nothing() -> None:
    names = ("pytorch-fp32", *(f"openvino-{precision}" for precision in ("fp32", "bf16", "int8")), "onnxruntime-int8")
    apart = (1.0, 1.1, 1.2, 1.3, 1.4)

    def side(slower: float) -> dict[Key, list[EngineRecord]]:
        return {
            ("resnet50", name, batch): [
                EngineRecord("resnet50", name, batch, "file", {
                    "latency": (1e-3 * (slower * each if name == "pytorch-fp32" else 1.0),) * 3,
                    "reference_latency": (1e-3,) * 3,
                })
                for each in apart
            ]
            for name in names
            for batch in (1, 2, 4, 8)
        }  # fmt: skip

    report = compare_records(side(1.0), side(1.45), read_expectations(), "sessions", {})
    reference = next(each for each in report.engines if each.key == ("resnet50", "pytorch-fp32", 1))
    assert reference.verdict.reason is Reason.YARDSTICK
    assert "by chance" in reference.verdict.message
    assert exit_status(verdict.outcome for verdict in report.verdicts()) == 0


# Sides that cannot be compared, or not in everything.

BOTH = ("pytorch-fp32", "onnxruntime-int8")


@pytest.mark.parametrize(("processes", "slow", "status"), [(16, 1, 0), (16, 2, 6), (16, 4, 6), (40, 14, 6)])
def test_processes_that_are_slow_among_others_are_no_pass(
    processes: int, slow: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bound of the shift says nothing of a mixture; one process of them may be bad luck."""
    for number in range(1, 2 * processes + 1):
        save(number, "before" if number <= processes else "after")
    edit("after", lambda records, index: scale(records[0], 2.0), range(0, processes, processes // slow)[:slow])
    assert main(["compare", "before", "after"]) == status
    assert ("slower than all before" in capsys.readouterr().out) == (slow == 2)


@pytest.mark.parametrize(
    ("old", "new", "slow", "status"),
    [
        ((40, 1), (16, 4), 1.8, 6),  # 2 % were, and a quarter is
        ((40, 1), (16, 2), 1.8, 0),
        ((40, 6), (16, 4), 1.8, 0),  # as many were
        ((40, 1), (40, 10), 1.8, 6),
        ((40, 1), (40, 20), 1.04, 0),  # what lies within the limit
    ],
)
def test_one_odd_process_of_many_excuses_no_quarter_of_the_new_ones(
    old: tuple[int, int], new: tuple[int, int], slow: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name, (processes, odd), factor in ((1, "before", old, 2.0), (2, "after", new, slow)):
        save(number, name)

        def some_slow(records: list[dict[str, Any]], _: int, of: Any = (processes, odd, factor)) -> None:
            spread_over(records[0], of[0], {})
            rounds = records[0]["series"]["latency"]
            records[0]["series"]["latency"] = [of[2] * each for each in rounds[: 3 * of[1]]] + rounds[3 * of[1] :]

        edit(name, some_slow)
    assert main(["compare", "before", "after"]) == status
    told = f"{new[1]} of {new[0]} processes are slower by more than 10%, {old[1]} of {old[0]} before"
    assert (told in " ".join(capsys.readouterr().out.split())) == (status == 6)


@pytest.mark.parametrize(("slower", "status"), [(1.08, 0), (1.5, 6)])
def test_an_absolute_floor_excuses_no_process_beyond_twice_delta(slower: float, status: int) -> None:
    text = Path(read_expectations().path).read_text().replace("absolute_floor_us = 2\n", "absolute_floor_us = 9000\n")
    Path("mine.toml").write_text(text)
    for number in range(1, 33):
        save(number, "before" if number <= 16 else "after")
    edit("after", lambda records, index: scale(records[0], slower), (0, 9))
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) == status


def test_the_yardstick_alone_beside_engines_of_one_side_is_no_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, engines=("pytorch-fp32",))
    sessions("after", 6, engines=BOTH)
    assert main(["compare", "before", "after"]) == 7
    assert "nothing but pytorch-fp32 was compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes", [{"threads": 99}, {"cpu_quota": 1.5}, {"cpu_features": ["sse"]}, {"device": "cuda"}], ids=str
)
def test_nothing_is_proven_by_sides_with_other_settings(
    changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sessions("before", 1, engines=(*BOTH, "openvino-int8"))
    sessions("after", 6, engines=BOTH, engine=2e-3, changes=changes)
    assert main(["compare", "before", "after"]) == 7
    assert "REGRESSED" not in capsys.readouterr().out


def test_nothing_is_proven_by_half_a_run() -> None:
    sessions("before", 1)
    sessions("after", 6, engine=2e-3, summary={"partial": ["the run was cut off"]})
    assert main(["compare", "before", "after"]) == 7


@pytest.mark.parametrize(
    ("old", "new", "larger", "status", "told"),
    [
        ((1,), (1, 8), 1.0, 0, "PASS"),
        (
            (1,),
            (1, 8),
            2.0,
            7,
            "batch sizes differ (1, then 1, 8), which plans are built for; measure both sides at the",
        ),
        ((8,), (1, 8), 2.0, 7, "batch sizes differ (8, then 1, 8)"),
        ((8,), (1, 8), 1.0, 7, "batch sizes differ (8, then 1, 8)"),  # its answers were those in batches
        ((1, 8), (1, 8), 2.0, 1, "REGRESSED"),
        # What was left out is missing; where that is meant, a plan for less hides what it grew by.
        ((1, 8), (1,), 2.0, 1, "REGRESSED"),
        ((1, 8), (1,), 1.0, 7, "batch sizes differ (1, 8, then 1)"),
    ],
)
def test_a_plan_for_other_batch_sizes_is_another_plan(
    old: Any, new: Any, larger: float, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(read_expectations().path).read_text()
    Path("mine.toml").write_text('acknowledged_missing = ["*"]\n' + text.replace("acknowledged_missing", "#"))
    sessions("before", 1, batches=old, series={"plan_bytes": (1e8,)})
    sessions("after", 6, batches=new, series={"plan_bytes": (1e8 * larger,)})
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) == status
    printed = " ".join(capsys.readouterr().out.split())
    assert told in printed
    assert ("REGRESSED" in printed) == (status == 1)


def test_answers_that_are_not_finite_are_so_for_any_batch_sizes() -> None:
    sessions("before", 1, agreement={"n": 240, "top1": 240, "finite": True})
    sessions("after", 6, batches=(1, 8), agreement={"n": 240, "top1": 240, "finite": False})
    assert main(["compare", "before", "after"]) == 1


SOME = {"weights": "w" * 20, "evaluation photos": "p" * 20}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (SOME, {**SOME, "weights": "v" * 20}),
        (SOME, {**SOME, "evaluation photos": "v" * 20}),
        (SOME, {}),
        (SOME, {"weights": SOME["weights"]}),
        ({**SOME, "task": "t" * 20}, {**SOME, "task": "u" * 20}),
        ({**SOME, "task": "t" * 20}, SOME),
    ],
)
@pytest.mark.parametrize("which", [range(5), [3]], ids=["all", "one"])
def test_other_inputs_or_untold_ones_are_no_regression(old: Any, new: Any, which: Any) -> None:
    """Not even one of the answers, which they explain."""
    agreement = {"n": 240, "top1": 240, "top5": 240, "low": 0.98, "high": 1.0}
    sessions("before", 1, digests=old, agreement=agreement)
    sessions("after", 6, digests=old, agreement={**agreement, "top1": 120})
    edit("after", lambda records, index: records[0].update(digests=new), which)
    assert main(["compare", "before", "after"]) == 7


def test_what_a_baseline_never_told_is_not_asked_for() -> None:
    sessions("before", 1)
    sessions("after", 6, digests=SOME)
    assert main(["compare", "before", "after"]) == 0
    sessions("new", 11, digests={**SOME, "INT8 recipe": "r" * 20})
    assert main(["compare", "after", "new"]) == 0


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4)])
def test_another_number_of_streams_is_another_measurement(before: int, after: int) -> None:
    for name, first, streams in (("before", 1, before), ("after", 6, after)):
        sessions(name, first, series={"throughput": (500.0 * streams,)}, throughput={"streams": streams})
    assert main(["compare", "before", "after"]) == 7


def test_streams_of_the_old_side_alone_are_no_regression(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, series={"throughput": (2000.0,)}, throughput={"streams": 4})
    sessions("after", 6)
    assert main(["compare", "before", "after"]) == 7
    assert "the old side ran --streams 4, the new one none" in " ".join(capsys.readouterr().out.split())
    assert main(["compare", "after", "before"]) == 0


def test_sessions_that_tell_no_digest_of_their_task_still_tell_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, agreement={"n": 240, "top1": 240, "top5": 240, "low": 0.98, "high": 1.0})
    sessions("after", 6, scores=scored("sqnr_db", 50.0))
    for sides in (("before", "after"), ("after", "before")):
        assert main(["compare", *sides]) == 7
        assert "tasks differ between the sides (classification, tensors)" in " ".join(capsys.readouterr().out.split())


SCORES = {"task": "tensors", "n": 8, "finite": True, "same": False, "text": "so much"}


def scored(key: str, value: float, **more: Any) -> dict[str, Any]:
    unit = {"sqnr_db": "dB", "agreement": "%", "mean_iou": "%"}.get(key, "")
    score = {"name": key, "of": "y", "value": value, "key": key, "unit": unit, "low": None, "high": None}
    return {**SCORES, "scores": [{**score, **more}]}


@pytest.mark.parametrize(
    ("key", "value", "limit", "status"),
    [
        ("mean_iou", 0.6, 0.5, 1),
        ("mean_ap", 0.4, 0.3, 1),
        ("metric", 3.0, 2.0, 1),
        ("sqnr_db", 5.0, 4.0, 1),
        ("cosine", 0.2, 0.1, 1),
        ("mean_iou", 0.9, 0.5, 0),
    ],
)
def test_floors_of_today_hold_for_scores(
    key: str, value: float, limit: float, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expectations = tmp_path / "today.toml"
    expectations.write_text("[default]\nmean_iou = 0.7\nmean_ap = 0.5\nmetric = 5\n")
    sessions("before", 1, scores=scored(key, value))
    sessions("after", 6, scores=scored(key, value), limits={key: limit})
    assert main(["compare", "before", "after", "--expectations", str(expectations)]) == status
    assert ("by today's: " in " ".join(capsys.readouterr().out.split())) == bool(status)


def moved(task: Task, reference: Outputs, new: Outputs) -> list[dict[str, Any]]:
    """What sessions keep of an engine's answers: the reference's own, rounded otherwise, and the new ones."""
    samples: Any = Some(len(reference))
    return [task.summary(task.compare(reference, each, samples)) for each in (rounded(reference), new)]


@pytest.mark.parametrize(
    ("task", "outputs", "said"),
    [
        (Segmentation("m"), (rare(), moved_class(rare(), 40)), "IoU of class 59 of m went from 100.0% to 0.0%"),
        (
            Detection(from_outputs("b", "s", "l", "xyxy"), 0.3),
            sure_of(lambda scores: 0.6 * scores),
            "confidence kept went from 100.0% to 6",
        ),
    ],
)
def test_places_of_a_rare_class_and_scores_of_boxes_count_between_sessions(
    task: Task, outputs: tuple[Outputs, Outputs], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = moved(task, *outputs)
    for name, first, scores in (("before", 1, old), ("same", 6, {**old}), ("after", 11, new)):
        sessions(name, first, scores=scores)
    assert main(["compare", "before", "same"]) == 0
    assert main(["compare", "before", "after"]) == 1
    assert said in " ".join(capsys.readouterr().out.split())
    # Of a baseline from before they are not known.
    for number in range(1, 6):
        kept = {key: value for key, value in old["kept"].items() if key not in {"ious", "powers"}}
        scores = [each for each in old["scores"] if each["key"] != "confidence"]
        save(number, "before", scores={**old, "scores": scores, "kept": kept})
    assert main(["compare", "before", "after"]) == 0


def test_a_floor_that_samples_cannot_prove_is_open_today_too() -> None:
    for name, first in (("before", 1), ("after", 6)):
        sessions(name, first, scores=scored("agreement", 0.86, low=0.8, high=0.9), limits={"agreement": 0.5})
    assert main(["compare", "before", "after"]) == 6
    doubted = {**scored("sqnr_db", 5.0), "doubt": "the samples say little"}
    sessions("seeded", 11, scores=doubted, limits={"sqnr_db": 1.0})
    sessions("again", 16, scores=doubted, limits={"sqnr_db": 1.0})
    assert main(["compare", "seeded", "again"]) == 6


@pytest.mark.parametrize(("low", "high", "status"), [(0.02, 0.06, 1), (0.0, 0.06, 6), (-0.01, 0.01, 0)])
def test_a_drop_of_accuracy_that_an_own_run_allowed_counts_today(low: float, high: float, status: int) -> None:
    kept = {"n": 300, "engine_top1": 200, "reference_top1": 212, "drop": 0.04, "drop_low": low, "drop_high": high}
    for name, first in (("before", 1), ("after", 6)):
        sessions(name, first, accuracy=kept, limits={"max_accuracy_drop": 0.5})
    assert main(["compare", "before", "after"]) == status


def test_an_old_side_whose_scores_contradict_each_other_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, scores=scored("sqnr_db", 50.0))
    sessions("after", 6, scores=scored("sqnr_db", 50.0))
    edit("before", lambda records, index: records[0].update(scores=scored("sqnr_db", 25.0)), [2])
    assert main(["compare", "before", "after"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "sqnr_db of y went from 50.0 dB to 25.0 dB" in text
    edit("after", lambda records, index: records[0].update(scores=scored("sqnr_db", 25.0)), range(5))
    assert main(["compare", "before", "after"]) == 1


def test_floors_of_today_hold_for_runs_that_had_others(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, reference=1.1e-3)
    sessions("after", 6, reference=1.1e-3, limits={"speedup": 0.5, "delta": 0.05})
    assert main(["compare", "before", "after"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "by today's: speedup 1.10" in text
    assert "speedup: 0.5 -> 1.2" in text


CONTROLS = {"control-matmul": 1e-3, "control-copy": 2e-3}


@pytest.mark.parametrize("lacking", [{}, {"control-matmul": 1.2e-3}], ids=["all", "one"])
@pytest.mark.parametrize("which", [range(5), [0, 3]], ids=["every session", "two sessions"])
def test_fixed_work_that_is_not_told_hides_no_change_of_the_machine(lacking: Any, which: Any) -> None:
    """Everything 20 % slower, the fixed work too, which some sessions do not tell."""
    sessions("before", 1, controls=CONTROLS)
    sessions("after", 6, engine=1.2e-3, reference=4.8e-3, controls={k: 1.2 * v for k, v in CONTROLS.items()})
    edit("after", lambda records, index: records[0].update(controls=lacking), which)
    assert main(["compare", "before", "after"]) == 7


def test_accuracy_that_is_not_measured_any_more_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, accuracy={"n": 300, "engine_top1": 200})
    sessions("after", 6)
    assert main(["compare", "before", "after"]) == 1
    out = capsys.readouterr().out
    assert "accuracy was measured before and is not now" in out
    assert "next: find out why the new side has no accuracy, or" in out


@pytest.mark.parametrize(
    ("lacking", "grown", "outcome", "told"),
    [
        (({3}, set()), 1.2, Outcome.REGRESSED, "more by"),
        (({0}, set()), 1.0, Outcome.PASS, ""),
        ((set(range(7)), set()), 1.0, Outcome.INCONCLUSIVE, ""),
        ((set(), {0}), 1.0, Outcome.REGRESSED, "device_memory is missing in 1 of 8"),
        (({0}, {3}), 1.0, Outcome.PASS, ""),
        (({0}, {3}), 1.2, Outcome.REGRESSED, "more by"),
        (({0}, {3, 4}), 1.0, Outcome.REGRESSED, "device_memory is missing in 2 of 8"),
        ((set(range(4)), set(range(4))), 1.0, Outcome.INCONCLUSIVE, "4 against 4"),
        ((set(), set(range(8))), 1.0, Outcome.REGRESSED, "device_memory was measured before and is not now"),
    ],
)
def test_what_one_process_of_a_run_has_not_measured_does_not_vanish(
    lacking: tuple[set[int], set[int]], grown: float, outcome: Outcome, told: str
) -> None:
    def side(lacking: set[int], memory: float) -> EngineRecord:
        latency = {"latency": (1e-3, 1.001e-3, 1.002e-3), "reference_latency": (4e-3,) * 3}
        memories = [{} if index in lacking else {"device_memory": (memory + 1e3 * index,)} for index in range(8)]
        found = joined(
            [EngineRecord("resnet50", "onnxruntime-int8", 1, "file", {**latency, **each}) for each in memories]
        )
        assert bool(found.warnings) == (0 < len(lacking) < 8)
        return from_json(json.loads(json.dumps(to_json(found), allow_nan=False)))

    old, new = side(lacking[0], 1e9), side(lacking[1], grown * 1e9)
    report = compare_records({old.key: [old]}, {new.key: [new]}, read_expectations(), "sessions", {})
    [verdict] = [each for each in report.engines[0].verdicts if each.metric == "device_memory"]
    assert verdict.outcome is outcome
    assert told in verdict.message


@pytest.mark.parametrize(
    "series",
    [
        {"latency": [1e-3, 1e-3, None, None]},
        {"reference_latency": [None, None, 4e-3, 4e-3]},
        {"typical": [1e-3, None, 1e-3, 1e-3]},
        {"device_memory": [None, None]},
        {"device_memory": [None]},
    ],
)
def test_a_number_that_no_process_can_lack_is_damage(series: dict[str, Any]) -> None:
    whole = {"latency": [1e-3] * 4, "reference_latency": [4e-3] * 4, "device_memory": [None, 1e9]}
    values = {"schema": 3, "model": "resnet50", "engine": "onnxruntime-int8", "batch": 1, "weights": "file"}
    values |= {"processes": [2, 2]}
    assert from_json({**values, "series": whole}).value("device_memory") == 1e9
    with pytest.raises(ValueError, match=next(iter(series))):
        from_json({**values, "series": {**whole, **series}})


def test_a_clock_that_is_not_told_any_more_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, clock=2000.0)
    sessions("after", 6)
    assert main(["compare", "before", "after"]) == 1
    assert "cycles was measured before and is not now" in capsys.readouterr().out


def test_a_baseline_that_knows_its_fastest_calls_only_passes_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6, series={"typical": (2e-3,) * 15, "tail": (3e-3,)})
    assert main(["compare", "before", "after"]) == 6
    assert "the baseline does not tell its typical calls" in capsys.readouterr().out


@pytest.mark.fault(
    done="fixed work takes another time, an engine longer, in 5 of 13 new processes, which are left out, and in no old",
    said="5 of 13 processes do not count, since fixed work took another time, and they are slower than all before",
    status="6",
    kept="both sides' sessions",
)
@pytest.mark.parametrize(
    ("metric", "old", "new", "status"),
    [
        ("latency", (), (1.6e-3,) * 5, 6),
        ("latency", (1.6e-3,), (1.6e-3,) * 5, 0),  # the old stack did the same
        ("latency", (), (1.6e-3,) * 2, 0),  # as many may be lost
        ("latency", (), (1.04e-3,) * 5, 0),  # what takes longer than fixed work alone is another matter
        ("tail", (), (3e-3,) * 5, 6),
        ("host_memory", (), (9e8,) * 5, 6),
        ("throughput", (), (700.0,) * 5, 6),
        ("throughput", (), (1400.0,) * 5, 0),  # the more the better
    ],
)
def test_what_is_left_out_for_a_slow_machine_hides_no_slow_stack(
    metric: str,
    old: tuple[float, ...],
    new: tuple[float, ...],
    status: int,
    fault: Fault,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = {"typical": 1e-3, "tail": 1.1e-3, "host_memory": 5e8, "throughput": 1000.0}
    for number, name, uncounted in ((1, "before", old), (2, "after", new)):
        save(number, name, series={each: (value,) for each, value in more.items()})
        edit(name, lambda records, index, told=uncounted: spread_over(records[0], 8, {metric: told}))
    found, text = main(["compare", "before", "after"]), capsys.readouterr().out
    assert found == status
    if metric == "latency" and status:
        fault.check(found, text)


@pytest.mark.parametrize(("old", "status"), [(1, 6), (8, 0)])
def test_one_old_process_that_is_left_out_excuses_no_third_of_the_new_ones(
    old: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name, processes, odd in ((1, "before", 40, (2e-3,) * old), (2, "after", 8, (1.6e-3,) * 5)):
        save(number, name, series={"typical": (1e-3,), "tail": (1.1e-3,)})
        edit(name, lambda records, index, of=(processes, {"latency": odd}): spread_over(records[0], *of))
    assert main(["compare", "before", "after"]) == status
    told = "they are slower by more than 10%, as 1 of 41 were before"
    assert (told in " ".join(capsys.readouterr().out.split())) == (status == 6)


def spread_over(record: dict[str, Any], processes: int, uncounted: dict[str, tuple[float, ...]]) -> None:
    """Make a session's record one of so many processes, and of others that do not count."""
    for name in ("latency", "reference_latency"):
        record["series"][name] = record["series"][name][:8] * (processes * 3 // 8)
    record |= {"processes": [3] * processes, "uncounted": {name: list(some) for name, some in uncounted.items()}}


@pytest.mark.parametrize("lacking", ["clock", "typical", "end_to_end"])
def test_one_old_session_may_lack_a_metric(lacking: str) -> None:
    for name, first in (("before", 1), ("after", 6)):
        sessions(name, first, clock=2000.0, series={"typical": (1e-3,) * 15, "end_to_end": (1e-3,) * 15})

    def lose(records: list[dict[str, Any]], index: int) -> None:
        if lacking == "clock":
            records[0]["readings"] = {}
        else:
            del records[0]["series"][lacking]

    edit("before", lose, [2])
    assert main(["compare", "before", "after"]) in {0, 6}


@pytest.mark.parametrize("summary", [{"agreement": {"n": 10, "engine_top1": 5}}, {"accuracy": {"n": 10, "top1": 5}}])
def test_a_summary_without_its_count_is_damage(summary: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6, **summary)
    assert main(["compare", "before", "after"]) == 2
    assert "must say how many of how many photos" in capsys.readouterr().err


@pytest.mark.parametrize(("old", "new", "text"), [(900.0, 500.0, "lower by -44.4%"), (500.0, 900.0, "higher: +80.0%")])
def test_what_is_better_when_it_is_higher_is_told_as_it_is(old: float, new: float, text: str) -> None:
    for name, first, value in (("before", 1, old), ("after", 6, new)):
        sessions(name, first, series={"throughput": (value,)}, throughput={"streams": 4})
    assert main(["compare", "before", "after", "--json", "out.json"]) == (new < old)
    verdict = json.loads(Path("out.json").read_text())["engines"][0]["metrics"]["throughput"]["decision"]
    assert verdict["estimate"] == pytest.approx(new / old, rel=0.01)
    assert verdict["low"] <= verdict["estimate"] <= verdict["high"]
    assert verdict["message"].startswith(text)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ((10, 11, 12, 13, 14), (10, 10.5, 11, 1000, 1001), 6),  # the median says nothing
        ((10,), (14,), 0),
        ((10,), (18,), 6),
        ((10, 11), (17, 18), 6),  # two builds lie as far apart by chance
        ((10, 11), (60, 61), 1),
        ((10, 11, 12, 13, 14), (20, 21, 22, 23, 24), 1),
        ((5, 5.1, 5.2, 5.3, 60), (50, 51, 52, 53, 54), 6),  # one that was unlucky excuses nothing
    ],
)
def test_times_of_builds_are_proven_or_open(old: tuple[float, ...], new: tuple[float, ...], status: int) -> None:
    assert compared_builds("build_seconds", old, new) == status


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ((25e6, 25e6, 25e6, 25e6, 60e6), (60e6,), 6),
        ((25e6, 25e6, 25e6, 25e6, 60e6), (25e6,), 0),
        ((25e6, 60e6), (25e6, 60e6), 0),
        ((25e6,), (60e6,), 1),
    ],
)
@pytest.mark.parametrize("processes", [0, 8])
def test_one_odd_plan_of_the_old_side_excuses_no_larger_one(
    old: tuple[float, ...], new: tuple[float, ...], status: int, processes: int
) -> None:
    assert compared_builds("plan_bytes", old, new, processes) == status


def compared_builds(series: str, old: tuple[float, ...], new: tuple[float, ...], processes: int = 0) -> int:
    """What `compare` ends with where five sessions a side know these builds, in turns, each of so many processes."""
    for name, first, values in (("before", 1, old), ("after", 6, new)):
        sessions(name, first)

        def built(records: list[dict[str, Any]], index: int, values: tuple[float, ...] = values) -> None:
            records[0]["series"][series] = [values[index % len(values)]]
            if processes:
                spread_over(records[0], processes, {})

        edit(name, built)
    return main(["compare", "before", "after"])


GPU_CONTROLS = {"control-matmul": 1e-3, "control-copy": 2e-3, "control-host": 1e-4}


def of_a_gpu(name: str, first: int, engine: str, cold: float | None, host: float, others: float) -> None:
    """Sessions of an engine that keeps the GPU busy by itself, on a host of that speed that others use too."""
    series = {} if cold is None else {"cold_start": (cold,)}
    controls = {**GPU_CONTROLS, "control-host": 1e-4 * host}
    sessions(name, first, engines=(engine,), series=series, controls=controls, enqueue_seconds=1e-5)
    for number in range(5):
        edit(name, lambda records, index: records[0].update(readings={"others_cores": others}), [number])


@pytest.mark.fault(
    done="other processes keep the host's cores busy beside a GPU, and engines load more slowly",
    said="cold start: INVALID (host_changed)",
    status="7",
    kept="the table",
)
@pytest.mark.parametrize(
    ("cold", "host", "others", "status"),
    [
        (1.5, 1.1, 0.0, 7),  # the host was slow
        (1.5, 1.0, 8.0, 7),  # or others used it
        (1.5, 1.0, 0.1, 1),  # nobody did
        (0.5, 1.1, 8.0, 0),  # what is as fast as ever is so in spite of them
        (None, 1.1, 8.0, 1),  # what is not measured any more is missing
    ],
)
def test_a_cold_start_beside_a_busy_host_blames_no_stack(
    cold: float | None, host: float, others: float, status: int, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    """Seen on an H100 with 8 of its 16 cores busy: latencies stood still, cold starts took up to four times as long."""
    of_a_gpu("before", 1, "tensorrt-fp16", 0.5, 1.0, 0.0)
    of_a_gpu("after", 6, "tensorrt-fp16", cold, host, others)
    found, text = main(["compare", "before", "after"]), capsys.readouterr().out
    assert found == status
    if status == 7:
        fault.check(found, text)


@pytest.mark.parametrize(
    ("old", "cold", "host", "status"),
    [
        (0.0, 0.9, 0.7, 7),  # the host became faster, and loading may have become slower by more
        (0.0, 0.6, 0.7, 0),  # whatever it hides is within the limit
        (0.0, 0.9, 0.97, 0),
        (8.0, 0.5, 1.0, 7),  # others made the old side's longer, nobody knows by how much
    ],
)
def test_a_host_that_is_faster_or_rid_of_others_hides_no_slower_start(
    old: float, cold: float, host: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    of_a_gpu("before", 1, "tensorrt-fp16", 0.5, 1.0, old)
    of_a_gpu("after", 6, "tensorrt-fp16", cold, host, 0.0)
    assert main(["compare", "before", "after"]) == status
    assert ("cold start: INVALID (host_changed)" in capsys.readouterr().out) == (status == 7)


@pytest.mark.parametrize(
    ("latency", "end_to_end", "host", "status"),
    [
        (1.00, 1.10, 0.75, 0),  # a tenth is the host's, of which a third more is within the limit
        (1.00, 1.60, 0.75, 7),  # of a third it is not
        (0.60, 1.10, 0.75, 7),  # what the GPU became faster by may hide what the host became slower by
        (1.00, 1.60, 0.97, 0),
    ],
)
def test_a_faster_host_hides_its_own_part_of_an_end_to_end_time(
    latency: float, end_to_end: float, host: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen on two H100s: ResNet-50 in batches of 8 took 1.27 ms with both copies, 1.15 ms of them on the GPU."""
    for name, first, took, speed in (("before", 1, 1.0, 1.0), ("after", 6, latency, host)):
        of_a_gpu(name, first, "tensorrt-fp16", 0.5, speed, 0.0)

        def timed(records: list[dict[str, Any]], _: int, took: float = took) -> None:
            of_gpu = [took * each for each in records[0]["series"]["latency"]]
            records[0]["series"] |= {"latency": of_gpu, "end_to_end": [end_to_end / took * each for each in of_gpu]}
            records[0]["iterations"] = {}

        edit(name, timed)
    assert main(["compare", "before", "after"]) == status
    assert ("end to end: INVALID (host_changed)" in capsys.readouterr().out) == (status == 7)


@pytest.mark.parametrize(
    ("handing_over", "host", "rate", "status"),
    [
        (0.45e-3, 0.75, 2000.0, 7),  # what the host became faster by may hide what handing over became slower by
        (0.45e-3, 1.2, 1800.0, 7),  # the host may be all that became slower
        (0.45e-3, 0.75, 3000.0, 0),  # it hides less
        (0.45e-3, 0.97, 2000.0, 0),
        (0.1e-3, 0.75, 2000.0, 0),  # what the GPU is busy with, the host neither hides
        (0.1e-3, 1.2, 1800.0, 1),  # nor excuses
    ],
)
def test_a_throughput_that_is_the_hosts_goes_by_its_host(
    handing_over: float, host: float, rate: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one stream at a time the GPU takes 1 ms, of four 0.5 ms, of which handing over may be most."""
    for name, first, speed, found in (("before", 1, 1.0, 2000.0), ("after", 6, host, rate)):
        controls = {**GPU_CONTROLS, "control-host": 1e-4 * speed}
        more = {"series": {"throughput": (found,)}, "throughput": {"streams": 4}, "enqueue_seconds": handing_over}
        sessions(name, first, engines=("tensorrt-fp16",), controls=controls, **more)
    assert main(["compare", "before", "after"]) == status
    assert ("throughput: INVALID (host_changed)" in capsys.readouterr().out) == (status == 7)


@pytest.mark.parametrize(("built", "status"), [(20.0, 0), (19.0, 7)])
def test_a_faster_host_hides_nothing_of_a_plan_that_was_there(
    built: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was built once, beside the old host."""
    for name, first, took, speed in (("before", 1, 20.0, 1.0), ("after", 6, built, 0.6)):
        of_a_gpu(name, first, "tensorrt-fp16", None, speed, 0.0)

        def add(records: list[dict[str, Any]], _: int, took: float = took) -> None:
            records[0]["series"]["build_seconds"] = [took]

        edit(name, add)
    assert main(["compare", "before", "after"]) == status
    assert ("build seconds: INVALID (host_changed)" in capsys.readouterr().out) == (status == 7)


def test_a_yardstick_that_is_not_measured_any_more_is_missing() -> None:
    """Whatever its host did meanwhile."""
    for name, first, cold, host in (("before", 1, 0.5, 1.0), ("after", 6, None, 1.7)):
        series = {} if cold is None else {"cold_start": (cold,)}
        both = ("pytorch-fp32", "tensorrt-fp16")
        controls = {**GPU_CONTROLS, "control-host": 1e-4 * host}
        sessions(name, first, engines=both, series=series, controls=controls)
        for number in range(5):
            edit(name, lambda records, index, by=host: waits_for_its_host(records[0], by), [number])
    assert main(["compare", "before", "after"]) == 1


def test_what_may_be_missing_is_judged_where_it_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text('acknowledged_missing = ["resnet50 openvino-fp32"]\n[default]\n')
    sessions("before", 1, engines=("onnxruntime-int8", "openvino-fp32"))
    sessions("after", 6, engines=("onnxruntime-int8", "openvino-fp32"))
    edit("after", lambda records, index: scale(records[1], 2.0) if index else records.pop(1), range(5))
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) in {1, 6}
    assert "openvino-fp32" in capsys.readouterr().out


@pytest.mark.parametrize("reference", ["pytorch-fp32", "onnxruntime-fp32-cpu"])
def test_a_yardstick_alone_judges_no_upgrade(reference: str) -> None:
    Path("mine.toml").write_text('acknowledged_missing = ["* tensorrt-*"]\n[default]\n')
    sessions("before", 1, engines=(reference, "tensorrt-fp16"), reference=4e-3)
    sessions("after", 6, engines=(reference,))
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) == 7


def test_another_number_of_processors_is_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, changes={"logical_cpus": 8})
    sessions("after", 6, changes={"logical_cpus": 64})
    assert main(["compare", "before", "after"]) == 7
    assert "logical_cpus differs (8, then 64)" in capsys.readouterr().out


DAMAGES: dict[str, dict[str, Any]] = {
    "agreement.low": {"agreement": {"n": 4, "top1": 3, "low": "x"}},
    "agreement.cosine": {"agreement": {"n": 4, "top1": 3, "cosine": "x"}},
    "agreement.sqnr_db": {"agreement": {"n": 4, "top1": 3, "sqnr_db": [1]}},
    "agreement.photos": {"agreement": {"n": 4, "top1": 3, "photos": "many"}},
    "agreement.n": {"agreement": {"n": 10**400, "top1": 3}},
    "accuracy.drop": {"accuracy": {"n": 4, "engine_top1": 3, "drop": "x"}},
    "accuracy.reference_top1": {"accuracy": {"n": 4, "engine_top1": 3, "reference_top1": []}},
    "batch": {"batch": 10**400},
    "layers.int8": {"layers": {"int8": 10**400}},
    "throughput.streams": {"throughput": {"streams": 1e300}},
    "dropped_rounds": {"dropped_rounds": 10**400},
}


@pytest.mark.parametrize("field", DAMAGES)
@pytest.mark.fault(
    done="a number of a saved session that is a text, a list, or too large for anything that can be counted",
    said="saved session ... is damaged ('ValueError: ... must be ...'); delete it and save a new one",
    status="2",
    kept="everything; nothing is compared",
)
def test_every_number_of_a_record_is_checked(field: str, capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    save(1, "before")
    save(2, "after")
    [path] = Path(".benchmarks/Linux").glob("*_after.json")
    document = json.loads(path.read_text())
    document["benchmarks"][0]["extra_info"]["trtgate"] |= DAMAGES[field]
    path.write_text(json.dumps(document))
    status = main(["compare", "before", "after", "--html", "out.html"])
    told = capsys.readouterr().err
    assert field in told
    fault.check(status, told)


@pytest.mark.parametrize("given", ["a/" * 3000, "a" * 5000])
@pytest.mark.parametrize("command", ["compare", "promote", "report"])
def test_a_name_that_no_path_can_have_is_one_sentence(
    given: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(1, "before")
    more = {"compare": ["before"], "promote": ["--to", "new"], "report": []}[command]
    assert main([command, given, *more]) == 2
    told = capsys.readouterr().err
    assert "give one of them" in told
    for option in ("--storage", "--json"):
        if command == "compare":
            assert main(["compare", "before", "before", option, given]) == 2
            assert "Traceback" not in capsys.readouterr().err


def test_a_folder_that_cannot_be_searched_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def unsearchable(*_: object) -> NoReturn:
        raise OSError(errno.EINVAL, "Invalid argument", "/proc/1")

    save(1, "before")
    monkeypatch.setattr("trtgate.baseline.saved_in", unsearchable)
    assert main(["compare", str(tmp_path), "before"]) == 2
    assert "cannot be searched for sessions (Invalid argument: /proc/1); name a file" in capsys.readouterr().err


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_verdicts_on_one_metric_the_worst_is_written(order: int) -> None:
    bad = Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, "new with old: SQNR 3 dB", metric=ANSWERS)
    good = Verdict(Outcome.PASS, Reason.FLOOR_MET, "new with PyTorch: fine", metric=ANSWERS)
    slower = Verdict(Outcome.REGRESSED, Reason.SLOWER, "slower", 1.2, 1.1, 1.3, metric="latency")
    answers = [Change(ANSWERS, None, None, each) for each in (bad, good)][::order]
    report = Report((Comparison(("m", "e", 1), (answers[0], Change("latency", 1.0, 1.2, slower), answers[1])),), {}, {})
    document = report_to_json(report)
    [engine] = document["engines"]
    assert engine["metrics"][ANSWERS]["decision"]["message"] == bad.message
    assert report_from_json(document).engines[0].verdict == report.engines[0].verdict


def test_a_references_own_answers_that_were_not_kept_are_no_regression(capsys: pytest.CaptureFixture[str]) -> None:
    """The new side may be of an older version, or of a run that left the test out that keeps them."""
    both = ("pytorch-fp32", "onnxruntime-int8")
    logits = np.eye(10, dtype=np.float32)
    answers = answers_of([f"photo{index}" for index in range(10)], logits, logits).to_json()
    sessions("before", 1, engines=both)
    edit("before", lambda records, index: records[0].update(answers=answers))
    sessions("after", 6, engines=both)
    assert main(["compare", "before", "after"]) == 7
    assert "the reference's own answers were kept before and are not now" in " ".join(capsys.readouterr().out.split())
    edit("before", lambda records, index: records[1].update(answers=answers))
    assert main(["compare", "before", "after"]) == 1, "an engine's are missing"


def test_sides_that_seem_to_be_swapped_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for number, when in enumerate(("2026-02-02", "2026-02-03"), 1):
        save(number, "later", when=when)
    for number, when in enumerate(("2026-01-31", "2026-02-01"), 11):
        save(number, "earlier", when=when)
    said = "the old side was measured on 2026-02-02, after the new one: are they swapped?"
    main(["compare", "later", "earlier"])
    assert said in " ".join(capsys.readouterr().out.split())
    main(["compare", "earlier", "later"])
    assert "swapped" not in capsys.readouterr().out


HERE, READ = os.getpid(), baseline._read


def read_or_die(path: Path, layers: bool) -> SessionRecord:
    """What a reader does that runs out of memory at the third session."""
    if os.getpid() != HERE and path.name.startswith("0003"):
        os.kill(os.getpid(), signal.SIGKILL)
    return READ(path, layers)


def save_many(monkeypatch: pytest.MonkeyPatch, read: Callable[[Path, bool], SessionRecord]) -> None:
    """Eight sessions, enough for several readers, which `read` them one at a time."""
    for number in range(1, 9):
        save(number, "many")
    for name, value in {"MANY": 4, "AT_ONCE": 1, "_read": read}.items():
        monkeypatch.setattr(baseline, name, value)


def test_a_reader_that_is_killed_leaves_its_files_to_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    save_many(monkeypatch, read_or_die)
    with orderly_endings():
        found = saved_sessions(Path(".benchmarks"), "many")
    assert [session.path.name[:4] for session in found] == [f"{number:04}" for number in range(1, 9)]


def read_interrupted(path: Path, layers: bool) -> SessionRecord:
    """What a reader does that gets Ctrl-C, which a terminal sends to all."""
    if os.getpid() != HERE:
        os.kill(os.getpid(), signal.SIGINT)
    return READ(path, layers)


def test_an_interrupt_of_many_sessions_is_one_of_this_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that it ended, while this process gave up, had the pool wait for the others for ever."""
    save_many(monkeypatch, read_interrupted)
    assert len(saved_sessions(Path(".benchmarks"), "many")) == 8
    assert not multiprocessing.active_children()
