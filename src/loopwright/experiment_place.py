"""Where a declared run is kept: its folder, and the copy of that at a URL."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright.resuming import EarlierRun
from loopwright.run_folder import RunFolder
from loopwright.storage import Mirror, is_url


@dataclass(frozen=True)
class Place:
    """Says where a run will be."""

    path: Path
    is_own: bool = True
    """Whether that is its folder, or else the one in which it will be made."""
    resumes: bool | None = None
    """Whether an unfinished run may be there; None where what is there is known."""

    @classmethod
    def of(cls, earlier: EarlierRun | None, given: str | None, runs: Path) -> "Place":
        """Return the place of an earlier run, else the given folder, else one below `runs`."""
        if earlier is not None:
            return cls(earlier.path, resumes=None if earlier.has_checkpoint else True)
        return cls(Path(given), resumes=False) if given else cls(runs, is_own=False)


def make_mirror(url: str | None, *, resume: bool) -> Mirror | None:
    """Return what keeps a copy of the folder at a URL; None where this is none.

    A copy that is further than the folder here is fetched first, to go on with.
    """
    if not is_url(url):
        return None
    mirror = Mirror(str(url))
    if resume:
        mirror.pull()
    return mirror


def open_folder(path: Path, earlier: EarlierRun | None, config: Mapping[str, Any]) -> RunFolder:
    """Return the run's folder, which holds the configuration unless its run goes on."""
    goes_on = earlier is not None and earlier.has_checkpoint
    folder = RunFolder.reopen(path) if goes_on else RunFolder(path, resume=earlier is not None)
    if not goes_on:
        folder.write_config(config)
    return folder
