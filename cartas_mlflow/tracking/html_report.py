"""The report as one HTML file to send: no network, fonts of the system, readable on a phone and on A4."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.console import decimal, duration

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 3
"""Readings shown as the best, the middle and the worst ones, each."""


@dataclass(frozen=True)
class MetricRow:
    """One line of the table of results. ``band``: the guide's word, or None; ``verdicts``: a sentence per rival."""

    title: str
    value: str
    interval: str | None
    band: str | None
    rivals: Sequence[str]
    verdicts: Sequence[str]


@dataclass(frozen=True)
class PageFacts:
    """What the page tells, in the order of the page.

    ``headline``: the verdict in a sentence; ``findings``: what stands out; ``rivals``: column titles of the rivals'
    values; ``samples``: column -> values, one per validation record (id, carta, evento, secao, tema, gerado, real,
    chrf); ``details``: title -> (name -> value).
    """

    title: str
    subtitle: str
    headline: str
    findings: Sequence[str]
    rivals: Sequence[str]
    metrics: Sequence[MetricRow]
    figures: Mapping[str, Figure]
    samples: Mapping[str, Sequence[Any]]
    command: str
    details: Mapping[str, Mapping[str, Any]]


def render_page(facts: PageFacts) -> str:
    """The whole page as HTML; everything that comes from the data is escaped."""
    rows = _rows(facts.samples)
    by_score = sorted(rows, key=lambda row: row["chrf"], reverse=True)
    middle = max(0, len(by_score) // 2 - SHOWN // 2)
    groups = {
        "As mais próximas da leitura real": by_score[:SHOWN],
        "As do meio": by_score[middle : middle + SHOWN] if len(by_score) >= 3 * SHOWN else [],
        "As mais distantes": by_score[-SHOWN:] if len(by_score) >= 2 * SHOWN else [],
    }
    return (
        page_environment()
        .get_template("relatorio.html")
        .render(
            facts=facts,
            groups={title: chosen for title, chosen in groups.items() if chosen},
            breakdowns={"Carta a carta": _breakdown(rows, "carta"), "Seção a seção": _breakdown(rows, "secao")},
        )
    )


def page_environment() -> Environment:
    """Jinja as every page of the project is made with: a name that is missing is an error, data are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "decimal": decimal,
        "duration": lambda seconds: duration(seconds).replace(".", ","),
        "picture": _as_data_uri,
    }
    return environment


def _rows(samples: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(samples, values, strict=True)) for values in zip(*samples.values(), strict=True)]


def _breakdown(rows: Sequence[Mapping[str, Any]], column: str) -> list[tuple[str, int, float]]:
    """(value, readings, mean chrF), the best first."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row[column], []).append(row["chrf"])
    means = [(value, len(scores), sum(scores) / len(scores)) for value, scores in groups.items()]
    return sorted(means, key=lambda entry: -entry[2])


def _as_data_uri(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
