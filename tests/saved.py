"""Saved sessions as pytest-benchmark would have written them, for tests of what is decided on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trtgate.records import SCHEMA, EngineRecord, to_json
from trtgate.stack import stack

WOBBLE = [1 + 0.002 * (i * 7 % 5) for i in range(15)]


def own(number: int) -> float:
    """What makes a session a little its own."""
    return 1 + 0.001 * (number % 5) + 1e-6 * number


def save(
    number: int,
    name: str,
    engine: float = 1e-3,
    reference: float = 4e-3,
    changes: dict[str, Any] | None = None,
    engines: tuple[str, ...] = ("onnxruntime-int8",),
    clock: float | None = None,
    series: dict[str, tuple[float, ...]] | None = None,
    summary: dict[str, Any] | None = None,
    when: str = "2026-01-01",
    model: str = "resnet50",
    batches: tuple[int, ...] = (1,),
    **more: Any,
) -> None:
    """A session as pytest-benchmark would have saved it; `number` also makes it a little its own."""
    scale = own(number)
    records = [
        EngineRecord(
            model,
            spec,
            batch,
            "file",
            {
                "latency": tuple(engine * scale * w for w in WOBBLE),
                "reference_latency": tuple(reference * scale * w for w in WOBBLE),
                **{name: tuple(scale * value for value in values) for name, values in (series or {}).items()},
            },
            readings={"clock_mhz": clock} if clock else {},
            **more,
        )
        for batch in batches
        for spec in engines
    ]
    document = {
        "machine_info": {"trtgate": {**stack(), **(changes or {})}},
        "benchmarks": [{"extra_info": {"trtgate": to_json(record)}} for record in records],
        "datetime": when,
        "trtgate": {"schema": SCHEMA, "skipped": {}, "unfit": [], **(summary or {})},
    }
    folder = Path(".benchmarks/Linux")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number:04}_{name}.json").write_text(json.dumps(document))


def sessions(name: str, first: int, **keywords: Any) -> None:
    for number in range(first, first + 5):
        save(number, name, **keywords)
