"""The gate's word: what is printed counts, and nothing broken ends with status 0.

Each case ended with 0 once, or called something REGRESSED that was not.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import scenes
from tests.faults.table import Fault
from tests.saved import save, sessions
from trtgate import expectations
from trtgate.__main__ import main
from trtgate.kinds import UserError
from trtgate.outputs import require_outputs, write_output
from trtgate.records import EngineRecord, pack, unpack, verdict_to_json
from trtgate.report import markdown
from trtgate.verdict import Outcome, Reason, Verdict
from trtgate.verdict.answers import answers_of
from trtgate.verdict.metrics import BY_NAME, Limits, Metric, Pairing, Sample, decide
from trtgate.verdict.policy import holm

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def edit(path: str, **changes: Any) -> None:
    """Change fields of the first record of a saved session."""
    file = Path(".benchmarks/Linux") / path
    document = json.loads(file.read_text())
    document["benchmarks"][0]["extra_info"]["trtgate"].update(changes)
    file.write_text(json.dumps(document))


BOTH = ("pytorch-fp32", "onnxruntime-int8")


def compared(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Status and all that is printed."""
    status = main(["compare", "before", "after"])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


# Answers.

LOGITS = np.random.default_rng(0).normal(size=(240, 1000)).astype(np.float32)
PHOTOS = [f"{index}.jpg" for index in range(240)]


def answers(wrong: int) -> dict[str, Any]:
    """What a record keeps of answers of which the first `wrong` are not the reference's."""
    logits = LOGITS.copy()
    logits[np.arange(wrong), (logits[:wrong].argmax(1) + 1) % 1000] = 99.0
    return {
        "agreement": {"n": 240, "top1": 240 - wrong, "top5": 240, "low": 0.5},
        "answers": answers_of(PHOTOS, LOGITS, logits).to_json(),
    }


@pytest.mark.fault(
    done="240 photos of which 4, then 26 are not PyTorch's",
    said="answers: REGRESSED (answers_lost)",
    status="1",
    kept="both sides' sessions",
)
def test_answers_that_got_worse(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    sessions("before", 1, **answers(4))
    sessions("after", 6, **answers(26))
    status, text = compared(capsys)
    fault.check(status, text)
    assert status == 1
    assert "answers: REGRESSED (answers_lost)" in text


@pytest.mark.fault(
    done="agreement 236/240, then 214/240, photos not kept",
    said="236/240, then 214/240",
    status="1",
    kept="both sides' sessions",
)
def test_answers_of_sessions_that_kept_shares_only(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    sessions("before", 1, agreement={"n": 240, "top1": 236, "top5": 240, "low": 0.9})
    sessions("after", 6, agreement={"n": 240, "top1": 214, "top5": 240, "low": 0.8})
    status, text = compared(capsys)
    fault.check(status, text)
    assert status == 1
    assert "236/240, then 214/240" in text


@pytest.mark.fault(
    done="a classifier's logits with 24 dB less of SQNR than the baseline's, the first answers kept",
    said="answers: REGRESSED (answers_lost), SQNR of the logits went from 34.2 to 10.7 dB, 3 dB may be lost",
    status="1",
    kept="both sides' sessions",
)
def test_logits_that_became_noisier(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    agreed = {"n": 240, "top1": 240, "top5": 240, "low": 0.98, "cosine": 0.99}
    sessions("before", 1, agreement={**agreed, "sqnr_db": 34.2})
    sessions("after", 6, agreement={**agreed, "sqnr_db": 10.7})
    fault.check(*compared(capsys))
    sessions("alike", 11, agreement={**agreed, "sqnr_db": 32.0})
    assert main(["compare", "before", "alike"]) in {0, 6}
    capsys.readouterr()
    # Builds of one version that differ, on both sides alike; and logits that are finite now.
    for side, first in (("builds", 26), ("others", 36)):
        for number, decibels in enumerate((22.0, 26.0, 29.0)):
            save(first + number, side, agreement={**agreed, "sqnr_db": decibels})
    assert main(["compare", "builds", "others"]) in {0, 6}
    sessions("exact", 16, agreement={**agreed, "sqnr_db": None})
    sessions("close", 21, agreement={**agreed, "sqnr_db": 70.0})
    assert main(["compare", "exact", "close"]) in {0, 6}


def test_the_same_answers_pass(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, **answers(4))
    sessions("after", 6, **answers(4))
    assert compared(capsys)[0] == 0


@pytest.mark.fault(
    done="answers that the baseline has, not measured any more",
    said="answers: REGRESSED (missing), answers were kept before and are not now",
    status="1",
    kept="the table",
)
def test_answers_that_are_not_measured_any_more(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    sessions("before", 1, **answers(4))
    sessions("after", 6)
    fault.check(*compared(capsys))


@pytest.mark.fault(
    done="20 photos, of which one is lost: no proof of anything",
    said="answers: INCONCLUSIVE (too_few_images)",
    status="6",
    kept="the table",
)
def test_few_photos_prove_nothing(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    changed = LOGITS[:20].copy()
    changed[0, (changed[0].argmax() + 1) % 1000] = 99.0
    old, new = (answers_of(PHOTOS[:20], LOGITS[:20], each).to_json() for each in (LOGITS[:20], changed))
    sessions("before", 1, answers=old)
    sessions("after", 6, answers=new)
    fault.check(*compared(capsys))


@pytest.mark.fault(
    done="new sessions whose engine answered NaN in their own run",
    said="its own run failed: the engine's logits hold NaN or infinity",
    status="1",
    kept="the table",
)
def test_new_sessions_whose_own_run_failed(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    bad = Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, "the engine's logits hold NaN or infinity")
    sessions("before", 1)
    sessions("after", 6, summary={"unfit": [bad.message]}, verdicts=(bad,))
    status, text = compared(capsys)
    fault.check(status, text)
    assert status == 1
    assert "its own run failed" in text


@pytest.mark.fault(
    done="a run that ended with 7 (somebody else used the machine), saved and compared afterwards",
    said="INVALID (disturbed): its own run failed: other processes used 1.4 of the cores",
    status="7",
    kept="the table",
)
def test_a_run_that_was_invalid_is_no_regression_afterwards(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    bad = Verdict(Outcome.INVALID, Reason.DISTURBED, "other processes used 1.4 of the cores")
    summary = {"unfit": [bad.message], "decisions": [verdict_to_json(bad)]}
    sessions("before", 1)
    sessions("after", 6, summary=summary)
    fault.check(*compared(capsys))
    assert main(["compare", "after", "before"]) == 2, "and is no baseline"


def test_a_failure_that_is_called_well_is_one_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    good = Verdict(Outcome.PASS, Reason.WITHIN_DELTA, "bench/test_engines.py::test_plan failed")
    sessions("before", 1)
    sessions("after", 6, summary={"unfit": [good.message], "decisions": [verdict_to_json(good)]})
    assert compared(capsys)[0] == 1


@pytest.mark.parametrize("reason", ["the run was cut off", "--benchmark-only left the answers out"])
def test_a_run_that_left_something_out_is_no_baseline_and_no_pass(
    reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions("before", 1)
    sessions("after", 6, summary={"partial": [reason]})
    status, text = compared(capsys)
    assert (status, reason in text) == (7, True)
    assert main(["compare", "after", "before"]) == 2
    assert main(["promote", "after", "--to", "baselines/new"]) == 2
    assert not Path("baselines").exists()


# A baseline that does not agree with itself.


def answering(name: str, first: int, wrong: tuple[int, ...], *, shares_only: bool = False) -> None:
    for number, each in enumerate(wrong, first):
        kept = answers(each)
        save(number, name, **({"agreement": kept["agreement"]} if shares_only else kept))


@pytest.mark.parametrize("shares_only", [False, True])
@pytest.mark.parametrize("before", [(4, 4, 4, 4, 40), (40, 4, 4, 4, 4), (4, 4, 40, 40, 4)])
@pytest.mark.fault(
    done="a baseline of which one or two sessions lost 40 answers, and new sessions that lost them all",
    said="the old side does not agree with itself",
    status="1",
    kept="the table",
)
def test_a_bad_baseline_session_excuses_no_loss(
    before: tuple[int, ...], shares_only: bool, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    answering("before", 1, before, shares_only=shares_only)
    answering("after", 6, (40,) * 5, shares_only=shares_only)
    fault.check(*compared(capsys))


@pytest.mark.parametrize("shares_only", [False, True])
def test_one_new_session_that_lost_its_answers_is_enough(shares_only: bool, capsys: pytest.CaptureFixture[str]) -> None:
    answering("before", 1, (4,) * 5, shares_only=shares_only)
    answering("after", 6, (4, 4, 40, 4, 4), shares_only=shares_only)
    status, text = compared(capsys)
    assert (status, "does not agree with itself" in text) == (1, False)


@pytest.mark.parametrize("shares_only", [False, True])
def test_a_baseline_session_that_was_better_than_its_like_makes_no_loss(
    shares_only: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    answering("before", 1, (40, 40, 4, 40, 40), shares_only=shares_only)
    answering("after", 6, (40,) * 5, shares_only=shares_only)
    status, text = compared(capsys)
    assert (status, "does not agree with itself" in text) == (0, True)


def test_builds_that_answer_a_little_differently_pass(capsys: pytest.CaptureFixture[str]) -> None:
    answering("before", 1, (4, 5, 6, 5, 4))
    answering("after", 6, (5, 6, 4, 5, 6))
    assert compared(capsys)[0] == 0


# What was measured.


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"weights": "a" * 64}, {"weights": "b" * 64}),
        ({"evaluation photos": "a" * 64}, {"evaluation photos": "b" * 64}),
        ({"calibration photos": "a" * 64}, {"calibration photos": "b" * 64}),
    ],
)
@pytest.mark.fault(
    done="other weights, evaluation photos or calibration photos than the baseline's",
    said="INVALID (not_comparable) ... differ between the sides",
    status="7",
    kept="the table",
)
def test_other_weights_or_photos_cannot_be_compared(
    old: Any, new: Any, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    sessions("before", 1, digests=old)
    sessions("after", 6, digests=new)
    status, text = compared(capsys)
    fault.check(status, text)
    assert f"{next(iter(old))} differ" in text


@pytest.mark.parametrize(
    "changes", [{"threads": 99}, {"device": "cuda"}, {"cpu_features": ["avx2"]}, {"cpu_quota": 0.5}]
)
@pytest.mark.fault(
    done="another number of threads, device, instruction set or CPU quota, or one that a side does not tell",
    said="INVALID (not_comparable) ... differs ... the sides cannot be compared",
    status="7",
    kept="the table",
)
@pytest.mark.parametrize("before", [{"threads": 2, "device": "cpu", "cpu_features": [], "cpu_quota": 2.0}, None])
def test_other_settings_cannot_be_compared(
    changes: dict[str, Any], before: dict[str, Any] | None, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    for old, new in ((before, changes), (changes, before)):
        shutil.rmtree(".benchmarks", ignore_errors=True)
        # None: the other side does not tell.
        sessions("before", 1, changes=dict.fromkeys(changes) if old is None else old)
        sessions("after", 6, changes={**(before or {}), **(dict.fromkeys(changes) if new is None else new)})
        status, text = compared(capsys)
        fault.check(status, text)
        assert f"{next(iter(changes))} differs" in text


@pytest.mark.parametrize(("lacks", "said"), [(None, "cpu, machine, "), ("threads", "threads:")])
@pytest.mark.fault(
    done="two sessions of which neither tells what it was measured on, or with how many threads",
    said="INVALID (not_comparable) ... neither side tells its ...: whether they can be compared is not known",
    status="7",
    kept="the table",
)
def test_what_neither_side_tells_is_not_taken_for_the_same(
    lacks: str | None, said: str, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    sessions("before", 1)
    sessions("after", 6)
    for path in Path(".benchmarks").glob("**/*.json"):
        document = json.loads(path.read_text())
        told = document["machine_info"]["trtgate"]
        document["machine_info"]["trtgate"] = {name: told[name] for name in told if lacks not in {None, name}}
        path.write_text(json.dumps(document))
    status, text = compared(capsys)
    fault.check(status, text)
    assert f"neither side tells its {said}" in text


def test_settings_that_the_first_schema_did_not_keep_are_not_known() -> None:
    sessions("before", 1, changes={"threads": None, "cpu_features": None}, summary={"schema": 1})
    sessions("after", 6)
    for number in range(1, 6):
        edit(
            f"{number:04}_before.json", schema=1, rounds=[1e-3 * (1 + 1e-4 * number)] * 15, reference_rounds=[4e-3] * 15
        )
    assert main(["compare", "before", "after"]) == 0


@pytest.mark.fault(
    done="the end-to-end series missing in one new session of five",
    said="end to end: REGRESSED (missing), end_to_end is missing in 1 of 5",
    status="1",
    kept="the other metrics' verdicts",
)
def test_a_series_that_one_new_session_lacks(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    sessions("before", 1, series={"end_to_end": (2e-3,) * 15})
    sessions("after", 6, series={"end_to_end": (2e-3,) * 15})
    document = json.loads(Path(".benchmarks/Linux/0007_after.json").read_text())
    series = dict(document["benchmarks"][0]["extra_info"]["trtgate"]["series"])
    del series["end_to_end"]
    edit("0007_after.json", series=series)
    status, text = compared(capsys)
    fault.check(status, text)
    assert status == 1
    assert "end to end: REGRESSED (missing), end_to_end is missing in 1 of 5" in text


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("device_memory", 1e9, 1.2e9),
        ("host_memory", 1e9, 1.2e9),
        ("cold_start", 1.0, 2.0),
        ("plan_bytes", 50e6, 60e6),
        ("throughput", 1000.0, 800.0),
        ("typical", 1.1e-3, 1.4e-3),
    ],
)
def test_every_metric_is_gated(name: str, old: float, new: float, capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, series={name: (old,)})
    sessions("after", 6, series={name: (new,)})
    status, text = compared(capsys)
    assert status == 1
    assert f"{name.replace('_', ' ')}: REGRESSED" in text


@pytest.mark.fault(
    done="30 % more cycles under a clock that rose from 1410 to 1980 MHz",
    said="cycles: REGRESSED",
    status="1",
    kept="the table",
)
def test_a_clock_that_rose_hides_no_cycles(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    sessions("before", 1, clock=1410.0)
    sessions("after", 6, engine=1e-3 * 1.3 * 1410 / 1980, clock=1980.0)
    status, text = compared(capsys)
    fault.check(status, text)
    assert status == 1
    assert "cycles: REGRESSED" in text


@pytest.mark.parametrize(
    ("engine", "controls", "status"),
    [
        # What is bound by memory takes as long as before: nothing is wrong.
        (1e-3, {}, 0),
        (1e-3, {"control-matmul": 1e-3}, 0),
        # What follows the clock, as fixed work or the engine itself shows, must not take more cycles.
        (1e-3, {"control-matmul": 1e-3 * 1410 / 1980}, 1),
        (1e-3 * 1.3 * 1410 / 1980, {}, 1),
        (1e-3 * 1410 / 1980, {}, 0),
        (1.2e-3, {}, 1),
    ],
)
def test_cycles_count_where_the_work_follows_the_clock(
    engine: float, controls: dict[str, float], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions("before", 1, clock=1410.0, controls=dict.fromkeys(controls, 0.001))
    sessions("after", 6, engine=engine, clock=1980.0, controls=controls)
    found, text = compared(capsys)
    assert found == status
    assert "clock 1410 -> 1980 MHz, cycles" in text


@pytest.mark.parametrize(
    ("matmul", "engine", "status"),
    [
        (1.0, 1e-3, 7),  # whether the engine was held back by memory, or by the stack, fixed work does not tell
        (0.99, 1e-3, 7),
        (1 / 1.03, 1e-3, 1),
        (1.0, 0.98e-3, 0),
        (1.0, 1.03e-3, 1),  # by its latency
    ],
)
def test_a_clock_that_nothing_follows_is_no_regression(
    matmul: float, engine: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.toml").write_text("[default]\ndelta = 0.02\n")
    sessions("before", 1, clock=1920.0, controls={"control-matmul": 1e-3})
    sessions("after", 6, engine=engine, clock=1920.0 * 1.03, controls={"control-matmul": 1e-3 * matmul})
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) == status
    told = "the clock changed by +3.0% and control-matmul by"
    assert (told in capsys.readouterr().out) == (matmul > 0.98 and engine > 0.98e-3)


@pytest.mark.fault(
    done="a limit that changed since the baseline",
    said="expectations changed: ... delta: 0.02 -> 0.05",
    status="0",
    kept="everything",
)
def test_limits_that_changed_are_printed(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    sessions("before", 1, limits={"delta": 0.02})
    sessions("after", 6)
    fault.check(*compared(capsys))


def test_an_engine_that_one_new_session_of_six_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    both = ("onnxruntime-int8", "openvino-int8")
    sessions("before", 1, engines=both)
    sessions("after", 6, engines=both)
    save(11, "after", engines=both[:1])
    status, text = compared(capsys)
    assert status == 1
    assert "MISSING: resnet50 openvino-int8 batch 1: not in 1 of 6 sessions" in text


def test_controls_that_one_session_lacks_count_for_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, controls={"control-matmul": 1e-3})
    sessions("after", 6, controls={"control-matmul": 1.5e-3})
    edit("0007_after.json", controls={})
    assert compared(capsys)[0] == 7


def test_digests_of_one_side_only_compare_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, digests={"weights": "a" * 64})
    sessions("after", 6, digests={"evaluation photos": "a" * 64})
    assert compared(capsys)[0] == 7


def test_a_baseline_whose_own_verdicts_are_bad(capsys: pytest.CaptureFixture[str]) -> None:
    bad = Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, "speedup 1.0 is below the floor")
    sessions("before", 1, verdicts=(bad,))
    sessions("after", 6)
    assert compared(capsys)[0] == 2


def test_the_reference_alone_is_no_pass_either(capsys: pytest.CaptureFixture[str]) -> None:
    save(1, "before", engines=("pytorch-fp32",))
    save(2, "after", engines=("pytorch-fp32",), engine=1.13e-3)
    assert compared(capsys)[0] == 6


@pytest.mark.parametrize("changes", [{"complete": False}, {"disturbed": "another process used the GPU"}])
def test_a_disturbed_session_is_no_baseline(changes: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, **changes)
    assert main(["promote", "before", "--to", "baselines/new"]) == 2


def test_a_link_that_leads_nowhere_is_told_to_whom_it_concerns(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6)
    Path(".benchmarks/Linux/0050_other.json").symlink_to("nowhere")
    assert compared(capsys)[0] == 0
    Path(".benchmarks/Linux/0051_after.json").symlink_to("nowhere")
    assert compared(capsys)[0] == 2


def test_one_more_metric_is_one_entry(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def jitter(sample: Sample) -> Any:
        blocks = sample.blocks.get("latency", ())
        return np.array([np.subtract(*np.percentile(np.concatenate(blocks), [75, 25]))]) if blocks else np.empty(0)

    more = Metric("jitter", "s", "interquartile range", jitter, "jitter", 0.5, rule="number", least=20e-6)
    monkeypatch.setattr("trtgate.compare.METRICS", (more,))
    monkeypatch.setattr("trtgate.verdict.metrics.METRICS", (more,))
    monkeypatch.setitem(expectations.KEYS, "jitter", expectations.Range(0.5, 0.001, 1.0))  # type: ignore[arg-type]
    calm = [1e-3 * (1 + 0.01 * np.arange(20)) for _ in range(15)]
    sessions("before", 1, iterations={"latency": pack(calm)})
    sessions("after", 6, iterations={"latency": pack([1e-3 + 2 * (block - 1e-3) for block in calm])})
    status, text = compared(capsys)
    assert status == 1
    assert "jitter: REGRESSED (slower), slower by +100.0%" in text


@pytest.mark.parametrize(("old", "new"), [(("openvino-int8",), ("onnxruntime-int8",)), (BOTH, BOTH[:1])])
@pytest.mark.fault(
    done='`acknowledged_missing = ["*"]`, and no engine, or PyTorch alone, that both sides have',
    said="was compared, so no upgrade was judged",
    status="7",
    kept="the table",
)
def test_everything_missing_and_acknowledged_is_no_pass(
    old: Any, new: Any, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    Path("mine.toml").write_text('acknowledged_missing = ["*"]')
    sessions("before", 1, engines=old)
    sessions("after", 6, engines=new)
    status = main(["compare", "before", "after", "--expectations", "mine.toml", "--json", "out.json"])
    fault.check(status, capsys.readouterr().out)
    assert json.loads(Path("out.json").read_text())["problems"]


def test_what_is_missing_may_be_acknowledged_beside_what_was_compared() -> None:
    Path("mine.toml").write_text('acknowledged_missing = ["* openvino-*"]')
    sessions("before", 1, engines=("onnxruntime-int8", "openvino-int8"))
    sessions("after", 6)
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) == 0


# Which sessions count.


@pytest.mark.fault(
    done="one saved session copied five times",
    said="hold the same session; one session counts once",
    status="2",
    kept="all files",
)
def test_a_session_counts_once(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    save(1, "before")
    for number in range(2, 6):
        shutil.copy(".benchmarks/Linux/0001_before.json", f".benchmarks/Linux/{number:04}_before.json")
    sessions("after", 6)
    status, text = compared(capsys)
    fault.check(status, text)
    assert status == 2
    assert "one session counts once" in text
    assert main(["compare", "after", "after"]) == 2


@pytest.mark.fault(
    done="a name that sessions of two drivers share",
    said="are of different stacks (driver",
    status="2",
    kept="all files",
)
def test_a_name_of_two_stacks(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    sessions("before", 1)
    sessions("after", 6)
    save(11, "after", changes={"driver": "580.1"})
    status, text = compared(capsys)
    fault.check(status, text)
    assert status == 2
    assert "driver" in text


@pytest.mark.fault(
    done="a session with an engine twice",
    said="holds an engine twice",
    status="2",
    kept="all files",
)
def test_an_engine_that_a_session_holds_twice(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    sessions("before", 1, engines=("onnxruntime-int8", "onnxruntime-int8"))
    sessions("after", 6)
    status, text = compared(capsys)
    fault.check(status, text)
    assert status == 2
    assert "twice" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"series": {"latency": [1e-3, -1.0], "reference_latency": [1e-3, 1e-3]}},
        {"series": {"latency": [1e-3, "fast"], "reference_latency": [1e-3, 1e-3]}},
        {"series": {"latency": [1e-3, None], "reference_latency": [1e-3, 1e-3]}},
        {"series": {"latency": [1e-3, float("nan")], "reference_latency": [1e-3, 1e-3]}},
        {"series": {"latency": [0.0], "reference_latency": [1e-3]}},
        {"series": None},
        {"complete": "no"},
        {"series": {"latency": [1e-320], "reference_latency": [1e-3]}},
        {"readings": {"clock_mhz": -1410}},
        {"agreement": {"n": 240}},
        {"iterations": {"latency": {"lengths": [], "float32": ""}}},
        {"batch": 0},
        {"batch": True},
        {"model": ["resnet50"]},
        {"model": "resnet50\x1b[31m"},
        {"readings": {"clock_mhz": "fast"}},
        {"controls": {"control-copy": 0}},
        {"agreement": {"n": 240, "top1": 241}},
        {"answers": {"photos": 3}},
        {"iterations": {"latency": {"lengths": [3], "float32": "!"}}},
        {"decisions": [{"verdict": "FINE", "reason": "slower", "message": ""}]},
        {"warnings": "all well"},
        {"engine": "o" * 300},
        {"engine": ""},
        {"model": "resnet50\nall well"},
        {"layer_times": {"conv1": {"ms": 0.4, "type": "int8", "nodes": [["conv1"]]}}},
        {"layer_times": {"conv1": {"ms": 0.4, "type": "int8", "nodes": 3}}},
        {"layer_times": {"conv1": {"ms": 0.4, "type": "int8", "nodes": {"conv1": 1}}}},
        {"layer_times": {"conv1": {"ms": -0.4, "type": "int8"}}},
        {"layer_times": {"conv1": {"ms": 0.4, "type": "\x1b[2J"}}},
        {"iterations": {"latency": pack([np.full(20, 2e-3)] * 15)}},
        {"iterations": {"latency": pack([np.full(20, 1e-3)] * 3)}},
        {"iterations": {"latency": 3}},
        {"plan": {"tactic": "\x1b[2J"}},
        {"accuracy": {"n": 240, "engine_top1": 200, "note": "\x1b[2J"}},
        {"agreement": {"n": 240, "top1": 240, "finite": "yes"}},
        {"digests": {"weights\x1b[2J": "a"}},
        {"decisions": [{"verdict": "PASS", "reason": "slower", "message": "", "estimate": -1.0}]},
    ],
)
@pytest.mark.fault(
    done="a record with a NaN, a text for a number, a negative time, a wrong type",
    said="0007_after.json is damaged",
    status="2",
    kept="all files",
)
def test_what_no_run_can_have_written(
    changes: dict[str, Any], capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    sessions("before", 1)
    sessions("after", 6)
    edit("0007_after.json", **changes)
    status, text = compared(capsys)
    fault.check(status, text)
    assert status == 2
    assert "0007_after.json" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("text", ['{"benchmarks": [], "machine_info": {}, "trtgate": {"unfit": null}}', "[" * 100000])
def test_a_file_that_is_no_session(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6)
    Path(".benchmarks/Linux/0007_after.json").write_text(text)
    status, said = compared(capsys)
    assert status == 2
    assert "0007_after.json" in said


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d["machine_info"]["trtgate"].update(cpu="\x1b[2J"),
        lambda d: d["machine_info"]["trtgate"].update({"\x1b[2J": "1"}),
        lambda d: d["machine_info"]["trtgate"].update(cpu_features=["avx2\x1b[2J"]),
        lambda d: d["machine_info"]["trtgate"].update(driver={"a": ["\n580.1"]}),
        lambda d: d["machine_info"]["trtgate"].update(threads=float("nan")),
        lambda d: d["trtgate"].update(skipped={"resnet50\x1b[2J": "gone"}),
        lambda d: d.update(datetime="\x1b[2J"),
    ],
)
def test_what_a_session_says_of_itself_is_checked_too(spoil: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6)
    for number in range(6, 11):
        file = Path(f".benchmarks/Linux/{number:04}_after.json")
        document = json.loads(file.read_text())
        spoil(document)
        file.write_text(json.dumps(document))
    status, text = compared(capsys)
    assert (status, "is damaged" in text, "\x1b" in text) == (2, True, False)


def test_a_name_that_a_session_has_twice(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6)
    file = Path(".benchmarks/Linux/0007_after.json")
    file.write_text(file.read_text().replace('"complete": true', '"complete": false, "complete": true'))
    assert compared(capsys)[0] == 2


def test_names_that_just_fit_leave_the_table_whole(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, engines=("o" * 100,))
    sessions("after", 6, engines=("o" * 100,))
    status, text = compared(capsys)
    assert status == 0
    assert any(line.endswith(" PASS") for line in text.splitlines())


def test_answers_that_are_not_finite_any_more(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, agreement={"n": 240, "top1": 236, "finite": True})
    sessions("after", 6, agreement={"n": 240, "top1": 236, "finite": False, "cosine": None})
    status, text = compared(capsys)
    assert (status, "NaN or infinity" in text) == (1, True)
    assert main(["compare", "after", "before"]) == 2
    assert main(["promote", "after", "--to", "baselines/new"]) == 2


def test_a_name_with_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, engines=("[/x]onnx",))
    sessions("after", 6, engines=("[/x]onnx",))
    status, text = compared(capsys)
    assert status == 0
    assert "[/x]onnx" in text


# Names that may mean two things.


def folder(name: str) -> None:
    sessions("other", 21)
    Path(".benchmarks/Linux").rename(name)
    sessions("before", 1)
    sessions("after", 6)


def numbered(name: str) -> None:
    sessions("before", 1)
    sessions("after", 6)
    save(12, name)


def elsewhere(name: str) -> None:
    sessions("before", 1)
    sessions("after", 6)
    shutil.copytree(".benchmarks/Linux", ".benchmarks/Windows")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (folder, "before"),
        (lambda name: sessions("before", 1) or sessions("after", 6) or Path(name).touch(), "before"),
        (lambda name: sessions("before", 1) or sessions("after", 6) or Path(name).symlink_to("nowhere"), "before"),
        (numbered, "0001"),
        (numbered, "0001_before"),
        (elsewhere, "0001"),
        (elsewhere, "0001_before.json"),
    ],
)
@pytest.mark.fault(
    done="a name that a folder and saved sessions share, or that is another session's number",
    said="may be ... or ...; give",
    status="2",
    kept="all files",
)
def test_a_name_that_may_mean_two_things(
    make: Any, name: str, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    make(name)
    status = main(["compare", name, "after"])
    fault.check(status, capsys.readouterr().err)
    assert main(["compare", "after", name]) == 2


def test_a_name_that_means_two_things_can_still_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    folder("before")
    assert main(["compare", "./before", "after"]) == 0
    numbered("0003")
    assert main(["compare", ".benchmarks/Linux/0003_before.json", "after"]) == 6
    assert main(["compare", "./nowhere", "after"]) == 2
    assert "./nowhere does not exist" in capsys.readouterr().err


# Standard output.


def in_a_process(*command: str, shell: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """A command's end, with its standard output put elsewhere by a shell."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shlex.join([sys.executable, *command])} {shell}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("shell", "unbuffered", "status"),
    [("| true", "1", 0), ("| true", "", 0), (">/dev/full", "1", 2), (">/dev/full", "", 2), (">&-", "", 2)],
)
@pytest.mark.fault(
    done="standard output of `compare` closed, or on a full disk; `| true`",
    said="standard output ...; ",
    status="2 or 0",
    kept="the verdict's own status where a reader left, and a regression's always",
)
def test_standard_output_that_cannot_be_written(shell: str, status: int, unbuffered: str, fault: Fault) -> None:
    sessions("before", 1)
    sessions("after", 6)
    done = in_a_process("-m", "trtgate", "compare", "before", "after", shell=shell, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1 if status else 0), done.stderr
    if status:
        fault.check(done.returncode, done.stderr)


def test_a_regression_is_one_wherever_it_is_told() -> None:
    sessions("before", 1)
    sessions("after", 6, engine=2e-3)
    for shell in (">/dev/full", "| true"):
        assert in_a_process("-m", "trtgate", "compare", "before", "after", shell=shell).returncode == 1


def test_names_that_standard_output_has_no_characters_for_are_escaped() -> None:
    sessions("before", 1, engines=("öpenvino-int8",))
    sessions("after", 6, engines=("öpenvino-int8",))
    done = in_a_process("-m", "trtgate", "compare", "before", "after", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xf6penvino-int8" in done.stdout


READ = """
import sys
from trtgate.__main__ import main
assert main(["compare", "before", "after"]) == 0
print({"torch", "torchvision", "cv2", "onnx", "onnxruntime", "openvino", "scipy", "jinja2"} & sys.modules.keys())
"""


def test_what_only_reads_sessions_imports_no_runtime() -> None:
    sessions("before", 1)
    sessions("after", 6)
    done = in_a_process("-c", READ)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "set()"


# Files that a command writes.

OUTPUTS = [
    ["--json", ".benchmarks/Linux/0001_before.json"],
    ["--markdown", ".benchmarks/Linux/0001_before.json"],
    ["--json", "mine.toml"],
    ["--markdown", "mine.toml"],
    ["--json", "baseline/0001_base.json"],
    ["--json", "baseline/0077_new.json"],
    ["--json", "notes.json"],
    ["--markdown", "README.md"],
    ["--json", "out", "--markdown", "out"],
    ["--json", "out", "--markdown", "./nothing/../out"],
    ["--json", "baseline"],
    ["--json", "nowhere/out.json"],
    ["--json", "link.json"],
    ["--json", "dangling.json"],
    ["--markdown", "/dev/full"],
    ["--json", "x" * 300],
    ["--markdown", ""],
]


@pytest.mark.parametrize("options", OUTPUTS)
@pytest.mark.fault(
    done="`--json` or `--markdown` on a session, a baseline, expectations.toml, the other's file, a link, a device",
    said="trtgate: --",
    status="2",
    kept="all files; nothing is measured",
)
def test_nothing_is_overwritten_but_what_was_written_so(
    options: list[str], capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    sessions("before", 1)
    sessions("after", 6)
    Path("mine.toml").write_text("[default]\n")
    Path("README.md").write_text("# Mine\n")
    Path("notes.json").write_text('{"mine": 1}')
    for name in ("baseline", "nothing"):
        Path(name).mkdir()
    shutil.copy(".benchmarks/Linux/0001_before.json", "baseline/0001_base.json")
    Path("link.json").symlink_to("notes.json")
    Path("dangling.json").symlink_to("nowhere.json")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    fault.check(main(["compare", "before", "after", "--expectations", "mine.toml", *options]), capsys.readouterr().err)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("engine", "status"), [(1e-3, 2), (2e-3, 1)])
@pytest.mark.parametrize("option", ["--json", "--markdown", "--html"])
@pytest.mark.fault(
    done="the disk full when `compare`, `ab`, `bisect` or `selftest` write `--json`, `--markdown` or `--html`",
    said="could not be written (No space left on device); what it was to hold is in",
    status="2 or 1",
    kept="the table, and the file in the temporary directory; a regression stays one",
)
def test_a_file_that_cannot_be_written_in_the_end(
    option: str,
    engine: float,
    status: int,
    full_disk: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    sessions("before", 1)
    sessions("after", 6, engine=engine)
    monkeypatch.setenv(markdown.SUMMARY_VARIABLE, "summary.md")
    others = [f"--{kind}=out.{kind}" for kind in ("markdown", "html") if option != f"--{kind}"]
    found = main(["compare", "before", "after", option, str(full_disk / "out"), *others])
    printed = capsys.readouterr()
    fault.check(found, printed.err)
    assert found == status
    assert "onnxruntime-int8" in printed.out
    # Nothing that people look at says that all is well.
    for text in (printed.out, *(path.read_text() for path in (Path("summary.md"), *Path().glob("out.*")))):
        assert "may go on" not in text
        assert status == 1 or f"1 PASS; {option} could not be written" in " ".join(text.split())
    [kept] = re.findall(r"is in (\S+)", printed.err)
    assert "onnxruntime-int8" in Path(kept).read_text()
    assert [path.name for path in full_disk.iterdir()] == ["full"]
    shutil.rmtree(Path(kept).parent)


def test_two_commands_may_write_one_file_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def after_another(part: Path, path: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        write_output("--json", path, "theirs")
        return replace(part, path)

    monkeypatch.setattr(Path, "replace", after_another)
    write_output("--json", Path("out.json"), "ours")
    assert {path.name: path.read_text() for path in Path().iterdir()} == {"out.json": "ours"}


def test_a_file_in_a_folder_that_cannot_be_written_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("out.md").touch()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).is_file())
    with pytest.raises(UserError, match="writable"):
        require_outputs({"--markdown": Path("out.md")})


def test_what_was_raced_is_kept_where_the_disk_is_full(
    full_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trtgate.commands.ab.run_ab", lambda *_, **__: scenes.raced())
    sides = [f"--old={sys.executable}", f"--new={sys.executable}", "--device=cpu", "--plan-cache=plans"]
    assert main(["ab", *sides, "--json", str(full_disk / "ab.json")]) == 1
    printed = capsys.readouterr()
    assert "REGRESSED" in printed.out
    [kept] = re.findall(r"is in (\S+)", printed.err)
    assert json.loads(Path(kept).read_text())["engines"]
    shutil.rmtree(Path(kept).parent)


@pytest.mark.fault(
    done="Ctrl-C in `ab`, when it has raced some of its engines or batch sizes",
    said="old against new: ...; next: ... trtgate: interrupted",
    status="130",
    kept="what was decided until then, in the files that were asked for too (of a killed one in that of --json); what "
    "was not raced is INVALID there",
)
def test_what_was_raced_is_kept_where_the_rest_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    def interrupted(*_: object, **given: Any) -> None:
        given["keep"](scenes.raced())
        assert json.loads(Path("ab.json").read_text())["engines"], "it may be killed, too"
        raise KeyboardInterrupt

    monkeypatch.setattr("trtgate.commands.ab.run_ab", interrupted)
    sides = [f"--old={sys.executable}", f"--new={sys.executable}", "--device=cpu", "--plan-cache=plans"]
    status = main(["ab", *sides, "--json", "ab.json", "--markdown", "ab.md", "--html", "ab.html"])
    printed = capsys.readouterr()
    fault.check(status, printed.out + printed.err)
    assert json.loads(Path("ab.json").read_text())["engines"]
    assert all(scenes.raced().results[0].comparison.key[1] in Path(f"ab.{kind}").read_text() for kind in ("md", "html"))


@pytest.mark.parametrize("broken", ["cv2", "torch"])
@pytest.mark.fault(
    done="`compare --html` where OpenCV or PyTorch, with which photos are shown there, cannot be imported",
    said="1 REGRESSED",
    status="1",
    kept="the verdict, and the page without photos",
)
def test_what_pictures_need_is_not_what_a_verdict_needs(
    broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    def crops() -> None:
        raise ImportError("libcudnn.so.9: cannot open")

    sessions("before", 1)
    sessions("after", 6, engine=2e-3)
    if broken == "cv2":
        monkeypatch.setattr("trtgate.thumbnails._crops", crops)
    else:
        monkeypatch.setitem(sys.modules, "trtgate.thumbnails", None)
    status = main(["compare", "before", "after", "--html", "out.html", "--json", "out.json"])
    printed = capsys.readouterr()
    fault.check(status, printed.out)
    assert ("--html shows no photos" in printed.err) == (broken == "torch")
    assert "REGRESSED" in Path("out.html").read_text()
    assert Path("out.json").is_file()


def test_a_commands_own_files_are_overwritten() -> None:
    sessions("before", 1)
    sessions("after", 6)
    Path("empty.md").touch()
    for _ in range(2):
        assert main(["compare", "before", "after", "--json", "out.json", "--markdown", "empty.md"]) == 0
    assert main(["compare", "before", "after", "--json", "empty.md"]) == 2


# The machine.


@pytest.mark.fault(
    done="another process on the GPU during the new sessions",
    said="another process used 25 % of the GPU",
    status="7",
    kept="the table",
)
def test_a_neighbour_makes_a_comparison_invalid(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    sessions("before", 1)
    sessions("after", 6, engine=1.2e-3, disturbed="another process used 25 % of the GPU")
    status, text = compared(capsys)
    fault.check(status, text)
    assert status == 7
    assert "another process used 25 % of the GPU" in text


@pytest.mark.parametrize("name", ["control-matmul", "control-copy (mean)"])
@pytest.mark.fault(
    done="fixed work raced along takes 50 % longer",
    said="so the machine did; measure both sides on it as it is",
    status="7",
    kept="the table",
)
def test_fixed_work_that_changed_makes_a_comparison_invalid(
    name: str, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    sessions("before", 1, controls={name: 1e-3})
    sessions("after", 6, engine=0.7e-3, controls={name: 1.5e-3})
    fault.check(*compared(capsys))


# What is no regression of the engine.


@pytest.mark.parametrize("reference", [2.8e-3, 3.7e-3])
@pytest.mark.fault(
    done="PyTorch itself 8 or 30 % faster, the engine as fast as before",
    said="(printed, not gated); engine -0.4%, reference -",
    status="0",
    kept="everything",
)
def test_a_faster_reference_fails_no_engine(reference: float, capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    sessions("before", 1, engine=0.954e-3)
    sessions("after", 6, engine=0.95e-3, reference=reference)
    fault.check(*compared(capsys))


def test_a_faster_reference_fails_where_the_file_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text("[default]\nspeedup_delta = 0.05\n")
    sessions("before", 1)
    sessions("after", 6, reference=3.5e-3)
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) == 1
    assert "speedup: REGRESSED" in capsys.readouterr().out


@pytest.mark.fault(
    done="one session against one, 80 % slower, with no `process_spread` in expectations.toml",
    said="INCONCLUSIVE (underpowered)",
    status="6",
    kept="the table",
)
def test_one_session_against_one_needs_a_spread_to_show_anything(
    capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    Path("mine.toml").write_text("[default]\n")
    save(1, "before")
    save(2, "after", engine=1.8e-3)
    fault.check(main(["compare", "before", "after", "--expectations", "mine.toml"]), capsys.readouterr().out)
    assert compared(capsys)[0] == 1, "the shipped file says what two processes may differ by"


def test_processes_that_differ_are_no_regression() -> None:
    """One against one, nothing changed, processes that differ by 1.8 %, at delta 2 %."""
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(2000):
        old, new = (Sample({"latency": np.full(15, 1e-3 * np.exp(generator.normal(0, 0.018)))}, {}) for _ in range(2))
        found = decide(BY_NAME["latency"], [old], [new], Limits(0.02, 2e-6, 0.03), "sessions")
        assert found is not None
        wrong += found.outcome is Outcome.REGRESSED
    assert wrong <= 2


# Slowdowns that leave the fastest calls alone.

SLOWDOWNS = {
    "every second call +40 %": (0.5, 1.4),
    "60 % of the calls +20 %": (0.6, 1.2),
    "90 % of the calls +50 %": (0.9, 1.5),
    "45 % of the calls twice as long": (0.45, 2.0),
    "2 % of the calls twice as long": (0.02, 2.0),
    "8 % of the calls three times as long": (0.08, 3.0),
    "30 % of the calls +40 %": (0.3, 1.4),
    "5 % of the calls four times as long": (0.05, 4.0),
}


def process(
    generator: np.random.Generator,
    share: float,
    factor: float,
    statistic: str,
    noise: float = 0.02,
    rounds: int = 15,
    calls: int = 50,
) -> Sample:
    """15 rounds of 50 calls around 2 ms in one process, a share of them slower."""
    from trtgate.verdict.shape import by_block

    own = 2e-3 * np.exp(generator.normal(0, 0.005))
    blocks = []
    for _ in range(rounds):
        block = own * np.exp(np.abs(generator.normal(0, noise, calls)))
        block[generator.random(calls) < share] *= factor
        blocks.append(block)
    series = {"latency": by_block(blocks, statistic), "typical": by_block(blocks, "midmean")}
    return Sample(series, {"latency": blocks})


def caught(name: str, statistic: str, pairing: Pairing, counts: tuple[int, int], **shape: Any) -> int:
    """How many of 20 comparisons of so many processes are REGRESSED by a slowdown; none of them passes."""
    share, factor = SLOWDOWNS[name]
    generator = np.random.default_rng(0)
    regressed = 0
    for _ in range(20):
        old, new = (
            [process(generator, some, factor, statistic, **shape) for _ in range(count)]
            for some, count in zip((0.0, share), counts, strict=True)
        )
        found = [
            decide(BY_NAME[metric], old, new, Limits(BY_NAME[metric].delta, 2e-6), pairing)
            for metric in ("latency", "typical", "tail")
        ]
        outcomes = {each.outcome for each in found if each is not None}
        assert outcomes & {Outcome.REGRESSED, Outcome.INCONCLUSIVE}
        regressed += Outcome.REGRESSED in outcomes
    return regressed


@pytest.mark.fault(
    done="slowdowns that leave the fastest calls alone: of every second call, of 2 % of them, and others between",
    said="",
    status="-",
    kept="REGRESSED in 19 of 20, PASS in none",
)
@pytest.mark.parametrize("statistic", ["minimum", "median"])
@pytest.mark.parametrize("name", SLOWDOWNS)
def test_no_slowdown_hides(name: str, statistic: str) -> None:
    assert caught(name, statistic, "sessions", (5, 5)) >= 19


@pytest.mark.parametrize("name", SLOWDOWNS)
def test_no_slowdown_hides_from_short_processes(name: str) -> None:
    """Of 42 calls each, whose slowest differ from process to process by 12 % and more."""
    found = caught(name, "minimum", "processes", (8, 16), noise=0.1, rounds=3, calls=14)
    assert found >= (5 if SLOWDOWNS[name][0] == 0.02 else 19)


def test_the_tails_of_short_processes_pass() -> None:
    metric = BY_NAME["tail"]
    generator = np.random.default_rng(2)
    outcomes = Counter[Outcome]()
    for _ in range(40):
        old, new = (
            [process(generator, 0.0, 1.0, "minimum", noise=0.15, rounds=3, calls=14) for _ in range(count)]
            for count in (8, 16)
        )
        found = decide(metric, old, new, Limits(metric.delta, 2e-6), "processes")
        assert found is not None
        outcomes[found.outcome] += 1
    assert outcomes[Outcome.PASS] >= 36, outcomes


@pytest.mark.parametrize(
    ("slow", "of", "outcome"),
    [
        (0, 8, Outcome.PASS),
        (1, 8, Outcome.INCONCLUSIVE),  # bad luck or a part of the processes: as many again tell
        (1, 16, Outcome.PASS),
        (2, 16, Outcome.INCONCLUSIVE),
        (1, 6, Outcome.INCONCLUSIVE),
    ],
)
def test_a_stall_in_one_of_few_processes_is_looked_at_again(slow: int, of: int, outcome: Outcome) -> None:
    metric = BY_NAME["tail"]

    def sides(count: int, stalled: int) -> list[Sample]:
        tails = [(3.6e-3 if index < stalled else 1.2e-3) * (1 + 0.02 * (index % 5)) for index in range(count)]
        return [Sample({"typical": np.array([1e-3]), "tail": np.array([tail])}, {}) for tail in tails]

    found = decide(metric, sides(min(of, 8), 0), sides(of, slow), Limits(metric.delta, 2e-6), "processes")
    assert found is not None
    assert found.outcome is outcome, str(found)


def test_a_stall_hides_behind_no_tail_of_its_machine() -> None:
    """Where the slowest calls take 1.4 times as long as the typical one, as on two loud cores of a Xeon."""
    metric = BY_NAME["tail"]
    generator = np.random.default_rng(0)
    outcomes = Counter[Outcome]()
    for _ in range(40):
        old = [process(generator, 0.0, 1.0, "minimum", noise=0.2) for _ in range(5)]
        new = [process(generator, 0.02, 2.0, "minimum", noise=0.2) for _ in range(5)]
        found = decide(metric, old, new, Limits(metric.delta, 2e-6), "sessions")
        assert found is not None
        outcomes[found.outcome] += 1
    assert outcomes[Outcome.PASS] == 0
    assert outcomes[Outcome.REGRESSED] >= 20


def test_nothing_slower_passes() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        old, new = ([process(generator, 0.0, 1.0, "minimum") for _ in range(5)] for _ in range(2))
        for metric in ("latency", "typical", "tail"):
            found = decide(BY_NAME[metric], old, new, Limits(BY_NAME[metric].delta, 2e-6), "sessions")
            assert found is not None
            assert found.outcome is Outcome.PASS, (metric, str(found))


# Many verdicts.


def test_of_many_verdicts_some_would_say_regressed_by_chance() -> None:
    alarm = Verdict(Outcome.REGRESSED, Reason.SLOWER, "slower by +6.0%", 1.06, 1.001, 1.12, p=0.003)
    fine = Verdict(Outcome.PASS, Reason.WITHIN_DELTA, "+0.1%", 1.0, 0.99, 1.01, p=0.4)
    [first, *_] = holm([alarm, *[fine] * 87])
    assert (first.outcome, first.reason) == (Outcome.INCONCLUSIVE, Reason.ONE_OF_MANY)
    assert "one of 88 verdicts may say so by chance" in first.message
    [only] = holm([replace(alarm, p=0.02)])
    assert only.message.endswith("a verdict may say so by chance (2.0%)")
    [first, *_] = holm([alarm, fine])
    assert first.outcome is Outcome.REGRESSED


@pytest.mark.fault(
    done="one call in 25 twice as long",
    said="tail: REGRESSED",
    status="1",
    kept="the table",
)
def test_iterations_are_kept_and_come_back(capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    generator = np.random.default_rng(0)
    blocks = [1e-3 * np.exp(generator.normal(0, 0.01, 50)) for _ in range(15)]
    sessions("before", 1, iterations={"latency": pack(blocks)})
    stalled = [np.where(np.arange(50) % 25 == 0, 2, 1) * block for block in blocks]
    sessions("after", 6, iterations={"latency": pack(stalled)})
    status, text = compared(capsys)
    fault.check(status, text)
    assert status == 1
    assert "tail: REGRESSED" in text


# expectations.toml


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[default]\ndelta = 5", "delta = 5"),
        ("[default]\ndelta = inf", "delta = inf"),
        ("[default]\ndelta = -2", "delta = -2"),
        ("[default]\ncosine = nan", "cosine = nan"),
        ("[default]\nspeedup = true", "speedup"),
        ("[default]\ntail = 0", "tail = 0"),
        ("[default.engines.onnxruntime_int8]\ndelta = 0.1", "did you mean onnxruntime-int8?"),
        ("[default.precision.int88]\ndelta = 0.1", "did you mean int8?"),
        ("[models.resnet5]\ndelta = 0.1", "models.resnet5"),
        ("[models]\nresnet50 = 3", "models"),
        ("default = 3", "default"),
        ("[default]\ndetla = 0.1", "did you mean delta?"),
        ("[quantize.resnet50]\nkeep_floats = []", "did you mean keep_float?"),
        ("acknowledged_missing = [3]", "acknowledged_missing"),
    ],
)
@pytest.mark.fault(
    done="expectations.toml with `delta = inf`, a negative or a NaN limit, a misspelt engine, model, key or section",
    said="mine.toml: ...",
    status="2",
    kept="nothing is decided",
)
def test_expectations_that_gate_nothing_are_refused(
    text: str, named: str, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    Path("mine.toml").write_text(text)
    sessions("before", 1)
    sessions("after", 6)
    status, error = main(["compare", "before", "after", "--expectations", "mine.toml"]), capsys.readouterr().err
    fault.check(status, error)
    assert named in error


@pytest.mark.parametrize(
    ("engine", "status", "said"),
    [
        (50e-3, 1, "latency: REGRESSED (slower)"),
        (1.12e-3, 1, "latency: REGRESSED (slower)"),
        (1.07e-3, 0, "below the absolute floor"),
    ],
)
@pytest.mark.fault(
    done="`absolute_floor_us` of 100 times what an engine takes, which is 50 times or 12 % slower at delta 5 %",
    said="resnet50 onnxruntime-int8",
    status="1 or 0",
    kept="the table; up to twice delta the floor excuses",
)
def test_no_absolute_floor_hides_a_slowdown(
    engine: float, status: int, said: str, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    Path("mine.toml").write_text("[default]\ndelta = 0.05\nabsolute_floor_us = 100000\n")
    sessions("before", 1)
    sessions("after", 6, engine=engine)
    found = main(["compare", "before", "after", "--expectations", "mine.toml"])
    text = capsys.readouterr().out
    fault.check(found, text)
    assert (found, said.partition(": ")[2] in text) == (status, True)


def test_expectations_are_utf8_whatever_the_locale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    Path("mine.toml").write_bytes("# für T4\n[default]\n".encode())
    sessions("before", 1)
    sessions("after", 6)
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) == 0
    Path("mine.toml").write_bytes("# für T4\n".encode("latin-1"))
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_iterations_are_unpacked_once_however_many_numbers_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    record = EngineRecord(
        *("resnet50", "onnxruntime-int8", 1, "file", {"latency": (1e-3,)}),
        iterations={"latency": pack([np.full(20, 1e-3)])},
    )
    calls = []
    monkeypatch.setattr("trtgate.records.unpack", lambda packed: calls.append(packed) or unpack(packed))
    assert record.value("tail") == pytest.approx(1e-3)
    assert record.value("latency") == 1e-3
    assert record.value("end_to_end") is None
    assert len(calls) == 1
