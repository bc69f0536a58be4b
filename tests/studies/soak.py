"""Two benches, one A/B and one pruner on one plan cache, with random kills: python tests/studies/soak.py [MINUTES]

Each starts again when it ends, as workflows do. Every few seconds a process of one of them, at random, is killed
(SIGKILL). What is asserted: nobody shows a traceback; a run that nobody killed ends with a verdict's status and its
session can be read; and in the end every entry of the cache is what its manifest says to the last byte, with nothing
damaged beside it and nothing left behind that pruning does not remove. Ends with 1 otherwise; logs are in --out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from trtgate.build.cache import PlanCache
from trtgate.files import file_digest
from trtgate.kinds import UserError
from trtgate.records import read_session

SMALL = ("--model=efficientnet_lite0", "--engine=onnxruntime-int8")
# Statuses with which a run says something.
OUTCOMES = {0, 1, 6, 7}
KILL_SECONDS = (5.0, 40.0)
WAIT_SECONDS = 600.0


@dataclass
class Actor:
    """One of them: the command of its next run, the run that is under way, and what became of the others."""

    name: str
    out: Path
    cache: Path
    number: int = 0
    process: subprocess.Popen[bytes] | None = None
    killed: bool = False
    started: float = 0.0
    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def command(self) -> list[str]:
        cache = f"--plan-cache={self.cache}"
        if self.name == "pruner":
            keep = random.choice(["0", "1MB", "20MB", "1GB"])
            return [sys.executable, "-m", "trtgate", "plans", "prune", f"--keep={keep}", cache]
        if self.name == "ab":
            sides = [f"--{side}={sys.executable}" for side in ("old", "new")]
            return [sys.executable, "-m", "trtgate", "ab", *sides, *SMALL, "--rounds=8", "--rebuilds=2", cache]
        rebuild = ["--rebuild"] if random.random() < 0.3 else []
        storage = f"--benchmark-storage=file://{self.storage}"
        bench = [sys.executable, "-m", "pytest", "bench/", "-p", "no:cacheprovider", *SMALL, cache, *rebuild]
        return [*bench, "--processes=2", storage, "--benchmark-save=soak"]

    @property
    def storage(self) -> Path:
        return self.out / f"{self.name}-{self.number}"

    @property
    def log(self) -> Path:
        return self.out / f"{self.name}-{self.number}.log"

    def start(self) -> None:
        self.number += 1
        self.killed, self.started = False, time.monotonic()
        temporary = self.out / "tmp"
        temporary.mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(temporary)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill_one(self) -> None:
        """Kill its process, or one that it started."""
        if self.process is None or self.process.poll() is not None:
            return
        with contextlib.suppress(psutil.Error):
            main = psutil.Process(self.process.pid)
            self.killed = True
            random.choice([main, *main.children(recursive=True)]).send_signal(signal.SIGKILL)

    def look(self) -> bool:
        """Whether the run has ended; what was wrong with it is noted."""
        assert self.process is not None
        status = self.process.poll()
        if status is None:
            if time.monotonic() - self.started > WAIT_SECONDS:
                self.wrong.append(f"{self.log.name} hangs")
                os.killpg(self.process.pid, signal.SIGKILL)
            return False
        self.ended["killed" if self.killed else str(status)] += 1
        text = self.log.read_text(errors="replace")
        if "Traceback" in text or "INTERNALERROR" in text:
            self.wrong.append(f"{self.log.name} shows a traceback")
        if not self.killed and status not in ({0} if self.name == "pruner" else OUTCOMES):
            self.wrong.append(f"{self.log.name} ended with {status}, and nobody killed anything of it")
        if self.name.startswith("bench") and not self.killed:
            self._session()
        return True

    def _session(self) -> None:
        saved = list(self.storage.rglob("*_soak.json"))
        if len(saved) != 1:
            self.wrong.append(f"{self.log.name} left {len(saved)} sessions")
        for path in saved:
            try:
                read_session(path)
            except UserError as error:
                self.wrong.append(str(error))


def check_cache(root: Path) -> list[str]:
    """What is wrong with a cache that nobody uses any more."""
    cache = PlanCache(root)
    found = cache.entries()
    wrong = [
        f"{entry.path} is not what its manifest says"
        for entry in found
        if file_digest(entry.path / entry.manifest.file) != entry.manifest.sha256
    ]
    wrong += [f"{path} was set aside" for path in root.rglob("*.damaged-*")]
    kept = cache.prune(1 << 40).kept
    if len(kept) != len(found):
        wrong.append(f"{len(found) - len(kept)} entries were lost to pruning that had room for all")
    wrong += [f"{path} is left behind" for path in root.rglob("*.building-*")]
    print(f"{len(found)} entries in the cache")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, nargs="?", default=30.0)
    parser.add_argument("--out", type=Path, help="logs, sessions and the cache; default a new folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    out = (options.out or Path(tempfile.mkdtemp(prefix="trtgate-soak-"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    cache = out / "cache"
    actors = [Actor(name, out, cache) for name in ("bench-1", "bench-2", "ab", "pruner")]
    print(f"{options.minutes:g} minutes, logs in {out}", flush=True)
    PlanCache(cache)
    for actor in actors:
        actor.start()
    until = time.monotonic() + 60 * options.minutes
    next_kill = time.monotonic() + random.uniform(*KILL_SECONDS)
    running = list(actors)
    while running:
        time.sleep(0.2)
        over = time.monotonic() > until
        if not over and time.monotonic() > next_kill:
            random.choice(actors).kill_one()
            next_kill = time.monotonic() + random.uniform(*KILL_SECONDS)
        for actor in [each for each in running if each.look()]:
            if over:
                running.remove(actor)
            else:
                actor.start()
    wrong = [each for actor in actors for each in actor.wrong] + check_cache(cache)
    for actor in actors:
        print(f"{actor.name}: {actor.number} runs, ended with {dict(sorted(actor.ended.items()))}")
    for each in wrong:
        print(f"WRONG: {each}")
    print("as it should be" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
