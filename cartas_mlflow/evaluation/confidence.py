"""How sure a figure is: bootstrap over the records, for one model and for two on the same records.

A corpus metric is recomputed on each resample from the records' own statistics (n-gram counts for BLEU and chrF, the F1
for ROUGE-L, bits and characters), as in Koehn (2004), "Statistical Significance Tests for Machine Translation
Evaluation".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cartas_mlflow.evaluation.metrics import normalise, rouge_f1
from cartas_mlflow.settings import LOWER_IS_BETTER

BITS = "bits_per_character"
TEXT_METRICS = ("rougeL", "bleu", "chrf")
"""Of a generated text against the real one, 0 to 1."""
METRICS = (BITS, *TEXT_METRICS)
MIN_RECORDS = 20
"""Records below which no difference is trusted: the percentile bootstrap is too narrow on few records."""


@dataclass(frozen=True)
class Answers:
    """What a model makes of records, in their order.

    ``texts``: generated; ``bits``: of the real readings under the model, per character of each. Either is empty where
    nobody asked for it, or where there is no such thing: a text that was looked up has no likelihood.
    """

    texts: Sequence[str] = ()
    bits: Sequence[float] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """What they can be measured in."""
        return (BITS,) * bool(self.bits) + TEXT_METRICS * bool(self.texts)

    def bits_over(self, references: Sequence[str]) -> float:
        """Bits per character of all real readings together."""
        statistics, score = record_statistics(BITS, self, references)
        return score(statistics.sum(axis=0))


@dataclass(frozen=True)
class Interval:
    """A metric and the bounds of its bootstrap percentile interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Challenger minus champion, on the same records. ``confidence``: share of resamples in which it is better."""

    difference: Interval
    confidence: float
    records: int


def bootstrap(
    metric: str,
    answers: Answers,
    references: Sequence[str],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """The metric's value and percentile interval. ``metric``: one of :data:`METRICS`."""
    statistics, score = record_statistics(metric, answers, references)
    values = _resampled(statistics, score, _draws(len(references), resamples, seed))
    return _interval(score(statistics.sum(axis=0)), values, level)


def paired_bootstrap(
    metric: str,
    challenger: Answers,
    champion: Answers,
    references: Sequence[str],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
) -> Comparison:
    """Both models on the same resamples of the records."""
    first, score = record_statistics(metric, challenger, references)
    second, _ = record_statistics(metric, champion, references)
    draws = _draws(len(references), resamples, seed)
    differences = _resampled(first, score, draws) - _resampled(second, score, draws)
    observed = score(first.sum(axis=0)) - score(second.sum(axis=0))
    better = differences < 0 if metric in LOWER_IS_BETTER else differences > 0
    return Comparison(_interval(observed, differences, level), float(better.mean()), len(references))


def record_statistics(
    metric: str, answers: Answers, references: Sequence[str]
) -> tuple[np.ndarray, Callable[[np.ndarray], float]]:
    """Per-record statistics (records × numbers) whose sum over any set of records gives that set's metric.

    Raises:
        ValueError: an unknown metric, or not an answer for each record.
    """
    given = answers.bits if metric == BITS else answers.texts
    if not given or len(given) != len(references):
        raise ValueError(f"{len(given)} answers for {len(references)} references in {metric}")
    if metric == BITS:
        characters = np.array([len(text) for text in references], dtype=float)
        return np.column_stack([np.array(given) * characters, characters]), lambda total: float(total[0] / total[1])
    if metric == "rougeL":
        scores = np.array(rouge_f1("rougeL", given, references))
        return np.column_stack([scores, np.ones_like(scores)]), lambda total: float(total[0] / total[1])
    import sacrebleu

    if metric not in {"bleu", "chrf"}:
        raise ValueError(f"no per-record statistics for {metric}")
    tool = sacrebleu.BLEU(lowercase=True) if metric == "bleu" else sacrebleu.CHRF(lowercase=True)
    rows = tool._extract_corpus_statistics([normalise(t) for t in given], [[normalise(t) for t in references]])
    return np.array(rows), lambda total: tool._compute_score_from_stats(total.tolist()).score / 100


def _draws(records: int, resamples: int, seed: int) -> np.ndarray:
    """How often each record is drawn in each resample (resamples × records)."""
    return np.random.default_rng(seed).multinomial(records, np.full(records, 1 / records), size=resamples)


def _resampled(statistics: np.ndarray, score: Callable[[np.ndarray], float], draws: np.ndarray) -> np.ndarray:
    return np.array([score(total) for total in draws @ statistics])


def _interval(value: float, resampled: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
