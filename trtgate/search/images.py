"""The images of a search, in place of the versions that pip finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtgate.kinds import Device, UserError
from trtgate.measure.containers import Image, _ask, _choose_engine, _digest
from trtgate.processes import last_words
from trtgate.progress import Progress
from trtgate.search.environments import NotInstallable
from trtgate.search.releases import Release


class NotPulled(NotInstallable):
    """An image cannot be had; the message is the engine's."""

    what = "cannot be pulled"


@dataclass(frozen=True)
class Images:
    """The images of a search by their names, the older ones first, or why one could not be pulled; in `folder` the
    search is kept."""

    folder: Path
    images: Mapping[str, Image | NotPulled]

    @property
    def releases(self) -> tuple[Release, ...]:
        """As versions that are searched."""
        return tuple(Release(name, digest=digest) for name, digest in self._digests)

    @property
    def made_of(self) -> Mapping[str, Any]:
        """A tag that moved is another image, and makes another search."""
        return {"containers": self._digests}

    @property
    def _digests(self) -> list[tuple[str, str]]:
        return [(name, each.digest if isinstance(each, Image) else "") for name, each in self.images.items()]

    def get(self, version: str) -> Image:
        """As `Versions.get`."""
        found = self.images[version]
        if isinstance(found, NotPulled):
            raise found
        return found

    def sides(self, versions: Iterable[str]) -> Mapping[str, str]:
        """As `Versions.sides`: those that are here, by their names."""
        return {name: name for name in versions if isinstance(self.images[name], Image)}


def find_images(names: Sequence[str], device: Device, folder: Path, progress: Progress) -> Images:
    """The images of --images; those that are not here are pulled.

    All of them at once, because what is known of a search counts only for the digests that it was found with. Raises
    UserError where no container engine is installed or answers, and for the same image twice.
    """
    engine = _choose_engine(f"--images {names[0]}", "search the releases of a --package")
    found: dict[str, Image | NotPulled] = {}
    by_digest: dict[str, str] = {}
    for name in names:
        if name in found:
            raise UserError(f"--images {name} is given twice; give each image once")
        found[name] = _pulled(engine, name, device, progress)
        if isinstance(image := found[name], Image):
            same = by_digest.setdefault(image.digest, name)
            if same != name:
                raise UserError(f"--images {same} and {name} are the same image; give each image once")
    return Images(folder, found)


def _pulled(engine: str, name: str, device: Device, progress: Progress) -> Image | NotPulled:
    digest = _digest(engine, name)
    if digest is None:
        with progress.step(f"{engine} pull {name}"):
            done = _ask(engine, "pull", "--quiet", name, within=None)  # an image of TensorRT's has many gigabytes
        digest = _digest(engine, name)
        if digest is None:
            return NotPulled(last_words(done.stderr))
    return Image(name, engine, digest, device)
