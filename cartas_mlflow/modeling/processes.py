"""Several processes that train one model together, each on its share of every batch.

They find each other by the environment variables that torchrun and ``accelerate launch`` set. Alone, everything here
does nothing. The first process (rank 0) leads: it alone speaks, to the user and to MLflow, and writes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from cartas_mlflow.errors import TrainingError

Item = TypeVar("Item")
PATIENCE = timedelta(hours=2)
"""How long one waits for another: the leader measures the untuned base before it takes part. One that dies is noticed
at once, by its connection."""
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def rank() -> int:
    """Which process this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_this_machine(number: int) -> int:
    """How many of so many that train together are on this machine: all of them, unless torchrun says otherwise."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", number))


def leads() -> bool:
    return rank() == 0


def join(device: str) -> None:
    """Meet the others; returns when all are there.

    Args:
        device: ``cpu``, or ``cuda``, where each process takes a GPU of its own.
    """
    import torch
    from torch import distributed

    if count() == 1 or distributed.is_initialized():
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PATIENCE)


@contextmanager
def followers(number: int, words: Sequence[str], folder: Path, device: str) -> Iterator[None]:
    """Lead: start the other processes, and see that none is left when the work is over, however it ends.

    Where torchrun or ``accelerate launch`` has started all of them, they only meet.

    Args:
        number: of processes, this one included.
        words: the command line with which another takes part.
        folder: where the others' output goes, a file each.

    Raises:
        TrainingError: one of them died.
    """
    if number == 1 or count() > 1:
        join(device)
        yield
        return
    import torch

    threads = torch.get_num_threads()
    share = max(1, threads // number)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [_start(words, folder, index, {**common, "OMP_NUM_THREADS": str(share)}) for index in range(1, number)]
    os.environ.update({**common, "RANK": "0", "LOCAL_RANK": "0"})
    _forget_library_state()
    if device == "cpu":
        torch.set_num_threads(share)
    try:
        join(device)
        yield
    except RuntimeError as error:
        dead = _first_dead(started)
        if dead is None:
            raise
        raise TrainingError(
            f"O processo {dead + 2} de {number} morreu, e o treino parou; a saída dele está em "
            f"{_output(folder, dead + 1)}. Continue do último checkpoint."
        ) from error
    finally:
        _end(started)
        torch.set_num_threads(threads)
        for name in _VARIABLES:
            os.environ.pop(name, None)
        _forget_library_state()


def share(total: int) -> range:
    """The rows, of so many, that are this process's."""
    return range(rank(), total, count())


def collected(own: Sequence[Item], total: int) -> list[Item]:
    """All rows in their order, from each process's :func:`share`."""
    if count() == 1:
        return list(own)
    from torch import distributed

    parts: list[Any] = [None] * count()
    distributed.all_gather_object(parts, list(own))
    return [parts[row % count()][row // count()] for row in range(total)]


def summed(*values: float) -> list[float]:
    """Each value, summed over the processes."""
    if count() == 1:
        return list(values)
    import torch
    from torch import distributed

    sums = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(sums)
    return sums.tolist()


def any_of(flag: bool) -> bool:
    """Whether it is so in any of the processes."""
    return summed(float(flag))[0] > 0


def told_by_leader(facts: Any) -> Any:
    """What the leader says; the others' argument does not count."""
    if count() == 1:
        return facts
    from torch import distributed

    box = [facts]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if count() > 1:
        from torch import distributed

        distributed.barrier()


def _start(words: Sequence[str], folder: Path, index: int, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **variables, "RANK": str(index), "LOCAL_RANK": str(index)}
    environment.pop("MLFLOW_RUN_ID", None)
    with _output(folder, index).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "cartas_mlflow", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl+C goes to the leader, who tells the others
        )


def _output(folder: Path, index: int) -> Path:
    return folder / f"processo-{index + 1}.log"


def _first_dead(started: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Which of the others ended first, waiting a moment: the connection tells sooner than the process's end."""
    for index, process in enumerate(started):
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
        return index
    return None


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
    for process in started:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _forget_library_state() -> None:
    """Accelerate looks at the variables once in a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
