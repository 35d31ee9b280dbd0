"""Trainings that are killed again and again end as one that was left alone, and MLflow has each of their points once.

    python benchmarks/nothing_lost.py [--seed 1] [--kills 30] [--rows 66] [--epochs 3] [--project]

One training is left alone. Then others of the same settings are killed (SIGKILL to the whole group of processes) at
random moments of any phase, from the start of Python to the last words to MLflow, and go on each time with
``resume=last``, or anew where no checkpoint was saved yet, until so many kills are done and the last training has
ended. Every series and every final value of each must equal the undisturbed one's, no step may stand twice, and no run
may still say RUNNING. ``--project``: each of them through ``mlflow run``. Prints a Markdown table, and exits with 1 if
anything differs.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENT = "nada-se-perde"
PHASE = re.compile(r"(?m)^(?:\S+ \S+ )?(\d+)\. ")
SAME_FOR_ALL = ("train/", "eval/", "final/")
NOT_OF_THE_TRAINING = {"train/samples_per_second", "train/runtime"}
"""Figures of the clock."""


@dataclass(frozen=True)
class Place:
    """A folder with a store and the trainings of one contender."""

    folder: Path
    words: list[str]
    project: bool

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def start(self, *, resume: bool) -> subprocess.Popen[str]:
        settings = [*self.words, f"tracking.output_dir={self.results}", *(["training.resume=last"] if resume else [])]
        if self.project:
            head = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager", "local"]
            command = [*head, "--experiment-name", EXPERIMENT, *(w for s in settings for w in ("-P", s))]
        else:
            settings.append(f"tracking.experiment={EXPERIMENT}")
            command = [sys.executable, "-m", "cartas_mlflow", "train", *(f"--{setting}" for setting in settings)]
        self.folder.mkdir(parents=True, exist_ok=True)
        output = (self.folder / "console.txt").open("a", encoding="utf-8")
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.store, "PYTHONPATH": str(ROOT)}
        environment.pop("MLFLOW_RUN_ID", None)
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, text=True, start_new_session=True
        )

    def has_unfinished(self) -> bool:
        """Whether ``resume=last`` would find something."""
        from cartas_mlflow.errors import UserError
        from cartas_mlflow.settings import TrackingSettings
        from cartas_mlflow.training.resumption import find_training

        try:
            find_training("last", TrackingSettings(output_dir=str(self.results), offline=True))
        except UserError:
            return False
        return True

    def phase(self) -> str:
        """The phase that the newest log tells of last."""
        logs = sorted(self.results.glob("*/training_log.log"), key=lambda path: path.stat().st_mtime)
        found = PHASE.findall(logs[-1].read_text(encoding="utf-8")) if logs else []
        return found[-1] if found else "0"


def main() -> int:
    """Print the table; 1 if a training lost something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rows", type=int, default=66, help="readings of the bundled table")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--project", action="store_true", help="through mlflow run")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="nada-se-perde-"))
    words = settings(scratch, options.rows, options.epochs)

    alone = Place(scratch / "alone", words, options.project)
    began = time.perf_counter()
    if alone.start(resume=False).wait():
        sys.exit((alone.folder / "console.txt").read_text(encoding="utf-8")[-3000:])
    whole = time.perf_counter() - began
    killed = Place(scratch / "killed", words, options.project)
    phases = kill_again_and_again(killed, random.Random(options.seed), options.kills, whole)
    faults, ended, left = compare(alone, killed)
    print("| seed | kills | of them in phases 0 to 11 | trainings ended | what differs | runs left RUNNING |")
    print("| ---: | ---: | --- | ---: | ---: | ---: |")
    told = ", ".join(f"{phase}: {count}" for phase, count in sorted(phases.items(), key=lambda item: int(item[0])))
    print(f"| {options.seed} | {sum(phases.values())} | {told} | {ended} | {len(faults)} | {left} |")
    for fault in faults[:20]:
        print(f"\n- {fault}")
    if faults or left:
        print(f"\nKept: {scratch}")
        return 1
    shutil.rmtree(scratch)
    return 0


def settings(scratch: Path, rows: int, epochs: int) -> list[str]:
    """A training of seconds, the same to the last bit each time."""
    import pandas as pd

    table = pd.read_csv(ROOT / "data" / "cartas.csv").groupby("carta").head(-(-rows // 22)).head(rows)
    table.to_csv(scratch / "leituras.csv", index=False)
    return [
        "model.name=data/base/cartas-t5-mini",
        f"data.path={scratch / 'leituras.csv'}",
        f"training.epochs={epochs}",
        "training.learning_rate=1e-3",
        "training.precision=float32",
        "lora.target_modules=all-linear",
        "early_stopping.patience=0",
        "generation.max_new_tokens=24",
        "tracking.log_every_steps=1",
        "tracking.system_metrics=false",
        "tracking.checkpoint_minutes=0.05",
    ]


def kill_again_and_again(place: Place, chance: random.Random, kills: int, whole: float) -> dict[str, int]:
    """Kill, and go on; how often in which phase."""
    phases: collections.Counter[str] = collections.Counter()
    while True:
        process = place.start(resume=place.has_unfinished())
        if sum(phases.values()) == kills:
            if process.wait():
                sys.exit((place.folder / "console.txt").read_text(encoding="utf-8")[-3000:])
            return phases
        try:
            code = process.wait(chance.uniform(0, whole))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            phases[place.phase()] += 1
            print(f"{sum(phases.values())} of {kills}, phase {place.phase()}", file=sys.stderr)
            continue
        if code:
            sys.exit((place.folder / "console.txt").read_text(encoding="utf-8")[-3000:])


def compare(alone: Place, killed: Place) -> tuple[list[str], int, int]:
    """What differs from the undisturbed training, in words; how many trainings ended; how many runs say RUNNING."""
    (right,) = runs_of(alone)
    expected = series_of(alone, right)
    faults, ended, left = [], 0, 0
    for run in runs_of(killed):
        left += run.info.status == "RUNNING"
        found = series_of(killed, run)
        for name, points in found.items():
            steps = [step for step, _ in points]
            if len(steps) != len(set(steps)):
                faults.append(f"{run.info.run_id}: {name} has {len(steps) - len(set(steps))} steps twice")
        if run.info.status != "FINISHED" or run.data.tags.get("outcome") != "finished":
            continue
        ended += 1
        for name in sorted(set(expected) | set(found)):
            if expected.get(name) != found.get(name):
                faults.append(f"{run.info.run_id}: {name}: {found.get(name)}, not {expected.get(name)}")
    return faults, ended, left


def runs_of(place: Place) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(place.store)
    return list(client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id], max_results=1000))


def series_of(place: Place, run: object) -> dict[str, list[tuple[int, float]]]:
    """Every series that is the training's and not the clock's."""
    from mlflow import MlflowClient

    client = MlflowClient(place.store)
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
        if name.startswith(SAME_FOR_ALL) and name not in NOT_OF_THE_TRAINING
    }


if __name__ == "__main__":
    sys.exit(main())
