"""`python -m trtgate plans`: what the plan cache holds, why something was built anew, and making it smaller."""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtgate.build.cache import IDENTITY, Entry, PlanCache, Pruned, nearest_change
from trtgate.files import named_path
from trtgate.kinds import UserError
from trtgate.report.page import Column, Table, cells
from trtgate.report.terminal import print_table
from trtgate.stack import changed_fields

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
# Of a key, as it is shown; enough to tell entries apart, and any beginning of it names one.
SHOWN = 8
SECONDS = {"d": 86400.0, "h": 3600.0, "min": 60.0}


def parse_size(text: str) -> int:
    """Bytes from `10GB`, `1.5 GiB` or `0`. Raises argparse.ArgumentTypeError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    size = float(match[1]) * UNITS.get(match[2].upper(), math.inf) if match else math.inf
    if not math.isfinite(size):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no size; give 10GB, 500MB or 0")
    return int(size)


def size_text(size: int) -> str:
    """Bytes with three digits and a unit."""
    for unit in ("TB", "GB", "MB", "kB"):
        if size >= UNITS[unit.upper()]:
            return f"{size / UNITS[unit.upper()]:.3g} {unit}"
    return f"{size} B"


def age_text(seconds: float) -> str:
    """How long ago, in the largest unit of which there is one."""
    for unit, length in SECONDS.items():
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return "now"


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("plans", help="see, explain and shrink the plan cache")
    what = parser.add_subparsers(dest="what", required=True)
    for name, run, text in (
        ("list", _list, "every entry: size, age, last use"),
        ("explain", _explain, "what an entry depends on, and how it differs from the others of its kind"),
        ("prune", _prune, "remove damaged entries, leftovers, and what was used longest ago"),
    ):
        each = what.add_parser(name, help=text, description=text)
        each.add_argument(
            "--plan-cache", type=named_path, default=Path(".trtgate"), metavar="DIR", help="default .trtgate"
        )
        if name == "explain":
            each.add_argument("key", nargs="?", metavar="KEY", help="the beginning of a key; default: all that changed")
        if name == "prune":
            each.add_argument("--keep", type=parse_size, required=True, metavar="SIZE", help="as 10GB")
        each.set_defaults(run=run)


def _open(options: argparse.Namespace) -> PlanCache:
    root: Path = options.plan_cache
    if not root.is_dir():
        raise UserError(f"--plan-cache: {root} is no folder; name a plan cache")
    return PlanCache(root)


def thing(entry: Entry) -> str:
    """What an entry is, in the words of a run."""
    depends = entry.manifest.depends
    named = [str(depends[name]) for name in IDENTITY if name in depends and depends[name] != 0]
    return printable(" ".join(named) or entry.manifest.file)


def printable(text: str) -> str:
    """A text that does nothing to a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def list_table(entries: Sequence[Entry], now: float) -> Table:
    """One row for each entry; `now` is seconds since 1970."""
    names = ("key", "kind", "what", "size", "built in", "built", "last used")
    rows = []
    for entry in entries:
        built, used = age_text(now - entry.built), age_text(now - entry.used)
        seconds = f"{entry.manifest.build_seconds:.1f} s"
        rows.append(
            cells(entry.path.name[:SHOWN], entry.kind, thing(entry), size_text(entry.size), seconds, built, used)
        )
    return Table(tuple(Column(name, text=True) for name in names), tuple(rows), grouped=0)


def _list(options: argparse.Namespace) -> int:
    entries = _open(options).entries()
    print_table(list_table(entries, time.time()))
    print(f"{len(entries)} entries, {size_text(sum(entry.size for entry in entries))}")
    return 0


def explained(entry: Entry, others: Sequence[Entry]) -> list[str]:
    """What an entry depends on, and how each other of the same thing differs from it, the nearest first."""
    lines = [f"{entry.kind} {entry.path.name}: {thing(entry)}"]
    lines += [f"  {line.replace(': None -> ', ': ', 1)}" for line in changed_fields({}, entry.manifest.depends)]
    same = [other for other in others if other.path != entry.path and is_same_thing(entry, other)]
    changes = [(changed_fields(entry.manifest.depends, other.manifest.depends), other) for other in same]
    for change, other in sorted(changes, key=lambda each: len(each[0])):
        lines.append(f"  {other.path.name[:SHOWN]} differs in {'; '.join(change)}")
    return lines


def is_same_thing(one: Entry, other: Entry) -> bool:
    """Whether two entries are versions of one artifact."""
    mine, theirs = one.manifest.depends, other.manifest.depends
    return one.kind == other.kind and all(mine.get(name) == theirs.get(name) for name in IDENTITY)


def rebuilt(entries: Sequence[Entry]) -> list[str]:
    """A line for each entry that an earlier one of the same thing could not replace, and why."""
    lines = []
    ordered = sorted(entries, key=lambda entry: entry.built)
    for index, entry in enumerate(ordered):
        earlier = [other for other in ordered[:index] if is_same_thing(entry, other)]
        if earlier:
            change = nearest_change(entry.manifest.depends, [other.manifest.depends for other in earlier])
            lines.append(f"{entry.path.name[:SHOWN]} {thing(entry)}: {'; '.join(change)}")
    return lines


def _explain(options: argparse.Namespace) -> int:
    entries = _open(options).entries()
    if options.key is None:
        lines = rebuilt(entries) or ["every entry is the only one of its thing: nothing was built anew"]
    else:
        found = [entry for entry in entries if entry.manifest.key.startswith(options.key.lower())]
        if not found:
            raise UserError(f"no entry's key begins with {options.key}; `plans list` shows them")
        lines = [line for entry in found for line in explained(entry, entries)]
    for line in lines:
        print(printable(line))
    return 0


def pruned_lines(pruned: Pruned, keep: int) -> list[str]:
    """What was done, and why there may be more left than was asked for."""
    left = sum(entry.size for entry in pruned.kept)
    lines = [
        f"removed {len(pruned.removed)} entries and {pruned.leftovers} leftovers ({size_text(pruned.freed)}); "
        f"{len(pruned.kept)} entries stay ({size_text(left)})"
    ]
    if left > keep and pruned.busy:
        lines.append("another process uses this cache: what was used in the last hours stays; prune again after it")
    return lines


def _prune(options: argparse.Namespace) -> int:
    for line in pruned_lines(_open(options).prune(options.keep), options.keep):
        print(line)
    return 0
