"""The released versions of a package, as pip finds them, and when they were released, as far as the index tells."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import (
    InvalidName,
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from trtgate.kinds import UserError
from trtgate.processes import last_words

# What pip says of the versions, and with -vv of the pages that it found them on.
AVAILABLE = re.compile(r"^Available versions: (.*)$", re.MULTILINE)
PAGE = re.compile(r"analyzing links: (https?://\S+)")
# An index page as JSON (PEP 691), which has the time of each upload (PEP 700).
JSON_PAGE = "application/vnd.pypi.simple.v1+json"
# All that asking for one may raise, whatever another index answers, and where pip does not tell a page's password.
UNTOLD = (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError, RecursionError)
# For a date that nobody has to know.
DATE_SECONDS = 10.0
# Versions that are named to somebody who asked for another.
SHOWN = 8


@dataclass(frozen=True)
class Release:
    """A version that this Python can install, and the day of its first upload; or an image, and its digest.

    "" is what nobody tells.
    """

    version: Version | str
    date: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return str(self.version)


def require_package(name: str) -> str:
    """Its normalised name. Raises UserError for what is no package's name."""
    try:
        return str(canonicalize_name(name, validate=True))
    except InvalidName as error:
        raise UserError(f"--package {name} is no package's name; give one that pip installs, as onnxruntime") from error


def require_version(option: str, text: str) -> Version:
    """Raises UserError for what is no version."""
    try:
        return Version(text)
    except InvalidVersion as error:
        raise UserError(f"{option} {text} is no version; give one that was released, as 1.20.1") from error


def find_releases(
    python: Path, package: str, good: Version, bad: Version, index: Sequence[str] = ()
) -> tuple[Release, ...]:
    """From `good` to `bad` all releases that `python` can install, the older ones first, without pre-releases between.

    `index` are options of pip's that say where to look. Raises UserError where an end is not among them.
    """
    command = [str(python), "-m", "pip", "index", "versions", "--pre", "-vv", "--no-input"]
    command += ["--disable-pip-version-check"]  # which would be one more page
    try:
        said = subprocess.run(
            [*command, *index, package], capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise UserError(f"--python {python} cannot be started ({error.strerror}); give a Python with pip") from error
    found = AVAILABLE.search(said.stdout)
    if said.returncode or found is None:
        raise UserError(
            f"--package {package}: pip finds no version of it ({last_words(said.stderr)}); check its name, "
            "--index-url, --extra-index-url and the network"
        )
    versions = between(_versions(found[1].split(", ")), good, bad, package)
    dates = _dates(PAGE.findall(said.stdout))
    return tuple(Release(version, dates.get(version, "")) for version in versions)


def _versions(texts: Iterable[str]) -> set[Version]:
    """An old pip also lists what is no version by today's rules, which none installs."""
    found = set()
    for text in texts:
        with contextlib.suppress(InvalidVersion):
            found.add(Version(text))
    return found


def between(known: Iterable[Version], good: Version, bad: Version, package: str) -> list[Version]:
    """Those that count. Raises UserError for ends that are not among the `known` ones, or the wrong way round."""
    ordered = sorted(known)
    if not good < bad:
        raise UserError(f"--good {good} must be an older version than --bad {bad}; swap them")
    for option, end in (("--good", good), ("--bad", bad)):
        if end not in ordered:
            near = sorted(ordered, key=lambda each: abs(ordered.index(each) - _place(ordered, end)))[:SHOWN]
            raise UserError(
                f"{option} {end} is no version of {package} that this Python can install; near it there are "
                f"{', '.join(map(str, sorted(near)))}"
            )
    return [each for each in ordered if good <= each <= bad and (not each.is_prerelease or each in {good, bad})]


def _place(ordered: Sequence[Version], version: Version) -> int:
    return sum(each < version for each in ordered)


def _dates(pages: Iterable[str]) -> Mapping[Version, str]:
    """The day of each version's first upload, from those pages that tell. A page that cannot be read tells nothing."""
    found: dict[Version, str] = {}
    for page in dict.fromkeys(pages):
        with contextlib.suppress(*UNTOLD):  # only the report's column of dates depends on it
            request = urllib.request.Request(page, headers={"Accept": JSON_PAGE})
            with urllib.request.urlopen(request, timeout=DATE_SECONDS) as answer:
                files = json.load(answer)["files"]
            for file in files:
                version, day = _version_of(file["filename"]), str(file.get("upload-time", ""))[:10]
                if version is not None and re.fullmatch(r"\d{4}-\d\d-\d\d", day):
                    found[version] = min(day, found.get(version, day))
    return found


def _version_of(filename: str) -> Version | None:
    with contextlib.suppress(InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return (parse_wheel_filename if filename.endswith(".whl") else parse_sdist_filename)(filename)[1]
    return None
