"""The main job on a tiny base: what it says, what it leaves in MLflow and on disk, and how it ends."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from finished import STEPS_PER_EPOCH, Trained, train_here
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.numpy import load_file

from cartas_mlflow.config import load_config
from cartas_mlflow.errors import RunInterrupted, TrainingError
from cartas_mlflow.evaluation.metrics import METRIC_NAMES, metric_signatures
from cartas_mlflow.tracking import saved_view
from cartas_mlflow.tracking.metric_names import ONLY_REPORTED
from cartas_mlflow.training import fitting
from cartas_mlflow.training import record as training_record

pytestmark = pytest.mark.slow

GENERATED_METRICS = (*METRIC_NAMES, "copied_share", "longest_copied_run")
REPORT_KEYS = {
    "hardware_info": {"gpu", "vram", "cuda_version"},
    "dataset_info": {"total_samples", "train_samples", "val_samples", "unique_cartas", "avg_text_length"},
    "model_config": {"model_name", "lora_r", "lora_alpha", "max_length", "epochs_completed"},
    "training_metrics": {"train_runtime", "train_samples_per_second", "total_flos", "train_loss"},
    "final_eval_metrics": {"eval_loss", "eval_rougeL", "eval_bleu"},
}
"""The guide's own keys."""


def row_of(report: dict[str, Any], epoch: int) -> dict[str, float]:
    return next(row for row in report["history"] if row["epoch"] == epoch)


def only_run(store: str) -> Run:
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("cartas-ptt5").experiment_id])
    return run


def assert_same_evaluation(one: dict[str, float], other: dict[str, float]) -> None:
    for name in GENERATED_METRICS:
        assert one[f"eval_{name}"] == other[f"eval_{name}"], name
    # The final evaluation uses the adapter as it will be served, merged into its base.
    assert one["eval_loss"] == pytest.approx(other["eval_loss"], abs=1e-4)


# What MLflow shows


def test_the_run_is_finished_named_and_described(trained: Trained) -> None:
    run = trained.run
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"lr 0.005 · r4 · tiny-t5 · perda {run.data.metrics['final/loss']:.3f}"
    assert run.data.tags["outcome"] == "finished"
    assert run.data.tags["base_model.fallback"] == "false"
    assert {name: run.data.tags[f"metric.{name}"] for name in ("bleu", "chrf", "rouge")} == metric_signatures()
    lines = run.data.tags["mlflow.note.content"].split("  \n")
    assert len(lines) == 4, "what MLflow shows without folding"
    bits = f"{run.data.metrics['final/bits_per_character']:.3f}".replace(".", ",")
    assert lines[0].startswith(f"**Bits por caractere {bits}** · melhor que o modelo sem ajuste: -0,")
    assert all(" ‖ *real:* " in line for line in lines[1 + lines[1].startswith("⚠️") :])
    markdown = trained.artifact("report/relatorio.md").read_text(encoding="utf-8")
    assert (
        f"**Concluída:** treinou até o fim (3 épocas); melhor época: **{trained.result.best_epoch}**, cujo adaptador"
    ) in markdown
    assert "| Métrica | Modelo ajustado | Base sem ajuste | Consulta |" in markdown


def test_every_setting_that_had_an_effect_is_a_parameter(trained: Trained, quick: dict[str, Any]) -> None:
    expected, params = load_config(overrides=quick).flat(), trained.run.data.params
    assert {name for name in params if not name.startswith(("derived.", "hardware."))} - set(expected) == {
        "model.resolved",
        "model.source",
        "model.fingerprint",
    }
    assert params["training.learning_rate"] == "0.005"
    assert params["lora.target_modules"] == "all-linear"
    assert params["training.group_by_length"] == "false"
    assert {name for name, value in params.items() if value == "none"} == {"lora.bias", "derived.quantization"}
    assert not [name for name in params if name.startswith(("data.columns.", "registry.", "generation.top_"))]
    assert len(params) <= 65


def test_what_was_derived_and_the_hardware_are_parameters(trained: Trained, tiny_base: Path) -> None:
    params = trained.run.data.params
    assert params["derived.effective_batch"] == "8"
    assert params["derived.train_records"] == "35"
    assert params["derived.validation_records"] == "7"
    assert params["derived.precision"] == "float32"
    assert params["derived.quantization"] == "none"
    # r × (in + out) of 64 × 64 attention matrices (8 per encoder+decoder layer pair and 4 more) and of wi, wo.
    attention, feed_forward = 2 * (4 + 8), 2 * 2 * 2
    trainable = 4 * (attention * (64 + 64) + feed_forward * (64 + 128))
    assert params["derived.trainable_params"] == str(trainable)
    assert params["model.resolved"] == str(tiny_base)
    assert params["model.source"] == "folder"
    assert params["hardware.device"] == "cpu"
    assert int(params["hardware.cores"]) >= 1


def test_step_series_are_over_steps_and_epoch_series_over_epochs(trained: Trained) -> None:
    steps = list(range(2, 3 * STEPS_PER_EPOCH + 1, 2))
    for name in ("train/loss", "train/learning_rate", "train/grad_norm"):
        assert [step for step, _ in trained.series(name)] == steps, name
    for name in ("train/epoch_loss", "eval/loss", *(f"eval/{name}" for name in GENERATED_METRICS)):
        assert [epoch for epoch, _ in trained.series(name)] == [1, 2, 3], name
    losses = [value for _, value in trained.series("train/epoch_loss")]
    assert losses == sorted(losses, reverse=True)


def test_the_tables_are_inputs_of_the_run(trained: Trained, table: Path) -> None:
    inputs = {item.tags[0].value: item.dataset for item in trained.run.inputs.dataset_inputs}
    assert inputs.keys() == {"training", "validation"}
    assert json.loads(inputs["training"].profile)["num_rows"] == 35
    assert json.loads(inputs["validation"].profile)["num_rows"] == 7
    assert json.loads(inputs["training"].source) == {"uri": str(table)}


def test_the_artifacts_are_these_and_no_others(trained: Trained) -> None:
    assert trained.artifacts() == [
        "adapter/README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/base.json",
        "adapter/checksums.json",
        "adapter/served.json",
        "adapter/tokenizer.json",
        "adapter/tokenizer_config.json",
        "config/config_resolved.yaml",
        "data/split.csv",
        "plots/loss.png",
        "plots/metrics.png",
        "report/baselines.csv",
        "report/relatorio.html",
        "report/relatorio.md",
        "report/training_log.log",
        "report/training_metrics.json",
        "samples/base.csv",
        "samples/epoch-001.csv",
        "samples/epoch-002.csv",
        "samples/epoch-003.csv",
        "samples/final.csv",
        "samples/final.json",
    ]


def test_the_pictures_are_pictures(trained: Trained) -> None:
    for name in ("loss", "metrics"):
        content = trained.artifact(f"plots/{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
        assert 800 <= width <= 2000
        assert 400 <= height <= 800


def test_the_split_holds_ids_and_no_text(trained: Trained, bundled_rows: list[dict[str, str]]) -> None:
    text = trained.artifact("data/split.csv").read_text(encoding="utf-8")
    sides = [row["side"] for row in csv.DictReader(text.splitlines())]
    assert (sides.count("train"), sides.count("validation"), len(sides)) == (35, 7, 42)
    assert not any(row["texto"] in text or row["carta"] in text for row in bundled_rows[:42])


def test_the_resolved_settings_are_a_configuration_that_gives_the_same(trained: Trained, quick: dict[str, Any]) -> None:
    path = trained.artifact("config/config_resolved.yaml")
    assert load_config(path).flat() == load_config(overrides=quick).flat()
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["training"]["epochs"] == 3


@pytest.mark.parametrize("name", ["base", "epoch-001", "epoch-003", "final"])
def test_generated_readings_stand_beside_the_real_ones(
    trained: Trained, bundled_rows: list[dict[str, str]], name: str
) -> None:
    with trained.artifact(f"samples/{name}.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == [
        *("pedido", "gerado", "real", "chrf", "rougeL", "bits_per_character"),
        *("id", "carta", "evento", "secao", "tema"),
    ]
    known = {(row["carta"], row["evento"], row["secao"], row["tema"], row["texto"]) for row in bundled_rows[:42]}
    assert {(row["carta"], row["evento"], row["secao"], row["tema"], row["real"]) for row in rows} <= known
    assert [row["pedido"].split(" · ") for row in rows] == [
        [row[field] for field in ("carta", "evento", "secao", "tema")] for row in rows
    ]
    assert len(rows) == 7
    validation = [
        row["id"]
        for row in csv.DictReader(trained.artifact("data/split.csv").read_text(encoding="utf-8").splitlines())
        if row["side"] == "validation"
    ]
    assert [row["id"] for row in rows] == validation


def baselines_of(trained: Trained) -> dict[str, dict[str, str]]:
    with trained.artifact("report/baselines.csv").open(encoding="utf-8", newline="") as stream:
        return {row["referência"]: row for row in csv.DictReader(stream)}


def test_the_baselines_tell_a_copy_from_a_text_of_ones_own(trained: Trained) -> None:
    base, lookup = (baselines_of(trained)[label] for label in ("Base sem ajuste", "Consulta"))
    assert (float(base["copied_share"]), float(lookup["copied_share"])) == (0, 1)
    assert float(lookup["longest_copied_run"]) >= 12
    assert float(base["loss"]) > trained.run.data.metrics["final/loss"]
    assert lookup["loss"] == ""


def test_the_metrics_are_few_and_in_sections(trained: Trained) -> None:
    names = set(trained.run.data.metrics)
    assert len(names) <= 25
    assert {name.partition("/")[0] for name in names} == {"train", "eval", "final"}


def test_the_verdict_is_on_the_page_and_among_the_metrics(trained: Trained) -> None:
    page = trained.artifact("report/relatorio.html").read_text(encoding="utf-8")
    assert page == (trained.folder / "relatorio.html").read_text(encoding="utf-8")
    metrics, baselines = trained.run.data.metrics, trained.report["baselines"]
    assert metrics["final/bits_per_character_over_base"] == pytest.approx(
        metrics["final/bits_per_character"] - baselines["Base sem ajuste"]["bits_per_character"], abs=1e-9
    )
    assert "bits_per_character" not in baselines["Consulta"]
    assert "do modelo sem ajuste: " in page or "que o modelo sem ajuste: " in page


# The report


def test_the_report_has_the_guides_keys(trained: Trained) -> None:
    report = trained.report
    assert list(report)[:6] == ["timestamp", *REPORT_KEYS]
    for key, names in REPORT_KEYS.items():
        assert names <= report[key].keys(), key
    assert report["timestamp"] == trained.folder.name
    assert report["dataset_info"]["unique_cartas"] == 2
    assert report["model_config"]["epochs_completed"] == 3


def test_the_reports_figures_are_mlflows(trained: Trained) -> None:
    report, metrics = trained.report, trained.run.data.metrics
    assert report == json.loads(trained.artifact("report/training_metrics.json").read_text(encoding="utf-8"))
    for name in ("loss", "prompt_fit", *GENERATED_METRICS):
        assert report["final_eval_metrics"][f"eval_{name}"] == trained.result.metrics[name]
        assert (f"final/{name}" in metrics) == (name not in ONLY_REPORTED)
        assert metrics.get(f"final/{name}", trained.result.metrics[name]) == trained.result.metrics[name]
        of_epochs = [row[f"eval_{name}"] for row in report["history"] if f"eval_{name}" in row]
        assert of_epochs == [v for _, v in trained.series(f"eval/{name}")]
    for label, row in baselines_of(trained).items():
        for name, value in report["baselines"][label].items():
            assert float(row[name]) == value
    assert report["best_epoch"] == metrics["final/best_epoch"] == trained.result.best_epoch


def test_the_final_evaluation_is_of_the_best_epochs_adapter(trained: Trained) -> None:
    report = trained.report
    best = max(report["history"], key=lambda row: row["eval_rougeL"])  # the first, where several are equal
    assert report["best_epoch"] == best["epoch"]
    assert_same_evaluation(report["final_eval_metrics"], best)


def test_the_console_is_the_guides_phases_and_the_log_keeps_them(trained: Trained) -> None:
    log = trained.artifact("report/training_log.log").read_text(encoding="utf-8")
    said = [line[len("2026-07-11 14:30:22 ") :] for line in log.splitlines()]
    for line in (
        "Dados carregados: 42 registros",
        "Dados após validação/limpeza: 42 registros válidos",
        "Cartas únicas: 2",
        "Dataset dividido: 35 treino, 7 validação",
        "Parâmetros treináveis configurados",
        "Tokenização concluída: 35 treino, 7 validação",
        "8. INICIANDO TREINAMENTO...",
        "=== RESULTADOS FINAIS ===",
        f"📊 ROUGE-L Final: {trained.result.metrics['rougeL']:.4f} (qualidade baixa)",
        f"📁 Métricas detalhadas salvas em: {trained.folder / 'training_metrics.json'}",
    ):
        assert line in said, line
    order = [said.index(line) for line in said if line.split(".")[0].isdigit()]
    assert len(order) >= 9
    assert order == sorted(order)
    assert f"🔎 Execução {trained.result.run_id} no experimento cartas-ptt5" in said
    whole = (trained.folder / "training_log.log").read_text(encoding="utf-8")
    _, steps = re.sub(r"(?m)^\d{4}-\d\d-\d\d \S+ ", "", whole).split("=== PRÓXIMOS PASSOS ===\n")
    assert [line for line in steps.splitlines() if not line.startswith(" ")] == [
        "Ver e comparar:",
        "Gerar uma leitura:",
        "Pôr lado a lado com o treino anterior:",
        "Promover a campeão:",
    ]
    assert steps.count(trained.result.run_id) == 2
    view = json.loads(trained.client.get_experiment(trained.run.info.experiment_id).tags[saved_view.TAG])
    assert (view["name"], "metrics.`final/chrf`" in json.loads(view["state"])["selectedColumns"]) == ("Comparar", True)


# Other ways to train


def test_two_trainings_with_the_same_seed_are_the_same(
    trained: Trained, quick: dict[str, Any], tracking_store: str
) -> None:
    again = train_here(quick)
    assert again.report["final_eval_metrics"] == trained.report["final_eval_metrics"]
    assert again.report["history"] == trained.report["history"]
    assert again.report["baselines"] == trained.report["baselines"]
    for name in ("train/loss", "train/grad_norm", "train/learning_rate"):
        assert again.series(name) == trained.series(name)
    one, other = (load_file(training.result.adapter / "adapter_model.safetensors") for training in (trained, again))
    assert all((one[name] == other[name]).all() for name in one)


def test_another_seed_gives_another_training(trained: Trained, quick: dict[str, Any], tracking_store: str) -> None:
    other = train_here(quick, training__seed=7, training__epochs=1)
    assert other.series("train/loss")[0] != trained.series("train/loss")[0]


def test_early_stopping_stops_and_the_best_epochs_adapter_comes_back(
    quick: dict[str, Any], tracking_store: str, said: list[str]
) -> None:
    # One generated token makes no word pair: ROUGE-2 is 0 after every epoch, so the first is the best for ever.
    stopped = train_here(
        quick,
        training__epochs=6,
        generation__max_new_tokens=1,
        early_stopping__metric="rouge2",
        early_stopping__patience=2,
    )
    report = stopped.report
    assert [row["epoch"] for row in report["history"]] == [1, 2, 3]
    assert (report["best_epoch"], report["stopped_early"], report["model_config"]["epochs_completed"]) == (1, True, 3)
    assert_same_evaluation(report["final_eval_metrics"], row_of(report, 1))
    assert report["final_eval_metrics"]["eval_loss"] > row_of(report, 3)["eval_loss"] + 0.01
    assert stopped.run.data.tags["outcome"] == "early_stopped"
    assert stopped.run.info.status == "FINISHED"
    markdown = stopped.artifact("report/relatorio.md").read_text(encoding="utf-8")
    assert "**Concluída:** parou na época 3 (early stopping); melhor época: **1**" in markdown
    assert (
        "Early stopping na época 3: eval_rouge2 parou de melhorar (early_stopping.patience=2, "
        "early_stopping.threshold=0.001)"
    ) in said
    assert "Melhor modelo restaurado: o da época 1" in said
    assert [line for line in said if line.startswith("Epoch")] == [
        "Epoch 1/6  ★ melhor até aqui",
        "Epoch 2/6",
        "Epoch 3/6",
    ]


def test_an_evaluation_every_second_epoch_and_at_the_last(
    quick: dict[str, Any], tracking_store: str, table: Path, tmp_path: Path, said: list[str]
) -> None:
    import pandas as pd

    lines = tmp_path / "leituras.jsonl"
    pd.read_csv(table).to_json(lines, orient="records", lines=True, force_ascii=False)
    trained = train_here(
        quick,
        data__path=str(lines),
        evaluation__every_epochs=2,
        early_stopping__metric="loss",
        tracking__run_name="de duas em duas",
    )
    assert [epoch for epoch, _ in trained.series("eval/loss")] == [2, 3]
    assert [row["epoch"] for row in trained.report["history"]] == [2, 3]
    assert trained.result.best_epoch == 3
    assert_same_evaluation(trained.report["final_eval_metrics"], row_of(trained.report, 3))
    assert [name for name in trained.artifacts("samples") if "epoch" in name] == [
        "samples/epoch-002.csv",
        "samples/epoch-003.csv",
    ]
    assert trained.run.info.run_name == "de duas em duas"
    assert next(line for line in said if "estimado" in line).startswith("Tempo estimado por época: ")


def test_a_metric_that_fails_fails_the_run_and_leaves_no_zeros(
    quick: dict[str, Any], tracking_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_score, calls = fitting.score_texts, []

    def failing_score(texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        calls.append(texts)
        if len(calls) == 3:  # after the two baselines: the first epoch
            raise ZeroDivisionError("as metrics do")
        return real_score(texts, references)

    monkeypatch.setattr(fitting, "score_texts", failing_score)
    with pytest.raises(ZeroDivisionError):
        train_here(quick)
    run = only_run(tracking_store)
    assert run.info.status == "FAILED"
    assert run.data.tags["outcome"] == "failed"
    assert run.data.tags["failure"] == "ZeroDivisionError: as metrics do"
    assert MlflowClient().list_artifacts(run.info.run_id, "report")
    assert not [name for name in run.data.metrics if name.startswith(("eval/", "final/"))]


def test_a_training_that_diverges_is_one_sentence_and_its_last_points_are_kept(
    quick: dict[str, Any], tracking_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cartas_mlflow.modeling import trainer

    real_loss, calls = trainer.summed_cross_entropy, []

    def diverging_loss(*values: Any, **options: Any) -> Any:
        calls.append(values)
        return real_loss(*values, **options) * (float("nan") if len(calls) == 4 else 1.0)

    monkeypatch.setattr(trainer, "summed_cross_entropy", diverging_loss)
    with pytest.raises(TrainingError, match="A perda deixou de ser um número no passo 4"):
        train_here(quick)
    run = only_run(tracking_store)
    assert run.info.status == "FAILED"
    assert run.data.tags["failure"].startswith("A perda deixou de ser um número no passo 4; use ")
    assert [point.step for point in MlflowClient().get_metric_history(run.info.run_id, "train/loss")] == [2]


def test_an_interrupted_training_goes_on_to_the_same_end(
    trained: Trained, quick: dict[str, Any], tracking_store: str, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    real_samples = training_record.log_samples

    def interrupting_samples(run: Any, data: Any, texts: Sequence[str], name: str) -> None:
        real_samples(run, data, texts, name)
        if name == "epoch-001":
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(training_record, "log_samples", interrupting_samples)
        with pytest.raises(RunInterrupted) as interruption:
            train_here(quick)
    run = only_run(tracking_store)
    (checkpoint,) = Path("results").resolve().glob("*/checkpoints/checkpoint-6")
    command = f"python -m cartas_mlflow train --resume {checkpoint}"
    assert f"Para continuar: {command}" in said
    assert str(interruption.value) == f"Para continuar: `{command}`"
    assert (run.info.status, run.data.tags["outcome"]) == ("KILLED", "interrupted")
    assert run.data.tags["mlflow.note.content"] == f"**Interrompida.** Para continuar: `{command}`"

    resumed = train_here({"training.resume": str(checkpoint)})
    assert resumed.result.run_id == run.info.run_id
    assert resumed.run.info.status == "FINISHED"
    assert resumed.report["final_eval_metrics"] == trained.report["final_eval_metrics"]
    for one, other in zip(resumed.report["history"], trained.report["history"], strict=True):
        # The training loss of the epoch that was cut covers only what came after.
        assert {**one, "epoch_train_loss": 0} == {**other, "epoch_train_loss": 0}
    assert resumed.series("train/loss") == trained.series("train/loss")
    assert [epoch for epoch, _ in resumed.series("eval/loss")] == [1, 2, 3]
    assert len(resumed.run.inputs.dataset_inputs) == 2
    stars = [line for line in said if line.startswith("Epoch")]
    best = [
        row["epoch"] for row in trained.report["history"] if f"Epoch {row['epoch']:.0f}/3  ★ melhor até aqui" in stars
    ]
    assert best == _successive_bests(trained.report["history"])


def _successive_bests(history: Sequence[dict[str, float]]) -> list[float]:
    best, epochs = -1.0, []
    for row in history:
        if row["eval_rougeL"] > best:
            best, epochs = row["eval_rougeL"], [*epochs, row["epoch"]]
    return epochs
