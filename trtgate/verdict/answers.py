"""Answers against the baseline's, photo by photo: what a session keeps of them, and what an upgrade did to them."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trtgate.verdict.agreement import elsewhere, ranked_logits
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import worst
from trtgate.verdict.shares import Floats, Ints, Size, difference_bounds, size_of

Logits = npt.NDArray[np.float32]

# How many of a photo's best answers are kept: enough to tell by how much they moved, in 11 KB for 240 photos.
KEPT = 5
# No session has more photos: what a damaged file says of its length is not believed beyond this.
MOST = 10_000_000
# The share of photos, net, that may be lost. 240 crops of 40 photos can exclude a loss of 1.8 points at the best; below
# 3 one crop may flip for good, or four to and fro, as happens between kernels that round differently.
MAX_DROP = 0.03


def digest_of_names(names: Sequence[str]) -> str:
    """What stands for the names of samples in their order."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Answers:
    """One engine's answers on N photos, as a session keeps them.

    `photos` is a digest of the photos' names in order, `digest` one of all logits to the last bit. `clusters` is
    int64[N], the photo that each is a crop of; `reference` int64[N], the reference's answers; `classes` int64[N,k] the
    engine's best k, the best first, and `logits` float32[N,k] theirs, all NaN where any logit is not finite. `shares`
    are uint16[N,k], their `shares_of` in units of 1 / SHARE, or None from a session that kept none.
    """

    photos: str
    digest: str
    clusters: Ints
    reference: Ints
    classes: Ints
    logits: Logits
    shares: npt.NDArray[np.uint16] | None = None

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """bool[N]: on which photos all logits are finite."""
        found: npt.NDArray[np.bool_] = np.isfinite(self.logits[:, 0])
        return found

    def agree(self, reference: Ints) -> npt.NDArray[np.bool_]:
        """bool[N]: on which photos the engine's answer is that of int64[N] `reference`."""
        found: npt.NDArray[np.bool_] = self.finite & (self.classes[:, 0] == reference)
        return found

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; the inverse of `from_json`."""
        kinds = KINDS if self.shares is None else {**KINDS, **SHARES}
        packed = {name: _pack(getattr(self, name), kind) for name, kind in kinds.items()}
        return {"photos": self.photos, "digest": self.digest, "shape": list(self.classes.shape), **packed}

    @classmethod
    def from_json(cls, values: object) -> Answers:
        """Answers from JSON values. Raises ValueError for anything that `to_json` does not write."""
        if not isinstance(values, Mapping):
            raise ValueError("answers are a table of names and values")
        for name in ("photos", "digest"):
            if not _is_digest(values.get(name)):
                raise ValueError(f"answers: {name} is no digest")
        shape = values.get("shape")
        if not isinstance(shape, list) or [type(each) for each in shape] != [int, int]:
            raise ValueError("answers: shape is not that of a table")
        n, k = shape
        if not 1 <= n <= MOST or not 1 <= k <= KEPT:
            raise ValueError(f"answers: a shape of {n} photos by {k} classes cannot be")
        packed = [values.get(name) for name in (*KINDS, *(name for name in SHARES if name in values))]
        if not all(isinstance(each, str) for each in packed):
            raise ValueError("answers: what should be packed is no text")
        return _parsed(values["photos"], values["digest"], n, k, *packed)


# Sessions of one stack answer alike, to the last bit as a rule.
@functools.lru_cache(maxsize=64)
def _parsed(photos: str, digest: str, n: int, k: int, *packed: str) -> Answers:
    values = dict(zip((*KINDS, *SHARES), packed, strict=False))
    clusters = _unpack(values, "clusters", (n,)).astype(np.int64)
    reference = _unpack(values, "reference", (n,)).astype(np.int64)
    classes = _unpack(values, "classes", (n, k)).astype(np.int64)
    logits = _unpack(values, "logits", (n, k)).astype(np.float32)
    good = np.isfinite(logits).all(1)
    if not np.all(good | np.isnan(logits).all(1)):
        raise ValueError("answers: a photo has logits that are finite beside some that are not")
    if np.any(logits[good, 1:] > logits[good, :-1]):
        raise ValueError("answers: logits do not fall from the best on")
    ordered = np.sort(classes, 1)
    if np.any(ordered[:, 1:] == ordered[:, :-1]):
        raise ValueError("answers: a photo has one class twice")
    shares = _unpack(values, "shares", (n, k)).astype(np.uint16) if "shares" in values else None
    return Answers(photos, digest, clusters, reference, classes, logits, shares)


KINDS = {"clusters": "<u4", "reference": "<u4", "classes": "<u4", "logits": "<f4"}
SHARES = {"shares": "<u2"}
SHARE = 65535


def shares_of(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Finite logits, float[N,classes], as shares that add up to one: float64[N,classes], by softmax. Those of a network
    that ends in one are such shares already."""
    values = logits.astype(np.float64)
    if values.shape[1] > 1 and np.all(values >= 0) and np.allclose(values.sum(1), 1, atol=ALREADY):
        return values
    powers = np.exp(values - values.max(1, keepdims=True))
    found: npt.NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return found


# By how much shares in FP16 may miss one.
ALREADY = 0.01


def _pack(array: npt.NDArray[Any], kind: str) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array, kind).tobytes(), 9)).decode("ascii")


def _unpack(values: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    kind = np.dtype({**KINDS, **SHARES}[name])
    size = math.prod(shape) * kind.itemsize
    try:
        stream = zlib.decompressobj()
        # One byte more than there may be: what is longer is wrong, and is not unpacked to find out how long.
        raw = stream.decompress(base64.b64decode(values[name], validate=True), size + 1)
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise ValueError(f"answers: {name} cannot be unpacked ({error!r})") from error
    if len(raw) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"answers: {name} does not have the length of {shape[0]} photos")
    return np.frombuffer(raw, kind).reshape(shape)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value) - set("0123456789abcdef")


def answers_of(names: Sequence[str], reference: Logits, engine: Logits, clusters: Ints | None = None) -> Answers:
    """What to keep of float32[N,classes] logits of an engine and of the reference on the photos `names`, crops of the
    photos int64[N] `clusters` (None: a photo each). Raises ValueError for arrays that do not fit together."""
    n = len(names)
    if reference.shape != engine.shape or engine.ndim != 2 or len(engine) != n or not engine.size:
        raise ValueError(f"{n} photos with logits of shapes {reference.shape} and {engine.shape}")
    if clusters is not None and len(clusters) != n:
        raise ValueError(f"{n} photos with {len(clusters)} clusters")
    # Where the reference itself has NaN or infinity, an engine may have the same.
    good = ~np.any(elsewhere(reference, engine), 1, keepdims=True)
    ranks = ranked_logits(engine)
    best = np.argsort(-np.where(good, ranks, 0), 1, kind="stable")[:, :KEPT]
    logits = np.where(good, np.take_along_axis(ranks, best, 1), np.float32(np.nan))
    shares = np.take_along_axis(shares_of(np.where(good & np.isfinite(engine), engine, 0)), best, 1)
    digest = hashlib.sha256(repr(engine.shape).encode())
    digest.update(np.ascontiguousarray(engine, "<f4").data)
    return Answers(
        photos=digest_of_names(names),
        digest=digest.hexdigest(),
        clusters=np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1].astype(np.int64),
        reference=ranked_logits(reference).argmax(1),
        classes=best,
        logits=logits.astype(np.float32),
        shares=np.rint(SHARE * np.clip(shares, 0, 1)).astype(np.uint16),
    )


@dataclass(frozen=True)
class Change:
    """What became of the answers: photos `lost` (the reference's answer before, another one now), `gained` (the other
    way round) and `changed` (another answer than before, right or wrong).

    `moved` is float64[M], by how much the logit of the old answer changed, where it is still among the best.
    """

    lost: int
    gained: int
    changed: int
    moved: Floats
    size: Size

    @property
    def drop(self) -> float:
        """Share of photos lost, net."""
        return (self.lost - self.gained) / self.size.samples

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound of `drop`, one-sided 95 % each."""
        worth = self.size.effective / self.size.samples
        return difference_bounds(self.lost * worth, self.gained * worth, self.size.effective)

    def __str__(self) -> str:
        low, high = self.bounds
        text = (
            f"{self.lost} lost and {self.gained} gained of {self.size}, net loss {self.drop * 100:+.1f} points, "
            f"at least {low * 100:+.1f} and at most {high * 100:+.1f}"
        )
        if not len(self.moved):
            return text
        return f"{text}; logits moved by {np.median(self.moved):.2g} in the median, {self.moved.max():.2g} at most"


def compare_answers(old: Answers, new: Answers) -> Change:
    """Pair old with new on the same photos. Raises ValueError for answers on different photos.

    Both are held against the *old* session's reference: so a reference that changed its mind too is no excuse, and the
    reference itself can be judged. On photos without finite logits an engine agrees with nobody.
    """
    if (difference := _difference(old, new)) is not None:
        raise ValueError(difference)
    before, after = old.agree(old.reference), new.agree(old.reference)
    same = new.classes == old.classes[:, :1]
    there = same.any(1) & old.finite & new.finite
    now = np.take_along_axis(new.logits, same.argmax(1)[:, None], 1)[:, 0]
    return Change(
        lost=int(np.sum(before & ~after)),
        gained=int(np.sum(after & ~before)),
        changed=int(np.sum(old.classes[:, 0] != new.classes[:, 0])),
        moved=np.abs(now.astype(np.float64) - old.logits[:, 0])[there],
        size=size_of(before.astype(np.float64) - after, old.clusters),
    )


def _difference(old: Answers, new: Answers) -> str | None:
    """Why the two cannot be paired."""
    if len(old.clusters) != len(new.clusters):
        return f"{len(old.clusters)} photos before and {len(new.clusters)} now"
    if old.photos != new.photos or not np.array_equal(old.clusters, new.clusters):
        return "other photos than before"
    if old.classes.shape != new.classes.shape:
        return "another number of classes than before"
    return None


def decide_answers(old: Answers, new: Answers, *, max_drop: float = MAX_DROP) -> Verdict:
    """Whether the engine still gives the old session's answers where they were the reference's.

    REGRESSED iff it is proven that more than `max_drop` of the photos, net, are lost, PASS iff that is excluded, else
    INCONCLUSIVE; logits that equal the old ones to the last bit PASS at once, logits that are not finite are REGRESSED,
    answers on different photos INVALID. That nothing at all is lost no number of photos shows: of a limit of 0 it is
    enough that no loss is seen.
    """
    bad = int(np.sum(~new.finite))
    if bad:
        message = f"the logits of {bad} of {len(new.finite)} photos hold NaN or infinity"
        return Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, message)
    if (difference := _difference(old, new)) is not None:
        return Verdict(Outcome.INVALID, Reason.DIFFERENT_PHOTOS, f"answers cannot be compared: {difference}")
    if old.digest == new.digest:
        message = f"the logits of {len(new.finite)} photos are the baseline's to the last bit"
        return Verdict(Outcome.PASS, Reason.SAME_ANSWERS, message, 1.0, 1.0, 1.0)
    change = compare_answers(old, new)
    low, high = change.bounds
    ratio: dict[str, Any] = {"estimate": 1 - change.drop, "low": 1 - high, "high": 1 - low}
    text = f"answers against the baseline's: {change}; {max_drop * 100:.1f} are allowed"
    if low > max_drop:
        return Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, text, **ratio)
    if high <= max_drop or (max_drop == 0 and change.drop <= 0):
        return Verdict(Outcome.PASS, Reason.ANSWERS_KEPT, text, **ratio)
    return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, f"{text}: too few photos to tell", **ratio)


def ranked(sessions: Sequence[Answers]) -> list[Answers]:
    """The sessions by how many answers are the reference's, the worst first. The typical one stands at len // 2: of an
    even number the better of the middle two, so that of two that differ the worse excuses nothing."""
    return sorted(sessions, key=lambda each: int(np.sum(each.agree(each.reference))))


def decide_all_answers(old: Sequence[Answers], new: Sequence[Answers], *, max_drop: float = MAX_DROP) -> Verdict:
    """`decide_answers` on several sessions or builds a side: the worst of the new ones against the typical old one.

    A single old session that answers worse than its like excuses no loss, and one that answers better makes none. A
    new one that equals an old one to the last bit is held against that, if it is as good as the typical one.
    """
    as_good = ranked(old)[len(old) // 2 :]
    same = {each.digest: each for each in reversed(as_good)}
    distinct = {each.digest: each for each in new}
    return worst(
        decide_answers(same.get(digest, as_good[0]), each, max_drop=max_drop) for digest, each in distinct.items()
    )
