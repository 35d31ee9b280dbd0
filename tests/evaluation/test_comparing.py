"""Runs on the prompts that they share: who stands where, and which prompts are looked at first."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from cartas_mlflow.evaluation.comparing import Row, judge_runs, pair_prompts
from cartas_mlflow.evaluation.confidence import BITS, METRICS, MIN_RECORDS, TEXT_METRICS
from cartas_mlflow.evaluation.differences import mark_differences
from cartas_mlflow.settings import LOWER_IS_BETTER

CHANCE = {"resamples": 300, "seed": 42}


def real(number: int) -> str:
    return f"Abra a janela número {number} e conte {number + 3} passos até o portão, sem pressa nenhuma."


def rows(numbers: Iterable[int], written: str = "real") -> list[Row]:
    """Records of these numbers; the text ends otherwise for ``near``, is another one for ``far``. CSV holds text."""
    bits = {"real": "1.0", "near": "1.5", "far": "2.5"}[written]
    texts = {
        "real": real,
        "near": lambda number: real(number).replace("sem pressa nenhuma", "com calma"),
        "far": lambda number: f"Outra coisa, {number * 7} vezes outra, longe daqui.",
    }
    return [
        {"carta": f"Carta {n}", "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}
        | {"real": real(n), "gerado": texts[written](n), BITS: bits}
        for n in numbers
    ]


def test_each_run_is_held_against_the_first() -> None:
    first, better, same = judge_runs(
        [rows(range(30), "far"), rows(range(30), "near"), rows(range(30), "far")], **CHANCE
    )
    assert first.over_first == {}
    for metric in METRICS:
        own = first.values[metric]
        assert own.low - 1e-9 <= own.value <= own.high + 1e-9
        gain = better.over_first[metric]
        assert gain.high < 0 if metric in LOWER_IS_BETTER else gain.low > 0
        assert gain.value == pytest.approx(better.values[metric].value - first.values[metric].value)
        assert same.over_first[metric].low == same.over_first[metric].high == 0
    assert (better.records, better.shared) == (30, 30)


def test_a_difference_is_measured_on_what_both_were_asked() -> None:
    tables = [rows(range(40), "far"), [*rows(range(15, 40), "near"), *rows(range(40, 60), "far")]]
    other = judge_runs(tables, **CHANCE)[1]
    assert (other.records, other.shared) == (45, 25)
    alone = judge_runs([rows(range(15, 40), "far"), rows(range(15, 40), "near")], **CHANCE)[1]
    assert other.over_first["chrf"].value == pytest.approx(alone.over_first["chrf"].value)


def test_runs_of_earlier_versions_are_compared_in_what_they_have() -> None:
    earlier = [{name: value for name, value in row.items() if name != BITS} for row in rows(range(30), "far")]
    first, second = judge_runs([earlier, rows(range(30), "near")], **CHANCE)
    assert (set(first.values), set(second.values)) == (set(TEXT_METRICS), set(METRICS))
    assert set(second.over_first) == set(TEXT_METRICS)


@pytest.mark.parametrize("shared", [0, 1, MIN_RECORDS - 1])
def test_too_few_shared_prompts_give_no_verdict(shared: int) -> None:
    tables = [rows(range(30), "far"), rows(range(30 - shared, 60), "near")]
    other = judge_runs(tables, **CHANCE)[1]
    assert (other.shared, other.over_first) == (shared, {})


def test_the_same_question_about_another_reading_is_another_prompt() -> None:
    other = [{**row, "real": "Outra leitura."} for row in rows(range(3))]
    assert pair_prompts([rows(range(3)), other]) == []


def test_prompts_on_which_the_runs_differ_most_come_first() -> None:
    second = [*rows([0], "real"), *rows([1], "far"), *rows([2], "near")]
    prompts = pair_prompts([rows(range(3)), second])
    assert [prompt.asked[0] for prompt in prompts] == ["Carta 1", "Carta 2", "Carta 0"]
    assert [prompt.spread > 0 for prompt in prompts] == [True, True, False]


def test_runs_that_wrote_the_same_share_an_answer() -> None:
    (prompt,) = pair_prompts([rows([0], "near"), rows([0], "far"), rows([0], "near")])
    assert [answer.runs for answer in prompt.answers] == [(0, 2), (1,)]
    assert prompt.absent == ()


def test_a_run_that_was_not_asked_is_named() -> None:
    (prompt,) = pair_prompts([rows([0], "near"), rows([1], "far"), rows([0], "far")])
    assert ([answer.runs for answer in prompt.answers], prompt.absent) == ([(0,), (2,)], (1,))


@pytest.mark.parametrize(
    ("texts", "marked"),
    [
        (["o sol nasce", "o sol nasce"], ["o sol nasce", "o sol nasce"]),
        (["o sol nasce", "o sol morre"], ["o sol [nasce]", "o sol [morre]"]),
        (["o sol nasce", "o sol já não nasce"], ["o sol nasce", "o sol [já não] nasce"]),
        (["o sol, enfim, nasce", "o sol nasce"], ["o sol[, enfim,] nasce", "o sol nasce"]),
        (["Ação", "ação"], ["[Ação]", "[ação]"]),
        (["guarda-chuva", "guarda"], ["[guarda-chuva]", "[guarda]"]),
        (["a b c", "a x c", "a b y"], ["a b c", "a [x] c", "a b [y]"]),
        (["a b c", "x b y", "z b c"], ["[a] b c", "[x] b [y]", "[z] b c"]),
        (
            ["manhã de sol, porta aberta", "noite de chuva, porta fechada"],
            ["[manhã de sol], porta [aberta]", "[noite de chuva], porta [fechada]"],
        ),
        (["um sol nasce", "o sol morre"], ["[um] sol [nasce]", "[o] sol [morre]"]),
        (["", "algo"], ["", "[algo]"]),
        (["só um texto"], ["só um texto"]),
        (["  duas  linhas\n", "duas linhas"], ["  duas  linhas\n", "duas linhas"]),
    ],
)
def test_words_that_differ_are_marked(texts: list[str], marked: list[str]) -> None:
    pieces = mark_differences(texts)
    assert ["".join(f"[{piece.text}]" if piece.differs else piece.text for piece in row) for row in pieces] == marked
    assert ["".join(piece.text for piece in row) for row in pieces] == texts
