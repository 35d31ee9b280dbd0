"""The guide's quality bands at their bounds; each finding just over its limit, and silence just under it."""

from __future__ import annotations

import pytest

from cartas_mlflow.evaluation.diagnostics import EpochSummary, diagnose, quality_band

BELOW = 1e-9


@pytest.mark.parametrize(
    ("metric", "value", "band"),
    [
        ("rougeL", 0.0, "baixa"),
        ("rougeL", 0.2 - BELOW, "baixa"),
        ("rougeL", 0.2, "média"),
        ("rougeL", 0.4 - BELOW, "média"),
        ("rougeL", 0.4, "boa"),
        ("rougeL", 0.6 - BELOW, "boa"),
        ("rougeL", 0.6, "excelente"),
        ("rougeL", 1.0, "excelente"),
        ("bleu", 0.0, "baixa"),
        ("bleu", 0.1 - BELOW, "baixa"),
        ("bleu", 0.1, "média"),
        ("bleu", 0.3 - BELOW, "média"),
        ("bleu", 0.3, "boa"),
        ("bleu", 0.5 - BELOW, "boa"),
        ("bleu", 0.5, "excelente"),
        ("bleu", 1.0, "excelente"),
    ],
)
def test_quality_bands_are_the_guides(metric: str, value: float, band: str) -> None:
    assert quality_band(metric, value) == band


def history(train: list[float], validation: list[float]) -> list[EpochSummary]:
    return [EpochSummary(epoch, *losses) for epoch, losses in enumerate(zip(train, validation, strict=True), start=1)]


HEALTHY = history([2.12, 1.45, 1.02, 0.85], [1.98, 1.52, 1.15, 1.08])


def test_the_guides_healthy_progress_gives_no_finding() -> None:
    assert diagnose(HEALTHY, copied_share=0.0) == []


def test_validation_loss_that_rises_while_training_loss_falls_is_overfitting() -> None:
    findings = diagnose(history([2.0, 1.0, 0.5], [1.8, 1.0, 1.06]), copied_share=0.0)
    assert findings == [
        "Overfitting: a perda de validação subiu 6% desde a época 2 enquanto a de treino caía; "
        "use menos épocas, mais dropout ou mais leituras."
    ]


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ([2.0, 1.0, 0.5], [1.8, 1.0, 1.05]),  # risen by no more than the limit
        ([2.0, 1.0, 1.1], [1.8, 1.0, 1.2]),  # the training loss rises too
        ([1.0], [1.0]),
    ],
)
def test_less_than_that_is_no_overfitting(train: list[float], validation: list[float]) -> None:
    assert not any("Overfitting" in finding for finding in diagnose(history(train, validation), copied_share=0.0))


def test_training_loss_that_hardly_falls_is_underfitting() -> None:
    findings = diagnose(history([2.2, 2.1, 2.0], [2.3, 2.2, 2.1]), copied_share=0.0)
    assert findings == [
        "Underfitting: a perda de treino caiu só 9% em 3 épocas; "
        "aumente training.learning_rate ou lora.r, ou treine por mais épocas."
    ]


def test_what_the_first_epoch_learnt_counts_too() -> None:
    curves = history([2.2, 2.1, 2.0], [2.3, 2.2, 2.1])
    assert diagnose(curves, copied_share=0.0, untuned_loss=2.5) == []
    assert len(diagnose(curves, copied_share=0.0, untuned_loss=2.2)) == 1


def test_a_training_loss_that_rises_fell_by_nothing() -> None:
    (finding,) = diagnose(history([2.0, 2.0, 2.1], [2.0, 2.0, 2.0]), copied_share=0.0)
    assert finding.startswith("Underfitting: a perda de treino caiu só 0% em 3 épocas;")


@pytest.mark.parametrize("train", [[2.0, 1.9, 1.79], [2.0, 2.0]])
def test_a_fall_by_a_tenth_or_only_two_epochs_are_no_underfitting(train: list[float]) -> None:
    assert diagnose(history(train, train), copied_share=0.0) == []


def test_a_validation_loss_that_jumps_is_instability() -> None:
    findings = diagnose(history([2.0, 1.5, 1.2, 1.0], [1.2, 1.0, 1.51, 0.9]), copied_share=0.0)
    assert findings == [
        "Instabilidade: a perda de validação saltou de 1,00 para 1,51 na época 3; diminua training.learning_rate "
        "ou aumente training.warmup_ratio."
    ]


def test_only_the_first_jump_is_told() -> None:
    findings = diagnose(history([2.0, 1.5, 1.2, 1.0, 0.9], [1.0, 1.6, 1.0, 1.7, 0.9]), copied_share=0.0)
    assert [finding.split(";")[0] for finding in findings] == [
        "Instabilidade: a perda de validação saltou de 1,00 para 1,60 na época 2"
    ]


def test_a_jump_up_to_the_limit_is_not_instability() -> None:
    assert diagnose(history([2.0, 1.0, 0.5], [1.0, 1.5, 0.9]), copied_share=0.0) == []


def test_from_a_tenth_of_copied_readings_on_the_model_recites() -> None:
    assert diagnose(HEALTHY, copied_share=0.10) == [
        "Recitação: 10% das leituras geradas copiam um trecho longo de um texto de treino; "
        "use menos épocas ou mais leituras."
    ]
    assert diagnose(HEALTHY, copied_share=0.099) == []


def test_several_findings_stand_beside_each_other() -> None:
    findings = diagnose(history([2.0, 1.0, 0.5], [1.0, 1.0, 1.6]), copied_share=0.5)
    assert [finding.split(":")[0] for finding in findings] == ["Overfitting", "Instabilidade", "Recitação"]


def test_a_training_that_made_the_model_worse_says_so_and_nothing_else() -> None:
    worse = history([9.0, 8.9, 8.9], [6.1, 5.5, 5.8])
    assert diagnose(worse, copied_share=1.0, untuned_loss=4.25, learning_rate=1.0) == [
        "Divergência: em nenhuma época a perda de validação (5,50 na melhor) ficou abaixo da do modelo sem ajuste "
        "(4,25): o treino piorou o modelo; use training.learning_rate menor, por exemplo 0.1."
    ]
    assert not any("learning_rate ou lora.r" in finding for finding in diagnose(worse, 0.0, untuned_loss=4.25))


def test_a_training_that_once_was_better_than_the_base_did_not_diverge() -> None:
    later = history([4.2, 3.9, 3.5], [4.20, 4.12, 4.60])
    assert not any(finding.startswith("Divergência") for finding in diagnose(later, 0.0, untuned_loss=4.25))
