"""What a training writes down in MLflow and in its folder: at the start, per evaluation, at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cartas_mlflow import __version__
from cartas_mlflow.console import duration, pointed, say
from cartas_mlflow.data.records import Record
from cartas_mlflow.evaluation.confidence import BITS, Answers
from cartas_mlflow.evaluation.diagnostics import EpochSummary, diagnose, quality_band
from cartas_mlflow.evaluation.metrics import chrf_of_pairs, metric_signatures, rouge_f1
from cartas_mlflow.files import write_json, write_text
from cartas_mlflow.modeling.hardware import Hardware
from cartas_mlflow.modeling.validation import Evaluation
from cartas_mlflow.registry.logged import model_entry
from cartas_mlflow.registry.model import ServedModel
from cartas_mlflow.registry.texts import reading_id
from cartas_mlflow.settings import RECORD_FIELDS, ExperimentConfig
from cartas_mlflow.tracking import metric_names
from cartas_mlflow.tracking.parameters import in_effect
from cartas_mlflow.tracking.plots import plot_losses, plot_metrics
from cartas_mlflow.tracking.report import (
    ReportFacts,
    build_report,
    describe_result,
    epochs_text,
    summarise_result,
    typical_readings,
)
from cartas_mlflow.tracking.run import OUTCOME_TAG, TrackedRun
from cartas_mlflow.training.fitting import Fit
from cartas_mlflow.training.preparation import PreparedData, Setup
from cartas_mlflow.training.session import Session

if TYPE_CHECKING:
    from mlflow.data.dataset import Dataset


def log_start(run: TrackedRun, session: Session, setup: Setup) -> Dataset:
    """Parameters, tags, datasets, the resolved settings and the split's ids; gives the validation dataset as logged."""
    config, data = setup.config, setup.data
    session.remember(run, config, split_table(data))
    run.name(run_name(config))
    run.describe(f"**Em treinamento:** {run_name(config)}.")
    if session.checkpoint is None:  # a training that goes on has its stand-in under its own name
        run.set_tags({"base_model.fallback": str(setup.settled.requested is not None).lower()})
    run.set_tags(
        {
            "cartas_mlflow.version": __version__,
            **{f"metric.{name}": signature for name, signature in metric_signatures().items()},
        }
    )
    run.log_params(in_effect(config.flat() | _derived_params(setup)))
    run.log_file(session.resolved, "config")
    run.log_file(session.split, "data")
    return log_data(run, data)


def log_data(run: TrackedRun, data: PreparedData) -> Dataset:
    """Both sides of the split as the run's inputs; gives the validation dataset as logged."""
    sides = {"training": data.split.train, "validation": data.measured}
    datasets = run.log_datasets(
        {side: _columns(records) for side, records in sides.items()}, data.records.source, "texto"
    )
    return datasets["validation"]


def log_baselines(run: TrackedRun, baselines: Mapping[str, Mapping[str, float]]) -> None:
    """What the tuned model has to beat, on the console and as one table: it is no curve."""
    for label, values in baselines.items():
        say(f"{label}: ROUGE-L {values['rougeL']:.4f}, BLEU {values['bleu']:.4f}, chrF {values['chrf']:.4f}")
    names = dict.fromkeys(name for values in baselines.values() for name in values)
    columns = {name: [values.get(name) for values in baselines.values()] for name in names}
    run.log_csv({"referência": list(baselines), **columns}, "report/baselines.csv")


def log_samples(run: TrackedRun, data: PreparedData, answers: Answers, name: str) -> None:
    """A table of what was asked, the generated reading and the real one, with how near they are."""
    columns = sample_columns(data, answers)
    run.log_readings(columns, f"samples/{name}.csv")
    if name == "final" and run.logs_texts:
        run.log_table(columns, "samples/final.json")


def sample_columns(data: PreparedData, answers: Answers) -> dict[str, list[Any]]:
    """``pedido``, ``gerado``, ``real``, chrf, rougeL, bits_per_character, id and fields of each measured record.

    MLflow's table view compares runs by the first column, and shows the second of each.
    """
    records = data.measured
    real = [record.texto for record in records]
    return {
        "pedido": [" · ".join(filter(None, record.fields())) for record in records],
        "gerado": list(answers.texts),
        "real": real,
        "chrf": [round(value, 4) for value in chrf_of_pairs(answers.texts, real)],
        "rougeL": [round(value, 4) for value in rouge_f1("rougeL", answers.texts, real)],
        BITS: [round(value, 4) for value in answers.bits],
        **{column: [getattr(record, column) for record in records] for column in ("id", *RECORD_FIELDS)},
    }


def save_served(session: Session, setup: Setup) -> None:
    """Write beside the adapter what generating with it takes."""
    config, location = setup.config, setup.base.location
    known = [name for name in RECORD_FIELDS if name != "carta" and config.tracking.log_texts]
    served = ServedModel(
        template=setup.data.template,
        cards=tuple(sorted({record.carta for record in setup.data.records.rows})),
        values={
            name: tuple(sorted({getattr(record, name) for record in setup.data.records.rows} - {""})) for name in known
        },
        max_length=config.data.max_length,
        batch_size=setup.encoded.plan.evaluation_batch,
        base_name=location.name,
        base_revision=location.revision,
        generation=config.generation.model_dump(),
    )
    served.save(session.adapter)


def log_model(
    run: TrackedRun,
    session: Session,
    setup: Setup,
    result: Fit,
    description: str,
    metrics: Mapping[str, float],
    validation: Dataset,
) -> None:
    """Log the reading generator with the best epoch's adapter. ``metrics``: its own, which the run has already."""
    model = model_entry(
        setup.base.location,
        setup.config.serving,
        description=description,
        embed_base=setup.config.registry.embed_base,
        # A step that no series has: MLflow links to the model whatever the run logged at the model's step.
        step=result.steps + 1,
    )
    run.log_model(model, session.adapter, metrics, validation)


def log_result(
    run: TrackedRun,
    session: Session,
    setup: Setup,
    result: Fit,
    final: Evaluation,
    baselines: Mapping[str, Mapping[str, float]],
    validation: Dataset,
    *,
    with_model: bool = True,
) -> ReportFacts:
    """Final metrics, pictures, adapter, report and, last, the model; the run's description tells how it ended.

    Args:
        with_model: log the reading generator too, which carries the base.
    """
    summaries = [EpochSummary(round(row["epoch"]), row["epoch_train_loss"], row["eval_loss"]) for row in result.history]
    facts = ReportFacts(
        timestamp=session.folder.name,
        hardware=_hardware_info(setup.base.hardware),
        dataset=_dataset_info(setup.data),
        model=_model_info(setup, result),
        training=result.figures,
        final_metrics=final.metrics,
        baselines=baselines,
        history=result.history,
        best_epoch=result.best_epoch,
        stopped_early=result.stopped_early,
        quality={name: quality_band(name, final.metrics[name]) for name in ("rougeL", "bleu")},
        findings=diagnose(
            summaries,
            final.metrics["copied_share"],
            untuned_loss=baselines["Base sem ajuste"].get("loss"),
            learning_rate=setup.config.training.learning_rate,
        ),
        metric_signatures=metric_signatures(),
        readings=typical_readings(sample_columns(setup.data, final.answers)) if run.logs_texts else (),
    )
    markdown = session.folder / "relatorio.md"
    write_json(session.report, build_report(facts))
    write_text(markdown, f"# Relatório do treinamento\n\n{describe_result(facts)}\n")
    metrics = {
        metric_names.final(name): value
        for name, value in final.metrics.items()
        if name not in metric_names.ONLY_REPORTED
    }
    run.log_metrics(metrics)
    log_curves(run, result, baselines)
    run.log_file(session.adapter, "adapter")
    for file in (session.report, markdown):
        run.log_file(file, "report")
    _say_result(session, facts)
    if with_model:
        say("⏳ Guardando o modelo no MLflow...")
        log_model(run, session, setup, result, describe_result(facts), metrics, validation)
    run.describe(summarise_result(facts))
    run.set_tags({OUTCOME_TAG: "early_stopped" if result.stopped_early else "finished"})
    return facts


def log_curves(run: TrackedRun, result: Fit, baselines: Mapping[str, Mapping[str, float]]) -> None:
    """Which epoch was the best, and the pictures of the losses and metrics."""
    run.log_metrics({metric_names.BEST_EPOCH: float(result.best_epoch)})
    run.log_figure(plot_losses(result.history, result.best_epoch, baselines), "plots/loss.png")
    run.log_figure(plot_metrics(result.history, baselines, result.best_epoch), "plots/metrics.png")


def run_name(config: ExperimentConfig, loss: float | None = None) -> str:
    """``lr 0.001 · r16 · mini · 20 épocas``; ``… · perda 3.816`` once that is known. The runs table cuts long names."""
    base = config.model.name.rstrip("/").rsplit("/", 1)[-1].removeprefix("cartas-t5-").removesuffix("-portuguese-vocab")
    end = epochs_text(config.training.epochs) if loss is None else f"perda {loss:.3f}"
    return f"lr {config.training.learning_rate:g} · r{config.lora.r} · {base} · {end}"


def _derived_params(setup: Setup) -> dict[str, Any]:
    base, data, training = setup.base, setup.data, setup.config.training
    micro_batch = setup.encoded.plan.micro_batch
    return {
        "model.resolved": base.location.name,
        "model.source": base.location.source,
        "model.resolved_revision": base.location.revision,
        "model.fingerprint": base.location.fingerprint(),
        "derived.effective_batch": training.batch_size,
        "derived.micro_batch": micro_batch,
        "derived.gradient_accumulation_steps": training.batch_size // micro_batch // training.num_processes,
        "derived.trainable_params": setup.parameters.trainable,
        "derived.total_params": setup.parameters.total,
        "derived.evaluation_engine": setup.encoded.plan.evaluation_engine,
        "derived.precision": base.precision.dtype,
        "derived.quantization": base.quantization.kind if base.quantization else "none",
        "derived.template": data.template,
        "derived.train_records": len(data.split.train),
        "derived.validation_records": len(data.measured),
        **{f"hardware.{name}": value for name, value in base.hardware.flat().items()},
    }


def _hardware_info(hardware: Hardware) -> dict[str, Any]:
    return {
        "gpu": hardware.gpu or "nenhuma",
        "vram": f"{hardware.vram:.1f}GB" if hardware.vram is not None else "0.0GB",
        "cuda_version": hardware.cuda or "nenhuma",
        "cpu": hardware.cpu,
        "cores": hardware.cores,
        "ram": f"{hardware.ram:.1f}GB",
    }


def _dataset_info(data: PreparedData) -> dict[str, Any]:
    return {
        "total_samples": len(data.records.rows),
        "train_samples": len(data.split.train),
        "val_samples": len(data.measured),
        "unique_cartas": data.records.cards,
        "avg_text_length": round(data.records.mean_length, 1),
    }


def _model_info(setup: Setup, result: Fit) -> dict[str, Any]:
    config, base = setup.config, setup.base
    return {
        "model_name": base.location.name,
        "lora_r": config.lora.r,
        "lora_alpha": config.lora.alpha,
        "max_length": config.data.max_length,
        "epochs_completed": round(result.history[-1]["epoch"]),
        "trainable_params": setup.parameters.trainable,
        "total_params": setup.parameters.total,
        "precision": base.precision.dtype,
        "quantization": base.quantization.kind if base.quantization else "none",
    }


def _say_result(session: Session, facts: ReportFacts) -> None:
    final = facts.final_metrics
    ruined = [finding for finding in facts.findings if finding.startswith("Divergência")]
    for finding in ruined:
        say(f"🛑 {pointed(finding)}")
    say(f"{'💾 Modelo salvo' if ruined else '✅ Modelo salvo com sucesso'} em: {session.adapter}")
    say("=== RESULTADOS FINAIS ===")
    say(f"📊 ROUGE-L Final: {final['rougeL']:.4f} (qualidade {facts.quality['rougeL']})")
    say(f"📊 BLEU Final: {final['bleu']:.4f} (qualidade {facts.quality['bleu']})")
    say(f"📊 chrF Final: {final['chrf']:.4f}")
    if "prompt_fit" in final:
        say(f"📊 Prompt fit Final: {final['prompt_fit']:.4f}")
    say(f"📊 Loss Final: {final['loss']:.4f} ({final[BITS]:.4f} bits por caractere)")
    say(f"📊 Leituras com trecho copiado do treino: {100 * final['copied_share']:.1f} %")
    for finding in facts.findings:
        if finding not in ruined:
            say(f"⚠️ {pointed(finding)}")
    say(f"⏱️ Treino com avaliações: {duration(facts.training['train_runtime'])}")
    say(f"📁 Métricas detalhadas salvas em: {session.report}")


def split_table(data: PreparedData) -> str:
    """The table of ids on each side, as CSV; ``unmeasured``: held out, and not in the sample that is measured."""
    lines = ["id,reading,side"]
    measured = {record.id for record in data.measured}
    unmeasured = [record for record in data.split.validation if record.id not in measured]
    for side, records in (("train", data.split.train), ("validation", data.measured), ("unmeasured", unmeasured)):
        lines += [f"{record.id},{reading_id(record.texto)},{side}" for record in records]
    return "\n".join(lines) + "\n"


def _columns(records: Sequence[Record]) -> dict[str, list[str]]:
    return {name: [getattr(record, name) for record in records] for name in ("id", *RECORD_FIELDS, "texto")}
