"""The report: the guide's keys in JSON, and the same in words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cartas_mlflow.files import write_json, write_text
from cartas_mlflow.tracking.report import (
    ReportFacts,
    build_report,
    describe_result,
    epochs_text,
    results_table,
)

FINAL = {
    "bits_per_character": 1.5,
    "loss": 2.4,
    "rougeL": 0.1398,
    "bleu": 0.012,
    "chrf": 0.25,
    "copied_share": 0.05,
    "longest_copied_run": 14.0,
}
BASELINES = {
    "Base sem ajuste": {**FINAL, "rougeL": 0.01, "copied_share": 0.0, "longest_copied_run": 1.0},
    "Consulta": {"rougeL": 0.15, "bleu": 0.02, "chrf": 0.26, "copied_share": 1.0, "longest_copied_run": 37.0},
}
FACTS = ReportFacts(
    timestamp="20260711_143022",
    hardware={"gpu": "NVIDIA GeForce RTX 4080", "vram": "16.0GB", "cuda_version": "11.8"},
    dataset={
        "total_samples": 462,
        "train_samples": 392,
        "val_samples": 70,
        "unique_cartas": 22,
        "avg_text_length": 156.7,
    },
    model={"model_name": "ptt5", "lora_r": 16, "lora_alpha": 32, "max_length": 450, "epochs_completed": 20},
    training={"train_runtime": 1234.56, "train_samples_per_second": 2.5, "total_flos": 1.23e15, "train_loss": 0.8543},
    final_metrics=FINAL,
    baselines=BASELINES,
    history=({"epoch": 1.0, "eval_loss": 2.5},),
    best_epoch=18,
    stopped_early=False,
    quality={"rougeL": "baixa", "bleu": "baixa"},
    findings=(),
    metric_signatures={"bleu": "nrefs:1"},
)

GUIDE = {
    "timestamp": None,
    "hardware_info": {"gpu", "vram", "cuda_version"},
    "dataset_info": {"total_samples", "train_samples", "val_samples", "unique_cartas", "avg_text_length"},
    "model_config": {"model_name", "lora_r", "lora_alpha", "max_length", "epochs_completed"},
    "training_metrics": {"train_runtime", "train_samples_per_second", "total_flos", "train_loss"},
    "final_eval_metrics": {"eval_loss", "eval_rougeL", "eval_bleu"},
}
"""Keys of the report in the guide, and what stands under each."""


def test_the_report_has_the_guides_keys_first_and_in_its_order() -> None:
    report = build_report(FACTS)
    assert list(report)[: len(GUIDE)] == list(GUIDE)
    for key, names in GUIDE.items():
        assert names is None or names <= report[key].keys()


def test_the_report_has_what_it_takes_to_judge_the_figures() -> None:
    report = build_report(FACTS)
    assert report["baselines"]["Consulta"]["rougeL"] == 0.15
    assert (report["best_epoch"], report["stopped_early"]) == (18, False)
    assert report["final_eval_metrics"]["eval_copied_share"] == 0.05
    assert report["history"] == [{"epoch": 1.0, "eval_loss": 2.5}]


def test_results_are_a_table_with_what_they_have_to_beat() -> None:
    assert results_table(FINAL, BASELINES).splitlines() == [
        "| Métrica | Modelo ajustado | Base sem ajuste | Consulta |",
        "| --- | ---: | ---: | ---: |",
        "| Bits por caractere | 1,5000 | 1,5000 | n/d |",
        "| ROUGE-L | 0,1398 | 0,0100 | 0,1500 |",
        "| chrF | 0,2500 | 0,2500 | 0,2600 |",
        "| BLEU | 0,0120 | 0,0120 | 0,0200 |",
        "| Perda | 2,4000 | 2,4000 | n/d |",
        "| Leituras com trecho copiado | 5,0 % | 0,0 % | 100,0 % |",
        "| Maior trecho copiado (palavras) | 14 | 1 | 37 |",
    ]


def test_a_description_tells_how_the_training_ended_and_what_stands_out() -> None:
    facts = dataclasses.replace(FACTS, findings=("Recitação: muito.", "Overfitting: também."))
    paragraphs = describe_result(facts).split("\n\n")
    assert paragraphs[0] == (
        "**Concluída:** treinou até o fim (20 épocas); melhor época: **18**, cujo adaptador está em `adapter/`."
    )
    assert paragraphs[1] == "Base `ptt5`, LoRA r=16, 392 leituras de treino e 70 de validação."
    assert paragraphs[2] == results_table(FINAL, BASELINES)
    assert paragraphs[3] == "- Recitação: muito.\n- Overfitting: também."


def test_a_description_tells_of_early_stopping() -> None:
    facts = dataclasses.replace(FACTS, stopped_early=True, best_epoch=8, model={**FACTS.model, "epochs_completed": 12})
    assert describe_result(facts).startswith("**Concluída:** parou na época 12 (early stopping); melhor época: **8**,")


@pytest.mark.parametrize(("number", "text"), [(1, "1 época"), (2, "2 épocas"), (20, "20 épocas")])
def test_one_epoch_is_singular(number: int, text: str) -> None:
    assert epochs_text(number) == text


def test_json_is_written_with_its_accents_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "novo" / "relatório.json"
    write_json(path, {"fé": "coração"})
    assert path.read_text(encoding="utf-8") == '{\n  "fé": "coração"\n}\n'
    assert list(path.parent.iterdir()) == [path]


def test_a_figure_that_is_no_number_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "relatorio.json"
    write_json(path, {"perda": 1.0})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"perda": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"perda": 1.0}


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "um texto comprido")
    write_text(path, "curto")
    assert path.read_text(encoding="utf-8") == "curto"
    assert list(tmp_path.iterdir()) == [path]
