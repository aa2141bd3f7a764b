"""Every exception a user can meet.

Each is also a builtin kind (``ValueError``, ``TypeError``, ``FileNotFoundError`` ...), so that
programs which never heard of scatflow still catch it. A message states the fact, its consequence,
the remedy and the evidence, in that order.
"""

from __future__ import annotations


class ScatflowError(Exception):
    """Base of all errors raised on purpose by scatflow."""


class ParameterError(ScatflowError, ValueError, RuntimeError):
    """A parameter of an engine has a value that makes no sense.

    A RuntimeError, too: programs written for Kymatio expect one from 2D and 3D transforms.
    """


class ParameterTypeError(ScatflowError, TypeError):
    """A parameter of an engine has the wrong type."""


class InputTypeError(ScatflowError, TypeError):
    """The input is not made of real numbers."""


class InputShapeError(ScatflowError, RuntimeError, ValueError):
    """The input does not have the shape that the engine was made for."""


class BackendError(ScatflowError, ValueError, ImportError):
    """The backend asked for is unknown or not installed.

    An ImportError, too, as programs written for Kymatio expect.
    """


class SourceError(ScatflowError, ValueError):
    """A store cannot serve as a source: what is in it does not fit."""


class SourceNotFoundError(ScatflowError, FileNotFoundError):
    """A store, a group or a variable does not exist."""


class IngestError(ScatflowError, ValueError):
    """Files cannot be brought into one archive."""


class JobError(ScatflowError, ValueError):
    """A job file asks for something unknown or impossible."""


class OutputError(ScatflowError, FileExistsError):
    """The output exists and does not belong to this job, or cannot be written there."""


class OutputTakenError(OutputError):
    """Another run has taken over the output of this one, which had been silent."""


class OutputBusyError(ScatflowError, RuntimeError):
    """Another run is writing the same output."""


class BudgetError(ScatflowError, MemoryError):
    """One block needs more memory than a worker may use."""


class ClusterError(ScatflowError, RuntimeError):
    """The workers cannot be reached or started."""


class ScheduleError(ScatflowError, RuntimeError):
    """A scheduler cannot be told to run a job, or not at these times."""


class MissingExtraError(ScatflowError, ImportError):
    """A feature needs an optional package; the message holds the line that installs it."""
