"""Is a model better than what it has to beat? Metrics with their intervals, differences with theirs, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cartas_mlflow.console import decimal
from cartas_mlflow.evaluation.confidence import (
    Answers,
    Comparison,
    Interval,
    bootstrap,
    paired_bootstrap,
)
from cartas_mlflow.settings import LOWER_IS_BETTER

LEVEL = 0.95


@dataclass(frozen=True)
class Verdict:
    """A model's answers, judged on the records of ``records``.

    ``intervals``: metric -> value with its 95 % interval (bootstrap over the records); ``against``: label of a rival ->
    metric that both can be measured in -> paired difference, this model minus the rival.
    """

    intervals: Mapping[str, Interval]
    against: Mapping[str, Mapping[str, Comparison]]
    records: int

    def sentence(self, rival: str, metric: str) -> str:
        """``melhor que o modelo sem ajuste: +0,035 [+0,021; +0,049]``, or that the two cannot be told apart."""
        return difference_sentence(metric, self.against[rival][metric].difference, rival)


def judge(
    answers: Answers,
    rivals: Mapping[str, Answers],
    references: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> Verdict:
    """Hold a model's answers against the real readings, and against other answers for the same records.

    Args:
        rivals: label with its article (``o modelo sem ajuste``) -> its answers.

    Raises:
        ValueError: different numbers of answers, or none.
    """
    chance = {"resamples": resamples, "seed": seed, "level": LEVEL}
    return Verdict(
        {metric: bootstrap(metric, answers, references, **chance) for metric in answers.metrics},
        {
            label: {
                metric: paired_bootstrap(metric, answers, other, references, **chance)
                for metric in answers.metrics
                if metric in other.metrics
            }
            for label, other in rivals.items()
        },
        len(references),
    )


def difference_words(metric: str, difference: Interval, rival: str) -> str:
    """``melhor que …``, ``pior que …`` or ``não se distingue de …``. ``rival``: with its article, or a bare name."""
    if difference.low > 0 or difference.high < 0:
        better = (difference.value < 0) == (metric in LOWER_IS_BETTER)
        return f"{'melhor' if better else 'pior'} que {rival}"
    return f"não se distingue d{rival}" if rival.startswith(("o ", "a ")) else f"não se distingue de {rival}"


def difference_sentence(metric: str, difference: Interval, rival: str) -> str:
    """:func:`difference_words` with the figures, this model minus the rival."""
    return f"{difference_words(metric, difference, rival)}: {difference_figures(difference)}"


def difference_figures(difference: Interval) -> str:
    """``+0,035 [+0,021; +0,049]``."""
    return f"{signed(difference.value)} [{signed(difference.low)}; {signed(difference.high)}]"


def signed(value: float) -> str:
    """``+0,035``, ``-0,002``, with three places."""
    return ("+" if value >= 0 else "-") + decimal(abs(value), 3)
