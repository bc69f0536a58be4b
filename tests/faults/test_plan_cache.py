"""The plan cache: damaged, obstructed, killed, full, shared, and in the hands of others."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtgate.__main__ import main
from trtgate.build import cache as plans
from trtgate.build.cache import Manifest, PlanCache, key_of, parse_manifest, require_usable
from trtgate.kinds import UserError

from .table import ROOT, Fault

DEPENDS = {"model": "toy", "engine": "onnxruntime-int8", "options": {"version": "1.0"}}
OTHER = {**DEPENDS, "options": {"version": "2.0"}}


def write(path: Path) -> None:
    path.write_bytes(b"plan")


def refuse(path: Path) -> None:
    raise AssertionError("must not be built again")


def build(root: Path, depends: dict[str, Any] = DEPENDS) -> Path:
    """The artifact, built or found."""
    return PlanCache(root).get_or_build("plans", "plan", depends, write).path


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


MANIFESTS: dict[str, bytes] = {
    "empty object": b"{}",
    "null": b"null",
    "a list": b"[]",
    "nothing": b"",
    "another schema": b'{"schema": 2, "plan": {"sha256": "0"}}',
    "deep": nested(100_000),
    "binary": bytes(range(256)),
    "number": b"9" * 10_000,
    "large": b" " * (2 << 20),
}


@pytest.mark.fault(
    done="the `manifest.json` of one entry replaced by `{}`, `null`, another schema, deep JSON, bytes, 2 MB",
    said="is damaged (...); set aside as ... and made anew",
    status="-",
    kept="every other entry; the damaged one beside the new one, until `plans prune`",
)
@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS)
def test_one_odd_manifest(content: bytes, fault: Fault, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entry = build(tmp_path).parent
    other = build(tmp_path, OTHER)
    (entry / "manifest.json").write_bytes(content)
    new = PlanCache(tmp_path).get_or_build("plans", "plan", {**DEPENDS, "options": {}}, write)
    assert not new.reused
    assert PlanCache(tmp_path).get_or_build("plans", "plan", OTHER, refuse).path == other
    assert "damaged" not in caplog.text, "an entry that nobody asked for is nobody's trouble"
    assert not PlanCache(tmp_path).get_or_build("plans", "plan", DEPENDS, write).reused
    assert PlanCache(tmp_path).get_or_build("plans", "plan", DEPENDS, refuse).reused
    fault.says(caplog.text)


@pytest.mark.parametrize("field", Manifest.__dataclass_fields__)
@pytest.mark.parametrize("value", [None, True, -1, float("nan"), "", "../../etc/passwd", []])
def test_a_field_of_another_type_or_range_is_refused(field: str, value: object) -> None:
    sound = json.loads(Manifest(key_of(DEPENDS), "plan", "0" * 64, 1.0, DEPENDS).to_json())
    assert parse_manifest(json.dumps(sound).encode()).depends == DEPENDS
    with pytest.raises(ValueError, match=r"key|sha256|file|build_seconds|depends|built_on|JSON"):
        parse_manifest(json.dumps({**sound, field: value}).encode())
    if field == "built_on":
        return
    del sound[field]
    with pytest.raises(ValueError, match="fields"):
        parse_manifest(json.dumps(sound).encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
manifests = st.fixed_dictionaries({}, optional=dict.fromkeys((*Manifest.__dataclass_fields__, "more"), json_values))


@pytest.mark.fuzz
@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")))
@given(st.binary(max_size=200) | manifests.map(lambda found: json.dumps(found).encode()))
def test_fuzzed_manifests_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        found = parse_manifest(content)
        assert found.key == key_of(found.depends)


def _link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _link_to_folder(path: Path) -> None:
    path.with_name("elsewhere").mkdir()
    path.symlink_to("elsewhere")


OBSTACLES: dict[str, Callable[[Path], None]] = {
    "dangling link": _link,
    "link to a folder": _link_to_folder,
    "file": Path.touch,
    "fifo": os.mkfifo,
}


@pytest.mark.fault(
    done="a dangling link, a link to a folder, a file or a pipe in the place of an entry",
    said="is damaged (...); set aside as ... and made anew",
    status="-",
    kept="what was in its place, beside it",
)
@pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES)
def test_something_in_an_entrys_place(
    obstacle: Callable[[Path], None], fault: Fault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = build(tmp_path).parent
    shutil.rmtree(entry)
    obstacle(entry)
    assert build(tmp_path).read_bytes() == b"plan"
    assert not entry.is_symlink()
    fault.says(caplog.text)


@pytest.mark.fault(
    done="a folder, a link or a pipe in a lock's place; a file, a link or a pipe in that of a kind's folder",
    said="set aside as ... and made anew",
    status="-",
    kept="what was in its place, beside it",
)
@pytest.mark.parametrize(
    ("place", "obstacle"),
    [("lock", each) for each in (Path.mkdir, _link, _link_to_folder, os.mkfifo)]
    + [("kind", each) for each in (Path.touch, _link, os.mkfifo)],
)
def test_something_in_a_locks_or_a_kinds_place(
    obstacle: Callable[[Path], None], place: str, fault: Fault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache" / "plans"
    (path if place == "lock" else path.parent).mkdir(parents=True)
    obstacle(path / f"{key_of(DEPENDS)[:32]}.lock" if place == "lock" else path)
    build(tmp_path / "cache")
    assert PlanCache(tmp_path / "cache").get_or_build("plans", "plan", DEPENDS, refuse).reused
    fault.says(caplog.text)


@pytest.mark.fault(
    done="a pipe in the place of an artifact, or of a manifest",
    said="is damaged (...no regular file); set aside",
    status="-",
    kept="the entry, beside the new one",
)
@pytest.mark.parametrize("name", ["plan", "manifest.json"])
def test_a_pipe_is_not_waited_for(name: str, fault: Fault, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = build(tmp_path).with_name(name)
    path.unlink()
    os.mkfifo(path)
    assert build(tmp_path).read_bytes() == b"plan"
    fault.says(caplog.text)


def refused(fault: Fault, root: Path, act: Callable[[Path], object] = require_usable) -> None:
    with pytest.raises(UserError) as told:
        act(root)
    fault.says(str(told.value))


@pytest.mark.fault(
    done="`--plan-cache` that others can write (mode 777 or 775)",
    said="--plan-cache: others can write ... (mode ...), and plans are native code; ... run chmod",
    status="4 or 2",
    kept="the cache as it is",
)
@pytest.mark.parametrize("place", [".", "plans"])
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_cache_that_others_can_write(mode: int, place: str, fault: Fault, tmp_path: Path) -> None:
    build(tmp_path / "cache")
    (tmp_path / "cache" / place).chmod(mode)
    refused(fault, tmp_path / "cache")
    refused(fault, tmp_path / "cache", build)


@pytest.mark.fault(
    done="`--plan-cache` in a folder in which everybody can rename",
    said="--plan-cache: everybody can rename what is in ..., and plans are native code; run chmod o-w",
    status="4 or 2",
    kept="the cache as it is",
)
def test_a_cache_in_a_folder_that_others_can_write(fault: Fault, tmp_path: Path) -> None:
    build(tmp_path / "open" / "cache")
    (tmp_path / "open").chmod(0o777)
    refused(fault, tmp_path / "open" / "cache")
    (tmp_path / "open").chmod(0o1777)
    require_usable(tmp_path / "open" / "cache")


def test_whoever_decides_what_code_runs_may_own_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that runs as root on a user's checkout; a runner whose whole workspace everybody can write."""
    code = tmp_path / "open" / "checkout" / "plans.py"
    build(code.parent / "cache")
    code.touch()
    code.parent.parent.chmod(0o777)
    monkeypatch.setattr(plans, "CODE", code)
    require_usable(code.parent / "cache")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    require_usable(code.parent / "cache")


@pytest.mark.fault(
    done="`--plan-cache` of another user, or with a folder of another user's in it",
    said="--plan-cache: ... belongs to another user (...), and plans are native code; name a folder of your own",
    status="4 or 2",
    kept="the cache as it is",
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("place", [".", "plans"])
def test_a_cache_of_another_user(place: str, fault: Fault, tmp_path: Path) -> None:
    build(tmp_path / "cache")
    os.chown(tmp_path / "cache" / place, 65534, 65534)
    refused(fault, tmp_path / "cache")
    refused(fault, tmp_path / "cache", build)


def _as_nobody(root: Path, said: Any) -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    try:
        require_usable(root)
    except UserError as error:
        said.send(str(error))
    said.close()


@pytest.mark.fault(
    done="a folder that root made in the cache, under another user",
    said="--plan-cache: ... is not writable, it belongs to user 0; name a writable folder",
    status="4 or 2",
    kept="the cache as it is",
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("place", [".", "plans"])
def test_roots_folders_under_another_user(place: str, fault: Fault) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(folder) / "cache"
        build(root)
        if place == "plans":
            os.chown(root, 65534, 65534)
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_as_nobody, args=(root, theirs))
        child.start()
        theirs.close()
        fault.says(ours.recv())
        child.join(10)


@pytest.mark.fault(
    done="an artifact, or its entry, that others can write",
    said="is damaged (others can write ...); set aside",
    status="-",
    kept="the entry, beside the new one",
)
@pytest.mark.parametrize("place", [".", "plan", "manifest.json"])
def test_an_entry_that_others_can_write(
    place: str, fault: Fault, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = build(tmp_path).parent / place
    path.chmod(0o777)
    assert not PlanCache(tmp_path).get_or_build("plans", "plan", DEPENDS, write).reused
    fault.says(caplog.text)


@pytest.mark.parametrize(("umask", "folder", "file"), [(0, 0o755, 0o644), (0o002, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_files_have_the_users_umask_and_are_nobody_elses_to_write(
    umask: int, folder: int, file: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        build(tmp_path / "new" / "cache")
    finally:
        os.umask(before)
    for path in (tmp_path / "new").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (folder if path.is_dir() else file), path


@pytest.mark.fault(
    done="the disk full while a plan is built",
    said="--plan-cache: ...: No space left on device; make room, or name another folder",
    status="4 or 2",
    kept="every finished entry; nothing of the half",
)
@pytest.mark.parametrize("own_words", [False, True])
def test_a_full_disk(own_words: bool, fault: Fault, small_disk: Path) -> None:
    """With `own_words` the builder turns the error into one of its own, as those in C++ do."""

    def write_much(path: Path) -> None:
        try:
            path.write_bytes(b"x" * (4 << 20))
        except OSError as error:
            if own_words:
                raise RuntimeError("basic_ios::clear: iostream error") from error
            raise

    kept = build(small_disk / "cache")
    cache = PlanCache(small_disk / "cache")
    refused(fault, small_disk, lambda _: cache.get_or_build("plans", "plan", OTHER, write_much))
    assert cache.get_or_build("plans", "plan", DEPENDS, refuse).path == kept
    assert not list(small_disk.rglob("*building*"))
    assert not cache.get_or_build("plans", "plan", OTHER, write).reused


@pytest.mark.fault(
    done="`--plan-cache` on storage that is read-only",
    said="--plan-cache: ... is not writable; name a writable folder",
    status="4 or 2",
    kept="the cache as it is",
)
def test_read_only_storage(fault: Fault, small_disk: Path) -> None:
    build(small_disk / "cache")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    refused(fault, small_disk / "cache")
    refused(fault, small_disk / "cache", build)


@pytest.mark.fault(
    done="`--plan-cache` that is a file, a dangling link, or below a file",
    said="--plan-cache: ...; name a writable folder",
    status="4 or 2",
    kept="nothing is measured",
)
@pytest.mark.parametrize("what", ["file", "dangling link", "below a file"])
def test_a_cache_that_can_be_none(
    what: str, fault: Fault, tmp_path: Path, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cache"
    if what == "dangling link":
        _link(path)
    else:
        path.touch()
    given = f"--plan-cache={path / 'below' if what == 'below a file' else path}"
    result = pytester.runpytest_inprocess("-p", "trtgate.plugin", "-p", "no:cacheprovider", given)
    fault.check(result.ret, "\n".join(result.errlines))
    capsys.readouterr()
    fault.check(main(["selftest", given]), capsys.readouterr().err)


BUILDER = """
import json, sys, time
from pathlib import Path
from trtgate.build.cache import PlanCache
def build(path):
    path.write_bytes(b"half")
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    path.write_bytes(b"plan")
PlanCache(Path(sys.argv[1])).get_or_build("plans", "plan", json.loads(sys.argv[3]), build)
"""


@contextlib.contextmanager
def builder(root: Path, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of a build that takes so long."""
    command = [sys.executable, "-c", BUILDER, str(root), str(seconds), json.dumps(DEPENDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"building\n"
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.fault(
    done="a process stopped (SIGSTOP) while it builds what another one wants",
    said="--plan-cache: another process has held ... for ... min; end it, or name another folder",
    status="4 or 2",
    kept="the cache as it is; the stopped one may go on",
)
def test_a_stopped_builder(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with builder(tmp_path, 0.1) as child, caplog.at_level(logging.INFO, "trtgate"):
        child.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(plans, "LOCK_SECONDS", 0.2)
        refused(fault, tmp_path, build)
        assert "waiting for another process that builds plans of toy" in caplog.text
        monkeypatch.setattr(plans, "LOCK_SECONDS", 20.0)
        child.send_signal(signal.SIGCONT)
        assert PlanCache(tmp_path).get_or_build("plans", "plan", DEPENDS, refuse).path.read_bytes() == b"plan"


@pytest.mark.fault(
    done="a build killed (SIGKILL)",
    said="removed 0 entries and 1 leftovers",
    status="0",
    kept="nothing that is trusted; `plans prune`, and the next build, remove the rest",
)
def test_a_killed_build_is_pruned(fault: Fault, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with builder(tmp_path, 60) as child:
        assert PlanCache(tmp_path).prune(0).leftovers == 0, "somebody is at it"
        child.kill()
        child.wait()
        status = main(["plans", "prune", "--keep", "1GB", "--plan-cache", str(tmp_path)])
    fault.check(status, capsys.readouterr().out)
    assert [path.name for path in tmp_path.rglob("*")] in (["in-use.lock", "plans"], ["plans", "in-use.lock"])


def test_prune_keeps_what_was_used_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [build(tmp_path, {**DEPENDS, "options": {"version": str(number)}}).parent for number in range(4)]
    for number, entry in enumerate(entries):
        for path in (entry, entry / "manifest.json"):
            os.utime(path, (1000.0 + number, 1000.0 + number))
    build(tmp_path, {**DEPENDS, "options": {"version": "0"}})  # used now
    (tmp_path / "plans" / "notes.txt").write_text("mine")
    assert main(["plans", "prune", "--keep", "8B", "--plan-cache", str(tmp_path)]) == 0
    assert [entry.exists() for entry in entries] == [True, False, False, True]
    assert not [lock for lock in tmp_path.glob("plans/*.lock") if not lock.with_suffix("").exists()]
    assert (tmp_path / "plans" / "notes.txt").exists(), "what is not the cache's stays"
    assert "removed 2 entries and 0 leftovers (8 B); 2 entries stay (8 B)" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--keep", "9" * 400 + "GB"], ["--keep", "much"], ["--plan-cache", ""]])
def test_a_wrong_option_prunes_nothing(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plans", "prune", *options])
    assert ended.value.code == 2
    assert f"argument {options[0]}: " in capsys.readouterr().err


def test_what_a_run_may_be_about_to_load_is_not_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = PlanCache(tmp_path)
    plan = run.get_or_build("plans", "plan", DEPENDS, write).path
    assert main(["plans", "prune", "--keep", "0", "--plan-cache", str(tmp_path)]) == 0
    assert plan.exists()
    assert "another process uses this cache" in capsys.readouterr().out
    del run
    assert main(["plans", "prune", "--keep", "0", "--plan-cache", str(tmp_path)]) == 0
    assert not plan.exists()


def test_list_and_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = build(tmp_path).parent.name, build(tmp_path, OTHER).parent.name
    build(tmp_path, {**DEPENDS, "engine": "\x1b[31m[/x]"})
    common = ["--plan-cache", str(tmp_path)]
    assert main(["plans", "list", *common]) == 0
    listed = capsys.readouterr().out
    assert first[:8] in listed
    assert "toy ?[31m[/x]" in listed
    assert "3 entries, 12 B" in listed
    assert main(["plans", "explain", *common]) == 0
    assert capsys.readouterr().out == f"{second[:8]} toy onnxruntime-int8: options.version: 1.0 -> 2.0\n"
    assert main(["plans", "explain", first[:6], *common]) == 0
    assert f"  {second[:8]} differs in options.version: 1.0 -> 2.0\n" in capsys.readouterr().out
    assert main(["plans", "explain", "xyz", *common]) == 2
    assert main(["plans", "list", "--plan-cache", str(tmp_path / "nowhere")]) == 2


def test_an_entry_built_anew_replaces_the_old_one_in_one_step(tmp_path: Path) -> None:
    cache, entry = PlanCache(tmp_path), build(tmp_path).parent

    def look(path: Path) -> float:
        assert (entry / "plan").read_bytes() == b"plan"
        path.write_bytes(b"new")
        return 7.0

    new = cache.get_or_build("plans", "plan", DEPENDS, look, anew=True, built_on={"driver": "580"})
    found = cache.get_or_build("plans", "plan", DEPENDS, refuse)
    assert found.path.read_bytes() == b"new"
    assert (new.reused, found.reused) == (False, True)
    assert new.build_seconds == found.build_seconds == 7.0
    assert found.built_on == {"driver": "580"}
    assert [path.name for path in (tmp_path / "plans").iterdir() if ".building-" in path.name] == []


def test_500_entries_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "sync", lambda path: None)
    cache = PlanCache(tmp_path)
    looked_at: list[Path] = []
    real = plans.read_manifest
    for number in range(500):
        entry = tmp_path / "plans" / key_of({**DEPENDS, "number": number})[:32]
        entry.mkdir(parents=True)
        manifest = Manifest(key_of({**DEPENDS, "number": number}), "plan", "0" * 64, 1.0, {**DEPENDS, "number": number})
        (entry / "manifest.json").write_bytes(manifest.to_json())
        (entry / "plan").touch()
    monkeypatch.setattr(plans, "read_manifest", lambda path: (looked_at.append(path), real(path))[1])
    start = time.process_time()
    cache.get_or_build("plans", "plan", DEPENDS, write)
    cache.get_or_build("plans", "plan", DEPENDS, refuse)
    assert time.process_time() - start < 0.1
    assert len(looked_at) <= plans.LOOKED_AT + 1


def _busy(root: Path, seed: int, until: float) -> None:
    rng = random.Random(seed)
    while time.monotonic() < until:
        number = rng.randrange(8)
        write_number = functools.partial(Path.write_text, data=str(number))
        cache = PlanCache(root)
        found = cache.get_or_build("plans", "plan", {**DEPENDS, "number": number}, write_number)
        assert found.path.read_text() == str(number)
        del cache


def _pruner(root: Path, until: float) -> None:
    while time.monotonic() < until:
        PlanCache(root).prune(random.randrange(12))


@pytest.mark.fault(
    done="builders of the same and of other keys, a pruner, and kills (SIGKILL) at random, on one cache",
    said="",
    status="-",
    kept="every finished entry that was not pruned",
)
@pytest.mark.parametrize("seconds", [2.0, pytest.param(20.0, marks=pytest.mark.slow)])
def test_many_at_once(seconds: float, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    until = time.monotonic() + seconds

    def start(seed: int) -> Any:
        target, arguments = (_pruner, (tmp_path, until)) if seed == 0 else (_busy, (tmp_path, seed, until))
        child = context.Process(target=target, args=arguments)
        child.start()
        return child

    children = [start(seed) for seed in range(4)]
    while time.monotonic() < until - 0.5:
        time.sleep(0.2)
        victim = random.randrange(4)
        children[victim].kill()
        children[victim].join()
        assert children[victim].exitcode == -signal.SIGKILL, "it had ended by itself, with an error"
        children[victim] = start(victim)
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0] * 4
    PlanCache(tmp_path).prune(1 << 30)
    assert not [path for path in tmp_path.glob("plans/*.*") if path.suffix != ".lock"], "nothing damaged, nothing left"
