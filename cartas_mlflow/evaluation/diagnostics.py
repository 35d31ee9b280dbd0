"""Numbers -> words: quality bands of the guide; overfitting, underfitting, instability, recitation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BANDS = {
    "rougeL": ((0.2, "baixa"), (0.4, "média"), (0.6, "boa")),
    "bleu": ((0.1, "baixa"), (0.3, "média"), (0.5, "boa")),
}
"""Upper bounds of the guide's bands; at or above the last one: excelente."""

OVERFIT_RISE = 0.05
"""Validation loss above its own best, as a share of it, while the training loss falls."""
UNDERFIT_FALL = 0.10
"""Share of the first training loss that a training which learns loses at the least."""
UNSTABLE_JUMP = 0.5
"""Rise of the validation loss from one evaluation to the next, as a share."""
RECITED_SHARE = 0.10
"""Share of texts with a copied run above which the model recites more than it writes."""


@dataclass(frozen=True)
class EpochSummary:
    """One evaluated epoch; losses in nats per token."""

    epoch: int
    train_loss: float
    eval_loss: float


def quality_band(metric: str, value: float) -> str:
    """The guide's word for a ROUGE-L or BLEU value (0 to 1): baixa, média, boa, excelente."""
    return next((word for bound, word in BANDS[metric] if value < bound), "excelente")


def diagnose(history: Sequence[EpochSummary], copied_share: float | None = None) -> list[str]:
    """Portuguese sentences on what the curves show, each with what to try; empty when nothing stands out."""
    findings = []
    if history:
        first, last = history[0], history[-1]
        best = min(history, key=lambda summary: summary.eval_loss)
        rise = last.eval_loss / best.eval_loss - 1
        if len(history) > 1 and rise > OVERFIT_RISE and last.train_loss < best.train_loss:
            findings.append(
                f"Overfitting: a perda de validação subiu {rise:.0%} desde a época {best.epoch} enquanto a de treino caía; "
                "use menos épocas, mais dropout ou mais leituras."
            )
        fall = 1 - last.train_loss / first.train_loss
        if len(history) > 2 and fall < UNDERFIT_FALL:
            findings.append(
                f"Underfitting: a perda de treino caiu só {max(fall, 0):.0%} em {last.epoch} épocas; "
                "aumente training.learning_rate ou lora.r, ou treine por mais épocas."
            )
        for before, after in zip(history, history[1:], strict=False):
            if after.eval_loss > before.eval_loss * (1 + UNSTABLE_JUMP):
                findings.append(
                    f"Instabilidade: a perda de validação saltou de {before.eval_loss:.2f} para {after.eval_loss:.2f} na "
                    f"época {after.epoch}; diminua training.learning_rate ou aumente training.warmup_ratio."
                )
                break
    if copied_share is not None and copied_share >= RECITED_SHARE:
        findings.append(
            f"Recitação: {copied_share:.0%} das leituras geradas copiam um trecho longo de um texto de treino; "
            "use menos épocas ou mais leituras."
        )
    return findings
