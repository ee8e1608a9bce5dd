"""The exceptions of loopwright.

LoopwrightError
├── ConfigurationError   (a ValueError)          a declared run says something that cannot be
├── MissingExtraError    (an ImportError)        an optional package is not installed
├── RunFolderError       (an OSError)            a run folder cannot be used
├── CheckpointError      (a ValueError)          a saved state cannot be used
├── ArtifactError        (a ValueError)          a saved experiment cannot be used
├── OutOfMemoryError     (a MemoryError)         a run needs more memory than there is
├── DownloadError        (an OSError)            a file cannot be fetched or unpacked
├── StorageError         (an OSError)            a remote folder cannot be used, or is damaged
├── NotFittedError       (a ValueError)          something needs a trained model, and there is none
├── DivergedError        (an ArithmeticError)    the loss of a declared run became infinite or NaN
├── SealedTestSetError   (a ValueError)          a test set that was put aside is not what it was
├── RunInterrupted                               a signal ended a run, which saved and can go on
└── NotSupportedError    (a NotImplementedError) a known thing that this version does not do

Mistakes in the arguments of a call are plain `ValueError` and `TypeError`.
"""

from pathlib import Path


class LoopwrightError(Exception):
    """Is the base of every exception that loopwright defines."""


class ConfigurationError(LoopwrightError, ValueError):
    """Tells which declared value is wrong, what was expected and where it stands."""


class MissingExtraError(LoopwrightError, ImportError):
    """Tells which optional package is missing and the command that installs it."""


class RunFolderError(LoopwrightError, OSError):
    """Tells why a folder cannot hold this run."""


class CheckpointError(LoopwrightError, ValueError):
    """Tells why a saved state cannot be written or does not fit what it is loaded into."""


class ArtifactError(LoopwrightError, ValueError):
    """Tells why a saved experiment is refused."""


class OutOfMemoryError(LoopwrightError, MemoryError):
    """Tells what was in memory when it was not enough, and what to lower."""


class DownloadError(LoopwrightError, OSError):
    """Tells why a file was not fetched or unpacked, and what is kept of it."""


class StorageError(LoopwrightError, OSError):
    """Tells why a remote folder cannot be used, or which file there is damaged."""


class SealedTestSetError(LoopwrightError, ValueError):
    """Tells that a test set is not the sealed one, or that a model was trained on its samples."""


class NotFittedError(LoopwrightError, ValueError):
    """Tells that something needs a trained model and there is none."""


class DivergedError(LoopwrightError, ArithmeticError):
    """Tells that a run ended because its loss became infinite or NaN."""


class RunInterrupted(LoopwrightError):
    """Tells that a signal ended a run, and where it saved what it needs to go on.

    Args:
        signal_name: Such as "SIGTERM".
        checkpoint: The folder, or file, that was saved.
        goes_on_with: What a script says to go on from there.
    """

    def __init__(
        self, signal_name: str, checkpoint: Path, goes_on_with: str = "resume='latest'"
    ) -> None:
        super().__init__(
            f"{signal_name} ended the run. It saved {checkpoint}, and goes on from there with "
            f"{goes_on_with}."
        )
        self.signal = signal_name
        self.checkpoint = checkpoint


class NotSupportedError(LoopwrightError, NotImplementedError):
    """Tells that a request is understood but not available, and what to do instead."""
