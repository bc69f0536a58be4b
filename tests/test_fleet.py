"""From sessions to a baseline and to a fleet's report, and what a job's summary is given."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtgate.__main__ import main
from trtgate.compared import report_from_json, report_to_json
from trtgate.records import read_session, verdict_to_json
from trtgate.report import markdown
from trtgate.verdict import Outcome, Reason, Verdict

from .faults.table import Fault
from .saved import save, sessions
from .test_plugin import CONFTEST, PLAN, TESTS


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved(name: str) -> list[Path]:
    return sorted(Path(".benchmarks").glob(f"**/*_{name}.json"))


# Promotion.


def test_sound_sessions_become_a_baseline_that_can_be_compared_with(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, verdicts=FINE)
    sessions("after", 11, engine=1.2e-3)
    assert main(["promote", "before", "--to", "baselines/l4/trt10"]) == 0
    assert len(list(Path("baselines/l4/trt10").glob("*.json"))) == 5
    assert main(["compare", "baselines/l4/trt10", "after"]) == 1
    assert "REGRESSED" in capsys.readouterr().out


FINE = (Verdict(Outcome.PASS, Reason.FLOOR_MET, "fine"),)
OPEN = Verdict(Outcome.INCONCLUSIVE, Reason.INTERVAL_TOO_WIDE, "speedup straddles the floor")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_text("{"), "is damaged"),
        (lambda path: edit(path, lambda d: d["trtgate"].update(unfit=["test_plan failed"])), "test_plan failed"),
        (
            lambda path: edit(
                path,
                lambda d: d["benchmarks"][0]["extra_info"]["trtgate"].update(decisions=[verdict_to_json(OPEN)]),
            ),
            "INCONCLUSIVE, speedup straddles the floor",
        ),
        (
            lambda path: edit(path, lambda d: d["machine_info"]["trtgate"].update(torch="0.1")),
            "are of different stacks (torch",
        ),
    ],
)
def test_what_failed_anything_is_not_promoted(spoil: Any, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, verdicts=FINE)
    spoil(saved("before")[3])
    assert main(["promote", "before", "--to", "baselines/l4"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("baselines").exists()


NOTHING = {"decisions": []}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d["benchmarks"][0]["extra_info"]["trtgate"].update(NOTHING), "nothing was decided"),
        (lambda d: d["benchmarks"].pop(0), "nothing was decided"),
        (lambda d: d["benchmarks"][1]["extra_info"]["trtgate"].update(NOTHING), None),
    ],
)
def test_a_session_that_decided_nothing_is_not_promoted(
    spoil: Any, message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions("before", 1, verdicts=FINE, engines=("onnxruntime-int8", "pytorch-fp32"))
    for path in saved("before"):
        edit(path, lambda d: d["benchmarks"][1]["extra_info"]["trtgate"].update(NOTHING))
    edit(saved("before")[3], spoil)
    assert main(["promote", "before", "--to", "baselines/l4"]) == (2 if message else 0)
    assert (message or "wrote") in "".join(capsys.readouterr())


@pytest.mark.fault(
    done="Ctrl-C while `promote` copies sessions",
    said="trtgate: interrupted",
    status="130",
    kept="the sessions; no part of a baseline is made",
)
def test_an_interrupted_promotion_makes_no_half_baseline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    for number in (1, 2):
        save(number, "before", verdicts=FINE)
    copy = shutil.copyfile

    def interrupted(path: Path, to: Path) -> None:
        copy(path, to)
        raise KeyboardInterrupt

    monkeypatch.setattr("trtgate.baseline.shutil.copyfile", interrupted)
    fault.check(main(["promote", "before", "--to", "baselines/l4"]), capsys.readouterr().err)
    assert not list(Path("baselines").iterdir())


def test_a_session_is_promoted_once(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, verdicts=FINE)
    shutil.copy(saved("before")[0], ".benchmarks/Linux/0009_before.json")
    assert main(["promote", "before", "--to", "baselines/l4"]) == 2
    assert "one session counts once" in capsys.readouterr().err
    assert not Path("baselines").exists()


@pytest.mark.parametrize(
    "to",
    [
        *("foo/..", ".", "", "/", "file", "file/x", "link", "loop/x", "/proc/x", "/dev/null/x"),
        *("x" * 300, "x" * 250, "a\nb", "a\nb/c", "a\x1b[2J", "a\0b"),
    ],
)
@pytest.mark.fault(
    done="`promote --to` a file, a dangling link, `foo/..`, `/proc/x`, 300 characters, a newline",
    said="trtgate: --to ...; ... name another folder...",
    status="2",
    kept="all files; nothing is made",
)
def test_a_folder_that_cannot_be_a_baseline(to: str, capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    sessions("before", 1, verdicts=FINE)
    Path("file").touch()
    Path("link").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    before = sorted(Path().rglob("*"))
    status = main(["promote", "before", "--to", to])
    error = capsys.readouterr().err
    fault.check(status, error.replace("give a short one in one line", "name another folder"))
    assert error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_a_baseline_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, verdicts=FINE)
    assert main(["promote", "before", "--to", "baselines"]) == 0
    assert main(["promote", "before", "--to", "baselines"]) == 2
    assert "is not overwritten" in capsys.readouterr().err


def edit(path: Path, change: Any) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# The fleet.


def runner(name: str, files: list[Path]) -> Path:
    folder = Path("fleet") / name
    folder.mkdir(parents=True)
    for path in files:
        shutil.copy(path, folder)
    return folder


NAN = {"n": 240, "top1": 0, "finite": False, "cosine": None}


def good(number: int, name: str, **keywords: Any) -> None:
    save(number, name, verdicts=FINE, **keywords)


def test_a_fleet_is_one_table_and_its_worst_outcome_counts(capsys: pytest.CaptureFixture[str]) -> None:
    good(1, "t4", changes={"gpu": "NVIDIA T4", "driver": "580.1"})
    good(2, "l4", engine=0.5e-3)
    runner("t4", saved("t4"))
    runner("l4", saved("l4"))
    assert main(["report", "fleet", "--markdown", "fleet.md"]) == 0
    text = Path("fleet.md").read_text()
    assert "| t4 | NVIDIA T4, driver 580.1" in text
    assert "| t4 | resnet50 | onnxruntime-int8 | 1 | 1 | 1.005 | 4.00 | | floors met |" in text
    assert "2 runners: floors met; no runner has a comparison, so no upgrade was judged" in text
    assert "may go on" not in text
    # The comparison on the runner said something else.
    sessions("old", 11)
    sessions("new", 21, engine=1.2e-3)
    assert main(["compare", "old", "new", "--json", "fleet/t4/verdict.json"]) == 1
    capsys.readouterr()
    assert main(["report", "fleet", "--markdown", "fleet.md"]) == 1
    assert "+20.0% REGRESSED" in capsys.readouterr().out
    assert "t4 resnet50 onnxruntime-int8 batch 1: REGRESSED (slower)" in Path("fleet.md").read_text()


@pytest.mark.fault(
    done="a runner without a comparison beside one that has it; two runners with the same session",
    said="t4: INVALID (...): it ...; ...",
    status="7",
    kept="the other runners' rows",
)
@pytest.mark.parametrize("same", [False, True])
def test_a_runner_that_was_not_compared_or_is_another_one(
    same: bool, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    compared_runner("l4")
    if same:
        shutil.copytree("fleet/l4", "fleet/t4")
    else:
        good(41, "other", engine=3e-3)
        runner("t4", saved("other"))
    capsys.readouterr()
    status = main(["report", "fleet", "--markdown", "fleet.md"])
    fault.check(status, capsys.readouterr().out)
    text = Path("fleet.md").read_text()
    assert ("t4: INVALID (no_records): it has no verdict.json, and others have" in text) != same
    assert ("l4: INVALID (not_comparable): it holds the same session as t4" in text) == same


def test_a_race_without_a_round_has_no_numbers_in_the_table() -> None:
    good(1, "t4", complete=False)
    [path] = saved("t4")
    document = json.loads(path.read_text())
    document["benchmarks"][0]["extra_info"]["trtgate"]["series"] = {}
    path.write_text(json.dumps(document))
    runner("t4", saved("t4"))
    assert main(["report", "fleet", "--markdown", "fleet.md"]) == 7
    assert "| t4 | resnet50 | onnxruntime-int8 | 1 | 1 | - | - | | INVALID |" in Path("fleet.md").read_text()


def test_where_nothing_was_compared_no_upgrade_may_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    good(1, "t4")
    runner("t4", saved("t4"))
    assert main(["report", "fleet"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "1 runner: floors met; no runner has a comparison, so no upgrade was judged" in text
    assert "may go on" not in text
    shutil.rmtree("fleet")
    compared_runner("l4")
    capsys.readouterr()
    assert main(["report", "fleet"]) == 0
    assert "the upgrade may go on" in " ".join(capsys.readouterr().out.split())


def test_a_runner_without_a_word_is_no_pass(capsys: pytest.CaptureFixture[str]) -> None:
    good(1, "t4")
    runner("t4", saved("t4"))
    runner("a10", [])
    assert main(["report", "fleet"]) == 7
    assert "a10: INVALID (no_records): no session was recorded" in capsys.readouterr().out
    broken = runner("h100", saved("t4"))
    (broken / "verdict.json").write_text('{"engines": 3}')
    assert main(["report", "fleet"]) == 7
    assert "h100/verdict.json is damaged" in capsys.readouterr().out
    assert main(["report", "nowhere"]) == 2


def test_what_the_baseline_has_and_a_runner_lacks_counts() -> None:
    good(1, "t4")
    sessions("old", 11, engines=("onnxruntime-int8", "openvino-int8"))
    sessions("new", 21)
    folder = runner("t4", saved("t4"))
    assert main(["compare", "old", "new", "--json", str(folder / "verdict.json")]) == 1
    assert main(["report", "fleet"]) == 1


def compared_runner(name: str = "t4") -> Path:
    """A runner with five sessions and the comparison of exactly these with a baseline: all well."""
    sessions("old", 11)
    for number in range(21, 26):
        good(number, "new")
    folder = runner(name, saved("new"))
    assert main(["compare", "old", "new", "--json", str(folder / "verdict.json")]) == 0
    return folder


def spoiled(**changes: Any) -> Any:
    """A change of the comparison's first engine."""
    return lambda document: document["engines"][0].update(changes)


def latency(**changes: Any) -> Any:
    """A change of the verdict on its latency."""
    return lambda document: document["engines"][0]["metrics"]["latency"]["decision"].update(changes)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d["engines"].append(d["engines"][0]),
        lambda d: d["engines"].clear(),
        lambda d: d["engines"].clear() or d["added"].append(["resnet50", "onnxruntime-int8", 1]),
        lambda d: d["engines"].append({**d["engines"][0], "engine": "openvino-int8"}),
        lambda d: d["engines"].append({**d["engines"][0], "batch": 32}),
        lambda d: d["missing"].append({**d["engines"][0], "decision": d["engines"][0]["decision"]}),
        lambda d: d["added"].append(["resnet50", "openvino-int8", 1]),
        lambda d: d["added"].append("resnet50"),
        lambda d: d["added"].append(["resnet50", 3, 1]),
        spoiled(batch="1"),
        spoiled(batch=True),
        spoiled(batch=0),
        spoiled(model=["resnet50"]),
        spoiled(engine="\x1b[31monnxruntime-int8"),
        spoiled(engine="o" * 300),
        spoiled(metrics=[]),
        spoiled(metrics={}),
        spoiled(invalid="no"),
        spoiled(old_reference="fast"),
        spoiled(new_clock_mhz=-1),
        spoiled(controls={"control-copy": None}),
        spoiled(decision={"verdict": "PASS", "reason": "within_delta", "message": "fine"}),
        lambda d: d["engines"][0]["metrics"].update(speed=d["engines"][0]["metrics"]["latency"]),
        *(latency(estimate=each) for each in ("1.0", float("nan"), -1.0, 1e300, 10**400, True, [1])),
        latency(low="low"),
        latency(high=-1),
        latency(p=2),
        latency(verdict="FINE"),
        latency(metric="tail"),
        latency(message="\x1b[2J"),
        lambda d: d.update(schema=99),
        lambda d: d.update(schema=1),
        lambda d: d.update(schema="2"),
        lambda d: d.pop("schema"),
        lambda d: d.update(problems=[]),
        lambda d: d.update(problems={"\x1b[2J": d["engines"][0]["decision"]}),
        lambda d: d.update(stack_changes="none"),
    ],
)
@pytest.mark.fault(
    done="a runner's `verdict.json` with an engine twice, one that its sessions lack or not the one that they have, "
    "a text for a number, NaN, another schema, control characters",
    said="t4 ... INVALID",
    status="7",
    kept="the other runners' rows",
)
def test_a_comparison_that_no_compare_can_have_written(
    spoil: Any, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    edit(compared_runner() / "verdict.json", spoil)
    capsys.readouterr()
    status = main(["report", "fleet"])
    text = capsys.readouterr().out
    fault.check(status, text)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 400


def test_a_trend_of_a_runners_folder_tells_what_its_comparison_said(capsys: pytest.CaptureFixture[str]) -> None:
    path = compared_runner()
    assert main(["report", str(path)]) == 0
    told = capsys.readouterr().out
    assert f"{path / 'verdict.json'} says PASS; this is a trend and decides nothing; for that, name the folder" in told
    (path / "verdict.json").write_text("{")
    assert main(["report", str(path)]) == 0
    assert "verdict.json is damaged" in capsys.readouterr().out


def test_a_comparison_of_other_sessions_says_nothing_of_these(capsys: pytest.CaptureFixture[str]) -> None:
    """The same engines, measured again after the comparison was written."""
    runner = compared_runner()
    [before] = [each for each in runner.rglob("*.json") if each.name != "verdict.json"][-1:]
    document = json.loads(before.read_text())
    for benchmark in document["benchmarks"]:
        series = benchmark["extra_info"]["trtgate"]["series"]
        series["latency"] = [2 * each for each in series["latency"]]
    before.write_text(json.dumps(document))
    capsys.readouterr()
    assert main(["report", "fleet"]) == 7
    assert "verdict.json was made of other sessions than these" in " ".join(capsys.readouterr().out.split())


def test_a_comparison_is_read_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    both = ("pytorch-fp32", "onnxruntime-int8")
    sessions("old", 11, engines=(*both, "openvino-int8"), clock=1410.0, controls={"control-matmul": 1e-3})
    sessions("new", 21, engines=(*both, "openvino-fp32"), clock=1980.0, controls={"control-matmul": 1e-3})
    assert main(["compare", "old", "new", "--json", "verdict.json"]) == 1
    values = json.loads(Path("verdict.json").read_text())
    assert report_to_json(report_from_json(values)) == values


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"engines": [], "engines": []}', "[" * 100000, "\xff"])
def test_a_comparison_that_is_no_json(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (compared_runner() / "verdict.json").write_bytes(text.encode("latin-1"))
    assert main(["report", "fleet"]) == 7
    assert "verdict.json is damaged" in capsys.readouterr().out


def twice(folder: Path) -> None:
    (folder / "again").mkdir()
    shutil.copy(folder / "verdict.json", folder / "again")


def replaced(make: Any) -> Any:
    def replace(folder: Path) -> None:
        (folder / "verdict.json").unlink()
        make(folder / "verdict.json")

    return replace


def another(**changes: Any) -> Any:
    def add(folder: Path) -> None:
        good(31, "other", changes=changes)
        shutil.copy(saved("other")[0], folder)

    return add


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (twice, "cannot both be the comparison"),
        (replaced(os.mkfifo), "is no regular file"),
        (replaced(Path.mkdir), "is no regular file"),
        (replaced(lambda path: path.symlink_to("nowhere")), "is a link"),
        (replaced(lambda path: path.symlink_to("/etc/passwd")), "is a link"),
        (another(cpu="Another CPU"), "are of different stacks (cpu"),
        (another(driver="580.1"), "are of different stacks (driver"),
        (lambda folder: shutil.copy(saved("new")[0], folder / "0077_new.json"), "hold the same session"),
        (lambda folder: (folder / "more").symlink_to(folder), "is a link"),
        (lambda folder: Path("fleet/l4").symlink_to("nowhere"), "l4: INVALID (no_records): it is no folder"),
        (lambda folder: Path("fleet/l4").symlink_to("t4"), "l4: INVALID (no_records): it is no folder"),
        (lambda folder: Path("fleet/l4.zip").touch(), "l4.zip: INVALID (no_records): it is no folder"),
        (lambda folder: Path("fleet/\x1b[2Jl4").mkdir(), "l4: INVALID (no_records): no session"),
    ],
)
@pytest.mark.fault(
    done="a runner's folder with two comparisons, a link, a pipe, a session twice, or sessions of two stacks",
    said="INVALID (no_records)",
    status="7",
    kept="the other runners' rows",
)
def test_a_folder_that_is_no_runners(spoil: Any, said: str, capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    spoil(compared_runner())
    capsys.readouterr()
    status = main(["report", "fleet"])
    text = capsys.readouterr().out
    fault.check(status, text)
    assert said in text
    assert "\x1b" not in text


def test_a_report_beside_the_runners_is_no_runner() -> None:
    compared_runner()
    numbers = ["--json", "fleet/numbers.json", "--json-as", "bencher"]
    for _ in range(2):
        assert main(["report", "fleet", "--markdown", "fleet/fleet.md", "--html", "fleet/fleet.html"]) == 0
        assert main(["report", "fleet", *numbers]) == 0
    Path("fleet/other.json").write_text('{"of": "somebody"}')
    assert main(["report", "fleet"]) == 7


@pytest.mark.parametrize(
    ("changes", "status"), [({"complete": False}, 7), ({"disturbed": "somebody"}, 7), ({"agreement": NAN}, 1)]
)
def test_a_record_that_is_good_for_nothing_is_no_pass(changes: dict[str, Any], status: int) -> None:
    good(1, "t4", **changes)
    runner("t4", saved("t4"))
    assert main(["report", "fleet"]) == status


@pytest.mark.parametrize(("alone", "status"), [(False, 0), (True, 7)])
def test_a_reference_without_a_verdict_of_its_own_is_no_flaw(alone: bool, status: int) -> None:
    engines = ("onnxruntime-fp32", *(() if alone else ("onnxruntime-int8",)))
    good(1, "t4", engines=engines)

    def held_against_the_first(document: dict[str, Any]) -> None:
        records = [each["extra_info"]["trtgate"] for each in document["benchmarks"]]
        for record in records:
            record["reference"] = "onnxruntime-fp32"
        records[0].update(NOTHING)

    edit(saved("t4")[0], held_against_the_first)
    runner("t4", saved("t4"))
    assert main(["report", "fleet"]) == status


def test_names_from_other_machines_stay_in_their_cells() -> None:
    hostile = "a|b\n\n<img src=x>"
    assert markdown._table(["x"], [[hostile]]).splitlines()[2] == "| a\\|b &lt;img src=x> |"
    [block] = markdown._block(["```", "# not a title"])
    assert block.startswith("````\n")


# The job's summary.


@pytest.fixture
def summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "summary.md"
    monkeypatch.setenv(markdown.SUMMARY_VARIABLE, str(path))
    return path


def test_a_run_writes_its_table_into_the_jobs_summary(summary: Path, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_toy=TESTS)
    Path("plan.json").write_text(json.dumps(PLAN))
    Path("floor.json").write_text("2.5")
    result = pytester.runpytest_inprocess("-p", "trtgate.plugin", "-p", "no:cacheprovider", "-p", "no:xdist")
    assert result.ret == 1
    text = summary.read_text()
    assert "| toy | fast-int8 | 1 | 1.004 | - | - | 4.00 [3.98,4.02] | not measured | floors met |" in text
    assert "toy slow-fp32 batch 1: REGRESSED (below_floor): speedup 2.00" in text


def test_a_comparison_writes_into_the_jobs_summary_too(summary: Path) -> None:
    sessions("before", 1)
    sessions("after", 11)
    assert main(["compare", "before", "after"]) == 0
    assert main(["compare", "before", "after"]) == 0
    assert summary.read_text().count("| resnet50 | onnxruntime-int8 | 1 | 1.006 | 1.006 |") == 2


def test_a_session_of_the_first_schema_is_read_as_it_was() -> None:
    path = Path(__file__).resolve().parent.parent / "docs" / "results" / "h100-warm.json"
    session = read_session(path)
    saved = [each["extra_info"]["trtgate"] for each in json.loads(path.read_text())["benchmarks"]]
    assert {each["schema"] for each in saved} == {1}
    assert len(session.engines) == len(saved) == 24
    for each in saved:
        record = session.engines[each["model"], each["engine"], each["batch"]]
        assert record.rounds == tuple(each["rounds"])
        assert record.reference_rounds == tuple(each["reference_rounds"])
        assert record.value("end_to_end") == np.median(each["end_to_end_rounds"])
        assert record.clock_mhz == each["readings"]["clock_mhz"]
        assert record.value("tail") is None
