"""Bootstrap intervals: what they are of, how wide, and how two models are compared."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from cartas_mlflow.evaluation.confidence import (
    BITS,
    METRICS,
    TEXT_METRICS,
    Answers,
    bootstrap,
    paired_bootstrap,
    record_statistics,
)
from cartas_mlflow.evaluation.metrics import rouge_f1, score_texts
from cartas_mlflow.settings import LOWER_IS_BETTER

REAL = [
    "O Sol entra pela janela e você canta.",
    "A Lua pede calma: espere a maré.",
    "Coração é casa; abra a porta devagar.",
    "Guarde o pão de hoje para amanhã.",
    "Não corra, a estrada é sua amiga.",
    "A Força é mansa e segura o leão.",
] * 6
OPTIONS = {"resamples": 2000, "seed": 42}


def damaged(share: float, seed: int = 0) -> Answers:
    """The real texts, each word lost with this probability (the first one stays); and bits that grow with it."""
    chooser = random.Random(seed)
    texts = [
        " ".join(word for place, word in enumerate(text.split()) if place == 0 or chooser.random() > share)
        for text in REAL
    ]
    return Answers(texts, [1 + share + chooser.gauss(0, 0.1) for _ in REAL])


def corpus_metric(metric: str, answers: Answers, chosen: range | np.ndarray) -> float:
    real = [REAL[index] for index in chosen]
    if metric == BITS:
        return sum(answers.bits[index] * len(REAL[index]) for index in chosen) / sum(map(len, real))
    return score_texts([answers.texts[index] for index in chosen], real)[metric]


@pytest.mark.parametrize("metric", METRICS)
def test_the_value_is_the_corpus_metric(metric: str) -> None:
    answers = damaged(0.3)
    expected = corpus_metric(metric, answers, range(len(REAL)))
    assert bootstrap(metric, answers, REAL, **OPTIONS).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_a_resamples_statistics_give_the_metric_of_its_texts(metric: str) -> None:
    answers = damaged(0.3)
    rows, score = record_statistics(metric, answers, REAL)
    chosen = np.random.default_rng(1).integers(0, len(REAL), len(REAL))
    assert score(rows[chosen].sum(axis=0)) == pytest.approx(corpus_metric(metric, answers, chosen), abs=1e-12)


def test_a_long_reading_weighs_more_than_a_short_one() -> None:
    real = ["x" * 300, "x" * 100]
    assert Answers(bits=[1.0, 2.0]).bits_over(real) == pytest.approx(1.25)


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_holds_the_value_and_is_wider_at_a_higher_level(metric: str) -> None:
    answers = damaged(0.3)
    usual = bootstrap(metric, answers, REAL, **OPTIONS, level=0.9)
    wide = bootstrap(metric, answers, REAL, **OPTIONS, level=0.99)
    assert wide.low < usual.low < usual.value < usual.high < wide.high


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    answers = damaged(0.3)
    scores = rouge_f1("rougeL", answers.texts, REAL)
    half = 1.96 * statistics.stdev(scores) / len(scores) ** 0.5
    interval = bootstrap("rougeL", answers, REAL, resamples=20_000, seed=1)
    assert interval.value == pytest.approx(statistics.fmean(scores))
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.06)


def test_perfect_texts_have_no_doubt() -> None:
    for metric in TEXT_METRICS:
        interval = bootstrap(metric, Answers(REAL), REAL, **OPTIONS)
        assert (interval.low, interval.value, interval.high) == pytest.approx((1, 1, 1))


def test_the_same_seed_gives_the_same_interval() -> None:
    answers = damaged(0.3)
    first, second = (bootstrap("chrf", answers, REAL, resamples=500, seed=7) for _ in range(2))
    assert first == second
    assert first != bootstrap("chrf", answers, REAL, resamples=500, seed=8)


@pytest.mark.parametrize("metric", METRICS)
def test_a_clearly_better_challenger_is_better_in_every_resample(metric: str) -> None:
    comparison = paired_bootstrap(metric, damaged(0.1), damaged(0.6), REAL, **OPTIONS)
    assert comparison.confidence == 1
    assert comparison.records == len(REAL)
    difference = comparison.difference
    bounds = (difference.low, difference.value, difference.high)
    assert all(bound < 0 if metric in LOWER_IS_BETTER else bound > 0 for bound in bounds)
    assert sorted(set(bounds)) == list(bounds)


@pytest.mark.parametrize("metric", METRICS)
def test_the_comparison_turned_around_has_the_opposite_sign(metric: str) -> None:
    first, second = damaged(0.2), damaged(0.3, seed=5)
    one = paired_bootstrap(metric, first, second, REAL, **OPTIONS)
    other = paired_bootstrap(metric, second, first, REAL, **OPTIONS)
    assert one.difference.value == pytest.approx(-other.difference.value)
    assert one.difference.low == pytest.approx(-other.difference.high)
    assert one.confidence + other.confidence <= 1


@pytest.mark.parametrize("metric", METRICS)
def test_equal_texts_give_no_confidence_at_all(metric: str) -> None:
    comparison = paired_bootstrap(metric, damaged(0.3), damaged(0.3), REAL, **OPTIONS)
    assert comparison.confidence == 0
    assert (comparison.difference.low, comparison.difference.value, comparison.difference.high) == (0, 0, 0)


def test_pairing_sees_what_two_separate_intervals_do_not() -> None:
    better = Answers(damaged(0.3).texts)
    worse = Answers([text.rsplit(" ", 1)[0] if place % 4 == 0 else text for place, text in enumerate(better.texts)])
    apart = [bootstrap("chrf", answers, REAL, **OPTIONS) for answers in (better, worse)]
    assert apart[0].low < apart[1].high
    assert paired_bootstrap("chrf", better, worse, REAL, **OPTIONS).confidence > 0.99


def test_case_and_composed_accents_do_not_count() -> None:
    assert bootstrap("chrf", Answers(["CORAC\u0327A\u0303O"]), ["coração"], resamples=100, seed=0).value == 1


@pytest.mark.parametrize(("texts", "real"), [([], []), (["a"], ["a", "b"])])
def test_different_numbers_of_texts_or_none_are_an_error(texts: list[str], real: list[str]) -> None:
    for metric, answers in (("chrf", Answers(texts)), (BITS, Answers(bits=[1.0] * len(texts)))):
        with pytest.raises(ValueError, match=f"{len(texts)} answers for {len(real)} references in {metric}"):
            bootstrap(metric, answers, real, **OPTIONS)


def test_a_text_that_was_looked_up_has_no_likelihood() -> None:
    assert Answers(REAL).metrics == TEXT_METRICS
    assert Answers(bits=[1.0]).metrics == (BITS,)
    with pytest.raises(ValueError, match="0 answers for 36 references in bits_per_character"):
        bootstrap(BITS, Answers(REAL), REAL, **OPTIONS)


def test_a_metric_without_statistics_is_an_error() -> None:
    with pytest.raises(ValueError, match="no per-record statistics for rouge1"):
        bootstrap("rouge1", Answers(REAL), REAL, **OPTIONS)
