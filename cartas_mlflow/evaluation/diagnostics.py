"""Numbers -> words: quality bands of the guide; overfitting, underfitting, instability, recitation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cartas_mlflow.console import decimal

BANDS = {
    "rougeL": ((0.2, "baixa"), (0.4, "média"), (0.6, "boa")),
    "bleu": ((0.1, "baixa"), (0.3, "média"), (0.5, "boa")),
}
"""Upper bounds of the guide's bands; at or above the last one: excelente."""

OVERFIT_RISE = 0.05
"""Validation loss above its own best, as a share of it, while the training loss falls."""
UNDERFIT_FALL = 0.10
"""Share of the first training loss that a training which learns loses at the least."""
LEARNT_FALL = 0.05
"""Share of the untuned base's validation loss that shows, once it is lost, that something was learnt."""
UNSTABLE_JUMP = 0.5
"""Rise of the validation loss from one evaluation to the next, as a share."""
RECITED_SHARE = 0.10
"""Share of texts with a copied run from which on the model recites more than it writes."""


@dataclass(frozen=True)
class EpochSummary:
    """One evaluated epoch; losses in nats per token."""

    epoch: int
    train_loss: float
    eval_loss: float


def quality_band(metric: str, value: float) -> str:
    """The guide's word for a ROUGE-L or BLEU value (0 to 1): baixa, média, boa, excelente."""
    return next((word for bound, word in BANDS[metric] if value < bound), "excelente")


def diagnose(
    history: Sequence[EpochSummary],
    copied_share: float,
    *,
    untuned_loss: float | None = None,
    learning_rate: float | None = None,
) -> list[str]:
    """Portuguese sentences on what the curves show, each with what to try; empty when nothing stands out.

    Args:
        history: evaluated epochs in order, at least one.
        copied_share: share of the generated texts that copy a long run from a training text.
        untuned_loss: validation loss of the base before training (nats per token).
        learning_rate: that of the training, for the advice.
    """
    ruined = _divergence(history, untuned_loss, learning_rate)
    if ruined is not None:
        return [ruined]  # what else the curves show, a smaller step would change
    findings = (
        _overfitting(history),
        _underfitting(history, untuned_loss),
        _instability(history),
        _recitation(copied_share),
    )
    return [finding for finding in findings if finding is not None]


def _divergence(history: Sequence[EpochSummary], untuned_loss: float | None, learning_rate: float | None) -> str | None:
    best = min(summary.eval_loss for summary in history)
    if untuned_loss is None or best <= untuned_loss:
        return None
    smaller = "" if learning_rate is None else f", por exemplo {learning_rate / 10:g}"
    return (
        f"Divergência: em nenhuma época a perda de validação ({decimal(best, 2)} na melhor) ficou abaixo da do modelo "
        f"sem ajuste ({decimal(untuned_loss, 2)}): o treino piorou o modelo; use training.learning_rate menor{smaller}."
    )


def _overfitting(history: Sequence[EpochSummary]) -> str | None:
    best, last = min(history, key=lambda summary: summary.eval_loss), history[-1]
    if last.eval_loss <= best.eval_loss * (1 + OVERFIT_RISE) or last.train_loss >= best.train_loss:
        return None
    rise = last.eval_loss / best.eval_loss - 1
    return (
        f"Overfitting: a perda de validação subiu {rise:.0%} desde a época {best.epoch} enquanto a de treino caía; "
        "use menos épocas, mais dropout ou mais leituras."
    )


def _underfitting(history: Sequence[EpochSummary], untuned_loss: float | None) -> str | None:
    first, last = history[0], history[-1]
    fall = 1 - last.train_loss / first.train_loss
    # The second evaluation may still lie in the warm-up.
    if len(history) < 3 or fall >= UNDERFIT_FALL:
        return None
    # The first epoch's mean may have most of what there is to learn behind it.
    best = min(summary.eval_loss for summary in history)
    if untuned_loss is not None and best <= untuned_loss * (1 - LEARNT_FALL):
        return None
    return (
        f"Underfitting: a perda de treino caiu só {max(fall, 0):.0%} em {last.epoch} épocas; "
        "aumente training.learning_rate ou lora.r, ou treine por mais épocas."
    )


def _instability(history: Sequence[EpochSummary]) -> str | None:
    for before, after in itertools.pairwise(history):
        if after.eval_loss > before.eval_loss * (1 + UNSTABLE_JUMP):
            return (
                f"Instabilidade: a perda de validação saltou de {decimal(before.eval_loss, 2)} para "
                f"{decimal(after.eval_loss, 2)} na época {after.epoch}; diminua training.learning_rate ou aumente "
                "training.warmup_ratio."
            )
    return None


def _recitation(copied_share: float) -> str | None:
    if copied_share < RECITED_SHARE:
        return None
    return (
        f"Recitação: {copied_share:.0%} das leituras geradas copiam um trecho longo de um texto de treino; "
        "use menos épocas ou mais leituras."
    )
