"""The exceptions of loopwright.

LoopwrightError
├── ConfigurationError   (a ValueError)          a declared run says something that cannot be
├── MissingExtraError    (an ImportError)        an optional package is not installed
├── RunFolderError       (an OSError)            a run folder cannot be used
├── CheckpointError      (a ValueError)          a saved state cannot be used
└── NotSupportedError    (a NotImplementedError) a known thing that this version does not do

Mistakes in the arguments of a call are plain `ValueError` and `TypeError`.
"""


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


class NotSupportedError(LoopwrightError, NotImplementedError):
    """Tells that a request is understood but not available, and what to do instead."""
