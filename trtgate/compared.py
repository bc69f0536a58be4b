"""A comparison as JSON: written for machines, and read again from other runners, who may have written anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from trtgate import fields
from trtgate.compare import ACCURACY, AGREEMENT, ANSWERS, Change, Comparison, Report, nothing_compared
from trtgate.records import SCHEMA, Key, name_of, verdict_from_json, verdict_to_json
from trtgate.verdict.metrics import BY_NAME
from trtgate.verdict.outcome import Verdict
from trtgate.verdict.policy import worst


def report_to_json(report: Report) -> dict[str, Any]:
    """A comparison as plain JSON values; `report_from_json` reads it."""
    return {
        "schema": SCHEMA,
        "sessions": list(report.sessions),
        "stack_changes": list(report.stack_changes),
        "limit_changes": list(report.limit_changes),
        "engines": [comparison_to_json(each) for each in report.engines],
        "missing": [
            {"model": key[0], "engine": key[1], "batch": key[2], "decision": verdict_to_json(verdict)}
            for key, verdict in report.missing.items()
        ],
        "problems": {name: verdict_to_json(verdict) for name, verdict in report.problems.items()},
        "added": [list(key) for key in report.added],
    }


def comparison_to_json(each: Comparison) -> dict[str, Any]:
    """One engine's comparison as plain JSON values."""
    return {
        "model": each.key[0],
        "engine": each.key[1],
        "batch": each.key[2],
        "metrics": {
            change.metric: {
                "old": change.old,
                "new": change.new,
                "gated": change.gated,
                "delta": change.delta,
                "decision": verdict_to_json(change.verdict),
            }
            for change in _worst_of_each(each.changes)
        },
        "invalid": verdict_to_json(each.invalid) if each.invalid else None,
        "old_reference": each.old_reference,
        "new_reference": each.new_reference,
        "old_clock_mhz": each.old_clock,
        "new_clock_mhz": each.new_clock,
        "controls": dict(each.controls),
        "layers": [str(layer) for layer in each.layers],
        "baseline_differs": each.baseline_differs,
        "decision": verdict_to_json(each.verdict),
    }


def _worst_of_each(changes: Sequence[Change]) -> list[Change]:
    """One change a metric, that with the worst verdict: answers may be compared in several ways under one name."""
    found: dict[str, Change] = {}
    for change in sorted(changes, key=lambda each: not each.gated):
        known = found.get(change.metric)
        if known is None or (known.gated <= change.gated and worst([known.verdict, change.verdict]) is change.verdict):
            found[change.metric] = change
    # In their own order: the first of the worst is the one that decides.
    return [change for change in changes if any(change is each for each in found.values())]


def report_from_json(values: Any) -> Report:
    """A comparison from JSON values, without the layers, which are kept as text.

    Raises one of `fields.DAMAGED` for anything that `report_to_json` does not write: an engine twice, a verdict that
    its own metrics do not bear out, a metric that nobody knows, another schema.
    """
    given = fields.table("the comparison", values)
    schema = fields.count("schema", given["schema"])
    if schema != SCHEMA:
        raise ValueError(f"schema {schema}, where this trtgate reads {SCHEMA}; compare again")
    engines = fields.listed(_comparison_from_json)("engines", given["engines"])
    missing = fields.listed(_missing_from_json)("missing", given["missing"])
    added = fields.listed(_added_from_json)("added", given["added"])
    keys = Counter([*(each.key for each in engines), *(key for key, _ in missing), *added])
    for key, times in keys.items():
        if times > 1:
            raise ValueError(f"{name_of(key)} is there twice")
    problems = fields.mapped(lambda _, value: verdict_from_json(value))("problems", given["problems"])
    return Report(
        engines=engines,
        missing=dict(missing),
        problems={**nothing_compared([each.key for each in engines], [*dict(missing), *added]), **problems},
        added=added,
        stack_changes=fields.listed(fields.text)("stack_changes", given["stack_changes"]),
        limit_changes=fields.listed(fields.text)("limit_changes", given["limit_changes"]),
        sessions=fields.listed(fields.line)("sessions", given["sessions"]),
    )


def _key_from_json(given: Mapping[str, Any]) -> Key:
    model, engine = (fields.label(name, given[name]) for name in ("model", "engine"))
    return model, engine, fields.batch("batch", given["batch"])


def _missing_from_json(name: str, value: Any) -> tuple[Key, Verdict]:
    given = fields.table(name, value)
    return _key_from_json(given), verdict_from_json(given["decision"])


def _added_from_json(name: str, value: Any) -> Key:
    return _key_from_json(dict(zip(("model", "engine", "batch"), fields.items(name, value), strict=True)))


def _comparison_from_json(name: str, value: Any) -> Comparison:
    given = fields.table(name, value)
    measured = fields.optional(fields.positive)
    each = Comparison(
        key=_key_from_json(given),
        changes=tuple(_change_from_json(*item) for item in fields.table("metrics", given["metrics"]).items()),
        invalid=fields.optional(lambda _, invalid: verdict_from_json(invalid))("invalid", given["invalid"]),
        old_reference=measured("old_reference", given["old_reference"]),
        new_reference=measured("new_reference", given["new_reference"]),
        old_clock=measured("old_clock_mhz", given["old_clock_mhz"]),
        new_clock=measured("new_clock_mhz", given["new_clock_mhz"]),
        controls=fields.mapped(fields.number)("controls", given["controls"]),
        baseline_differs=fields.text("baseline_differs", given["baseline_differs"]),
    )
    if verdict_from_json(given["decision"]) != each.verdict:
        raise ValueError(f"{name_of(each.key)} has a verdict that is not the worst of its metrics")
    return each


def _change_from_json(metric: str, value: Any) -> Change:
    if metric not in {*BY_NAME, ANSWERS, AGREEMENT, ACCURACY}:
        raise ValueError(f"{metric} is no metric")
    given = fields.table(metric, value)
    old, new = (fields.optional(fields.ratio)(f"{metric}.{side}", given[side]) for side in ("old", "new"))
    verdict = verdict_from_json(given["decision"])
    if verdict.metric != metric:
        raise ValueError(f"the verdict on {metric} is one on {verdict.metric or 'nothing'}")
    delta = fields.optional(fields.number)(f"{metric}.delta", given.get("delta"))
    return Change(metric, old, new, verdict, fields.flag(f"{metric}.gated", given["gated"]), delta)
