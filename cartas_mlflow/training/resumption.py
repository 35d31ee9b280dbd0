"""How a training that stopped goes on: the command to type, and the folder that ``training.resume`` means."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cartas_mlflow.console import say
from cartas_mlflow.errors import RunInterrupted, TrainingError
from cartas_mlflow.files import checksum
from cartas_mlflow.modeling.checkpoints import newest_checkpoint
from cartas_mlflow.registry.candidates import chosen_experiment, connect
from cartas_mlflow.registry.logged import log_entry
from cartas_mlflow.settings import ExperimentConfig, TrackingSettings
from cartas_mlflow.tracking.journal import ENTRIES, FOLDER, ending
from cartas_mlflow.tracking.kept_checkpoint import fetch_training, find_interrupted
from cartas_mlflow.tracking.leftovers import close_abandoned, tell_rests
from cartas_mlflow.training.folder import ORIGINAL, RunIdentity, new_folder

_RUN_ID = re.compile(r"[0-9a-f]{32}")


def find_training(resume: str, tracking: TrackingSettings) -> str:
    """The folder that the user means by ``last``, or by a run's id; any other text is a folder already.

    ``last``: of the trainings in the output folder that did not reach their end, the one that saved a checkpoint last.
    Where the folder is not there, or has no checkpoint, it is made anew from what the run keeps in MLflow.

    Raises:
        TrainingError: there is none.
        TrackingError: MLflow does not answer, or the run keeps no checkpoint.
    """
    if resume != "last" and not _RUN_ID.fullmatch(resume):
        return resume
    parent = Path(tracking.output_dir)
    begun = {path.parent: path.parent / "checkpoints" for path in parent.glob("*/run.json")}
    saved = [folder for folder, checkpoints in begun.items() if newest_checkpoint(checkpoints) is not None]
    if resume == "last":
        unfinished = [folder for folder in saved if not _is_finished(folder)]
        if unfinished:
            return str(max(unfinished, key=lambda folder: begun[folder].stat().st_mtime))
    else:
        named = [folder for folder in saved if RunIdentity.read(folder / "run.json", ORIGINAL).run_id == resume]
        if named:
            return str(named[0])
    return str(_fetch(resume, tracking))


def _is_finished(folder: Path) -> bool:
    journal = folder / FOLDER / ENTRIES
    if not journal.exists():  # of an earlier version
        return (folder / "training_metrics.json").exists()
    return ending(journal) == "FINISHED"


def _fetch(resume: str, tracking: TrackingSettings) -> Path:
    parent = Path(tracking.output_dir)
    nothing = TrainingError(
        f"Não há treinamento interrompido em {parent} de onde continuar; indique em training.resume uma pasta "
        "checkpoint-N, ou tracking.output_dir."
        if resume == "last"
        else f"Nenhuma pasta em {parent} é da execução {resume}; indique em training.resume uma pasta checkpoint-N, ou "
        "tracking.output_dir."
    )
    if tracking.offline:
        raise nothing
    client = connect()
    run_id = find_interrupted(client, chosen_experiment(client, tracking)) if resume == "last" else resume
    if run_id is None:
        raise nothing
    folder = new_folder(parent)
    say(f"Nenhuma pasta em {parent} é desse treinamento; buscando no MLflow o checkpoint da execução {run_id}...")
    try:
        experiment = fetch_training(run_id, folder)
    except BaseException:
        shutil.rmtree(folder)
        raise
    sums = {name: checksum(folder / name) for name in ("config_resolved.yaml", "split.csv")}
    RunIdentity(run_id=run_id, experiment=experiment, checksums=sums).write(folder / "run.json")
    return folder


@contextmanager
def going_on_told(folder: Path) -> Iterator[None]:
    """Let no interruption pass without the command that goes on.

    Raises:
        RunInterrupted: Ctrl+C or SIGTERM where no step was on.
    """
    try:
        yield
    except KeyboardInterrupt:
        say("\n⚠️ Treinamento interrompido pelo usuário (Ctrl+C)")
        raise RunInterrupted(say_how_to_go_on(_newest(folder))) from None


def say_abandoned(config: ExperimentConfig, own: Path) -> None:
    """Tell of trainings whose process died without a word, end their runs, and tell how each goes on.

    Those that died after their end, while MLflow was told of it, are told to the end.
    """
    parent = Path(config.tracking.output_dir)
    closed = close_abandoned(parent, lambda folder: how_to_go_on(_newest(folder)))
    for folder in closed:
        if folder.resolve() == own:
            continue
        say(f"⚠️ Um treino anterior parou sem aviso {_progress(folder)}; a sua execução está marcada como interrompida.")
        say(f"   {how_to_go_on(_newest(folder))}".replace("`", ""))
    if config.tracking.offline:
        return
    for folder in tell_rests(parent, log_entry):
        if folder not in closed:
            say(f"✅ O fim do treino anterior em {folder} não tinha chegado todo ao MLflow; agora chegou.")


def _newest(folder: Path) -> Path | None:
    return newest_checkpoint(folder / "checkpoints")


def _progress(folder: Path) -> str:
    """How far a training got, as a Portuguese clause."""
    checkpoint = _newest(folder)
    if checkpoint is None:
        return f"antes do primeiro checkpoint ({folder})"
    state = json.loads((checkpoint / "trainer_state.json").read_bytes())
    return (
        f"depois do passo {state['global_step']} de {state['max_steps']}, época {state['epoch']:.0f} de "
        f"{state['num_train_epochs']} ({folder})"
    )


def say_interrupted(checkpoint: Path | None) -> str:
    """Tell where the emergency checkpoint is and how to go on from it; gives the latter as Markdown."""
    if checkpoint is not None:
        say(f"✅ Checkpoint de emergência salvo em: {checkpoint}")
    return say_how_to_go_on(checkpoint)


def say_how_to_go_on(checkpoint: Path | None) -> str:
    """Tell how to go on from a checkpoint; gives it as Markdown."""
    words = how_to_go_on(checkpoint)
    say(words.replace("`", "") if checkpoint is not None else f"⚠️ {words}")
    return words


def how_to_go_on(checkpoint: Path | None) -> str:
    """How to go on from a checkpoint, or that there is none, as Markdown."""
    if checkpoint is None:
        return "Nenhum checkpoint foi salvo: a interrupção veio antes do primeiro passo."
    return f"Para continuar: `python -m cartas_mlflow train --resume {shlex.quote(str(checkpoint))}`"
