"""What the libraries expect around a process and a container may lack: a home folder, a user's name, git.

Without them some fail when they are imported, and others fill the console with warnings.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def complete_environment() -> None:
    """Make up for what is missing, for this process and those that it starts. Call before any heavy import.

    A home folder that is made up is gone when the process ends, and with it what the hub had sent: HF_HOME names a
    place that lasts.
    """
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    if not _has_name():
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and nobody of this number in the system's list of users
        home = None
    if home is None or not home.is_dir():
        os.environ["HOME"] = _passing_folder()
    elif not os.access(home, os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", _passing_folder())


def _has_name() -> bool:
    import getpass

    try:
        return bool(getpass.getuser())
    except (KeyError, OSError):
        return False


def _passing_folder() -> str:
    folder = tempfile.mkdtemp(prefix="cartas-mlflow-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
