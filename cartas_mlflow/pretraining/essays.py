"""The essays of ``data/arcanos`` as texts of the domain: long paragraphs as they are, short ones with their prompt."""

from __future__ import annotations

import re
from pathlib import Path

from cartas_mlflow.data.prompts import make_prompt
from cartas_mlflow.data.records import Record
from cartas_mlflow.errors import DataError
from cartas_mlflow.pretraining.corpus import DomainText, read_lines

_READING = re.compile(r"\*\*(?P<secao>[^·*]+) · (?P<evento>[^*]+)\.\*\* (?P<texto>.+)")


def find_essays(folder: Path) -> list[Path]:
    """The essays in the folder, in order.

    Raises:
        DataError: there is no such folder, or no essay in it.
    """
    essays = sorted(folder.glob("*.md"))
    if not folder.is_dir():
        raise DataError(
            f"A pasta dos ensaios {folder} (pretrain.essays) não existe; indique outra, ou pretrain.essays=none."
        )
    if not essays:
        raise DataError(
            f"A pasta dos ensaios {folder} (pretrain.essays) não tem nenhum .md; indique outra, ou "
            "pretrain.essays=none."
        )
    return essays


def read_essays(files: list[Path], template: str) -> list[DomainText]:
    """Every paragraph of the essays (Markdown, one paragraph a line).

    ``# `` names the card and ``## `` the theme. A paragraph ``**Luz · Ano Novo.** text`` is a reading: it gets the
    prompt that ``template`` makes of its fields; other paragraphs get none.
    """
    texts = []
    for path in files:
        carta = tema = ""
        for line in read_lines(path):
            if line.startswith("## "):
                tema = line[3:].strip()
            elif line.startswith("# "):
                carta = line[2:].strip()
            elif reading := _READING.fullmatch(line):
                record = Record("", carta, reading["evento"], reading["secao"], tema, reading["texto"].strip())
                texts.append(DomainText(record.texto, make_prompt(template, record)))
            else:
                texts.append(DomainText(line))
    return texts
