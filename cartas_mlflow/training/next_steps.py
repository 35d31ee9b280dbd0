"""What one would type now that a training has ended, filled in."""

from __future__ import annotations

import shlex

from cartas_mlflow.console import say
from cartas_mlflow.settings import RECORD_FIELDS, ExperimentConfig
from cartas_mlflow.tracking.run import TrackedRun
from cartas_mlflow.tracking.saved_view import save_view, view_place
from cartas_mlflow.training.preparation import PreparedData

PROGRAM = "python -m cartas_mlflow"


def say_next_steps(run: TrackedRun, config: ExperimentConfig, data: PreparedData) -> None:
    """Look, read, compare, promote: a command each; and where the experiment's saved view is."""
    import mlflow

    experiment_id = mlflow.get_run(run.id).info.experiment_id
    save_view(experiment_id)
    asked = (*data.split.validation, *data.split.train)[0]
    given = {name: getattr(asked, name) for name in RECORD_FIELDS}
    fields = " ".join(f"--{name} {shlex.quote(value)}" for name, value in given.items() if value)
    default = type(config.tracking).model_fields["experiment"].default
    where = "" if run.experiment == default else f" --tracking.experiment {shlex.quote(run.experiment)}"
    steps = {
        "Ver e comparar": f"{run.page}\n {view_place(experiment_id)}",  # one space: 100 columns
        "Gerar uma leitura": f"{PROGRAM} generate --model {run.id} \\\n    {fields}",
        "Pôr lado a lado com o treino anterior": f"{PROGRAM} compare --runs last:2{where}",
        "Promover a campeão": f"{PROGRAM} promote --run_id {run.id}",
    }
    say("=== PRÓXIMOS PASSOS ===")
    for title, command in steps.items():
        say(f"{title}:\n  {command}", whole=True)
