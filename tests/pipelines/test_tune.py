"""The search from end to end: what it leaves in MLflow, and that any number of processes make one search of it."""

from __future__ import annotations

import csv
import gc
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hub_stand_in
import mlflow.artifacts
import pytest
import yaml
from databases import PASSWORD
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file

from cartas_mlflow.config import PROJECT_ROOT, load_config
from cartas_mlflow.errors import RunInterrupted, SearchError
from cartas_mlflow.pipelines.compare import compare
from cartas_mlflow.pipelines.train import train
from cartas_mlflow.pipelines.tune import SearchResult, tune
from cartas_mlflow.registry.model import open_logged
from cartas_mlflow.search import trial
from cartas_mlflow.search.known_settings import RECIPES, known_settings
from cartas_mlflow.search.space_file import load_search
from cartas_mlflow.search.storage import VARIABLE
from cartas_mlflow.search.trial import Bench
from cartas_mlflow.training import preparation

SPACE = {
    "training.epochs": 1,
    "training.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
    "lora.r": {"type": "int", "low": 2, "high": 32, "log": True},
}
SECRETS = ("S3gredo", "x}%@", "%7Bx%7D")
"""Pieces of the database's password, plain and as addresses write it."""


@dataclass(frozen=True)
class Place:
    """A folder with a configuration for a search on a tiny base, and the store in use there."""

    folder: Path
    config: str
    uri: str

    def tune(self, **values: Any) -> SearchResult:
        return tune(self.config, {name.replace("__", "."): str(value) for name, value in values.items()})

    def command(self, **values: Any) -> list[str]:
        words = [f"--{name.replace('__', '.')}={value}" for name, value in values.items()]
        return [sys.executable, "-m", "cartas_mlflow", "tune", "--config", self.config, *words]

    def runs(self) -> list[Run]:
        """Those of the search's experiment, the oldest first."""
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("busca")
        found = [] if experiment is None else client.search_runs([experiment.experiment_id])
        return sorted(found, key=lambda run: run.info.start_time)

    def trials(self) -> list[Run]:
        return [run for run in self.runs() if "trial.number" in run.data.tags]

    def parents(self) -> list[Run]:
        return [run for run in self.runs() if "mlflow.parentRunId" not in run.data.tags]


def place_in(folder: Path, base: Path, rows: list[dict[str, str]]) -> Place:
    with (folder / "leituras.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[:42])
    config = {
        "extends": "configs/default.yaml",
        "data": {"path": str(folder / "leituras.csv")},
        "model": {"name": str(base), "fallback": "none"},
        "training": {"precision": "float32"},
        "generation": {"max_new_tokens": 16},
        "tracking": {"experiment": "busca", "system_metrics": False, "output_dir": str(folder / "results")},
        "search": {"trials": 4, "startup_trials": 2, "heartbeat": 1},
        "space": SPACE,
    }
    (folder / "busca.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return Place(folder, str(folder / "busca.yaml"), f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture
def place(
    tmp_path: Path,
    tracking_store: str,
    tiny_base: Path,
    bundled_rows: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    monkeypatch.delenv(VARIABLE, raising=False)
    return place_in(tmp_path, tiny_base, bundled_rows)


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, created_store: Path, tiny_base: Path, bundled_rows: list[dict[str, str]]
) -> Iterator[Place]:
    """A finished search of four trials, its best adapter registered."""
    folder = tmp_path_factory.mktemp("busca")
    shutil.copy(created_store, folder / "mlflow.db")
    place = place_in(folder, tiny_base, bundled_rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", place.uri)
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", VARIABLE):
            patch.delenv(name, raising=False)
        mlflow.set_tracking_uri(place.uri)
        place.tune(study="noite", promote="true")
        yield place
    mlflow.set_tracking_uri(None)


def series(uri: str, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient(uri).get_metric_history(run.info.run_id, metric)]


def text_of(run: Run, path: str) -> str:
    return mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/{path}")


def artifacts(uri: str, run: Run, folder: str = "") -> list[str]:
    found = MlflowClient(uri).list_artifacts(run.info.run_id, folder or None)
    return sorted(path for file in found for path in (artifacts(uri, run, file.path) if file.is_dir else [file.path]))


def test_the_study_is_one_run_and_each_trial_a_run_under_it(searched: Place) -> None:
    (parent,) = searched.parents()
    assert (parent.info.run_name, parent.info.status, parent.data.tags["outcome"]) == (
        "busca noite",
        "FINISHED",
        "finished",
    )
    trials = searched.trials()
    assert [run.data.tags["trial.number"] for run in trials] == ["0", "1", "2", "3"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert {run.data.tags["trial.state"] for run in trials} == {"complete"}


def test_the_two_recipes_come_first_on_the_base_in_use(searched: Place) -> None:
    first, second, third, _ = searched.trials()
    assert (first.info.run_name, second.info.run_name) == ("tentativa 000 · receita 1", "tentativa 001 · receita 2")
    assert (first.data.params["training.learning_rate"], first.data.params["lora.r"]) == ("2e-05", "16")
    assert (second.data.params["training.learning_rate"], second.data.params["lora.r"]) == ("5e-05", "32")
    assert second.data.params["training.batch_size"] == "6", "what the space does not vary is the recipe's too"
    assert {run.data.params["training.epochs"] for run in (first, second, third)} == {"1"}
    assert third.data.tags["trial.label"] == "amostrador"


def test_the_trials_of_a_study_can_be_compared(searched: Place) -> None:
    page = compare(searched.config, {"search.study": "noite"}, runs="study:noite")
    (run,) = MlflowClient(searched.uri).search_runs([searched.parents()[0].info.experiment_id], "tags.utility LIKE '%'")
    ranking = sorted(searched.trials(), key=lambda trial: trial.data.metrics["trial/value"])
    assert [run.data.tags[f"compared.{letter}"] for letter in "ABC"] == [trial.info.run_id for trial in ranking[:3]]
    text = page.read_text(encoding="utf-8")
    assert "são precisas 20, e as diferenças não foram medidas." in text
    assert text.count('class="reading"') == 7
    MlflowClient(searched.uri).delete_run(run.info.run_id)


def test_a_trial_holds_what_a_training_holds(searched: Place) -> None:
    for run in searched.trials():
        files = artifacts(searched.uri, run)
        for expected in (
            "adapter/adapter_config.json",
            "adapter/adapter_model.safetensors",
            "adapter/tokenizer.json",
            "config/config_resolved.yaml",
            "data/split.csv",
            "plots/loss.png",
            "plots/metrics.png",
            "report/baselines.csv",
            "report/training_log.log",
            "report/training_metrics.json",
            "samples/base.csv",
            "samples/epoch-001.csv",
            "samples/final.csv",
        ):
            assert expected in files
        assert {"eval/chrf", "eval/loss", "train/loss", "final/chrf", "trial/value"} <= set(run.data.metrics)
        assert run.data.metrics["trial/value"] == run.data.metrics["final/loss"] == run.data.metrics["eval/loss"]
        assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["leituras", "leituras"]
    assert list((searched.folder / "results").glob("*/tentativa-*")) == []


def test_the_best_value_so_far_is_a_series_of_the_study(searched: Place) -> None:
    (parent,) = searched.parents()
    values = [run.data.metrics["trial/value"] for run in searched.trials()]
    best = [(place, min(values[:place])) for place in range(1, 5)]
    assert series(searched.uri, parent, "search/best_loss") == best


def test_the_study_has_pictures_a_page_and_the_table_of_trials(searched: Place) -> None:
    (parent,) = searched.parents()
    assert [path for path in artifacts(searched.uri, parent) if path.startswith("search/")] == [
        "search/best.yaml",
        "search/history.png",
        "search/importances.png",
        "search/parallel_coordinates.png",
        "search/slices.png",
        "search/study.html",
        "search/trials.csv",
    ]
    rows = list(csv.DictReader(io.StringIO(text_of(parent, "search/trials.csv"))))
    for row, run in zip(rows, searched.trials(), strict=True):
        assert (row["run_id"], row["state"], row["done_again"]) == (run.info.run_id, "complete", "False")
        assert float(row["value"]) == run.data.metrics["trial/value"]
        assert float(row["training.learning_rate"]) == float(run.data.params["training.learning_rate"])
    assert parent.data.params["space.lora.r"] == "2 … 32 (log)"
    result, settings, weighed, place = parent.data.tags["mlflow.note.content"].split("  \n")
    assert re.match(
        r"\*\*Perda \d,\d{4}\*\*, a melhor de 4 tentativas \(a \d, .*\); modelo sem ajuste: \d,\d{4};", result
    )
    assert "training.learning_rate" in settings
    assert weighed.endswith("(fANOVA, 4 tentativas na época 1; são poucas: uma pista).")
    assert "`-P config=best.yaml`" in place


def test_the_best_settings_train_to_the_last_bit_what_the_trial_trained(
    searched: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (parent,) = searched.parents()
    best = min(searched.trials(), key=lambda run: run.data.metrics["trial/value"])
    assert parent.data.tags["best.run"] == best.info.run_id
    config = tmp_path / "best.yaml"
    config.write_text(text_of(parent, "search/best.yaml"), encoding="utf-8")
    result = train(str(config), {"tracking.experiment": "de novo", "tracking.system_metrics": "false"})
    again = MlflowClient(searched.uri).get_run(result.run_id)
    for name in ("eval/chrf", "eval/rougeL", "eval/loss", "train/epoch_loss", "train/loss"):
        assert again.data.metrics[name] == best.data.metrics[name], name
    trained = load_file(result.adapter / "adapter_model.safetensors")
    folder = mlflow.artifacts.download_artifacts(run_id=best.info.run_id, artifact_path="adapter", dst_path=tmp_path)
    kept = load_file(Path(folder) / "adapter_model.safetensors")
    assert sorted(trained) == sorted(kept)
    assert all((trained[name] == kept[name]).all() for name in kept)


def test_the_best_adapter_is_the_studys_own_and_the_champion(searched: Place) -> None:
    client, (parent,) = MlflowClient(searched.uri), searched.parents()
    champion = client.get_model_version_by_alias("cartas-ptt5", "champion")
    assert champion.run_id == parent.info.run_id
    generator = open_logged("models:/cartas-ptt5@champion")
    rows = list(csv.DictReader(io.StringIO(text_of(parent, "samples/final.csv"))))
    import pandas as pd

    prompts = pd.DataFrame(rows)[["carta", "evento", "secao", "tema"]]
    assert generator.write(prompts) == [row["gerado"] for row in rows]
    assert parent.data.metrics["final/loss"] == pytest.approx(
        min(run.data.metrics["trial/value"] for run in searched.trials()), abs=0.01
    )


def test_from_the_end_of_a_trial_to_the_next_ones_first_step_it_takes_less_than_a_second(searched: Place) -> None:
    _, *later = [float(run.data.tags["trial.overhead_seconds"]) for run in searched.trials()]
    assert min(later) < 1.0, later


def test_the_champions_settings_are_tried_too(searched: Place) -> None:
    config, space = load_search(searched.config, {})
    client = MlflowClient(searched.uri)
    known = known_settings(config, searched.config, space, client, ())
    best = min(searched.trials(), key=lambda run: run.data.metrics["trial/value"])
    # A champion with a recipe's own settings is that recipe, once.
    own = [] if best.data.tags["trial.label"] in RECIPES else ["campeã (versão 1)"]
    assert [one.label for one in known] == [*RECIPES, *own]
    rates = {one.values.get("training.learning_rate", config.training.learning_rate) for one in known}
    assert float(best.data.params["training.learning_rate"]) in rates
    fixed = known_settings(config, searched.config, space, client, ("training.learning_rate",))
    assert all("training.learning_rate" not in one.values for one in fixed)


def test_the_same_command_goes_on_with_the_study_and_adds_only_what_is_missing(
    searched: Place, said: list[str]
) -> None:
    before = [run.info.run_id for run in searched.trials()]
    assert searched.tune(study="noite", trials=4).trials == 4
    assert [run.info.run_id for run in searched.trials()] == before
    result = searched.tune(study="noite", trials=6)
    assert result.trials == 6
    assert len(searched.trials()) == 6
    told = [line for line in said if "tentativas prontas" in line]
    assert told[0].startswith("  5 de 6 tentativas prontas; restam cerca de ")
    assert told[1] == "  6 de 6 tentativas prontas"
    parents = {run.info.run_id for run in searched.runs() if run.data.tags.get("search.study") == "noite"}
    assert parents == {result.run_id}
    assert MlflowClient(searched.uri).get_run(result.run_id).info.status == "FINISHED"


def test_without_a_hub_the_table_the_trials_and_the_space_stay_the_user_s(
    place: Place, tiny_base: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", f"{hub_stand_in.closed_port()}/{{repo_id}}"
    )
    reserve = {
        "extends": "configs/default.yaml",
        "model": {"name": str(tiny_base), "fallback": None},
        "lora": {"dropout": 0, "target_modules": ["all-linear"]},
        "early_stopping": {"metric": "bleu"},
        "search": {"trials": 99},
    }
    (place.folder / "reserva.yaml").write_text(yaml.safe_dump(reserve), encoding="utf-8")
    own = yaml.safe_load(Path(place.config).read_text(encoding="utf-8"))
    own |= {"model": {"fallback": "reserva.yaml"}, "space": {"training.epochs": 1, "lora.r": own["space"]["lora.r"]}}
    Path(place.config).write_text(yaml.safe_dump(own), encoding="utf-8")
    assert place.tune(trials=3, search__metric="chrf").trials == 3
    third = place.trials()[2].data
    assert third.tags["trial.label"] == "busca.yaml + reserva.yaml"
    assert third.params["data.path"] == str(place.folder / "leituras.csv")
    assert (third.params["training.epochs"], third.params["generation.max_new_tokens"]) == ("1", "16")
    assert (third.params["model.resolved"], third.params["lora.dropout"]) == (str(tiny_base), "0.0")
    assert third.params["early_stopping.metric"] == "chrf", "the search's own, on any base"
    assert not any("early_stopping.metric" in line for line in said), "which no box says to change"
    assert {run.data.tags.get("base_model.fallback") for run in place.trials()} == {"true"}


def test_a_study_begun_on_other_readings_is_not_gone_on_with(searched: Place, tmp_path: Path) -> None:
    text = (searched.folder / "leituras.csv").read_text(encoding="utf-8")
    (tmp_path / "outras.csv").write_text(text.replace("você", "tu"), encoding="utf-8")
    with pytest.raises(SearchError, match=r"O estudo noite .* foi aberto com leituras="):
        searched.tune(study="noite", data__path=tmp_path / "outras.csv")


def test_too_little_memory_is_a_failed_trial_with_the_reason(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    attach, calls = preparation.attach_lora, []

    def short_of_memory(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            torch.empty(1 << 60)  # more than any machine has: PyTorch's own refusal
        return attach(*args)

    monkeypatch.setattr(preparation, "attach_lora", short_of_memory)
    assert place.tune(trials=3).trials == 3
    states = [(run.data.tags["trial.state"], run.info.status) for run in place.trials()]
    assert states == [("complete", "FINISHED"), ("failed", "FAILED"), ("complete", "FINISHED")]
    assert "A memória não bastou" in place.trials()[1].data.tags["failure"]
    (parent,) = place.parents()
    rows = list(csv.DictReader(io.StringIO(text_of(parent, "search/trials.csv"))))
    assert rows[1]["reason"].startswith("A memória não bastou")


def test_ctrl_c_notes_the_trial_and_the_same_command_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    train_trial, begun = trial._train, []

    def interrupted(bench: Bench, run: Any, session: Any, setup: Any, pruning: Any) -> Any:
        begun.append(run.id)
        if len(begun) == 2:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(0.3)
        return train_trial(bench, run, session, setup, pruning)

    with monkeypatch.context() as patch:
        patch.setattr(trial, "_train", interrupted)
        with pytest.raises(RunInterrupted):
            place.tune(trials=3)
    assert [run.info.status for run in place.trials()] == ["FINISHED", "KILLED"]
    (parent,) = place.parents()
    assert (parent.info.status, parent.data.tags["outcome"]) == ("KILLED", "interrupted")
    assert place.tune(trials=3).trials == 3
    assert [run.data.tags["trial.state"] for run in place.trials()] == ["complete", "failed", "complete", "complete"]
    settings = [run.data.params.get("lora.r") for run in place.trials()]
    assert settings[2] == "32", "the second recipe, which was interrupted"
    assert [run.info.status for run in place.parents()] == ["FINISHED"]


def test_a_search_in_which_no_trial_ends_says_why(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SearchError, match=r"Nenhuma tentativa .* chegou ao fim; a última falhou assim: lora.target_modules"
    ):
        place.tune(trials=1, lora__target_modules="nenhum.assim")
    (parent,) = place.parents()
    assert (parent.info.status, parent.data.tags["outcome"]) == ("FAILED", "failed")


def test_a_base_is_the_same_after_fifty_adapters_and_memory_does_not_grow(place: Place, tiny_base: Path) -> None:
    import torch

    config = load_config(place.config)
    settled = preparation.settle_base(config, place.config, {})
    data = preparation.split_data(config, preparation.load_data(config))
    base = preparation.load_model(settled)
    bench = Bench(settled, data, base)

    def fingerprint() -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(base.model.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    before, modules, counts = fingerprint(), len(list(base.model.modules())), []
    for _ in range(50):
        with bench.set_up(config) as setup:
            assert setup.parameters.trainable > 0
        counts.append(tensors() if _ in {5, 49} else 0)
    assert fingerprint() == before
    assert len(list(base.model.modules())) == modules
    assert counts[49] <= counts[5]


@pytest.fixture
def start(place: Place, postgres: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts searches in processes of their own, on a study in a real PostgreSQL; kills what is left at the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(**values: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            place.command(**values),
            cwd=place.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**_environment(), "MLFLOW_TRACKING_URI": place.uri, VARIABLE: postgres, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_workers_on_a_postgresql_do_twelve_trials_in_one_study_and_show_no_password(
    place: Place, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(trials=12, study="dupla", workers=2)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    (parent,) = place.parents()
    rows = list(csv.DictReader(io.StringIO(text_of(parent, "search/trials.csv"))))
    assert [row["state"] for row in rows] == ["complete"] * 12
    assert {row["worker"] for row in rows} == {"1", "2"}
    assert len({(row["training.learning_rate"], row["lora.r"]) for row in rows}) == 12
    assert sorted(run.info.run_id for run in place.trials()) == sorted(row["run_id"] for row in rows)
    assert [step for step, _ in series(place.uri, parent, "search/best_loss")] == list(range(1, 13))
    assert "postgresql em 127.0.0.1" in output
    assert_no_secret(place.folder, output)


@pytest.mark.slow
def test_a_worker_killed_in_mid_trial_leaves_an_exact_study_of_twelve(
    place: Place, start: Callable[..., subprocess.Popen[str]]
) -> None:
    def running() -> list[str]:
        return [run.info.run_id for run in place.trials() if run.info.status == "RUNNING"]

    victim = start(trials=12, study="dupla")
    at_work = _wait_for(running)
    victim.send_signal(signal.SIGKILL)
    # Only now: on a busy machine the first worker does all twelve while the second is still starting.
    survivor = start(trials=12, study="dupla")
    output, _ = survivor.communicate(timeout=400)
    assert survivor.returncode == 0, output
    (parent,) = place.parents()
    rows = list(csv.DictReader(io.StringIO(text_of(parent, "search/trials.csv"))))
    again = [row for row in rows if row["done_again"] == "True"]
    assert len(again) == 1
    assert again[0]["state"] == "fail"
    assert [row["state"] for row in rows if row["done_again"] == "False"] == ["complete"] * 12
    dead = MlflowClient(place.uri).get_run(again[0]["run_id"])
    assert (dead.info.status, dead.data.tags["trial.state"]) == ("FAILED", "failed")
    assert dead.info.run_id in at_work
    assert (parent.info.status, parent.data.tags["outcome"]) == ("FINISHED", "finished")
    assert_no_secret(place.folder, output)


@pytest.mark.slow
def test_a_wrong_password_ends_the_command_in_one_sentence_without_it(place: Place, postgres: str) -> None:
    address = postgres.replace("S3gredo", "Errado99")
    done = subprocess.run(
        place.command(trials=2),
        cwd=place.folder,
        capture_output=True,
        text=True,
        check=False,
        env={**_environment(), "MLFLOW_TRACKING_URI": place.uri, VARIABLE: address},
    )
    assert done.returncode == 2, done.stderr
    assert "password authentication failed" in done.stdout
    assert "Traceback" not in done.stderr
    assert_no_secret(place.folder, done.stdout + done.stderr, "Errado99", "x}%@", "%7Bx%7D")


@pytest.mark.slow
def test_mlflow_runs_own_run_is_the_studys(place: Place) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mlflow", "run", str(PROJECT_ROOT), "-e", "tune", "--env-manager", "local"),
            *("--experiment-name", "busca", "-P", f"config={place.config}", "-P", "trials=1", "-P", "lora.dropout=0.2"),
        ],
        cwd=place.folder,
        capture_output=True,
        text=True,
        check=False,
        env={**_environment(), "MLFLOW_TRACKING_URI": place.uri, "PATH": _path()},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (parent,) = place.parents()
    assert (parent.info.run_name, parent.info.status) == ("busca busca", "FINISHED")
    assert parent.data.params["lora.dropout"] == "0.2"
    assert [run.data.params["lora.dropout"] for run in place.trials()] == ["0.2"]
    assert len(place.runs()) == 2


def test_the_run_of_a_worker_that_joins_stands_under_the_studys(
    searched: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (parent,) = searched.parents()
    opened = MlflowClient(searched.uri).create_run(parent.info.experiment_id)  # as mlflow run does
    monkeypatch.setenv("MLFLOW_RUN_ID", opened.info.run_id)
    assert searched.tune(study="noite", trials=1).run_id == parent.info.run_id
    worker = MlflowClient(searched.uri).get_run(opened.info.run_id)
    assert worker.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert worker.info.run_name == "trabalhador de noite"
    assert [run.info.run_id for run in searched.parents()] == [parent.info.run_id]


def assert_no_secret(folder: Path, output: str, *secrets: str) -> None:
    """Neither in what was said, nor in any file that the search left: databases, artifacts, logs."""
    assert PASSWORD not in output
    for secret in secrets or SECRETS:
        assert secret not in output
        holding = [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
        assert holding == [], secret


def _environment() -> Mapping[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_RUN", "MLFLOW_EXP"))}
    return {**inherited, "PYTHONPATH": str(PROJECT_ROOT)}


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def _wait_for(look: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found
