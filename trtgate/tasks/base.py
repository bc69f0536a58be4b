"""What every task has: how answers are compared, what is decided on that, and what a session keeps of it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from trtgate.expectations import Expectation
from trtgate.fields import label
from trtgate.kinds import UserError
from trtgate.samples import Samples
from trtgate.signature import Tensors
from trtgate.tasks.slices import ENOUGH_DB, FLOAT_DB, Floats, sample_decibels, spoilt_slices
from trtgate.verdict.agreement import Rebuilt, elsewhere
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import worst
from trtgate.verdict.shares import LEAST_GROUPS, jackknife_margin, share_bounds

# The answer to each sample, by the names of the network's outputs.
Outputs = Sequence[Tensors]
Summary = dict[str, Any]


class Task(Protocol):
    """How the answers of an engine are held against others to the same samples.

    `output` is the one that classes are read from, for those who show them.
    """

    name: ClassVar[str]

    def compare(self, reference: Outputs, got: Outputs, samples: Samples) -> Any:
        """What the comparison found. Raises ValueError for answers to other samples."""

    def decide(self, found: Any, expectation: Expectation, builds: Rebuilt | None = None) -> list[Verdict]:
        """What is expected of that, each with the metric that it is on; `builds` where it is a new version's with the
        old one's, of which there are several builds."""

    def summary(self, found: Any) -> Summary:
        """What a record keeps of it, as JSON values."""

    def own(self, reference: Outputs, samples: Samples) -> dict[str, Summary]:
        """What the reference's record keeps of its own answers, which a later one's are held against: fields of the
        record by name."""


@dataclass(frozen=True)
class Score:
    """One number on how alike the answers are; more is better.

    `key` is the floor's in the expectations, "" where there is none; `of` the output that it is about, "" for all.
    `low` and `high` are one-sided 95 % bounds where the number is one of a sample; `floor` holds where the expectations
    have none. `without` is the share without each group of samples (`shares.groups_of`), where a fall is to be proved
    and a floor is not.
    """

    name: str
    of: str
    value: float
    key: str = ""
    unit: str = ""
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    without: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name} of {self.of}" if self.of else self.name

    def text(self, value: float) -> str:
        """A value of this score as people write it."""
        if not np.isfinite(value):
            return "exact" if value > 0 else str(value)
        if self.unit == "%":
            return f"{value:.1%}"
        return f"{value:.1f} {self.unit}" if self.unit else f"{value:.4f}"

    def decide(self, expectation: Expectation) -> Verdict | None:
        """Against its floor: PASS iff the lower bound reaches it, REGRESSED iff the upper one does not."""
        floor = expectation[self.key] if self.key else None
        floor = self.floor if floor is None else floor
        if floor is None:
            return None
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        bounds = "" if self.low is None else f" (at least {self.text(low)}, at most {self.text(high)})"
        text = f"{self.label} is {self.text(self.value)}{bounds}, the floor {self.text(floor)}"
        if low >= floor:
            return Verdict(Outcome.PASS, Reason.FLOOR_MET, text)
        if high < floor:
            return Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, text)
        return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, f"{text}: too few samples to tell")

    def to_json(self) -> dict[str, Any]:
        """As JSON values, which know no infinity: null for more than any number, "-inf" for less."""
        values = asdict(self)
        del values["floor"]
        if without := values.pop("without"):
            values["without"] = list(without)
        for name in ("value", "low", "high"):
            if values[name] is not None and not np.isfinite(values[name]):
                values[name] = None if values[name] > 0 else LEAST
        return values


def _near_enough(name: str, far: npt.NDArray[np.bool_]) -> Score:
    share = float(1 - far.mean())
    return Score(NEAR_ENOUGH, name, share, "agreement", "%", *share_bounds(share, len(far)))


LEAST = "-inf"
EXAMPLES_SHOWN = 10
# The score of an output whose length depends on the data; it is 1 where it is not given.
SAME_SHAPE = "share of answers of the same shape"
# That of samples with `least_decibels` each.
NEAR_ENOUGH = "share of samples that are near by themselves"
# Of integers also how many elements are equal of those that are not the usual value on both sides: a mask that finds
# nothing any more has nearly all others. It has no floor.
UNUSUAL = "equal unusual elements"
NO_SIGNAL_DB = -200.0


@dataclass(frozen=True)
class Scores:
    """What a comparison found: on `n` samples the scores, and for people what the worst samples are. `same` says that
    nothing differs in a bit.

    `spoilt` names the outputs that hold NaN or infinity elsewhere than the reference does; `unmeasured` has a sentence
    for each thing of which nothing could be compared. `kept` is what a later comparison needs, as JSON values, `doubt`
    what makes the samples tell little.
    """

    n: int
    scores: tuple[Score, ...]
    spoilt: tuple[str, ...] = ()
    same: bool = False
    examples: tuple[str, ...] = ()
    kept: Mapping[str, Any] | None = None
    doubt: str = ""
    unmeasured: tuple[str, ...] = ()

    def decide(self, expectation: Expectation, metric: str, lost: Sequence[Verdict] = ()) -> list[Verdict]:
        """One verdict: the worst of its scores', which names the output, or that all reach their floors; `lost` are
        others on what is proved to be lost."""
        return [replace(self._verdict(expectation, lost), metric=metric)]

    def _verdict(self, expectation: Expectation, lost: Sequence[Verdict]) -> Verdict:
        if self.spoilt:
            message = f"{', '.join(self.spoilt)}: NaN or infinity elsewhere than in the reference's"
            return Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, message)
        # First what names the place.
        decided = self._slices(expectation.number("sqnr_db"))
        decided += self._samples(expectation)
        decided += lost_unusual(self.scores, expectation)
        told = [each for each in self.scores if each.key != "cosine" or not self._quiet(each.of, expectation)]
        decided += [each for score in told if (each := score.decide(expectation)) is not None]
        decided += lost
        decided += [
            Verdict(Outcome.INCONCLUSIVE, Reason.NOTHING_MEASURED, f"{each}: nothing can be compared")
            for each in self.unmeasured
        ]
        if not decided:
            return Verdict(Outcome.PASS, Reason.NO_FLOOR, self.text)
        found = doubted(worst(decided), self.doubt, expectation)
        if found.outcome is not Outcome.PASS:
            return found
        return Verdict(Outcome.PASS, Reason.FLOOR_MET, f"{self.text}: all reach their floors")

    @property
    def _by_value(self) -> list[str]:
        return [*dict.fromkeys(score.of for score in self.scores if score.name in BY_VALUE)]

    def _slices(self, floor_db: float) -> list[Verdict]:
        """What is wrong with slices of the outputs that are compared by value."""
        kept, found = (self.kept or {}).get("powers", {}), []
        for name in self._by_value:
            certain, perhaps = spoilt_slices(name, kept[name], floor_db) if name in kept else ([], [])
            if certain:
                message = f"{certain[0]}: not what the reference has there, whatever the whole looks like"
                found.append(Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, message))
            elif perhaps:
                told = "no nearer to the reference than zeros, or one answer to all samples, which the whole may hide"
                message = f"{perhaps[0]}: {told}"
                found.append(Verdict(Outcome.INCONCLUSIVE, Reason.NOTHING_MEASURED, message))
        return found

    def _samples(self, expectation: Expectation) -> list[Verdict]:
        """On the share of samples that are near by themselves, of each output where not all are."""
        found = []
        for name in self._by_value:
            if (told := self._decibels(name, expectation)) is None:
                continue
            far, loud = told[0] < least_decibels(expectation), told[1]
            verdict = _near_enough(name, far & loud).decide(expectation)
            if verdict is not None and verdict.outcome is not Outcome.PASS and (far & loud).any():
                found.append(verdict)
            elif 2 * far.sum() > len(far):
                message = f"{NEAR_ENOUGH} of {name} is {1 - far.mean():.1%}; others may be less than this type's steps"
                found.append(Verdict(Outcome.INCONCLUSIVE, Reason.NOTHING_MEASURED, message))
        return found

    def _quiet(self, name: str, expectation: Expectation) -> bool:
        """Whether all samples of an output that can miss the cosine's floor do with noise that counts nowhere."""
        if (told := self._decibels(name, expectation)) is None:
            return False
        floor = min(max(expectation.number("cosine"), 0.0), 1.0)
        far = told[0] < (-10 * math.log10(1 - floor**2) if floor < 1 else math.inf)
        return bool(far.any()) and not (far & told[1]).any()

    def _decibels(self, name: str, expectation: Expectation) -> tuple[Floats, npt.NDArray[np.bool_]] | None:
        """`sample_decibels` of an output, if there are any."""
        kept = (self.kept or {}).get("powers", {}).get(name)
        return sample_decibels(kept, expectation.number("sqnr_db")) if kept else None

    @property
    def worst_samples(self) -> str:
        """A line for each of the first samples that differ."""
        more = len(self.examples) - EXAMPLES_SHOWN
        return "\n".join([*self.examples[:EXAMPLES_SHOWN], *([f"and {more} more"] if more > 0 else [])])

    @property
    def text(self) -> str:
        """The lowest of each score in one line, with the output that it is of where there are several."""
        if self.same:
            return "the same to the last bit"
        lowest: dict[str, Score] = {}
        for score in self.scores:
            if score.name not in lowest or score.value < lowest[score.name].value:
                lowest[score.name] = score
        several = len({score.of for score in self.scores}) > 1
        return ", ".join(f"{each.label if several else each.name} {each.text(each.value)}" for each in lowest.values())

    def to_json(self, task: str) -> Summary:
        """What a record keeps of it."""
        return {
            "task": task,
            "n": self.n,
            "finite": not self.spoilt,
            "same": self.same,
            "text": self.text,
            "scores": [score.to_json() for score in self.scores],
            **({"doubt": self.doubt} if self.doubt else {}),
            **({"kept": dict(self.kept)} if self.kept else {}),
        }


def own_summary(task: str, n: int, kept: Mapping[str, Any]) -> Summary:
    """A summary of the reference's own answers to n samples, of which nothing but what is kept is compared."""
    return {"task": task, "n": n, "finite": True, "same": True, "text": "its own", "scores": [], "kept": dict(kept)}


def doubted(verdict: Verdict, doubt: str, expectation: Expectation) -> Verdict:
    """What is REGRESSED on samples that tell little is INCONCLUSIVE for an engine of a narrow type: on noise a detector
    finds nothing, and such a type rounds nothing badly."""
    if verdict.outcome is not Outcome.REGRESSED or not doubt or is_exact(expectation):
        return verdict
    message = f"{verdict.message}; but {doubt}"
    return replace(verdict, outcome=Outcome.INCONCLUSIVE, reason=Reason.TOO_FEW_IMAGES, message=message)


def fallen(text: str, *, proved: bool) -> Verdict:
    """On something that fell by more than may be lost of it."""
    if proved:
        return Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, text)
    return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, f"{text}: too few samples to tell")


# Of too few samples to leave any out a share is lost that fell by more than this; one of two classes is half a mean.
CERTAIN = 0.55


def least_fall(old: Score, new: Score) -> float | None:
    """By how much a score fell at the least, one-sided 95 %; None where no sample bounds it, and it fell for certain.

    What either side is without each group of samples is paired; an older session has not kept that.
    """
    if new.high is not None:
        return old.value - new.high
    if not new.without or certain_fall(old.value - new.value, new):
        return None
    before = old.without if len(old.without) == len(new.without) else (old.value,) * len(new.without)
    return old.value - new.value - jackknife_margin([a - b for a, b in zip(before, new.without, strict=True)])


def certain_fall(fall: float, score: Score) -> bool:
    return fall > CERTAIN and len(score.without) < LEAST_GROUPS


def is_exact(expectation: Expectation) -> bool:
    """Whether an engine is to compute what the reference computes."""
    return expectation.number("sqnr_db") >= ENOUGH_DB


def least_decibels(expectation: Expectation) -> float:
    """What each sample has by itself: half of what all have, and no more than the floor of its cosine leaves it."""
    floor, cosine = expectation.number("sqnr_db"), expectation.number("cosine")
    if not 0 < cosine < 1:
        return floor / 2 if cosine >= 1 else -math.inf
    return min(floor / 2, 10 * math.log10(cosine**2 / (1 - cosine**2)))


def class_lost(expectation: Expectation) -> float:
    """What may be lost of one class beside the reference: of a narrow type's not nearly all of it."""
    lost = expectation.number("max_class_lost")
    return lost if is_exact(expectation) else max(lost, 1 - lost)


def class_gone(text: str, expectation: Expectation, *, proved: bool) -> list[Verdict]:
    """On a class of which more than `class_lost` is missing. INT8 may have none of what the reference finds by mistake:
    it is never REGRESSED for that, and open where it is proved."""
    if expectation.number("sqnr_db") >= FLOAT_DB:
        return [fallen(text, proved=proved)]
    message = f"{text}; whether the reference finds it by mistake is not told by its own answers"
    return [Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, message)] if proved else []


def lost_unusual(scores: Sequence[Score], expectation: Expectation) -> list[Verdict]:
    """On integers of which too many that are not the usual value are others, as of a mask that finds nothing any more;
    an order that rounding changed may be as much, so only an exact engine is REGRESSED for that."""
    lost, found = class_lost(expectation), []
    for score in scores:
        if score.name != UNUSUAL or score.value >= 1 - lost:
            continue
        least = least_fall(replace(score, value=1.0, without=()), score)
        proved = least is None or least > lost
        text = f"{score.label} are {score.text(score.value)}, {lost:.1%} may be lost"
        if is_exact(expectation):
            found.append(fallen(text, proved=proved))
        elif proved:
            found.append(Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, f"{text}; it may be their order alone"))
    return found


def lost_of_all(scores: Sequence[Score], expectation: Expectation) -> list[Verdict]:
    """On shares that an exact engine has all of, and of which for certain more than `max_answers_lost` is lost; those
    that the user gave a floor of are judged by that."""
    allowed, found = expectation.number("max_answers_lost"), []
    for score in scores:
        least = least_fall(replace(score, value=1.0, without=()), score)
        if expectation[score.key] is None and 1 - score.value > allowed and (least is None or least > allowed):
            text = f"{score.label} is {score.text(score.value)}, in FP32 {allowed:.1%} may be lost"
            found.append(Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, text))
    return found


# Scores of outputs that are compared element by element.
BY_VALUE = frozenset({"cosine", "equal elements"})


def require_paired(reference: Outputs, got: Outputs) -> None:
    """Raises ValueError for answers to other samples, or of other outputs."""
    if len(reference) != len(got) or not len(reference):
        raise ValueError(f"{len(reference)} answers cannot be compared with {len(got)}")
    if set(reference[0]) != set(got[0]):
        raise ValueError(f"outputs {sorted(reference[0])} cannot be compared with {sorted(got[0])}")


def spoilt_outputs(reference: Outputs, got: Outputs) -> tuple[str, ...]:
    """The outputs in which NaN and infinity do not stand where they stand in the reference's, with the same sign."""
    return tuple(
        name for name in reference[0] if any(_spoilt(a[name], b[name]) for a, b in zip(reference, got, strict=True))
    )


def _spoilt(reference: npt.NDArray[Any], got: npt.NDArray[Any]) -> bool:
    if got.dtype.kind != "f":
        return bool(reference.dtype.kind == "f" and not np.isfinite(reference).all())
    if reference.dtype.kind != "f":
        return not np.isfinite(got).all()
    if reference.shape == got.shape:
        return bool(elsewhere(reference, got).any())
    # Of another length: nothing stands where it stood, and what is no number there at all is new.
    kinds = (np.isnan, np.isposinf, np.isneginf)
    return any(bool(is_kind(got).any()) and not bool(is_kind(reference).any()) for is_kind in kinds)


Metric = Callable[[Outputs, Outputs], Any]


# What was imported from beside which file: two folders may have modules of one name.
_beside: dict[Path, dict[str, ModuleType]] = {}


@contextlib.contextmanager
def modules_beside(folder: Path) -> Iterator[None]:
    """While a user's code runs: what it imports is looked for in its own folder first, and is nobody else's."""
    folder = folder.resolve()
    own = _beside.setdefault(folder, {})

    def here(top: str) -> bool:
        if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
            return False
        return (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()

    def called_as_one_here() -> dict[str, ModuleType]:
        # Asked of packages, some hundred, not of their thousands of modules: this is done at every call.
        tops = {top for top in {name.partition(".")[0] for name in sys.modules} if here(top)}
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in tops}

    hidden = called_as_one_here()
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(own)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        own.update(called_as_one_here())
        for name in own:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def _module(name: str, folder: Path) -> ModuleType:
    """The module of that name, the one in the folder first, whatever else is called so."""
    for path in (folder.resolve() / f"{name}.py", folder.resolve() / name / "__init__.py"):
        if "." not in name and path.is_file():
            unique = f"trtgate_own_{hashlib.sha256(f'{path} {path.stat().st_mtime_ns}'.encode()).hexdigest()[:16]}"
            if unique in sys.modules:
                return sys.modules[unique]
            inside = [str(path.parent)] if path.name == "__init__.py" else None
            spec = importlib.util.spec_from_file_location(unique, path, submodule_search_locations=inside)
            assert spec is not None
            assert spec.loader is not None
            sys.modules[unique] = made = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(made)
            except BaseException:
                del sys.modules[unique]
                raise
            return made
    return importlib.import_module(name)


def load_function(text: str, folder: Path, where: str) -> Callable[..., Any]:
    """The function that `module:function` names; the module is looked for beside the file that names it first.

    Raises UserError for one that cannot be had.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise UserError(f"{where}: {text} names no function; write module:function")
    try:
        with modules_beside(folder):
            found = getattr(_module(module, folder), name)
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{where}: {text} cannot be imported ({said})") from error
    if not callable(found):
        raise UserError(f"{where}: {text} is no function")

    def call(*arguments: Any) -> Any:
        with modules_beside(folder):
            return found(*arguments)

    return call


def own_scores(metric: Metric | None, reference: Outputs, got: Outputs, others: Sequence[Score]) -> list[Score]:
    """The scores of the user's own function: a number, or several by name. Raises UserError for anything else, and for
    a name that one of the `others`, the task's, has: one would hide the other.
    """
    if metric is None:
        return []
    try:
        # Copies: what works in place would change the answers that the next engine is held against.
        found = metric(
            *([{name: each.copy() for name, each in row.items()} for row in side] for side in (reference, got))
        )
        values = found if isinstance(found, Mapping) else {"metric": found}
        scores = [Score(str(name), "", float(value), "metric") for name, value in values.items()]
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"the model's own metric failed ({said})") from error
    for score in scores:
        try:
            label(f"the model's own metric: {score.name!r}", score.name)
        except ValueError as error:
            raise UserError(f"{error}") from error
        if any(score.name == each.name for each in others):
            raise UserError(f"the model's own metric: the task has a {score.name} already; give it another name")
        if np.isnan(score.value):
            raise UserError(f"the model's own metric gives NaN for {score.name}; it must give a number")
    return scores
