"""What a file really is, and the one sentence for what cannot be a table."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

from cartas_mlflow.errors import DataError

TEXT_KINDS = {".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"} | {
    ".json": "jsonl"
}
BOOK_KINDS = (".xlsx", ".xlsm", ".xltx", ".xls", ".xlsb", ".ods", ".parquet")
ACCEPTED = "csv, xlsx, xls, xlsb, ods, jsonl ou parquet"
_LARGEST = 1 << 30
_RESAVE = "abra-o no Excel ou no LibreOffice e salve como xlsx"
_DISGUISES = (
    (rb"%PDF", "um PDF", "exporte a tabela de onde ela foi feita"),
    (rb"\{\\rtf", "um documento RTF", "copie a tabela para uma planilha"),
    (rb"(?:<\?[^>]*>\s*)*<(?:\w+:)?Workbook\b", "uma planilha em XML antigo (2003)", _RESAVE),
    (rb"(?:<[?!]-?[^>]*>\s*)*<(?:!doctype\s+html|html|head|body|table|meta|div)\b", "uma página HTML", _RESAVE),
    (rb"<\?xml", "um arquivo XML", _RESAVE),
    (rb"version https://git-lfs", "só o ponteiro de um arquivo do Git LFS", "baixe o arquivo com git lfs pull"),
    (rb'\{[^{}]{0,500}docs\.google\.com', "só um atalho para o Google Planilhas", "baixe-a como xlsx ou csv"),
    (rb"\x1f\x8b", "um arquivo compactado (gzip)", "descompacte-o"),
    (rb"7z\xbc\xaf", "um arquivo compactado (7z)", "descompacte-o"),
    (rb"Rar!", "um arquivo compactado (rar)", "descompacte-o"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8", "uma imagem", "exporte a tabela de onde ela foi feita"),
)  # fmt: skip


def read_content(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        DataError: it is missing, a folder, an address, a program's lock file, too large, empty, or cannot be read.
    """
    if re.match(r"(?i)(https?|ftp|s3|gs):/", path.as_posix()):
        raise DataError(f"{path} é um endereço; baixe a tabela e indique em data.path o arquivo.")
    try:
        if path.is_dir():
            raise DataError(f"{path} é uma pasta; indique em data.path um arquivo {ACCEPTED}.")
        if not path.exists():
            raise DataError(f"O arquivo de dados {path} não existe; confira data.path (ex.: data/cartas.csv).")
        if not path.is_file():
            raise DataError(f"{path} não é um arquivo comum; indique em data.path um arquivo {ACCEPTED}.")
        if path.name.startswith(("~$", ".~lock.")):
            real = path.name.removeprefix("~$").removeprefix(".~lock.").removesuffix("#")
            raise DataError(f"{path} é a marca de que a planilha está aberta em outro programa; indique {real}.")
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path} tem mais de 1 GB; indique uma tabela só com as leituras.")
        content = path.read_bytes()
    except OSError:
        raise DataError(f"{path} não pôde ser lido; confira data.path e as permissões do arquivo.") from None
    except ValueError:  # a null character in the name
        raise DataError("data.path tem um caractere que nomes de arquivos não podem ter; confira-o.") from None
    if not content.strip(b"\x00\xef\xbb\xbf\xff\xfe \t\r\n"):
        raise DataError(f"O arquivo {path} está vazio; ele precisa de um cabeçalho e de leituras.")
    return content


def recognize(path: Path, content: bytes) -> str:
    """``csv``, ``jsonl``, ``parquet``, ``ods``, ``xlsx``, ``xls`` or ``xlsb``: by content, or else by ending.

    Raises:
        DataError: an ending that no table has, or content that is no table.
    """
    suffix = path.suffix.lower()
    kind = _kind_of_binary(path, content)
    if kind is not None:
        return kind
    start = content[:2000].lstrip(b"\xef\xbb\xbf \t\r\n\x00")
    for pattern, what, mend in _DISGUISES:
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            raise DataError(f"{path} é {what}, não uma tabela {ACCEPTED}; {mend}.")
    if suffix in TEXT_KINDS:
        return TEXT_KINDS[suffix]
    if suffix in BOOK_KINDS:
        if suffix == ".xls" and b"\x00" not in content:  # programs name their text exports so, for Excel to open them
            return "csv"
        raise DataError(f"O conteúdo de {path} não é {suffix[1:]}; exporte a tabela de novo.")
    raise DataError(f"{path} tem a terminação {suffix or '(nenhuma)'}; use um arquivo {ACCEPTED}.")


def _kind_of_binary(path: Path, content: bytes) -> str | None:
    if content.startswith(b"PAR1"):
        return "parquet"
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        if "EncryptedPackage".encode("utf-16-le") in content:
            raise DataError(f"{path} está protegida por senha; abra-a, retire a senha e salve de novo.")
        if not any(name.encode("utf-16-le") in content for name in ("Workbook", "Book")):
            raise DataError(f"{path} não é uma planilha; exporte a tabela como xlsx ou csv.")
        return "xls"
    if content[:2] in (b"\x09\x08", b"\x09\x04", b"\x09\x02", b"\x09\x00") and path.suffix.lower() == ".xls":
        raise DataError(f"{path} é de um Excel muito antigo; abra-o e salve como xlsx.")
    if not content.startswith(b"PK\x03\x04"):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = {name.lower() for name in archive.namelist()}
            mimetype = archive.read("mimetype") if "mimetype" in names else b""
    except (zipfile.BadZipFile, KeyError, OSError, RuntimeError, NotImplementedError, ValueError):
        kind = path.suffix.lower()[1:]
        raise DataError(f"{path} não é uma planilha {kind} íntegra; abra-a e salve de novo como xlsx.") from None
    if "xl/workbook.bin" in names:
        return "xlsb"
    if b"spreadsheet" in mimetype:
        return "ods"
    if any(name.startswith("xl/") for name in names):
        return "xlsx"
    what = (
        "um documento de texto"
        if any(name.startswith("word/") for name in names) or b"opendocument.text" in mimetype
        else "uma apresentação"
        if any(name.startswith("ppt/") for name in names)
        else "um arquivo do Numbers"
        if any(name.startswith("index") for name in names)
        else "um arquivo compactado (zip)"
    )
    mend = "descompacte-o e indique a tabela" if what.endswith("(zip)") else "exporte a tabela como xlsx ou csv"
    raise DataError(f"{path} é {what}, não uma tabela {ACCEPTED}; {mend}.")
