"""The files that trtgate comes with: beside the package in a checkout, inside it where it was installed."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

from trtgate.files import lasting_scratch

PACKAGE = Path(str(resources.files("trtgate")))
# pyproject.toml puts data/ and bench/ there.
INSTALLED = (PACKAGE / "data").is_dir()


def shipped(folder: str) -> Path:
    """A folder of the checkout's, or its copy in the package."""
    return (PACKAGE if INSTALLED else PACKAGE.parent) / folder


def import_root() -> Path:
    """What another environment's Python needs on its path to find this package, and nothing of this environment."""
    return _alone() if INSTALLED else PACKAGE.parent


@functools.cache
def _alone() -> Path:
    """A folder with the package alone: beside it are all packages that this environment has. Gone with this process."""
    folder = lasting_scratch()
    (folder / "trtgate").symlink_to(PACKAGE)
    return folder
