"""The documents: every link leads somewhere, every command is one, every setting exists, every line that the program is
shown to print is one that it prints, both READMEs say the same."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from cartas_mlflow import cli
from cartas_mlflow.config import ALIASES, PROJECT_ROOT, SPACE, load_config, resolve_aliases
from cartas_mlflow.search.space_file import load_search
from cartas_mlflow.setting_checks import layer_from, settings_inside, typed
from cartas_mlflow.settings import setting_names

READMES = [PROJECT_ROOT / "README.md", PROJECT_ROOT / "README.pt-BR.md"]
TOLD = [*READMES, PROJECT_ROOT / "CONTRIBUTING.md", *sorted((PROJECT_ROOT / "docs").glob("*.md"))]
"""What tells how the program is used."""
LINKED = [*TOLD, *sorted((PROJECT_ROOT / "data").rglob("README.md"))]
LONGEST_README = 120
NAME = re.compile(r"[a-z_]+(\.[a-z_]+)+")


@dataclass(frozen=True)
class Document:
    """A Markdown file. ``blocks``: (language, text) of its fenced blocks; ``prose``: the rest of it."""

    blocks: Sequence[tuple[str, str]]
    prose: str

    @property
    def spans(self) -> list[str]:
        """What stands between backticks."""
        return re.findall(r"`([^`\n]+)`", self.prose)

    @property
    def links(self) -> list[str]:
        return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "code", self.prose))

    @property
    def anchors(self) -> set[str]:
        """Those that GitHub gives its headings."""
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    def examples(self, language: str) -> list[str]:
        return [text for written, text in self.blocks if written == language]


def read(path: Path) -> Document:
    blocks: list[tuple[str, str]] = []
    prose: list[str] = []
    language: str | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("```"):
            if language is None:
                prose.append(line)
            else:
                blocks[-1] = language, f"{blocks[-1][1]}{line}\n"
        elif language is None:
            language = line.removeprefix("```")
            blocks.append((language, ""))
        else:
            language = None
    assert language is None, f"{path.name}: a block that does not end"
    return Document(blocks, "\n".join(prose))


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of each command of a piece of shell, without variables before it and ``…`` after it."""
    for line in text.replace("\\\n", " ").replace("2>&1", "").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word.strip("|&;"):
                if word != "…" and (words or not re.match(r"[A-Z_]+=", word)):
                    words.append(word)
            elif words:
                yield words
                words = []


def own_commands(document: Document) -> list[str]:
    """The commands that this project has to understand, as they stand in examples and in prose."""
    shell = [*document.examples("bash"), *(span for span in document.spans if re.search(r"\b(mlflow|python) ", span))]
    return [shlex.join(words) for text in shell for words in commands_in(text) if is_own(words)]


def is_own(words: Sequence[str]) -> bool:
    """Not a mere name, as ``mlflow run`` and ``mlflow db upgrade`` are in a sentence."""
    if words[0] == "mlflow":
        return words[1:3] == ["run", "."] or (words[1:2] != ["run"] and any(word.startswith("-") for word in words))
    return words[:3] == ["python", "-m", "cartas_mlflow"] and len(words) > 3


def named(path: Path) -> str:
    return str(path.relative_to(PROJECT_ROOT))


DOCUMENTS = {named(path): read(path) for path in TOLD}
COMMANDS = sorted({command for document in DOCUMENTS.values() for command in own_commands(document)})
CLI_NAMES = {
    *setting_names(),
    *ALIASES,
    *(word for command in cli.COMMANDS.values() for word in command.words),
    "config",
}


def understand(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of the real command line, with every check of settings, but without what it would then do."""

    def resolve(name: str) -> Any:
        return (lambda *a, **k: None) if name.startswith("cartas_mlflow.pipelines.") else resolve_name(name)

    monkeypatch.setattr(cli, "resolve_name", resolve)
    return cli.main(arguments)


def mlflow_options(words: Sequence[str]) -> dict[str, Any]:
    """What MLflow's own command line understands of ``mlflow …``; a wrong option or value is an error."""
    from mlflow.cli import cli as command

    rest = list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    return command.make_context("mlflow", rest).params


def project_command(options: Mapping[str, Any]) -> list[str]:
    """What ``mlflow run .`` with these options runs."""
    from mlflow.projects._project_spec import load_project

    given = dict(value.split("=", 1) for value in options["param_list"])
    entry = load_project(str(PROJECT_ROOT)).get_entry_point(options["entry_point"])
    return shlex.split(entry.compute_command(given, None))


@pytest.fixture
def at_a_readers_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the files that a person who follows the documents has by then."""
    (mine,) = [text for text in DOCUMENTS["docs/guia-de-uso.md"].examples("yaml") if text.startswith("extends:")]
    (tmp_path / "minha.yaml").write_text(mine, encoding="utf-8")
    (tmp_path / "best.yaml").write_text("extends: configs/default.yaml\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", LINKED, ids=named)
def test_every_link_and_picture_leads_somewhere(path: Path) -> None:
    for link in read(path).links:
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = unquote(link).partition("#")
        target = path if not place else path.parent / place
        assert target.exists(), f"{named(path)}: {link}"
        if anchor:
            assert anchor in read(target).anchors, f"{named(path)}: {link}"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("at_a_readers_desk")
def test_every_command_is_understood(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command)
    if words[0] == "mlflow":
        options = mlflow_options(words[1:])
        if words[1] != "run":
            return
        words = project_command(options)
    assert words[:3] == ["python", "-m", "cartas_mlflow"]
    assert understand(words[3:], monkeypatch) == 0, capsys.readouterr().out


def test_the_documents_show_every_command() -> None:
    shown = {words[3] for words in map(shlex.split, COMMANDS) if words[0] == "python"}
    run = [mlflow_options(words[1:]) for words in map(shlex.split, COMMANDS) if words[:2] == ["mlflow", "run"]]
    assert shown | {options["entry_point"] for options in run} - {"main"} == set(cli.COMMANDS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_setting_exists_and_takes_the_value_shown(name: str) -> None:
    document = DOCUMENTS[name]
    text = "\n".join([document.prose, *(block for _, block in document.blocks)])
    for setting, value in re.findall(r"-P\s+([a-z_.]+)=(\"[^\"]*\"|[^\s`]+)", text):
        assert setting in CLI_NAMES, f"{name}: -P {setting}"
        if setting in {*setting_names(), *ALIASES} and "…" not in value:
            typed(layer_from(resolve_aliases({setting: value.strip('"')}), name))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_option_and_setting_in_prose_exists(name: str) -> None:
    from mlflow.cli import cli as mlflow_cli

    of_mlflow = {option.lstrip("-") for param in mlflow_cli.commands["run"].params for option in param.opts}
    for span in DOCUMENTS[name].spans:
        for option in re.findall(r"^--([a-z][\w.-]*)|\s--([a-z_]+\.[\w.]+)", span):
            assert "".join(option) in {*CLI_NAMES, *of_mlflow, "help"}, f"{name}: {span}"
        word = span.partition("=")[0]
        if NAME.fullmatch(word) and settings_inside(word.partition(".")[0]):
            assert word in setting_names() or settings_inside(word), f"{name}: {span}"


COMPOSED = re.compile(
    r"""\^C                                                       # the terminal
    |trainable\ params:.*                                         # PEFT
    |(├──\ )?\w+\.json(\ +\#.*)?|.+\ {2,}\#.*|results/\S+/          # a folder's tree
    |\{.*\}                                                       # the body of an answer
    |[A-Z]\ \ lr\ .*|[\w.]+:\ A\ .*|[^:]+(\ {2,}[\w.%\ ]+)+       # a comparison, in columns
    |⚖️\ (Bits\ por\ caractere|[\w-]+):\ [A-Z]\ (melhor|pior|não\ se\ distingue)\ .*
    |[\w.]+:(\ \S+)?|[\w.]+(,[\w.]+)+|→\ .*|[\w.]+:\ .*\ →\ .*|…   # what changes with the base, in a box
    """,
    re.VERBOSE,
)
"""Lines that no single text of the package makes."""


def sentences_of_the_program() -> list[re.Pattern[str]]:
    """What the package's own texts look like: everything that is filled in may be anything."""
    found = set()
    for path in (PROJECT_ROOT / "cartas_mlflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node.value]
            else:
                continue
            if len(re.findall(r"[^\W\d_]", "".join(filter(None, parts)))) >= 4:
                # U+0000 stands for what is filled in.
                text = "".join("\0" if part is None else part for part in parts)
                found |= {
                    ".+?".join(map(re.escape, line.strip().replace("`", "").split("\0"))) for line in text.split("\n")
                }
    letters = {pattern: len(re.findall(r"[^\W\d_]", pattern)) for pattern in found}
    # Half a sentence may be one text and its other half another: the first half must say something.
    rest = {pattern: r"(?:\s.*)?" if count > 10 else "" for pattern, count in letters.items()}
    return [re.compile(rf"(?:\W+ )?{pattern}{rest[pattern]}") for pattern in found if letters[pattern] >= 3]


SENTENCES = sentences_of_the_program()
SHOWN_LINES = sorted(
    {
        (name, line.strip("│┌┐└┘─ "))
        for name, document in DOCUMENTS.items()
        if name != "CONTRIBUTING.md"
        for block in document.examples("")
        for line in block.splitlines()
        if line.strip("│┌┐└┘─ ")
    }
)


@pytest.mark.parametrize(("name", "line"), SHOWN_LINES)
def test_every_line_that_is_shown_is_one_that_the_program_prints(name: str, line: str) -> None:
    assert COMPOSED.fullmatch(line) or any(sentence.fullmatch(line) for sentence in SENTENCES)


@pytest.mark.parametrize(("name", "line"), SHOWN_LINES)
def test_a_shown_figure_has_the_consoles_decimal_point(name: str, line: str) -> None:
    assert not re.search(r"(?<![\d,])\d+,\d+(?!\d*,\d)(?![\d,])", line)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_script_is_there(name: str) -> None:
    document = DOCUMENTS[name]
    for text in [*document.examples("bash"), *document.spans]:
        for script in re.findall(r"\bpython (\S+\.py)\b", text):
            assert (PROJECT_ROOT / script).is_file(), f"{name}: {text}"


@pytest.mark.parametrize(
    "example", [text for document in DOCUMENTS.values() for text in document.examples("yaml")], ids=lambda t: t[:20]
)
def test_every_example_of_a_file_is_a_configuration(example: str, tmp_path: Path) -> None:
    path = tmp_path / "exemplo.yaml"
    path.write_text(example, encoding="utf-8")
    load = load_search if SPACE in yaml.safe_load(example) else load_config
    load(str(path), {})


def test_both_readmes_give_the_same_commands_in_the_same_order() -> None:
    english, portuguese = (
        [words for text in read(path).examples("bash") for words in commands_in(text)] for path in READMES
    )
    assert english == portuguese
    english, portuguese = (own_commands(read(path)) for path in READMES)
    assert english == portuguese


def test_each_readme_begins_with_a_link_to_the_other_and_both_link_the_same() -> None:
    english, portuguese = READMES
    assert "(README.pt-BR.md)" in english.read_text(encoding="utf-8").splitlines()[0]
    assert "(README.md)" in portuguese.read_text(encoding="utf-8").splitlines()[0]
    assert read(english).links[1:] == read(portuguese).links[1:]


@pytest.mark.parametrize("path", READMES, ids=named)
def test_a_readme_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_the_package_shows_the_english_readme() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["readme"] == "README.md"
