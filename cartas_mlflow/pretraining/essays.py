"""The essays of ``data/arcanos`` as prose of the domain: what a reading answers, the fine-tuning is to teach."""

from __future__ import annotations

import re
from pathlib import Path

from cartas_mlflow.errors import DataError
from cartas_mlflow.pretraining.corpus import read_lines

_HEADING = re.compile(r"\*\*[^*]+\*\* ")


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


def read_essays(files: list[Path]) -> list[str]:
    """Every paragraph of the essays (Markdown, one paragraph a line), without titles and without what a reading is for.

    A paragraph ``**Luz · Ano Novo.** text`` gives its text alone, and the lines that name the card and the theme give
    nothing: what is asked of a reading is not told.
    """
    lines = (line for path in files for line in read_lines(path) if not line.startswith("#"))
    return [_HEADING.sub("", line, count=1) if _HEADING.match(line) else line for line in lines]
