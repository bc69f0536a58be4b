"""Follows the documents: python tests/documents.py [DOCUMENT ...]

Every `sh` block of README.md, docs/ and CONTRIBUTING.md is run in order in a fresh clone, as a reader would with
the environment active; a Python block that begins with the name of a file is written to that file. A command that was
run already is not run again. Blocks marked `sh gpu` need a GPU and are left out. Runs are kept short by pytest's own
variable for more options.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLLOWED = ("upgrade-playbook", "reference", "models", "measurements", "quantisation", "how-it-decides")
DOCUMENTS = ("README.md", *(f"docs/{name}.md" for name in FOLLOWED), "CONTRIBUTING.md")
BLOCK = re.compile(r"^```(\w+)( gpu)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# One small model and few engines, where the command names none; CI runs the first two commands in full.
SMALL = "--model efficientnet_lite0 --engine onnxruntime-int8"
# Ends with what one session against one must end with, or with what the machine says.
STATUS = {"--benchmark-compare=nightly": {1, 6}, "trtgate compare": {0, 1, 6, 7}, "trtgate ab": {0, 1, 6}}
STATUS |= {"--benchmark-compare=before": {0, 6, 7}, "trtgate bisect": {0, 6}}
STATUS |= {"trtgate doctor": {0, 7}, "trtgate selftest": {0, 1, 6, 7}, "trtgate report": {0, 1, 6}}
IN_CI = {"make bench", "make test"}


def wanted(command: str) -> set[int]:
    return next((status for text, status in STATUS.items() if text in command), {0})


def commands(block: str) -> list[str]:
    """A block's commands, each with its here-document."""
    found: list[str] = []
    until = ""
    for line in block.splitlines():
        if until or (found and found[-1].endswith("\\")):
            found[-1] += f"\n{line}"
            until = "" if line == until else until
        elif line.strip():
            found.append(line)
            here = re.search(r"<<'(\w+)'", line)
            until = here[1] if here else ""
    return found


def follow(document: str, clone: Path, environment: dict[str, str], done: set[str]) -> None:
    for language, gpu, block in BLOCK.findall((clone / document).read_text()):
        target = re.match(r"# (\S+\.py)\n", block)
        if language == "python" and target:
            (clone / target[1]).write_text(block.split("\n", 1)[1])
        if language != "sh" or gpu:
            continue
        for command in commands(block):
            if command in done:
                continue
            done.add(command)
            start = time.monotonic()
            small = {} if "--model" in command else {"PYTEST_ADDOPTS": SMALL}
            run = subprocess.run(
                ["bash", "-c", command],
                cwd=clone,
                env={**environment, **small},
                capture_output=True,
                text=True,
                check=False,
            )
            first = command.splitlines()[0]
            print(f"{document}: {first}: {run.returncode} in {time.monotonic() - start:.0f} s", flush=True)
            if run.returncode not in wanted(command):
                sys.exit(f"{run.stdout[-3000:]}\n{run.stderr[-3000:]}\n{document}: {command} ended so")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="trtgate-documents-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        (clone / ".venv").symlink_to(ROOT / ".venv")
        if (ROOT / ".trtgate").is_dir():
            # Building plans anew shows nothing of the documents.
            shutil.copytree(ROOT / ".trtgate", clone / ".trtgate", symlinks=True)
        environment = {
            **os.environ,
            "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        done = set(IN_CI)
        for document in sys.argv[1:] or DOCUMENTS:
            follow(document, clone, environment, done)
    print("every command of the documents ran")


if __name__ == "__main__":
    main()
