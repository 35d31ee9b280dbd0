"""Finished runs side by side: settings, metrics with paired intervals, and the texts, as pages and as an MLflow run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.config import DEFAULT_CONFIG, load_config
from cartas_mlflow.console import pointed, say
from cartas_mlflow.files import write_text
from cartas_mlflow.registry import candidates
from cartas_mlflow.registry.comparison import compare_runs
from cartas_mlflow.registry.promotion import CHAMPION
from cartas_mlflow.tracking.chosen_runs import ExperimentRuns
from cartas_mlflow.tracking.comparison_page import (
    ComparisonFacts,
    comparison_markdown,
    describe_comparison,
    render_comparison,
)
from cartas_mlflow.tracking.failures import failures_told
from cartas_mlflow.tracking.opening import open_run
from cartas_mlflow.tracking.run import OUTCOME_TAG
from cartas_mlflow.tracking.utility_runs import tuck_away
from cartas_mlflow.training.folder import new_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

WIDTH = 80
"""Columns of a terminal."""
CELL, LONGEST_TITLE, LONGEST_NAME = 8, 32, 60


@failures_told()
def compare(
    config_path: str = DEFAULT_CONFIG, overrides: Mapping[str, Any] | None = None, *, runs: str = "last:2"
) -> Path:
    """Hold runs of one experiment against the first of them; the HTML file with everything.

    Args:
        runs: ids or their beginnings, names, ``last:3``, ``study:NAME``, ``champion``, separated by commas.

    Raises:
        TrackingError: the server does not answer; or see :meth:`ExperimentRuns.choose`.
        RegistryError: no such experiment, no champion, a run without its final texts.
    """
    config = load_config(config_path, overrides)
    client = candidates.connect()
    experiment = candidates.find_experiment(client, candidates.chosen_experiment(client, config.tracking))
    chosen = ExperimentRuns(client, experiment, lambda: _champion(client, config.registry.name)).choose(runs)
    say(f"=== COMPARANDO {len(chosen)} EXECUÇÕES ===")
    facts = compare_runs(chosen, experiment.name, config.registry)
    _tell(facts)

    folder = new_folder(Path(config.tracking.output_dir))
    page, short = folder / "comparacao.html", folder / "comparacao.md"
    write_text(page, render_comparison(facts))
    write_text(short, comparison_markdown(facts))
    with open_run(config.tracking.model_copy(update={"system_metrics": False})) as run:
        tuck_away(client, run.id, "compare", facts.runs[0].id)
        run.set_tags({f"compared.{column.letter}": column.id for column in facts.runs})
        run.log_params({"compare.runs": runs})
        for file in (page, short):
            if run.logs_texts:
                run.log_file(file, "report")
        run.name("comparação " + " × ".join(column.id[:6] for column in facts.runs))
        run.describe(describe_comparison(facts))
        run.set_tags({OUTCOME_TAG: "finished"})
        say(f"🔎 Execução {run.id} no experimento {run.experiment}; veja em: {run.page}")
    say(f"📄 Comparação para ler e mandar: {page}")
    return page


def _champion(client: MlflowClient, name: str) -> str:
    return str(candidates.find_candidate(client, f"{candidates.MODELS}{name}@{CHAMPION}").run_id)


def _tell(facts: ComparisonFacts) -> None:
    """The comparison in the terminal: decimal points, so that a figure can be pasted after ``-P``."""
    for run in facts.runs:
        say(f"{run.letter}  {textwrap.shorten(run.name, LONGEST_NAME, placeholder='…')}  ({run.id[:12]})")
    say("Configurações que diferem:" if facts.settings else "Configurações: todas iguais")
    for name, values in facts.settings.items():
        pairs = "; ".join(
            f"{run.letter} {'—' if value is None else value}" for run, value in zip(facts.runs, values, strict=True)
        )
        say(f"  {name}: {pairs}")
    narrow = min(LONGEST_TITLE, WIDTH - CELL * len(facts.runs))
    say(f"{'Medida':<{narrow}}" + "".join(f"{run.letter:>{CELL}}" for run in facts.runs))
    for metric, title in facts.metrics.items():
        cells = (pointed(run.cells[metric].value) if metric in run.cells else "n/d" for run in facts.runs)
        label = title if len(title) <= narrow else f"{title[: narrow - 1]}…"
        say(f"{label:<{narrow}}" + "".join(f"{cell:>{CELL}}" for cell in cells))
    for metric, title in facts.metrics.items():
        for run in facts.runs:
            if metric in run.cells and (cell := run.cells[metric]).verdict is not None:
                say(f"⚖️ {title}: {run.letter} {cell.verdict}: {pointed(str(cell.difference))}")
    for remark in facts.remarks:
        say(f"⚠️ {remark}")
