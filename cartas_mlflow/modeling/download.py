"""One big file from the hub, in as many sittings as it takes.

``huggingface_hub`` 2.4 goes on with a cut file only within one process: it writes to a file of a name drawn by chance,
which it deletes when it gives up and never looks for again. Here the part that came stays beside the place of the
whole, under the name that the library gave it up to its version 1.17, and the next start asks for the rest. A file is
put in its place only if its SHA-256 is the hub's, so that parts of two files can never pass for one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cartas_mlflow.console import duration, progress_bar, say
from cartas_mlflow.errors import BaseModelError
from cartas_mlflow.files import checksum

if TYPE_CHECKING:
    from httpx2 import Response

GOES_ON = "repetido, o mesmo comando continua de onde parou"
PATIENCE = 30.0
"""Seconds without a byte after which a connection counts as lost."""
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each new try; tries that bring something do not count."""
LINE_EVERY = 10.0
"""Seconds between two lines about a download, where there is no terminal for a bar."""


@dataclass(frozen=True)
class RemoteFile:
    """A file at the hub, and where the hub's cache keeps it. ``size``: bytes; ``sha256``: of the whole, in hex."""

    name: str
    url: str
    size: int
    sha256: str
    blob: Path
    lock: Path

    @property
    def part(self) -> Path:
        """What came so far."""
        return self.blob.with_name(f"{self.blob.name}.incomplete")

    @property
    def lacking(self) -> int:
        """Bytes that are still to come."""
        return 0 if self.blob.exists() else max(0, self.size - _size(self.part))


def check_space(files: list[RemoteFile]) -> None:
    """See that the disk has room for what is still to come.

    Raises:
        BaseModelError: it has not.
    """
    lacking = sum(file.lacking for file in files)
    if not lacking:
        return
    folder = files[0].blob.parent
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < lacking:
        raise BaseModelError(
            f"O disco de {folder} tem {megabytes(free)} MB livres, e os pesos que faltam baixar têm "
            f"{megabytes(lacking)} MB; libere espaço, ou indique uma pasta em outro disco com HF_HOME; {GOES_ON}."
        )


def download(file: RemoteFile) -> None:
    """Bring a file into the cache, where it is not there yet; one command at a time.

    Raises:
        BaseModelError: the connection is lost again and again, or what came is not what the hub announced.
        httpx2.HTTPStatusError: the hub denies it.
    """
    file.blob.parent.mkdir(parents=True, exist_ok=True)
    with _alone(file):
        if file.blob.exists():
            return
        while True:
            resumed = _size(file.part) > 0
            _complete(file)
            if checksum(file.part) == file.sha256:
                break
            file.part.unlink()
            if not resumed:
                raise BaseModelError(
                    f"{file.name} chegou com um conteúdo que não é o que o hub anuncia (SHA-256) e foi apagado; repita "
                    "o comando, e se acontecer outra vez, confira o proxy da rede."
                )
            say(f"O que já estava aqui de {file.name} não era o começo deste arquivo: ele vem de novo, inteiro")
        file.part.replace(file.blob)


def megabytes(count: float) -> str:
    """Bytes as ``1234`` or, below ten, as ``0.9``."""
    return f"{count / 1e6:.1f}" if count < 1e7 else f"{count / 1e6:.0f}"


@contextmanager
def _alone(file: RemoteFile) -> Iterator[None]:
    """Keep other commands, and the hub's own client, from fetching the same file meanwhile."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    file.lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(file.lock, timeout=1))
        except Timeout:
            say(f"Outro comando já está baixando {file.name}; esperando por ele")
            stack.enter_context(WeakFileLock(file.lock))
        yield


def _complete(file: RemoteFile) -> None:
    """Fetch until nothing lacks, over as many connections as that takes while each brings something."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    best, vain = _size(file.part), 0
    with _Progress(file.name, file.size, best) as progress:
        while True:
            why = "o hub encerrou a conexão"
            try:
                _receive(file, progress)
            except httpx2.TransportError as error:
                why = type(error).__name__
            except HfHubHTTPError as error:
                if error.response.status_code not in {408, 429} and error.response.status_code < 500:
                    raise
                why = f"HTTP {error.response.status_code}"
            here = _size(file.part)
            if here >= file.size:
                return
            broken = f"O download de {file.name} parou em {progress.figures} ({why})"
            best, vain = (here, 0) if here > best else (best, vain + 1)
            if vain == len(PAUSES):
                raise BaseModelError(f"{broken}; confira a rede: {GOES_ON}.")
            say(f"{broken}; tentando de novo")
            time.sleep(PAUSES[vain])


def _receive(file: RemoteFile, progress: _Progress) -> None:
    """Over one connection: append to the part what still lacks, as far as it comes."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    here = _size(file.part)
    if here >= file.size:
        return
    # Ranges count the bytes that are sent: compressed, they would be others.
    headers = build_hf_headers() | {"accept-encoding": "identity"} | ({"range": f"bytes={here}-"} if here else {})
    with get_session().stream("GET", file.url, headers=headers, timeout=PATIENCE) as reply:
        hf_raise_for_status(reply)
        start = here if _goes_on(reply, here) else 0
        page = reply.headers.get("content-type", "").startswith("text/html")
        if page or int(reply.headers.get("content-length", file.size - start)) != file.size - start:
            raise BaseModelError(
                f"No lugar de {file.name} veio outra coisa (de um proxy, ou a página de login da rede); "
                f"entre na rede com o navegador: {GOES_ON}."
            )
        if start < here:
            say(f"O servidor não continua um download interrompido: {file.name} recomeça")
            file.part.unlink()
            here = 0
        with file.part.open("ab") as stream:
            for block in reply.iter_bytes():
                stream.write(block)
                here += len(block)
                progress.show(here)


def _goes_on(reply: Response, start: int) -> bool:
    return reply.status_code == 206 and reply.headers.get("content-range", "").startswith(f"bytes {start}-")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Progress:
    """How far a download is: a bar on a terminal, elsewhere a line now and then; a line when it is done."""

    def __init__(self, name: str, size: int, start: int) -> None:
        self.name, self.size, self.here = name, size, start
        self.fetched, self.began = 0, time.monotonic()
        self.last_line = self.began
        say(f"Baixando {name}" + (f"… {self.figures} já estavam aqui" if start else f": {megabytes(size)} MB"))
        self.bar = progress_bar(size, f"Baixando {name}", initial=start, form="{desc} {percentage:3.0f}%|{bar}|")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.close()
        if error is None and self.fetched:
            took = duration(time.monotonic() - self.began)
            say(f"{self.name} baixado: {megabytes(self.size)} MB em {took}, {self.speed}")

    @property
    def figures(self) -> str:
        return f"{megabytes(self.here)} de {megabytes(self.size)} MB"

    @property
    def speed(self) -> str:
        return f"{megabytes(self.fetched / max(time.monotonic() - self.began, 1e-3))} MB/s"

    def show(self, here: int) -> None:
        """``here``: bytes on the disk now."""
        self.fetched += max(0, here - self.here)
        self.here = here
        line = f"Baixando {self.name}… {self.figures}, {self.speed}"
        self.bar.set_description_str(line, refresh=False)
        self.bar.update(here - self.bar.n)
        if self.bar.disable and time.monotonic() - self.last_line >= LINE_EVERY:
            self.last_line = time.monotonic()
            say(line)
