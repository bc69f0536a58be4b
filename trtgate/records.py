"""What a session saved, inside pytest-benchmark's JSON; written and read here and nowhere else.

A benchmark's `extra_info["trtgate"]` is an EngineRecord, `machine_info["trtgate"]` the stack, and the file's own
`"trtgate"` what the session as a whole came to. What is read may have been written by anybody: every type and range is
checked before anything is computed from it.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from trtgate import fields
from trtgate.expectations import check_section
from trtgate.fields import DAMAGED, read_json
from trtgate.kinds import REFERENCE, UserError
from trtgate.measure.race import CONTROL, HOST_CONTROL, Race
from trtgate.processes import no_garbage_collection
from trtgate.tasks.against import require_scores
from trtgate.verdict.answers import Answers
from trtgate.verdict.metrics import BY_NAME, Blocks, Numbers, Sample, numbers_of_processes
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.paired import Floats, interval
from trtgate.verdict.policy import GOOD

KEY = "trtgate"
# Raised when a field changes its meaning; readers refuse what is newer than they are. 1 had one field for each series,
# 2 the iterations in base85, which Python reads thirty times as slowly as base64.
SCHEMA = 3

Key = tuple[str, str, int]
# As trtexec warns: a hand-over that takes this share of the GPU's time is what is really being measured.
HOST_BOUND = 0.8


@dataclass(frozen=True)
class EngineRecord:
    """One engine of one model at one batch size, as a session measured it. Times are seconds, sizes bytes.

    `series` holds the numbers that are gated, by the name of their metric, and "reference_latency" beside "latency":
    one number for each round of the race, for each process, or a single one; NaN where a process of several has not
    measured it. `processes` says how many of the rounds each process raced, in order; it is empty where the session
    measured in its own process alone. `iterations` holds
    the raw times of every round, packed, of the series "latency" and "end_to_end". `digests` say what went in (weights,
    photos), `limits` what was expected. `readings` are medians of what the machine told between blocks, `controls` the
    latencies of the fixed work raced along, `controls_by_process` those in each process, `disturbed` why nothing that
    is not interleaved may rest on this race, `layer_times` milliseconds. `reference` is the engine that the model's
    answers and speedups are against; `scores` say how far the answers are from its, where they are not those of a
    classifier, which has `agreement` and `answers`. `uncounted` holds, by metric, the numbers of processes that do not
    count, since fixed work took another time in them.
    """

    model: str
    engine: str
    batch: int
    weights: str
    series: Mapping[str, tuple[float, ...]]
    iterations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    dropped_rounds: int = 0
    complete: bool = True
    disturbed: str = ""
    enqueue_seconds: float | None = None
    throughput: Mapping[str, float] = field(default_factory=dict)
    readings: Mapping[str, float] = field(default_factory=dict)
    controls: Mapping[str, float] = field(default_factory=dict)
    controls_by_process: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    agreement: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)
    layer_times: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    processes: tuple[int, ...] = ()
    reference: str = REFERENCE.id
    scores: Mapping[str, Any] = field(default_factory=dict)
    uncounted: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def is_reference(self) -> bool:
        """Whether it is what the others of its model are held against."""
        return self.engine == self.reference

    @property
    def key(self) -> Key:
        """What makes two records comparable."""
        return self.model, self.engine, self.batch

    @property
    def name(self) -> str:
        return name_of(self.key)

    @property
    def rounds(self) -> tuple[float, ...]:
        """One latency for each round, in seconds."""
        return self.series.get("latency", ())

    @property
    def reference_rounds(self) -> tuple[float, ...]:
        """The reference's latency in the same rounds."""
        return self.series.get("reference_latency", ())

    def value(self, metric: str) -> float | None:
        """The number of a metric of METRICS; None where it was not measured."""
        return self._values[metric]

    @functools.cached_property
    def _values(self) -> dict[str, float | None]:
        # All at once: unpacking the iterations takes longer than any metric, and keeping them much memory.
        sample = self.sample()
        return {name: metric.value(sample) for name, metric in BY_NAME.items()}

    @property
    def flaws(self) -> tuple[Verdict, ...]:
        """Why the record is good for nothing, whatever was decided on it."""
        flaws = []
        if False in (self.agreement.get("finite"), self.scores.get("finite")):
            flaws.append(Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, "the engine's logits hold NaN or infinity"))
        if not self.complete:
            flaws.append(Verdict(Outcome.INVALID, Reason.DISTURBED, "its race was not finished"))
        if self.disturbed:
            flaws.append(Verdict(Outcome.INVALID, Reason.DISTURBED, f"{self.disturbed} during its race"))
        return tuple(flaws)

    @property
    def latency(self) -> float:
        """Median of the rounds, in seconds; NaN without a round."""
        return float(np.median(self.rounds)) if self.rounds else math.nan

    @property
    def host_bound(self) -> bool:
        """Whether the GPU's number is really that of the host, which hands its work over."""
        return self._handed_over(self.latency)

    @property
    def host_bound_together(self) -> bool:
        """The same of several streams, where an inference takes less time and handing it over does not."""
        rates = self.numbers.get("throughput")
        return rates is not None and self._handed_over(self.batch / float(np.nanmedian(rates)))

    def _handed_over(self, seconds: float) -> bool:
        """Whether handing an inference over is most of what it takes."""
        return self.enqueue_seconds is not None and self.enqueue_seconds > HOST_BOUND * seconds

    @property
    def images_per_second(self) -> float:
        """Batch over median latency."""
        return self.batch / self.latency

    @property
    def clock_mhz(self) -> float | None:
        """The median clock of the processor that did the work, or None where nobody tells."""
        return self.readings.get("clock_mhz")

    @property
    def speedup(self) -> float:
        """Median over the rounds of reference / engine."""
        return (
            float(np.median(np.asarray(self.reference_rounds) / np.asarray(self.rounds))) if self.rounds else math.nan
        )

    def speedup_interval(self) -> tuple[float, float] | None:
        """Bounds of the speedup, or None from too few rounds."""
        try:
            _, low, high = interval(np.log(np.asarray(self.reference_rounds) / np.asarray(self.rounds)))
        except ValueError:
            return None
        return float(np.exp(low)), float(np.exp(high))

    def samples(self) -> tuple[Sample, ...]:
        """What each of its processes measured, for a comparison."""
        return self.sample().split(self.processes) if self.processes else (self.sample(),)

    @functools.cached_property
    def numbers(self) -> Numbers:
        """What every metric comes to in each of its processes."""
        return numbers_of_processes(self.sample(), self.processes)

    def sample(self) -> Sample:
        """All that was measured, as if by one process."""
        series = {name: np.asarray(values, np.float64) for name, values in self.series.items()}
        if self.clock_mhz:
            series["clock_hz"] = np.array([self.clock_mhz * 1e6])
        return Sample(series, {name: unpack(packed) for name, packed in self.iterations.items()})


def name_of(key: Key) -> str:
    """A record's key for people."""
    return f"{key[0]} {key[1]} batch {key[2]}"


@dataclass(frozen=True)
class SessionRecord:
    """One saved session: `unfit` says what failed in its own run, `partial` what of the suite it left out, `open` what
    could not be told; `verdicts` are those behind `unfit`, where it was saved with them.

    `limits` are those that models' own files set, by model, `own` the models that are networks of the user's own: what
    a comparison has to know beside expectations.toml. `sizes` are the batch sizes that each model is asked for at where
    not all may be measured yet.
    """

    path: Path
    datetime: str
    stack: Mapping[str, Any]
    engines: Mapping[Key, EngineRecord]
    skipped: Mapping[str, str]
    unfit: tuple[str, ...]
    partial: tuple[str, ...] = ()
    digest: str = ""
    schema: int = SCHEMA
    limits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    sizes: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def sizes_of(self, model: str) -> frozenset[int]:
        """The batch sizes that a model's plans were built for."""
        return self.sizes.get(model) or frozenset(batch for name, _, batch in self.engines if name == model)

    @property
    def failures(self) -> list[Verdict]:
        """What failed in its own run, of which an older version saved no more than a sentence."""
        decided = [*self.verdicts, *(verdict for record in self.engines.values() for verdict in record.verdicts)]
        known = {verdict.message: verdict for verdict in decided if verdict.outcome not in GOOD}
        return [known.get(each, Verdict(Outcome.REGRESSED, Reason.OWN_RUN_FAILED, each)) for each in self.unfit]


def from_race(race: Race, model: str, engine: str, reference: str, batch: int, weights: str) -> EngineRecord:
    """What a race says of one engine."""
    blocks = {"latency": race.blocks[engine], "end_to_end": race.end_to_end.get(engine, ())}
    series = {
        "latency": race.round_latencies(engine),
        "typical": race.round_latencies(engine, "midmean"),
        "reference_latency": race.round_latencies(reference),
        "end_to_end": race.round_end_to_end(engine),
        "reference_end_to_end": race.round_end_to_end(reference),
    }
    controls = [arm for arm in race.blocks if arm.startswith(CONTROL) and race.rounds]
    return EngineRecord(
        model=model,
        engine=engine,
        batch=batch,
        weights=weights,
        reference=reference,
        series={name: tuple(map(float, values)) for name, values in series.items() if values.size},
        iterations={name: pack(some) for name, some in blocks.items() if some},
        dropped_rounds=len(race.dropped),
        complete=race.complete,
        disturbed=race.disturbed,
        readings=race.readings,
        controls={
            **{arm: race.latency(arm) for arm in controls},
            **{f"{arm}{MEAN}": float(np.mean(np.concatenate(race.blocks[arm]))) for arm in controls},
        },
    )


def joined(records: Sequence[EngineRecord]) -> EngineRecord:
    """One record of what several processes measured of an engine, each of them complete and with at least one round."""
    first = records[0]
    names = dict.fromkeys(chain.from_iterable(each.series for each in records))
    lacking = {name: [each for each in records if name not in each.series] for name in names}
    series = {name: tuple(chain.from_iterable(_or_nan(name, each, records) for each in records)) for name in names}
    # Rounds without iterations cannot be told apart from those with some, so all go; the series says who lacks them.
    whole = [name for name in first.iterations if all(name in each.iterations for each in records)]
    blocks = {name: tuple(chain.from_iterable(unpack(each.iterations[name]) for each in records)) for name in whole}
    told = [f"{name} is missing in {len(some)} of {len(records)} processes" for name, some in lacking.items() if some]
    return replace(
        first,
        series=series,
        processes=tuple(len(each.rounds) for each in records),
        iterations={name: pack(some) for name, some in blocks.items()},
        dropped_rounds=sum(each.dropped_rounds for each in records),
        readings=medians_of([each.readings for each in records]),
        controls=medians_of([each.controls for each in records]),
        controls_by_process=controls_of_processes(records),
        warnings=tuple(dict.fromkeys(chain(*(each.warnings for each in records), told))),
    )


def _or_nan(name: str, record: EngineRecord, records: Sequence[EngineRecord]) -> tuple[float, ...]:
    """A process's part of a series, or NaN for each number that others of the `records` have of it."""
    if name in record.series:
        return record.series[name]
    of_rounds = all(len(each.series[name]) == len(each.rounds) for each in records if name in each.series)
    return (math.nan,) * (len(record.rounds) if of_rounds else 1)


def controls_of_processes(records: Sequence[EngineRecord]) -> dict[str, tuple[float, ...]]:
    """The seconds of fixed work in each process of some records; of one that has not kept those its median alone."""
    names = dict.fromkeys(chain.from_iterable(each.controls for each in records))
    return {
        name: tuple(
            chain.from_iterable(
                each.controls_by_process.get(name, (each.controls[name],)) for each in records if name in each.controls
            )
        )
        for name in names
    }


def medians_of(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of several tables the median of each number, over those that have it."""
    names = dict.fromkeys(chain.from_iterable(found))
    return {name: float(np.median([each[name] for each in found if name in each])) for name in names}


# A neighbour that runs now and then leaves the median of a control alone, and moves its mean.
MEAN = " (mean)"


def fixed_work(record: EngineRecord) -> dict[str, float]:
    """What tells the state of the machine: the seconds of its controls, but for means and a GPU's host."""
    return {name: each for name, each in record.controls.items() if not name.endswith(MEAN) and name != HOST_CONTROL}


def fixed_work_of_processes(records: Sequence[EngineRecord]) -> list[dict[str, float]]:
    """The same of each process of some records."""
    found = []
    for record in records:
        each = {name: record.controls_by_process.get(name, (value,)) for name, value in fixed_work(record).items()}
        found += [dict(zip(each, values, strict=True)) for values in zip(*each.values(), strict=False)]
    return found


def pack(blocks: Sequence[Floats]) -> dict[str, Any]:
    """Blocks of seconds as JSON values: their lengths, and float32 numbers compressed (some 3 bytes an iteration)."""
    return {"lengths": [block.size for block in blocks], "base64": fields.packed(np.concatenate(blocks))}


# No session has more: a day of 1 ms iterations is 86 million.
MOST_ITERATIONS = 100_000_000


def unpack(packed: Mapping[str, Any]) -> Blocks:
    """The inverse of `pack`, to float32's precision. Raises ValueError for anything else."""
    lengths = packed["lengths"]
    if not isinstance(lengths, list) or set(map(type, lengths)) != {int} or min(lengths) < 1:
        raise ValueError("lengths of blocks must be positive whole numbers")
    count = sum(lengths)
    if count > MOST_ITERATIONS:
        raise ValueError(f"{count} iterations are too many")
    # In schema 2 they were base85.
    old = packed.get("float32")
    encoded = base64.b64decode(packed["base64"], validate=True) if old is None else base64.b85decode(old)
    times = fields.unpacked("iterations", encoded, count)
    if not (times.min() > 0 and times.max() < np.inf):
        raise ValueError("iterations must be finite and positive")
    return Blocks(times, lengths)


def to_json(record: EngineRecord) -> dict[str, Any]:
    """A record as plain JSON values; the inverse of `from_json`."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    values["decisions"] = [verdict_to_json(verdict) for verdict in values.pop("verdicts")]
    for name in ("series", "uncounted"):
        values[name] = {
            key: [None if math.isnan(each) else each for each in some] for key, some in values[name].items()
        }
    return {"schema": SCHEMA, **{key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}}


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain JSON values."""
    return {
        "metric": verdict.metric,
        "verdict": verdict.outcome.value,
        "reason": verdict.reason.value,
        "message": verdict.message,
        "estimate": verdict.estimate,
        "low": verdict.low,
        "high": verdict.high,
        "p": verdict.p,
    }


def verdict_from_json(values: Any) -> Verdict:
    """The inverse of `verdict_to_json`. Raises ValueError for anything else."""
    given = fields.table("decision", values)
    ratio = fields.optional(fields.ratio)
    return Verdict(
        Outcome(given["verdict"]),
        Reason(given["reason"]),
        fields.text("message", given["message"]),
        ratio("estimate", given.get("estimate")),
        ratio("low", given.get("low")),
        ratio("high", given.get("high")),
        fields.optional(fields.share)("p", given.get("p")),
        fields.line("metric", given.get("metric", "")),
    )


# What each number of a summary is; null where there is none.
SUMMARY: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("n", "top1", "top5", "engine_top1", "photos"), fields.count),
    **dict.fromkeys(("reference_top1", "reference_top5", "engine_top5", "lost", "gained"), fields.count),
    **dict.fromkeys(("effective", "low", "high"), fields.optional(fields.ratio)),
    **dict.fromkeys(("cosine", "sqnr_db", "drop", "drop_low", "drop_high"), fields.optional(fields.number)),
    "finite": fields.flag,
}


def _summary(name: str, value: Any, counted: str = "top1") -> dict[str, Any]:
    """Numbers, counts of photos and flags of a summary; null where there is no number."""
    found: dict[str, Any] = fields.mapped(fields.plain)(name, value)
    for key, read in SUMMARY.items():
        if key in found:
            read(f"{name}.{key}", found[key])
    if found and ("n" not in found or counted not in found):
        raise ValueError(f"{name} must say how many of how many photos")
    if found.get(counted, 0) > found.get("n", 0) or found.get("n", 1) == 0:
        raise ValueError(f"{name}: {found.get(counted)} of {found.get('n')} is no share")
    return found


def _layer(name: str, value: Any) -> dict[str, Any]:
    given = fields.table(name, value)
    nodes = {"nodes": list(fields.listed(fields.line)(f"{name}.nodes", given["nodes"]))} if "nodes" in given else {}
    return {"ms": fields.ratio(f"{name}.ms", given["ms"]), "type": fields.line(f"{name}.type", given["type"]), **nodes}


def _layers(name: str, value: Any) -> dict[str, Any]:
    """Layers by name, most of what a session says: at once where all are as they are written."""
    given = dict(fields.table(name, value))
    if not given:
        return given
    layers = given.values()
    try:
        times, kinds, nodes = zip(*map(LAYER, layers), strict=True)
        plain = set(map(len, layers)) == {3} and set(map(type, times)) == {float} and set(map(type, nodes)) == {list}
        texts = [*kinds, *chain.from_iterable(nodes)] if plain else []
    except (TypeError, KeyError):
        plain = False
    if plain and fields.all_positive([each for each in times if each != 0.0]) and fields.all_lines(texts):
        return given
    return fields.mapped(_layer)(name, value)


LAYER = itemgetter("ms", "type", "nodes")


def _answers(name: str, value: Any) -> dict[str, Any]:
    found = dict(fields.table(name, value))
    if found:
        Answers.from_json(found)
    # Sessions of one stack answer alike, to the last bit as a rule: the text is kept once.
    return {key: _kept_once(each) if isinstance(each, str) else each for key, each in found.items()}


@functools.lru_cache(maxsize=4096)
def _kept_once(text: str) -> str:
    return text


def _scores(name: str, value: Any) -> dict[str, Any]:
    found: dict[str, Any] = fields.mapped(fields.plain)(name, value)
    if found:
        require_scores(found)
    return found


def _readings(name: str, value: Any) -> dict[str, float]:
    found = fields.mapped(fields.number, fields.all_numbers)(name, value)
    if "clock_mhz" in found:
        fields.positive(f"{name}.clock_mhz", found["clock_mhz"])
    return found


def _throughput(name: str, value: Any) -> dict[str, float]:
    found = fields.mapped(fields.number, fields.all_numbers)(name, value)
    if not 1 <= found.get("streams", 1) <= fields.LARGEST_BATCH:
        raise ValueError(f"{name}.streams must be from 1 to {fields.LARGEST_BATCH}")
    return found


def _series(name: str, value: Any) -> tuple[float, ...]:
    """Numbers that can have been measured, null being one that was not: not all of them are."""
    if type(value) is not list or None not in value:
        return fields.measured(name, value)
    fields.measured(name, known := [each for each in value if each is not None])
    if not known:
        raise ValueError(f"{name} has no number")
    return tuple(math.nan if each is None else float(each) for each in value)


READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "model": fields.label,
    "engine": fields.label,
    "batch": fields.batch,
    "weights": fields.line,
    "series": fields.mapped(_series),
    "processes": fields.listed(fields.count),
    "iterations": fields.mapped(fields.table),
    "digests": fields.mapped(fields.line, fields.all_lines),
    "limits": fields.mapped(fields.number, fields.all_numbers),
    "dropped_rounds": fields.count,
    "complete": fields.flag,
    "disturbed": fields.text,
    "enqueue_seconds": fields.optional(fields.positive),
    "throughput": _throughput,
    "readings": _readings,
    "controls": fields.mapped(fields.positive, fields.all_positive),
    "controls_by_process": fields.mapped(fields.measured),
    "agreement": _summary,
    "accuracy": functools.partial(_summary, counted="engine_top1"),
    "answers": _answers,
    "plan": fields.mapped(fields.plain),
    "layers": fields.mapped(fields.count),
    "layer_times": _layers,
    "reference": fields.label,
    "scores": _scores,
    "uncounted": fields.mapped(_series),
    "warnings": fields.listed(fields.text),
    "verdicts": fields.listed(lambda _, value: verdict_from_json(value)),
}
# What a field is called in a file, where that is not its name.
SAVED_AS = {"verdicts": "decisions"}
# Schema 1: what each series was called.
FIRST_NAMES = {
    "rounds": "latency",
    "reference_rounds": "reference_latency",
    "end_to_end_rounds": "end_to_end",
    "reference_end_to_end_rounds": "reference_end_to_end",
}
FIRST_PLAN = {"bytes": "plan_bytes", "build_seconds": "build_seconds", "device_memory_bytes": "device_memory"}


def from_json(values: Any, *, layers: bool = True) -> EngineRecord:
    """A record from JSON values, of this schema or of 1; without `layers` their times are checked and not kept.

    Raises ValueError or KeyError for anything else.
    """
    given = dict(fields.table("record", values))
    if given.get("schema", 1) == 1:
        given["series"] = _first_series(given)
        given.pop("iterations", None)  # their number then
    saved = {SAVED_AS.get(name, name): name for name in READERS}
    found = {name: READERS[name](key, given[key]) for key, name in saved.items() if key in given}
    record = EngineRecord(**(found if layers else {**found, "layer_times": {}}))
    if record.processes and (0 in record.processes or sum(record.processes) != len(record.rounds)):
        raise ValueError("processes must say which rounds are whose")
    sample = record.sample()
    if record.processes:
        sample.require_split(record.processes)
    _require_whole_processes(record, sample)
    _require_own_iterations(record, sample)
    # They can be computed, and are kept: what they are made of takes longer to unpack than all the rest to read.
    record.__dict__["numbers"] = numbers_of_processes(sample, record.processes)
    return record


def _require_whole_processes(record: EngineRecord, sample: Sample) -> None:
    """Raises ValueError where a number is missing that its process has others of, or cannot be without."""
    partly = {name: np.isnan(values).astype(float) for name, values in sample.series.items() if np.isnan(values).any()}
    for name, missing in partly.items():
        parts = [each.get(name) for each in Sample(partly, {}).split(record.processes)] if record.processes else []
        if not parts or name in NEEDED or any(part.any() != part.all() for part in parts):
            raise ValueError(f"series.{name} lacks {int(missing.sum())} of its numbers")


# A process that has not measured these is none.
NEEDED = ("latency", "reference_latency")
# What float32 leaves of a number.
PRECISION = 1e-6
# Which series are statistics of which iterations, block by block.
TAKEN_FROM = {"latency": ("latency", "typical"), "end_to_end": ("end_to_end",)}


def _require_own_iterations(record: EngineRecord, sample: Sample) -> None:
    """Raises ValueError where a round's number is not among those of its block."""
    for of, some in sample.blocks.items():
        blocks = Blocks.of(some)
        starts = [0, *blocks.ends[:-1]]
        low, high = np.minimum.reduceat(blocks.times, starts), np.maximum.reduceat(blocks.times, starts)
        for name in TAKEN_FROM.get(of, ()):
            rounds = sample.get(name)
            if rounds.size and rounds.size != len(blocks):
                raise ValueError(f"iterations.{of} has {len(blocks)} rounds, series.{name} {rounds.size}")
            # NaN is neither.
            if rounds.size and np.any((rounds < low * (1 - PRECISION)) | (rounds > high * (1 + PRECISION))):
                raise ValueError(f"series.{name} has a round that is not among its iterations")


def _first_series(given: Mapping[str, Any]) -> dict[str, Any]:
    series = {new: given[old] for old, new in FIRST_NAMES.items() if given.get(old)}
    plan = fields.table("plan", given.get("plan", {}))
    series |= {new: [plan[old]] for old, new in FIRST_PLAN.items() if plan.get(old)}
    throughput = fields.table("throughput", given.get("throughput", {})).get("images_per_second")
    return {**series, **({"throughput": [throughput]} if throughput else {})}


def unfinished_session(stack: Mapping[str, Any], records: Sequence[EngineRecord]) -> dict[str, Any]:
    """What a run had measured before it was cut off, as a session that `read_session` reads and nothing passes with."""
    return {
        "machine_info": {KEY: dict(stack)},
        "benchmarks": [{"extra_info": {KEY: to_json(record)}} for record in records],
        KEY: {"schema": SCHEMA, "skipped": {}, "unfit": [], "partial": ["the run was cut off"]},
    }


def _digest(records: Sequence[EngineRecord]) -> str:
    """What tells a session from every other: all that was measured in it, whatever else is said."""
    found = hashlib.sha256()
    for record in sorted(records, key=lambda each: each.key):
        found.update(repr(record.key).encode())
        for name in ("latency", "reference_latency"):
            found.update(name.encode() + array("d", record.series.get(name, ())).tobytes())
        for name, packed in sorted(record.iterations.items()):
            found.update(name.encode() + str(packed.get("base64") or packed.get("float32")).encode())
    return found.hexdigest()


# Nothing that is read refers to itself, and a tenth to a fifth of the time went into looking for what does.
@no_garbage_collection()
def read_session(path: Path, *, layers: bool = True) -> SessionRecord:
    """Read a file that pytest-benchmark saved; without `layers` their times are not kept, most of what it holds.

    Raises UserError for a file that cannot be read, is damaged, was written by a newer trtgate, or holds no rounds.
    """
    if not path.is_file():
        raise UserError(f"saved session {path} is no regular file; name one that --benchmark-save wrote")
    try:
        document = read_json(path)
        machine = fields.table("machine_info", document["machine_info"])
        summary = fields.table(KEY, document.get(KEY, {}))
        benchmarks = fields.items("benchmarks", document["benchmarks"])
        saved = [b["extra_info"][KEY] for b in benchmarks if KEY in b.get("extra_info", {})]
        newest = max(fields.count("schema", each.get("schema", 0)) for each in [summary, *saved])
        if newest > SCHEMA:
            raise UserError(
                f"saved session {path} has schema {newest}, this trtgate reads up to {SCHEMA}; upgrade trtgate"
            )
        records = [from_json(each, layers=layers) for each in saved]
        session = SessionRecord(
            path=path,
            datetime=fields.line("datetime", document.get("datetime", "")),
            stack=fields.mapped(fields.plain)("the stack", machine.get(KEY, {})),
            engines={record.key: record for record in records},
            skipped=fields.mapped(fields.text)("skipped", summary.get("skipped", {})),
            unfit=fields.listed(fields.text)("unfit", summary.get("unfit", [])),
            partial=fields.listed(fields.text)("partial", summary.get("partial", [])),
            open=fields.listed(fields.text)("open", summary.get("open", [])),
            verdicts=fields.listed(lambda _, value: verdict_from_json(value))(
                "decisions", summary.get("decisions", [])
            ),
            digest=_digest(records),
            schema=newest,
            limits=fields.mapped(fields.table)("limits", summary.get("limits", {})),
            own=fields.listed(fields.line)("own", summary.get("own", [])),
        )
        for model, section in session.limits.items():
            check_section(path, f"limits.{model}", section)
    except OSError as error:
        raise UserError(f"saved session {path} cannot be read ({error.strerror})") from error
    except DAMAGED as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"saved session {path} is damaged ({what!r}); delete it and save a new one") from error
    if not records:
        raise UserError(f"saved session {path} holds no rounds (not saved by trtgate's bench/); save a new one")
    if len(session.engines) < len(records):
        raise UserError(
            f"saved session {path} holds an engine twice, and it cannot be told which counts; save a new one"
        )
    for record in records:
        if record.complete and (not record.rounds or len(record.rounds) != len(record.reference_rounds)):
            raise UserError(f"saved session {path} has no rounds for {record.name}; save a new one")
    return session
