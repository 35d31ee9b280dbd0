"""The project's own small files: written whole or not at all, read typed, and damaged in one way.

A folder of files that belong together (an adapter, a checkpoint) gets a manifest of checksums, written last: a byte
that flips on a disk or in a copy shows when the folder is used, not in what a model writes. Folders without one, of
earlier versions, are read as they are.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import get_ident
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cartas_mlflow.errors import UserError

MANIFEST = "checksums.json"


class DamagedFile(UserError):
    """A file of the project's own that cannot be trusted."""

    def __init__(self, path: Path | str, why: str, mend: str) -> None:
        self.clause = f"{Path(path).name}: {why}"
        super().__init__(f"O arquivo {path} está danificado ({why}); {mend}.")


class OwnFile(BaseModel):
    """Content of a JSON file of the project's own; a key that this version does not know is damage too."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def read(cls, path: Path, mend: str) -> Self:
        """Read and check it.

        Args:
            mend: Portuguese clause, what the user can do about a damaged file.

        Raises:
            DamagedFile: no text, no JSON, or another content than this class's.
        """
        try:
            return cls.model_validate_json(read_text(path, mend))
        except ValidationError as error:
            raise DamagedFile(path, _what(error), mend) from None

    def write(self, path: Path) -> None:
        """Write it whole or not at all."""
        write_json(path, self.model_dump(mode="json"))


def read_text(path: Path, mend: str) -> str:
    """A text file of the project's own.

    Raises:
        DamagedFile: it is not there, cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DamagedFile(path, "não existe", mend) from None
    except UnicodeDecodeError:
        raise DamagedFile(path, "não é texto", mend) from None
    except OSError as error:
        raise DamagedFile(path, f"não pôde ser lido: {error.strerror}", mend) from None


def parse_table(text: str, path: Path | str, columns: Sequence[str], mend: str) -> list[dict[str, str]]:
    """The rows of a CSV of the project's own. ``path``: what to call it in the error.

    Raises:
        DamagedFile: a column is missing, or a row has another number of cells than the header.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error:
        raise DamagedFile(path, "não é csv", mend) from None
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise DamagedFile(path, f"falta a coluna {missing[0]}", mend)
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DamagedFile(path, f"a linha {number} está cortada", mend)
    return rows


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, in a folder that is there; of two that write at once, the last one's stays.

    What a process that was killed had begun to write is cleared away.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}.partial")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _clear_drafts(path)


def _clear_drafts(path: Path) -> None:
    import psutil

    for left in path.parent.iterdir():
        writer = re.fullmatch(rf"\.{re.escape(path.name)}\.(\d+)-\d+\.partial", left.name)
        if writer and not psutil.pid_exists(int(writer[1])):
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, and its folder where that is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all, accents as they are."""
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Write the manifest of a folder's files; one that is changed afterwards counts as damaged, but for the README."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name not in {MANIFEST, "README.md"})
    write_json(folder / MANIFEST, {path.name: checksum(path) for path in files})


def check_seal(folder: Path, mend: str) -> None:
    """Hold a folder's files against its manifest, if it has one.

    Raises:
        DamagedFile: a file is missing, or is not what was written.
    """
    if not (folder / MANIFEST).exists():
        return
    try:
        expected = json.loads(read_text(folder / MANIFEST, mend))
        names = {name: digest for name, digest in expected.items() if isinstance(digest, str)}
    except (ValueError, AttributeError):
        raise DamagedFile(folder / MANIFEST, "não é a lista que foi gravada", mend) from None
    if not names:
        raise DamagedFile(folder / MANIFEST, "está vazio", mend)
    check_sums(folder, names, MANIFEST, mend)


def check_sums(folder: Path, sums: Mapping[str, str], source: str, mend: str) -> None:
    """Hold files of a folder against their checksums.

    Args:
        sums: file's name -> :func:`checksum`.
        source: name of the file that they were read from.

    Raises:
        DamagedFile: a file is missing, or is not what was written.
    """
    for name, digest in sums.items():
        path = folder / name
        if not path.is_file():
            raise DamagedFile(path, "não existe", mend)
        if checksum(path) != digest:
            raise DamagedFile(path, f"mudou desde que foi gravado, diz {source}", mend)


def _what(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "json_invalid":
        return "não é JSON"
    if first["type"] == "extra_forbidden":
        return f"tem {key}, que esta versão não conhece"
    if first["type"] == "missing":
        return f"falta {key}"
    return f"o valor de {key} não serve" if key else "não é um objeto JSON"
