"""Whether a model is better than what it has to beat, and by how much, in words."""

from __future__ import annotations

import pytest

from cartas_mlflow.evaluation.confidence import BITS, METRICS, TEXT_METRICS, Answers
from cartas_mlflow.evaluation.verdict import judge, signed
from cartas_mlflow.settings import LOWER_IS_BETTER

TEXTS = [f"Abra a janela número {n} e conte {n + 3} passos até o portão, sem pressa nenhuma." for n in range(30)]
NEAR_TEXTS = [text.replace("sem pressa nenhuma", "com calma") for text in TEXTS]
FAR_TEXTS = [f"Outra coisa, {n * 7} vezes outra, longe daqui." for n in range(30)]
REAL, NEAR, FAR = Answers(TEXTS, [1.0] * 30), Answers(NEAR_TEXTS, [1.5] * 30), Answers(FAR_TEXTS, [2.5] * 30)
CHANCE = {"resamples": 500, "seed": 42}


def test_a_clear_difference_is_named_with_its_interval() -> None:
    verdict = judge(NEAR, {"o modelo sem ajuste": FAR, "a consulta": REAL}, TEXTS, **CHANCE)
    for metric in METRICS:
        interval = verdict.intervals[metric]
        # Thirty equal scores: only the last bit of their mean may differ between the sums.
        assert interval.low - 1e-9 <= interval.value <= interval.high + 1e-9
        difference = verdict.against["o modelo sem ajuste"][metric].difference
        assert difference.high < 0 if metric in LOWER_IS_BETTER else difference.low > 0
        assert verdict.sentence("o modelo sem ajuste", metric) == (
            f"melhor que o modelo sem ajuste: {signed(difference.value)} [{signed(difference.low)}; "
            f"{signed(difference.high)}]"
        )
        sign = "+" if metric in LOWER_IS_BETTER else "-"
        assert verdict.sentence("a consulta", metric).startswith(f"pior que a consulta: {sign}")
    assert verdict.records == 30


def test_what_may_be_chance_is_not_called_better() -> None:
    mixed = [a if n % 2 else b for n, (a, b) in enumerate(zip(NEAR_TEXTS, FAR_TEXTS, strict=True))]
    other = [b if n % 2 else a for n, (a, b) in enumerate(zip(NEAR_TEXTS, FAR_TEXTS, strict=True))]
    verdict = judge(Answers(mixed), {"a consulta": Answers(other)}, TEXTS, **CHANCE)
    assert verdict.sentence("a consulta", "rougeL").startswith("não se distingue da consulta: ")


def test_the_same_texts_are_no_better_than_themselves() -> None:
    verdict = judge(NEAR, {"o modelo sem ajuste": NEAR}, TEXTS, **CHANCE)
    assert verdict.sentence("o modelo sem ajuste", "chrf") == (
        "não se distingue do modelo sem ajuste: +0,000 [+0,000; +0,000]"
    )


def test_a_rival_is_met_in_what_it_can_be_measured_in() -> None:
    verdict = judge(NEAR, {"o modelo sem ajuste": FAR, "a consulta": Answers(FAR_TEXTS)}, TEXTS, **CHANCE)
    assert set(verdict.against["o modelo sem ajuste"]) == {BITS, *TEXT_METRICS}
    assert set(verdict.against["a consulta"]) == set(TEXT_METRICS)


@pytest.mark.parametrize(("value", "text"), [(0.0351, "+0,035"), (-0.002, "-0,002"), (0, "+0,000")])
def test_a_difference_has_its_sign(value: float, text: str) -> None:
    assert signed(value) == text
