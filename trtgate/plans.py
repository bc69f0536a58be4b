"""The plan cache: content-addressed, locked, and never trusted unread.

An entry is a folder `<root>/<kind>/<key>/` with one artifact and its `manifest.json`. The key is the SHA-256 of the
canonical JSON of what the artifact depends on, so an artifact built from anything else has another key. The manifest
also holds the artifact's digest, which is checked before anyone deserialises it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from trtgate.errors import UserError
from trtgate.files import file_digest, sync, write_synced

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# An artifact that differs in one of these is not another version of the same thing, but another thing.
IDENTITY = ("model", "kind", "engine", "rebuild")

Depends = Mapping[str, Any]


@dataclass(frozen=True)
class CachedFile:
    """An artifact on disk with what it depends on and what its build cost.

    `built_on` is what was noted of the machine that built it, and is no reason to build another.
    """

    path: Path
    depends: Depends
    digest: str
    build_seconds: float
    reused: bool
    built_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size


def key_of(depends: Depends) -> str:
    """SHA-256 of the canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(depends, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class PlanCache:
    """The cache under `root`; safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        """Raises UserError when `root` cannot be made or written."""
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--plan-cache: {root} cannot be made ({error.strerror}); name a writable folder"
            ) from error
        if not os.access(root, os.W_OK):
            raise UserError(f"--plan-cache: {root} is not writable; name a writable folder")

    def get_or_build(
        self,
        kind: str,
        filename: str,
        depends: Depends,
        build: Callable[[Path], None],
        *,
        built_on: Mapping[str, Any] | None = None,
        anew: bool = False,
    ) -> CachedFile:
        """The artifact that `depends` describes, built by `build(path)` unless a sound one is there.

        With `anew` it is built whatever is there, and replaces that. `built_on` is noted in the manifest.

        Only one process builds; the others wait for its lock and reuse. The build writes into a temporary folder that
        is renamed as the last step, so a killed build leaves nothing that has a manifest. A damaged entry is set aside
        beside the cache and rebuilt, with a warning.
        """
        with self._locked(kind, depends) as (entry, key):
            found = self._read(entry, filename, key)
            if found is not None and not anew:
                return found
            if found is None:
                self._log_why(kind, depends)
            return self._build(entry, filename, key, depends, build, dict(built_on or {}))

    def find(self, kind: str, filename: str, depends: Depends) -> CachedFile | None:
        """The artifact that `depends` describes if a sound one is there; a damaged one is set aside with a warning."""
        with self._locked(kind, depends) as (entry, key):
            return self._read(entry, filename, key)

    @contextlib.contextmanager
    def _locked(self, kind: str, depends: Depends) -> Iterator[tuple[Path, str]]:
        """The folder and the key of an entry that no other process touches meanwhile."""
        key = key_of(depends)
        entry = self.root / kind / key[:32]
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_suffix(".lock")):
            yield entry, key

    def entries(self, kind: str) -> list[Mapping[str, Any]]:
        """The manifests of all whole entries of a kind, oldest first."""
        manifests = []
        for path in sorted((self.root / kind).glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime):
            try:
                manifests.append(json.loads(path.read_text()))
            except ValueError:
                log.warning("%s is no JSON; its entry will be rebuilt when it is asked for", path)
        return manifests

    def _read(self, entry: Path, filename: str, key: str) -> CachedFile | None:
        if not entry.exists():
            return None
        try:
            manifest = json.loads((entry / MANIFEST).read_text())
            artifact = entry / filename
            sound = manifest["key"] == key and manifest["sha256"] == file_digest(artifact)
        except (OSError, ValueError, KeyError, TypeError):
            sound = False
        if sound:
            built_on = manifest.get("built_on", {})
            return CachedFile(
                artifact, manifest["depends"], manifest["sha256"], manifest["build_seconds"], True, built_on
            )
        aside = entry.with_name(f"{entry.name}.damaged-{uuid.uuid4().hex[:8]}")
        entry.rename(aside)
        log.warning("%s is damaged; set aside as %s and rebuilt", entry, aside.name)
        return None

    def _build(
        self,
        entry: Path,
        filename: str,
        key: str,
        depends: Depends,
        build: Callable[[Path], None],
        built_on: dict[str, Any],
    ) -> CachedFile:
        # A build that was killed left its own temporary folder; nobody else can be in it while the lock is held.
        for stale in entry.parent.glob(f"{entry.name}.building-*"):
            shutil.rmtree(stale)
        working = entry.with_name(f"{entry.name}.building-{uuid.uuid4().hex[:8]}")
        working.mkdir()
        try:
            started = time.monotonic()
            build(working / filename)
            seconds = time.monotonic() - started
            digest = file_digest(working / filename)
            manifest = {
                "key": key,
                "file": filename,
                "sha256": digest,
                "build_seconds": seconds,
                "depends": depends,
                "built_on": built_on,
            }
            write_synced(working / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
            sync(working / filename)
            sync(working)
            if entry.exists():
                replaced = entry.with_name(f"{entry.name}.building-replaced")
                entry.rename(replaced)
                shutil.rmtree(replaced)
            working.rename(entry)
            sync(entry.parent)
        except BaseException:
            shutil.rmtree(working, ignore_errors=True)
            raise
        return CachedFile(entry / filename, depends, digest, seconds, False, built_on)

    def _log_why(self, kind: str, depends: Depends) -> None:
        """Say which fields keep the nearest earlier entry of the same thing from being used."""
        differences = [
            changed_fields(manifest["depends"], depends)
            for manifest in self.entries(kind)
            if all(manifest["depends"].get(name) == depends.get(name) for name in IDENTITY)
        ]
        if differences:
            nearest = min(reversed(differences), key=len)
            log.info("rebuilding %s: changed since the nearest one: %s", kind, "; ".join(nearest))


def changed_fields(old: Depends, new: Depends, prefix: str = "") -> list[str]:
    """`field: old -> new` for every leaf that differs, in the order of the names; digests are shortened."""
    changes = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes += changed_fields(before, after, f"{prefix}{name}.")
        elif before != after:
            changes.append(f"{prefix}{name}: {_short(before)} -> {_short(after)}")
    return changes


def _short(value: Any) -> str:
    text = str(value)
    return text[:8] if len(text) == 64 else text
