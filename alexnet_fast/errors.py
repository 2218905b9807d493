"""The errors a person can cause or meet: one sentence each, with the exit code the command line gives it."""

from __future__ import annotations


class AlexNetFastError(Exception):
    """Base of every error this package raises on purpose; its text is one sentence: what, where, what to do."""

    exit_code = 1


class UsageError(AlexNetFastError, ValueError):
    """A mistake in what was asked for: a wrong option, a missing file, a folder of the wrong kind."""

    exit_code = 2


class MissingDependencyError(UsageError):
    """Something asked for needs a package that is not installed here; the text holds the command that installs it."""


class DamagedDataError(AlexNetFastError):
    """Input that is broken: an undecodable image, a record that does not match its index, a torn file."""

    exit_code = 1


class WorkerError(AlexNetFastError):
    """A worker process or thread of a loader or of pack ended before its work did."""

    exit_code = 1


class StoppedError(AlexNetFastError):
    """Work that was asked to stop by a signal, and did so in good order; the text says how to go on.

    Attributes:
        exit_code: 128 and the signal's number: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StorageError(AlexNetFastError):
    """The file system refused: the disk is full, read-only or failing, or permission is missing."""

    exit_code = 1
