"""Finished runs side by side: what differs in their settings, in their figures and in what they wrote, in words."""

from __future__ import annotations

import contextlib
import string
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from cartas_mlflow.console import decimal
from cartas_mlflow.errors import SettingError
from cartas_mlflow.evaluation.comparing import SharedPrompt, Standing, judge_runs, pair_prompts
from cartas_mlflow.evaluation.confidence import MIN_RECORDS
from cartas_mlflow.evaluation.verdict import difference_figures, difference_sentence, difference_words
from cartas_mlflow.registry.texts import validation_table
from cartas_mlflow.setting_checks import typed
from cartas_mlflow.settings import RegistrySettings, setting_names
from cartas_mlflow.tracking.comparison_page import Cell, ComparisonFacts, RunColumn, Writing, WrittenPrompt
from cartas_mlflow.tracking.metric_names import final, logged
from cartas_mlflow.tracking.parameters import in_effect
from cartas_mlflow.tracking.report import HEADLINES, METRIC_TITLES, metric_text
from cartas_mlflow.tracking.run import param_text
from cartas_mlflow.tracking.store import where_to_look

if TYPE_CHECKING:
    from mlflow.entities import Run

LETTERS = string.ascii_uppercase
CHOSEN_FOR_THE_USER = (
    "model.resolved",
    "derived.precision",
    "derived.quantization",
    "derived.train_records",
    "derived.validation_records",
)
"""Parameters that are no settings, and tell what a setting came to: a stand-in's base, ``auto``, a table's size."""


def compare_runs(runs: Sequence[Run], experiment: str, settings: RegistrySettings) -> ComparisonFacts:
    """Everything that a comparison tells; each run is held against the first.

    Args:
        runs: at least two.
        experiment: the name under which the comparison is made.
        settings: its ``resamples`` and ``seed`` are those of the intervals.

    Raises:
        RegistryError: a run has no samples/final.csv.
        DamagedFile: one that cannot be read.
    """
    tables = [validation_table(run.info.run_id) for run in runs]
    standings = judge_runs(tables, resamples=settings.resamples, seed=settings.seed)
    columns = [_column(letter, run, standing) for letter, run, standing in zip(LETTERS, runs, standings, strict=False)]
    others = list(zip(LETTERS, standings, strict=False))[1:]
    return ComparisonFacts(
        experiment=experiment,
        made=datetime.now(),
        runs=columns,
        verdicts=["a referência", *(_verdict(standing) for _, standing in others)],
        remarks=[line for letter, standing in others if (line := _sharing(letter, standing, standings[0])) is not None],
        settings=differing_settings(runs),
        metrics={name: METRIC_TITLES[name] for name in METRIC_TITLES if any(name in run.cells for run in columns)},
        prompts=[_prompt(prompt) for prompt in pair_prompts(tables)],
    )


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str | None]]:
    """Name -> a value per run, of the settings that are not the same in all, in the order of ``settings.py``.

    None where a run knows no such setting.
    """
    params = [in_effect(run.data.params) for run in runs]
    rows = {
        name: [_settled(name, own.get(name)) for own in params] for name in (*setting_names(), *CHOSEN_FOR_THE_USER)
    }
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _settled(name: str, text: str | None) -> str | None:
    """A parameter as every run shows it: ``mlflow run`` logs a setting as it was typed, ``5e-5`` or ``0.00005``."""
    if text is None or name in CHOSEN_FOR_THE_USER:
        return text
    with contextlib.suppress(SettingError):  # a value of another version, which this one does not know
        return param_text(typed({name: (text, "")}).flat()[name])
    return text


def _column(letter: str, run: Run, standing: Standing) -> RunColumn:
    page = where_to_look(run.info.experiment_id, run.info.run_id)
    cells = {}
    for metric in METRIC_TITLES:
        interval = standing.values.get(metric)
        value = logged(run.data.metrics, final(metric)) if interval is None else interval.value
        if value is None:
            continue
        difference = standing.over_first.get(metric)
        cells[metric] = Cell(
            metric_text(metric, value),
            interval and f"{decimal(interval.low, 3)} a {decimal(interval.high, 3)}",
            difference and difference_words(metric, difference, LETTERS[0]),
            difference and difference_figures(difference),
        )
    return RunColumn(
        letter=letter,
        id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        name=run.info.run_name,
        started=datetime.fromtimestamp(run.info.start_time / 1000),
        page=page if page.startswith("http") else None,
        records=standing.records,
        cells=cells,
    )


def _verdict(standing: Standing) -> str:
    sentences = [
        f"{METRIC_TITLES[metric]} {difference_sentence(metric, standing.over_first[metric], LETTERS[0])}"
        for metric in HEADLINES
        if metric in standing.over_first
    ]
    return "; ".join(sentences) or f"sem veredito contra {LETTERS[0]}"


def _sharing(letter: str, standing: Standing, first: Standing) -> str | None:
    """What a difference was measured on, where that is not all of both runs' records."""
    shared = standing.shared
    if shared == standing.records == first.records and standing.over_first:
        return None
    if shared == 0:
        return (
            f"{letter} e {LETTERS[0]} não têm nenhuma leitura de validação em comum: as diferenças não foram medidas."
        )
    return (
        f"{letter} e {LETTERS[0]} têm {shared} leituras de validação em comum ({standing.records} de {letter}, "
        f"{first.records} de {LETTERS[0]}): "
        + (
            "as diferenças foram medidas só nelas."
            if standing.over_first
            else f"são precisas {MIN_RECORDS}, e as diferenças não foram medidas."
        )
    )


def _prompt(prompt: SharedPrompt) -> WrittenPrompt:
    return WrittenPrompt(
        asked=" · ".join(filter(None, prompt.asked)),
        real=prompt.real,
        writings=[
            Writing(_letters(answer.runs), answer.score, [(piece.text, piece.differs) for piece in answer.pieces])
            for answer in prompt.answers
        ],
        absent=_letters(prompt.absent),
    )


def _letters(numbers: Iterable[int]) -> str:
    """``A``, ``A e C``, ``A, B e C``; empty for none."""
    *most, last = [LETTERS[number] for number in numbers] or [""]
    return f"{', '.join(most)} e {last}" if most else last
