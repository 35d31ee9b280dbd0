"""A YAML file that a person wrote -> a tree of plain values, or one sentence that names the line and the mend.

YAML can say more than a settings file needs: maps within maps without end, anchors that hold themselves or that unfold
to billions of values, types of its own. Whatever goes beyond names, texts, numbers, lists and maps is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cartas_mlflow.errors import SettingError

LARGEST_FILE = 1 << 17
"""Bytes. The largest file of the project's own has two thousand; this much is read in less than a second."""
DEEPEST = 20
"""Maps and lists within each other."""
MOST_VALUES = 5_000
"""Values of a file, each counted as often as an alias repeats it."""
LONGEST_NUMBER = 200
"""Characters; whatever the base, so long a number is still one that a float holds."""


def read_yaml(file: Path, shown: str) -> dict[str, Any]:
    """The file's map.

    Args:
        shown: how the sentence names the file.

    Raises:
        SettingError: a file that cannot be read, that is not YAML, or that holds something else than a map.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise SettingError(
            f"O arquivo de configuração {shown} não existe; confira o caminho (ex.: configs/default.yaml)."
        ) from None
    except IsADirectoryError:
        raise SettingError(
            f"A configuração {shown} é uma pasta; indique um arquivo YAML (ex.: configs/default.yaml)."
        ) from None
    except (OSError, ValueError):  # ValueError: a name that no file can have
        raise SettingError(
            f"A configuração {shown} não pôde ser lida; confira o caminho e as permissões do arquivo."
        ) from None
    return parse_yaml(content, shown)


def parse_yaml(content: bytes, shown: str) -> dict[str, Any]:
    """The map that the bytes of a file hold.

    Raises:
        SettingError: see :func:`read_yaml`.
    """
    if len(content) > LARGEST_FILE:
        raise SettingError(
            f"A configuração {shown} passa de {LARGEST_FILE // 1024} kB; indique um arquivo YAML de configurações (a "
            "tabela de leituras vai em data.path)."
        )
    try:
        tree = yaml.load(content.decode("utf-8-sig"), _Loader)
    except UnicodeDecodeError:
        raise SettingError(f"A configuração {shown} não é um texto UTF-8; salve o arquivo YAML em UTF-8.") from None
    except _Refused as error:
        raise SettingError(f"A configuração {shown}, linha {error.problem_mark.line + 1}: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise SettingError(f"A configuração {shown}{_what_is_wrong(error)}.") from None
    if tree is None:  # an empty file
        return {}
    if not isinstance(tree, dict):
        raise SettingError(f"A configuração {shown} deve ser um mapa de seções (ex.: training: {{epochs: 20}}).")
    return tree


def _what_is_wrong(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or ""
    line = f", linha {mark.line + 1}" if mark else ""
    if "'\\t'" in problem:
        return f"{line}: há uma tabulação; recue com espaços"
    if "another document" in problem:
        return f"{line}: começa um segundo documento (---); deixe só um"
    return f"{line} não é YAML válido; corrija a sintaxe"


class _Refused(yaml.MarkedYAMLError):
    """YAML that no settings file needs, or that would be read as something else than is written."""


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = self.values = 0
        self.open: set[str] = set()
        self.unfolded: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        anchor = event.anchor
        if isinstance(event, yaml.AliasEvent):
            if anchor in self.open:
                raise _Refused(problem=f"*{anchor} está dentro de si mesmo; retire-o", problem_mark=event.start_mark)
            self._count(self.unfolded.get(anchor, 0), event.start_mark)
            return super().compose_node(parent, index)
        if event.tag is not None:
            problem = f"a marca {event.tag[:40]} não serve numa configuração; retire-a"
            raise _Refused(problem=problem, problem_mark=event.start_mark)
        if self.depth == DEEPEST:
            problem = f"mais de {DEEPEST} níveis de mapas e listas; use seções e nomes, como training: {{epochs: 20}}"
            raise _Refused(problem=problem, problem_mark=event.start_mark)
        before = self.values
        self._count(1, event.start_mark)
        self.depth += 1
        if anchor is not None:
            self.open.add(anchor)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if anchor is not None:
            self.open.discard(anchor)
            self.unfolded[anchor] = self.values - before
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        number = node.tag.endswith((":int", ":float"))
        if number and len(node.value) > LONGEST_NUMBER:
            problem = f"um número de {len(node.value)} algarismos; escreva um menor"
            raise _Refused(problem=problem, problem_mark=node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, ValueError):
            what = "um número" if number else "uma data"
            problem = f"{node.value[:40]} parece {what}, mas não é; corrija, ou escreva entre aspas se é um texto"
            raise _Refused(problem=problem, problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                shown = key.value[:40] if isinstance(key, yaml.ScalarNode) else "uma lista ou um mapa"
                problem = f"{shown or 'um espaço vazio'} não é o nome de uma configuração"
                raise _Refused(problem=problem, problem_mark=key.start_mark)
            if key.value in seen:  # YAML would keep the last without a word
                problem = f"{key.value} aparece duas vezes; deixe só uma"
                raise _Refused(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def _count(self, values: int, mark: yaml.Mark) -> None:
        self.values += values
        if self.values > MOST_VALUES:
            problem = f"mais de {MOST_VALUES} valores, com as repetições dos * contadas; escreva menos"
            raise _Refused(problem=problem, problem_mark=mark)
