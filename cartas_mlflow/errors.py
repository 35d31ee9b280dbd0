"""What a user can cause: errors, and an interruption.

An error carries one Portuguese sentence that says what is wrong, where, and the mend; ``cli.main`` prints it and exits
with code 2. Any other exception is a bug: it keeps its traceback and exits with code 1.
"""

import re

_USER_AND_PASSWORD = re.compile(r"(?<=//)\S*@")
_PASSWORD_PARAMETER = re.compile(r"(?i)(pass(?:word|wd)?|pwd|token|secret)=[^&\s]*")


class UserError(Exception):
    """Something the user can mend; ``str(error)`` is the sentence shown to them."""


class SettingError(UserError):
    """A setting that does not exist, has the wrong type, or is out of range."""


class DataError(UserError):
    """A table of readings that cannot be used as it is."""


class BaseModelError(UserError):
    """A base model that cannot be found, or that does not fit the settings."""


class TrackingError(UserError):
    """An MLflow tracking server, experiment or run that cannot be used."""


class Undelivered(TrackingError):
    """The work is done and stands on disk, but MLflow has not got all of it. An exit code of its own."""


class TrainingError(UserError):
    """A training that cannot go on: diverged, or out of memory."""


class OutOfMemory(TrainingError):
    """Memory that does not suffice even for the smallest piece of the work; the sentence fits the phase."""


class RegistryError(UserError):
    """A run, model version or alias that cannot be used as asked."""


class SearchError(UserError):
    """A hyperparameter search that cannot be opened, joined or ended: its database, its study, its trials."""


class RunInterrupted(Exception):
    """The user stopped the training and everything is saved: the run ends KILLED, the command with ``exit_code``.

    ``str(interruption)``: Markdown for the run's description, on how to go on.
    """

    def __init__(self, how_to_go_on: str, exit_code: int = 130) -> None:
        self.exit_code = exit_code
        super().__init__(how_to_go_on)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without passwords."""
    return without_password((str(error).splitlines() or [""])[0])


def without_password(text: str) -> str:
    """The text, its addresses without what stands before the ``@`` and without password parameters."""
    return _PASSWORD_PARAMETER.sub(r"\1=***", _USER_AND_PASSWORD.sub("", text))
