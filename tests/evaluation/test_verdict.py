"""Whether a model is better than what it has to beat, and by how much, in words."""

from __future__ import annotations

import pytest

from cartas_mlflow.evaluation.confidence import METRICS
from cartas_mlflow.evaluation.verdict import judge, signed

REAL = [f"Abra a janela número {n} e conte {n + 3} passos até o portão, sem pressa nenhuma." for n in range(30)]
NEAR = [text.replace("sem pressa nenhuma", "com calma") for text in REAL]
FAR = [f"Outra coisa, {n * 7} vezes outra, longe daqui." for n in range(30)]
CHANCE = {"resamples": 500, "seed": 42}


def test_a_clear_difference_is_named_with_its_interval() -> None:
    verdict = judge(NEAR, {"o modelo sem ajuste": FAR, "a consulta": REAL}, REAL, **CHANCE)
    for metric in METRICS:
        interval = verdict.intervals[metric]
        # Thirty equal scores: only the last bit of their mean may differ between the sums.
        assert interval.low - 1e-9 <= interval.value <= interval.high + 1e-9
        difference = verdict.against["o modelo sem ajuste"][metric].difference
        assert difference.low > 0
        assert verdict.sentence("o modelo sem ajuste", metric) == (
            f"melhor que o modelo sem ajuste: {signed(difference.value)} [{signed(difference.low)}; "
            f"{signed(difference.high)}]"
        )
        assert verdict.sentence("a consulta", metric).startswith("pior que a consulta: -")
    assert verdict.records == 30


def test_what_may_be_chance_is_not_called_better() -> None:
    mixed = [a if n % 2 else b for n, (a, b) in enumerate(zip(NEAR, FAR, strict=True))]
    other = [b if n % 2 else a for n, (a, b) in enumerate(zip(NEAR, FAR, strict=True))]
    verdict = judge(mixed, {"a consulta": other}, REAL, **CHANCE)
    assert verdict.sentence("a consulta", "rougeL").startswith("não se distingue da consulta: ")


def test_the_same_texts_are_no_better_than_themselves() -> None:
    verdict = judge(NEAR, {"o modelo sem ajuste": NEAR}, REAL, **CHANCE)
    assert verdict.sentence("o modelo sem ajuste", "chrf") == (
        "não se distingue do modelo sem ajuste: +0,000 [+0,000; +0,000]"
    )


@pytest.mark.parametrize(("value", "text"), [(0.0351, "+0,035"), (-0.002, "-0,002"), (0, "+0,000")])
def test_a_difference_has_its_sign(value: float, text: str) -> None:
    assert signed(value) == text
