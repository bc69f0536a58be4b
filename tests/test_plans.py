"""The plan cache: reuse, damage, kills, two processes at once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtgate.build import cache
from trtgate.build.cache import PlanCache, key_of
from trtgate.kinds import UserError
from trtgate.stack import changed_fields

DEPENDS = {"engine": "onnxruntime-int8", "options": {"version": "1.0"}}


def write(path: Path) -> None:
    path.write_bytes(b"plan")


def refuse(path: Path) -> None:
    raise AssertionError("must not be built again")


def test_the_second_time_nothing_is_built(tmp_path: Path) -> None:
    first = PlanCache(tmp_path).get_or_build("plans", "plan", DEPENDS, write)
    second = PlanCache(tmp_path).get_or_build("plans", "plan", DEPENDS, refuse)
    assert (first.reused, second.reused) == (False, True)
    assert second.path.read_bytes() == b"plan"
    assert second.build_seconds == first.build_seconds


def test_a_plan_that_is_built_anew_is_there_while_the_old_one_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may just be loading it, by its path."""
    old = PlanCache(tmp_path).get_or_build("plans", "plan", DEPENDS, write)
    plain, seen = cache._remove, []

    def remove(path: Path) -> None:
        seen.append(old.path.read_bytes())
        plain(path)

    monkeypatch.setattr(cache, "_remove", remove)
    PlanCache(tmp_path).get_or_build("plans", "plan", DEPENDS, lambda path: path.write_bytes(b"anew"), anew=True)
    assert seen == [b"anew"]
    assert [path.name for path in old.path.parent.parent.iterdir() if path.is_dir()] == [old.path.parent.name]


def test_other_dependencies_are_another_entry_and_the_log_says_which(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = PlanCache(tmp_path)
    cache.get_or_build("plans", "plan", DEPENDS, write)
    with caplog.at_level(logging.INFO, logger="trtgate"):
        changed = cache.get_or_build("plans", "plan", {**DEPENDS, "options": {"version": "2.0"}}, write)
        cache.get_or_build("plans", "plan", {**DEPENDS, "engine": "openvino-int8"}, write)
    assert not changed.reused
    [line] = caplog.messages
    assert line.endswith("options.version: 1.0 -> 2.0"), "another engine is no rebuild of this one"


@pytest.mark.parametrize("damage", ["artifact", "cut", "manifest", "no manifest", "other key"])
def test_a_damaged_entry_is_set_aside_and_rebuilt(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = PlanCache(tmp_path)
    entry = cache.get_or_build("plans", "plan", DEPENDS, write).path.parent
    manifest = entry / "manifest.json"
    if damage == "artifact":
        (entry / "plan").write_bytes(b"plaM")
    elif damage == "cut":
        (entry / "plan").write_bytes(b"pl")
    elif damage == "manifest":
        manifest.write_text("{")
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text().replace(key_of(DEPENDS), "0" * 64))
    again = cache.get_or_build("plans", "plan", DEPENDS, write)
    assert not again.reused
    assert again.path.read_bytes() == b"plan"
    assert "damaged" in caplog.text
    assert len(list(tmp_path.glob("plans/*.damaged-*"))) == 1


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("builder failed")

    cache = PlanCache(tmp_path)
    with pytest.raises(RuntimeError, match="builder failed"):
        cache.get_or_build("plans", "plan", DEPENDS, fail)
    assert not list(tmp_path.glob("**/plan"))
    assert not cache.get_or_build("plans", "plan", DEPENDS, write).reused


def test_a_killed_build_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from trtgate.build import cache
from trtgate.build.cache import PlanCache
def build(path):
    path.write_bytes(b"half")
    print("building", flush=True)
    time.sleep(60)
PlanCache(Path({str(tmp_path)!r})).get_or_build("plans", "plan", {DEPENDS!r}, build)
"""
    root = Path(__file__).resolve().parent.parent
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=root)
    assert child.stdout is not None
    assert child.stdout.readline() == b"building\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    plan = PlanCache(tmp_path).get_or_build("plans", "plan", DEPENDS, write)
    assert not plan.reused
    assert plan.path.read_bytes() == b"plan"
    assert not list(tmp_path.glob("plans/*.building-*"))


def _build_slowly(root: Path, log: Path) -> None:
    def build(path: Path) -> None:
        with log.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        write(path)

    PlanCache(root).get_or_build("plans", "plan", DEPENDS, build)


def test_two_processes_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    children = [context.Process(target=_build_slowly, args=(tmp_path / "cache", log)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0] * 4
    assert len(log.read_text().splitlines()) == 1


def test_a_cache_that_cannot_be_made_is_an_error_that_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--plan-cache"):
        PlanCache(tmp_path / "file" / "cache")


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6))
def test_the_key_depends_on_content_not_on_order(depends: dict[str, object]) -> None:
    assert key_of(depends) == key_of(dict(reversed(depends.items())))
    assert key_of(depends) != key_of({**depends, "one more": 1})
    assert changed_fields(depends, depends) == []
