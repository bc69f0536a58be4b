"""Runs the GPU workflows' own shell steps on this machine, in order: python tests/workflows.py [WORKFLOW ...]

Read from .github/workflows, not copied: for the CPU's engines and ONNX Runtime's versions in the place of TensorRT's. A
fresh clone stands for the runner, folders for artifacts, and the expressions of `env` and `with` are evaluated for the
inputs given below. Of the steps that are actions, artifacts are copied and the rest does nothing. cpu.yml's steps are
the make targets that .ci/run runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
# One small model: what is under test is the workflows.
SMALL = "--device cpu --model efficientnet_lite0 --engine onnxruntime-int8 --processes 2"
NAME = re.compile(r"'[^']*'|[a-z_]+(?:\.[A-Za-z_]+)+")
# What a CPU machine has instead.
INSTEAD = {"make environment-gpu": "make environment"}


@dataclass
class Runner:
    """A machine that runs jobs in a clone; its artifacts outlive each job's records."""

    clone: Path
    artifacts: Path
    tools: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def run(self, workflow: str, job: str, *, matrix: str = "", **inputs: str) -> int:
        """Run a job's steps; the exit status of the first shell step that fails, after what runs `always()`."""
        document = yaml.safe_load((self.clone / ".github/workflows" / workflow).read_text())
        given = self._defaults(document) | inputs
        names = {
            **{f"inputs.{name}": value for name, value in given.items()},
            **{f"vars.{name}": value for name, value in self.variables.items()},
            "matrix.runner": matrix,
            "runner.tool_cache": str(self.tools),
            "runner.temp": str(self.tools / "temp"),
            "github.token": "",
            "github.repository": "some/where",
        }
        shutil.rmtree(self.clone / "records", ignore_errors=True)
        status = 0
        for step in document["jobs"][job]["steps"]:
            condition = str(step.get("if", "")).removeprefix("${{").removesuffix("}}").strip()
            always = condition == "always()"
            if (status and not always) or (condition and not always and not evaluate(condition, names)):
                continue
            if "run" in step:
                status = self._shell(step, names) or status
            else:
                self._action(step, names)
        return status

    @staticmethod
    def _defaults(document: Mapping[Any, Any]) -> dict[str, str]:
        # YAML 1.1 reads the key `on` as true.
        inputs = document[True]["workflow_dispatch"]["inputs"]
        return {name: str(each.get("default", "")) for name, each in inputs.items()}

    def _shell(self, step: Mapping[str, Any], names: Mapping[str, str]) -> int:
        script = step["run"]
        for gpu, cpu in INSTEAD.items():
            script = script.replace(gpu, cpu)
        environment = {name: fill(str(value), names) for name, value in step.get("env", {}).items()}
        print(f"  {step['name']}", flush=True)
        # As the runner calls bash.
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.clone,
            env={
                **os.environ,
                **environment,
                "PATH": f"{self.tools / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "GITHUB_STEP_SUMMARY": str(self.artifacts / "summary.md"),
            },
            check=False,
        ).returncode

    def _action(self, step: Mapping[str, Any], names: Mapping[str, str]) -> None:
        options = {name: fill(str(value), names) for name, value in step.get("with", {}).items()}
        action = step["uses"].split("@")[0]
        if action == "actions/upload-artifact":
            target = self.artifacts / options["name"]
            shutil.rmtree(target, ignore_errors=True)
            for source in (self.clone / line for line in options["path"].splitlines()):
                if source.is_dir():
                    shutil.copytree(source, target)
                elif source.is_file():
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, target)
        elif action == "actions/download-artifact":
            target = self.clone / options["path"]
            shutil.rmtree(target, ignore_errors=True)
            for found in self.artifacts.glob(options.get("pattern", options.get("name", ""))):
                shutil.copytree(found, target / found.name if "pattern" in options else target)
        else:
            assert action in {"actions/checkout", "actions/cache"}, action


def evaluate(expression: str, names: Mapping[str, str]) -> Any:
    """An expression of GitHub's language, as far as these workflows use it."""

    def value(match: re.Match[str]) -> str:
        text = match[0]
        return text if text.startswith("'") else repr(names.get(text, ""))

    python = NAME.sub(value, expression).replace("||", " or ").replace("&&", " and ")
    return eval(python, {"__builtins__": {}})


def fill(text: str, names: Mapping[str, str]) -> str:
    """Text with its expressions evaluated."""
    return re.sub(r"\$\{\{(.*?)\}\}", lambda match: str(evaluate(match[1].strip(), names)), text)


def require_queues(workflows: Path) -> list[str]:
    """The labels whose jobs wait for each other, however many: every job that measures on a runner of one's own.

    A group has one run that waits unless it says `queue: max`, and each that comes after it cancels it. A group of the
    whole workflow would have runners wait for each other.
    """
    labels = []
    for path in sorted(workflows.glob("*.yml")):
        document = yaml.safe_load(path.read_text())
        for name, job in document["jobs"].items():
            if "self-hosted" not in job["runs-on"]:
                continue
            [label] = set(job["runs-on"]) - {"self-hosted"}
            wanted = {"group": f"gpu-{label}", "queue": "max", "cancel-in-progress": False}
            assert job.get("concurrency") == wanted, f"{path.name}, {name}: {job.get('concurrency')}, not {wanted}"
            assert "concurrency" not in document, f"{path.name}: a group of the whole workflow"
            labels.append(label)
    return labels


def expect(what: str, status: int, *wanted: int) -> None:
    assert status in wanted, f"{what} ended with {status}, wanted {wanted}"
    print(f"{what}: exit status {status}, as it should be", flush=True)


def gate(runner: Runner) -> None:
    """Record, merge, promote, gate against what was promoted."""
    inputs = {"sessions": "1", "require": "onnxruntime", "bench": SMALL}
    expect("gpu-gate, record only", runner.run("gpu-gate.yml", "gate", matrix="cpu", **inputs), 0)
    labels = {"runners": '["cpu"]'}
    expect("gpu-gate, one table", runner.run("gpu-gate.yml", "fleet", **labels), 0)
    silent = runner.run("gpu-gate.yml", "fleet", runners='["cpu", "t4"]')
    expect("gpu-gate, one table of a runner that sent nothing too", silent, 7)
    expect("gpu-gate, one table again", runner.run("gpu-gate.yml", "fleet", **labels), 0)
    kept = {path.name for path in (runner.artifacts / "fleet").iterdir()}
    assert kept == {"fleet.md", "github-action-benchmark.json", "bencher.json"}, kept
    command = [".venv/bin/python", "-m", "trtgate", "promote", str(runner.artifacts / "records-cpu"), "--to"]
    subprocess.run([*command, "baselines/cpu/old"], cwd=runner.clone, check=True)
    inputs["baseline"] = "old"
    # One session against one: it cannot tell, and so it is no pass.
    expect("gpu-gate, against a baseline", runner.run("gpu-gate.yml", "gate", matrix="cpu", **inputs), 1, 6, 7)
    expect("gpu-gate, one table of that", runner.run("gpu-gate.yml", "fleet", **labels), 1, 6, 7)
    expect("gpu-gate, over time", 0 if (runner.artifacts / "records-cpu" / "trend.html").is_file() else 1, 0)
    inputs["baseline"] = "nowhere"
    expect("gpu-gate, a baseline that is missing", runner.run("gpu-gate.yml", "gate", matrix="cpu", **inputs), 2)
    inputs |= {"baseline": "", "require": "tensorrt"}
    expect("gpu-gate, a runtime that is missing", runner.run("gpu-gate.yml", "gate", matrix="cpu", **inputs), 2)
    summary = (runner.artifacts / "summary.md").read_text()
    for title in ("### trtgate\n", "### trtgate: the fleet", "### trtgate: against the baseline", "not fit to gate on"):
        assert title in summary, f"the job's summary has no {title!r}"


def upgrade(runner: Runner) -> None:
    """Versions raced; a driver's two halves."""
    versions = {"old": "onnxruntime==1.22.0", "new": "onnxruntime==1.23.2", "common": ""}
    # What the versions did is not what is under test here; that there is a verdict is.
    status = runner.run("upgrade.yml", "versions", engines="onnxruntime-int8", runner="cpu", **versions)
    expect("upgrade, versions", status, 0, 1, 6, 7)
    report = json.loads((runner.artifacts / "upgrade-cpu" / "ab.json").read_text())
    assert report["stack_changes"] == ["onnxruntime: 1.22.0 -> 1.23.2"], report["stack_changes"]
    tell = {"runner": "cpu", "what": "versions"}
    expect("upgrade, tell it", runner.run("upgrade.yml", "comment", pull_request="12", **tell), 0)
    comment = (runner.tools / "comment").read_text()
    assert comment.startswith("pr comment 12 --body-file comment.md\n### trtgate: old against new, raced"), comment
    expect("upgrade, tell no number", runner.run("upgrade.yml", "comment", pull_request="--web", **tell), 2)
    versions["new"] = "--index-url=elsewhere"
    expect("upgrade, no version", runner.run("upgrade.yml", "versions", runner="cpu", **versions), 2)
    os.environ["PYTEST_ADDOPTS"] = SMALL
    both = {"runner": "cpu", "require": "onnxruntime"}
    expect("upgrade, before a driver", runner.run("upgrade.yml", "driver", what="driver-before", **both), 0)
    status = runner.run("upgrade.yml", "driver", what="driver-after", before="1", **both)
    expect("upgrade, after a driver", status, 0, 1, 6, 7)
    outcome = json.loads((runner.artifacts / "driver-after-cpu" / "verdict.json").read_text())
    assert [each["decision"]["reason"] for each in outcome["engines"]] != ["underpowered"], outcome


def main() -> None:
    chosen = sys.argv[1:] or ["gpu-gate", "upgrade"]
    require_queues(ROOT / ".github/workflows")
    with tempfile.TemporaryDirectory(prefix="trtgate-workflows-") as folder:
        clone, tools = Path(folder) / "clone", Path(folder) / "tool cache"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        (tools / "trtgate").mkdir(parents=True)
        (tools / "trtgate" / "venv").symlink_to(ROOT / ".venv")
        (clone / ".venv").symlink_to(ROOT / ".venv")
        # GitHub's own command; what it is told goes no further.
        (tools / "bin").mkdir()
        (tools / "bin" / "gh").write_text(f'#!/bin/sh\n{{ echo "$*"; cat "$5"; }} >"{tools}/comment"\n')
        (tools / "bin" / "gh").chmod(0o755)
        runner = Runner(clone, Path(folder) / "artifacts", tools)
        runner.artifacts.mkdir()
        start = time.monotonic()
        for name in chosen:
            {"gpu-gate": gate, "upgrade": upgrade}[name](runner)
        print(f"the workflows' steps run as they should ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    main()
