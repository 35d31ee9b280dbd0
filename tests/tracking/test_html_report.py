"""The report as a page: one file, no network, everything from the data escaped."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from cartas_mlflow.tracking.html_report import MetricRow, PageFacts, render_page
from cartas_mlflow.tracking.plots import plot_losses

HISTORY = [{"epoch": float(n), "epoch_train_loss": 5 - n / 9, "eval_loss": 4.9 - n / 9} for n in (1, 2, 3)]


def samples(number: int) -> dict[str, list[Any]]:
    return {
        "id": [f"id{n}" for n in range(number)],
        "carta": ["O Sol" if n % 2 else "A Lua" for n in range(number)],
        "evento": ["Ano Novo"] * number,
        "secao": ["Luz"] * number,
        "tema": ["Amor"] * number,
        "gerado": [f"Texto gerado {n} <b>&" for n in range(number)],
        "real": [f"Texto real {n}" for n in range(number)],
        "chrf": [n / 100 for n in range(number)],
    }


@pytest.fixture
def facts() -> PageFacts:
    row = MetricRow("chrF", "0,2332", "0,225 a 0,242", None, ["0,2322"], ["não se distingue do modelo sem ajuste: …"])
    return PageFacts(
        title="Treinamento <de teste>",
        subtitle="462 leituras",
        headline="Não se distingue.",
        findings=["Underfitting: …"],
        rivals=["Base sem ajuste"],
        metrics=[row],
        figures={"Perda": plot_losses(HISTORY, 2)},
        samples=samples(20),
        command="python -m cartas_mlflow train --config 'minha pasta/c.yaml'",
        details={"Configurações": {"lora.r": 16}},
    )


class Links(HTMLParser):
    """Everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in {"src", "href"}]


def test_it_needs_no_network(facts: PageFacts) -> None:
    page = render_page(facts)
    links = Links()
    links.feed(page)
    assert links.found
    assert all(link.startswith("data:image/png;base64,") for link in links.found)
    assert not re.search(r"url\(|@import|https?://", page)


def test_what_comes_from_the_data_is_escaped(facts: PageFacts) -> None:
    page = render_page(facts)
    assert "Treinamento &lt;de teste&gt;" in page
    assert "Texto gerado 19 &lt;b&gt;&amp;" in page
    assert "<b>&" not in page


def test_best_middle_and_worst_readings_stand_beside_the_real_ones(facts: PageFacts) -> None:
    page = render_page(facts)
    shown = [int(n) for n in re.findall(r"Texto gerado (\d+)", page)]
    assert shown == [19, 18, 17, 10, 9, 8, 2, 1, 0]
    assert [int(n) for n in re.findall(r"Texto real (\d+)", page)] == shown
    assert page.count("chrF 0,190") == 1


@pytest.mark.parametrize("number", [1, 3, 5, 7])
def test_a_few_readings_are_shown_once(facts: PageFacts, number: int) -> None:
    page = render_page(dataclasses.replace(facts, samples=samples(number)))
    shown = re.findall(r"Texto gerado (\d+)", page)
    assert len(shown) == len(set(shown)) == min(number, 6 if number >= 6 else 3)


def test_cards_are_ranked_by_their_mean(facts: PageFacts) -> None:
    page = render_page(facts)
    assert page.index("O Sol <small>(10)</small>") < page.index("A Lua <small>(10)</small>")
    assert "0,100" in page
