"""A comparison of runs as one HTML file to send, as Markdown, and as the description of its own run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cartas_mlflow.console import decimal
from cartas_mlflow.tracking.html_report import page_environment

SHOWN_IN_MARKDOWN = 20
"""Prompts in the Markdown, which is the short form."""
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


@dataclass(frozen=True)
class Cell:
    """A final metric of a run: its value and interval; how it stands against the first run's, in words and figures."""

    value: str
    interval: str | None = None
    verdict: str | None = None
    difference: str | None = None


@dataclass(frozen=True)
class RunColumn:
    """One run. ``started``: local time; ``page``: its address on a tracking server, None for a local store;
    ``records``: its validation records; ``cells``: by the metric's name."""

    letter: str
    id: str
    experiment_id: str
    name: str
    started: datetime
    page: str | None
    records: int
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Writing:
    """A text. ``who``: letters of the runs that wrote it; ``score``: chrF, 0 to 1; ``pieces``: (text, it differs)."""

    who: str
    score: float
    pieces: Sequence[tuple[str, bool]]


@dataclass(frozen=True)
class WrittenPrompt:
    """A prompt with what the runs wrote. ``absent``: letters of the runs that do not have it, or empty."""

    asked: str
    real: str
    writings: Sequence[Writing]
    absent: str


@dataclass(frozen=True)
class ComparisonFacts:
    """What a comparison tells.

    ``verdicts``: a clause per run; ``remarks``: what the runs do not share; ``settings``: those that
    differ, name -> a value per run (None: it has none); ``metrics``: name -> title; ``prompts``: in the page's order.
    """

    experiment: str
    made: datetime
    runs: Sequence[RunColumn]
    verdicts: Sequence[str]
    remarks: Sequence[str]
    settings: Mapping[str, Sequence[str | None]]
    metrics: Mapping[str, str]
    prompts: Sequence[WrittenPrompt]

    @property
    def title(self) -> str:
        return f"Comparação de {len(self.runs)} execuções"


def render_comparison(facts: ComparisonFacts) -> str:
    """The whole page as HTML; everything that comes from the data is escaped."""
    return page_environment().get_template("comparacao.html").render(facts=facts)


def comparison_markdown(facts: ComparisonFacts) -> str:
    """The same as Markdown, with the first :data:`SHOWN_IN_MARKDOWN` prompts."""
    shown = facts.prompts[:SHOWN_IN_MARKDOWN]
    rows = [[run.letter, _plain(run.name), f"`{run.id}`", f"{run.started:%d/%m/%Y %H:%M}"] for run in facts.runs]
    parts = [
        f"# {facts.title}",
        f"Experimento {_plain(facts.experiment)}, {facts.made:%d/%m/%Y %H:%M}.",
        *_result(facts, [_plain(run.name) for run in facts.runs]),
        "## Execuções",
        _table(["", "execução", "id", "início"], rows),
        "## Configurações que diferem",
        _settings_table(facts),
        "## Leituras lado a lado",
        _introduction(facts, len(shown)),
        *map(_prompt, shown),
    ]
    return "\n\n".join(parts) + "\n"


def describe_comparison(facts: ComparisonFacts) -> str:
    """The description of the comparison's own run: the result first, its runs as links of MLflow's pages."""
    names = [f"[{_plain(run.name)}](#/experiments/{run.experiment_id}/runs/{run.id})" for run in facts.runs]
    where = "Leituras lado a lado: `report/comparacao.html`, em **Artifacts**."
    settings = f"Configurações que diferem:\n\n{_settings_table(facts)}"
    return "\n\n".join([*_result(facts, names), where, settings])


def _result(facts: ComparisonFacts, names: Sequence[str]) -> list[str]:
    rows = [
        [title, *(_cell_text(run.cells.get(metric)) for run in facts.runs)] for metric, title in facts.metrics.items()
    ]
    verdicts = [
        f"{run.letter} {name}: **{verdict}**"
        for run, name, verdict in zip(facts.runs, names, facts.verdicts, strict=True)
    ]
    return [
        "\n".join(f"- {line}" for line in [*verdicts, *facts.remarks]),
        _table(["medida", *(run.letter for run in facts.runs)], rows),
    ]


def _cell_text(cell: Cell | None) -> str:
    if cell is None:
        return "n/d"
    interval = f" ({cell.interval})" if cell.interval else ""
    return cell.value + interval + (f"; {cell.verdict}: {cell.difference}" if cell.verdict else "")


def _settings_table(facts: ComparisonFacts) -> str:
    if not facts.settings:
        return "Nenhuma: todas as configurações são iguais."
    rows = [
        [f"`{name}`", *("—" if value is None else _plain(value) for value in values)]
        for name, values in facts.settings.items()
    ]
    return _table(["configuração", *(run.letter for run in facts.runs)], rows)


def _introduction(facts: ComparisonFacts, shown: int) -> str:
    if not facts.prompts:
        return "Estas execuções não têm pedidos de validação em comum."
    rest = f" Os primeiros {shown} de {len(facts.prompts)}; todos estão no HTML." if shown < len(facts.prompts) else ""
    return f"Primeiro os pedidos em que a chrF mais difere; em negrito, as palavras que diferem.{rest}"


def _prompt(prompt: WrittenPrompt) -> str:
    lines = [f"- real: {_plain(prompt.real)}"]
    for writing in prompt.writings:
        # Not **…**, which is no emphasis between a letter and a comma.
        text = "".join(f"<b>{_plain(text)}</b>" if differs else _plain(text) for text, differs in writing.pieces)
        lines.append(f"- {writing.who} (chrF {decimal(writing.score, 3)}): {text}")
    if prompt.absent:
        lines.append(f"- {prompt.absent}: este pedido não está na sua validação")
    return f"### {_plain(prompt.asked)}\n\n" + "\n".join(lines)


def _plain(text: str) -> str:
    """The text as Markdown shows it: in one line, its signs without meaning."""
    return _MARKDOWN.sub(r"\\\1", re.sub(r"\s*[\r\n]+\s*", " ", text))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
