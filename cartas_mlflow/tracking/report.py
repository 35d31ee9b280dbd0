"""The report of a training: the guide's JSON, and the same in words for the run's page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cartas_mlflow.console import decimal

UNFOLDED = 4
"""Lines of a description that MLflow shows without folding it."""
SHORT, TEXT, LINE = 28, 44, 105
"""Characters of a prompt or real text, of a generated one, and of a whole line of the description, which is some 105
wide in a window of 1440 pixels: what goes on in a second line is folded away."""
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~])")
HEADLINES = ("bits_per_character", "rougeL")
"""How the real readings surprise a model, which is one for runs that only decode otherwise; and how it writes."""
METRIC_TITLES = {
    "bits_per_character": "Bits por caractere",
    "rougeL": "ROUGE-L",
    "chrf": "chrF",
    "bleu": "BLEU",
    "loss": "Perda",
    "prompt_fit": "Leituras reais que cabem no seu pedido",
    "generated_prompt_fit": "Leituras geradas que cabem no seu pedido",
    "copied_share": "Leituras com trecho copiado",
    "longest_copied_run": "Maior trecho copiado (palavras)",
}


@dataclass(frozen=True)
class ReportFacts:
    """What a report tells. ``*_metrics``: names without prefix -> value."""

    timestamp: str
    hardware: Mapping[str, Any]
    dataset: Mapping[str, Any]
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    final_metrics: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]
    history: Sequence[Mapping[str, float]]
    best_epoch: int
    stopped_early: bool
    quality: Mapping[str, str]
    findings: Sequence[str]
    metric_signatures: Mapping[str, str]
    readings: Sequence[Reading] = ()


@dataclass(frozen=True)
class Reading:
    """What was asked, what the tuned model wrote, and what the person had written. ``place``: among its kind."""

    place: str
    asked: str
    generated: str
    real: str


def typical_readings(samples: Mapping[str, Sequence[Any]]) -> list[Reading]:
    """The reading nearest to the real one, the one in the middle and the farthest, by chrF.

    Args:
        samples: columns pedido, gerado, real and chrf.
    """
    order = sorted(range(len(samples["chrf"])), key=lambda row: -samples["chrf"][row])
    places = {"mais próxima": order[0], "do meio": order[len(order) // 2], "mais distante": order[-1]}
    return [
        Reading(place, *(samples[name][row] for name in ("pedido", "gerado", "real"))) for place, row in places.items()
    ]


def build_report(facts: ReportFacts) -> dict[str, Any]:
    """The guide's keys (timestamp to final_eval_metrics), then what it takes to judge them."""
    return {
        "timestamp": facts.timestamp,
        "hardware_info": dict(facts.hardware),
        "dataset_info": dict(facts.dataset),
        "model_config": dict(facts.model),
        "training_metrics": dict(facts.training),
        "final_eval_metrics": {f"eval_{name}": value for name, value in facts.final_metrics.items()},
        "baselines": {label: dict(values) for label, values in facts.baselines.items()},
        "best_epoch": facts.best_epoch,
        "stopped_early": facts.stopped_early,
        "quality": dict(facts.quality),
        "findings": list(facts.findings),
        "metric_signatures": dict(facts.metric_signatures),
        "history": [dict(row) for row in facts.history],
    }


def results_table(final: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown table: one row per metric; the tuned model and what it has to beat as columns."""
    columns = {"Modelo ajustado": final, **baselines}
    lines = ["| Métrica | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for name, title in METRIC_TITLES.items():
        if name.endswith("prompt_fit") and name not in final:  # the prompts tell no cards apart
            continue
        cells = (metric_text(name, values[name]) if name in values else "n/d" for values in columns.values())
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe_result(facts: ReportFacts) -> str:
    """The run's description: how it ended, what it reached, what stands out (Markdown, Portuguese)."""
    last = facts.model["epochs_completed"]
    ended = (
        f"parou na época {last} (early stopping)" if facts.stopped_early else f"treinou até o fim ({epochs_text(last)})"
    )
    lines = [
        f"**Concluída:** {ended}; melhor época: **{facts.best_epoch}**, cujo adaptador está em `adapter/`.",
        f"Base `{facts.model['model_name']}`, LoRA r={facts.model['lora_r']}, "
        f"{facts.dataset['train_samples']} leituras de treino e {facts.dataset['val_samples']} de validação.",
        results_table(facts.final_metrics, facts.baselines),
    ]
    if facts.findings:
        lines.append("\n".join(f"- {finding}" for finding in facts.findings))
    return "\n\n".join(lines)


def summarise_result(facts: ReportFacts, verdict: str | None = None) -> str:
    """The run's description, in the four lines that MLflow shows unfolded: figures and verdict, alarm, readings.

    Args:
        verdict: bits per character against the untuned base's, in words; None while nobody has judged.
    """
    bits, rouge = (f"{METRIC_TITLES[name]} {decimal(facts.final_metrics[name], 3)}" for name in HEADLINES)
    lines = [
        " · ".join(filter(None, [f"**{bits}**", verdict, rouge])),
        *(f"⚠️ {_line(alarm, LINE)}" for alarm in facts.findings[:1]),
        *(
            f"*{_line(reading.asked, SHORT)}:* {_line(reading.generated, TEXT)} ‖ *real:* {_line(reading.real, SHORT)}"
            for reading in facts.readings
        ),
    ]
    return "  \n".join(lines[:UNFOLDED])


def _line(text: str, width: int) -> str:
    """The text in one line as Markdown shows it, cut between words."""
    return _MARKDOWN.sub(r"\\\1", re.sub(r"[ .·,;:]+…$", "…", textwrap.shorten(text, width, placeholder=" …")))


def epochs_text(number: int) -> str:
    """``1 época``, ``20 épocas``."""
    return f"{number} época{'' if number == 1 else 's'}"


def metric_text(name: str, value: float) -> str:
    """A metric as a table shows it: a share in per cent, words whole, the others with four places."""
    if name in {"copied_share", "prompt_fit", "generated_prompt_fit"}:
        return f"{decimal(100 * value, 1)} %"
    return str(round(value)) if name == "longest_copied_run" else decimal(value, 4)
