"""A base made from scratch: from a folder of texts to a model that ``train`` takes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file
from trainings import environment_elsewhere

from cartas_mlflow.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR, main
from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.errors import DataError, RunInterrupted, SettingError, TrainingError, UserError
from cartas_mlflow.pipelines.pretrain import pretrain
from cartas_mlflow.pipelines.train import train
from cartas_mlflow.pretraining import phases as pretraining_phases

ESSAYS = sorted((PROJECT_ROOT / "data" / "arcanos").glob("*.md"))
SMALL = {
    "pretrain.precision": "float32",  # which a busy machine may find now the faster one, now not
    "pretrain.vocabulary": "1000",
    "pretrain.shape.d_model": "64",
    "pretrain.shape.d_ff": "64",
    "pretrain.shape.heads": "1",
    "pretrain.shape.encoder_layers": "1",
    "pretrain.shape.decoder_layers": "2",
    "pretrain.rows": "8",
    "pretrain.total_tokens": "110000",
    "pretrain.warmup_tokens": "5000",
    "pretrain.decay_tokens": "40000",
    "pretrain.domain_tokens": "60000",
    "pretrain.log_steps": "10",
    "pretrain.eval_steps": "20",
    "pretrain.threads": "1",
    "tracking.system_metrics": "false",
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paragraphs of six essays as plain text, one a line."""
    folder = tmp_path_factory.mktemp("corpus")
    for path in ESSAYS[:6]:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        plain = "\n".join(re.sub(r"^\*\*[^*]+\*\* ", "", line) for line in lines)
        (folder / f"{path.stem}.txt").write_text(plain, encoding="utf-8")
    return folder


@pytest.fixture
def settings(corpus: Path, tmp_path: Path) -> dict[str, str]:
    """A pre-training of about a minute's tenth, with two essays as its domain."""
    essays = tmp_path / "ensaios"
    essays.mkdir()
    for path in ESSAYS[6:8]:
        shutil.copy(path, essays)
    return {
        **SMALL,
        "pretrain.corpus": str(corpus),
        "pretrain.essays": str(essays),
        "pretrain.output": str(tmp_path / "base"),
    }


def pretrain_command(settings: Mapping[str, str], folder: Path, store: str) -> subprocess.CompletedProcess[str]:
    words = [f"--{key}={value}" for key, value in settings.items()]
    return subprocess.run(
        [sys.executable, "-m", "cartas_mlflow", "pretrain", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "MLFLOW_TRACKING_URI": store},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )


def runs_of(store: str) -> list[Run]:
    client = MlflowClient(store)
    return client.search_runs([client.get_experiment_by_name("cartas-ptt5").experiment_id])


def curve(store: str, run: Run, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient(store).get_metric_history(run.info.run_id, name)]


def interrupt_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a real SIGINT when so many steps are done."""
    from cartas_mlflow.pretraining.record import Watch

    after_step = Watch.after_step

    def signalled(watch: Watch, loss: float) -> None:
        after_step(watch, loss)
        if watch.training.progress.step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Watch, "after_step", signalled)


# The command


@pytest.mark.slow
def test_the_command_makes_a_base_that_train_takes(
    settings: dict[str, str], small_table: Path, tmp_path: Path, tracking_store: str
) -> None:
    made = pretrain_command(settings, tmp_path, tracking_store)
    assert made.returncode == 0, made.stdout + made.stderr
    assert made.stderr == ""
    base = tmp_path / "base" / "base"
    assert f"✅ Base gravada em: {base} (0.11 milhões de tokens em " in made.stdout
    phases = [int(found) for found in re.findall(r"^(\d)\. ", made.stdout, re.MULTILINE)]
    assert phases == [1, 2, 3, 4, 5, 6]
    assert re.search(r"^Passo 20 \(\d+ %\): perda \d\.\d{3}; .* restam cerca de ", made.stdout, re.MULTILINE)

    (run,) = runs_of(tracking_store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "pré-treino · 0,2 M parâmetros · 0,1 M tokens"
    assert run.data.tags["outcome"] == "finished"
    assert run.data.tags["mlflow.note.content"].startswith("**Concluído:** 0,11 milhões de tokens em ")
    assert run.data.params["pretrain.shape.d_model"] == "64"
    assert run.data.params["derived.corpus_documents"] != "0"
    for name in ("eval/bits_per_character", "domain_eval/bits_per_character"):
        steps, values = zip(*curve(tracking_store, run, name), strict=True)
        assert steps[:3] == (0, 20, 40)
        assert list(values) == sorted(values, reverse=True), "the held-out loss falls"
        assert values[-1] < 0.8 * values[0]
    steps = [step for step, _ in curve(tracking_store, run, "train/loss")]
    assert steps == list(range(10, 10 * len(steps) + 1, 10))

    trained = train(
        overrides={
            "model.name": str(base),
            "model.fallback": "none",
            "data.path": str(small_table),
            "training.epochs": "1",
            "generation.max_new_tokens": "8",
            "tracking.system_metrics": "false",
        }
    )
    assert MlflowClient(tracking_store).get_run(trained.run_id).data.params["model.resolved"] == str(base)


@pytest.mark.slow
def test_an_interrupted_pre_training_goes_on_in_its_run_to_the_same_weights(
    settings: dict[str, str], tmp_path: Path, tracking_store: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(overrides={**settings, "pretrain.output": str(tmp_path / "inteiro")})
    with monkeypatch.context() as patch, pytest.raises(RunInterrupted):
        interrupt_after(23, patch)
        pretrain(overrides=settings)
    folder = tmp_path / "base"
    assert f"✅ Checkpoint salvo em: {folder / 'checkpoint.pt'}" in said
    how = f"Para continuar: repita o comando com a mesma pasta (pretrain.output={folder})."
    assert how in said
    assert not (folder / "base").exists()
    stopped = next(run for run in runs_of(tracking_store) if run.info.status == "KILLED")
    assert stopped.data.tags["outcome"] == "interrupted"
    assert stopped.data.tags["mlflow.note.content"] == f"**Interrompida.** {how}"

    said.clear()
    resumed = pretrain(overrides=settings)
    assert any(line.startswith("Continuando do passo 23 (") for line in said)
    ours, theirs = (load_file(base / "model.safetensors") for base in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    after = {run.info.run_id: run for run in runs_of(tracking_store)}
    assert len(after) == 2
    gone_on = after[stopped.info.run_id]
    assert gone_on.info.status == "FINISHED"
    steps = [step for step, _ in curve(tracking_store, gone_on, "eval/nats_per_piece")]
    assert steps[:3] == [0, 20, 40]
    assert steps == sorted(set(steps))

    said.clear()
    again = pretrain(overrides=settings)
    assert any(line.startswith("O pré-treino já está completo") for line in said)
    assert all((load_file(again / "model.safetensors")[name] == theirs[name]).all() for name in theirs)


@pytest.mark.slow
def test_a_base_that_learnt_on_is_written_as_the_mean_with_the_one_it_began_with(
    settings: dict[str, str], tmp_path: Path, tracking_store: str, said: list[str]
) -> None:
    short = {**settings, "pretrain.total_tokens": "30000", "pretrain.decay_tokens": "10000"}
    before = pretrain(overrides={**short, "pretrain.output": str(tmp_path / "antes")})
    on = {**short, "pretrain.start": str(before), "pretrain.start_keeps": "all"}
    weights = load_file(before / "model.safetensors")

    half = load_file(pretrain(overrides={**on, "pretrain.start_weight": "0.5"}) / "model.safetensors")
    assert f"Média com os pesos de {before} (50 % deles):" in said
    assert "| weights | 50% those of" in (tmp_path / "base" / "base" / "README.md").read_text(encoding="utf-8")
    (last, learnt), (step, mixed) = curve(tracking_store, runs_of(tracking_store)[0], "eval/bits_per_character")[-2:]
    assert (step, mixed != learnt) == (last + 1, True)

    (before / "model.safetensors").rename(tmp_path / "de-antes.safetensors")
    shutil.copy(tmp_path / "base" / "base" / "model.safetensors", before)
    with pytest.raises(TrainingError, match=f"^O base {before} mudou desde o início do pré-treino em "):
        pretrain(overrides={**on, "pretrain.start_weight": "0.25"})
    whole = load_file(pretrain(overrides=on) / "model.safetensors")  # nothing is learnt again
    assert sum("já está completo" in line for line in said) == 1
    for name, tensor in half.items():
        torch.testing.assert_close(
            tensor.float(), (weights[name].float() + whole[name].float()) / 2, atol=4e-3, rtol=2e-2, msg=name
        )
        assert not torch.equal(tensor, whole[name]), name


@pytest.mark.slow
def test_mlflow_run_goes_on_with_a_pre_training_in_the_run_that_it_opened(
    settings: dict[str, str], tracking_store: str
) -> None:
    pretrain(overrides={**settings, "pretrain.minutes": "0.0001"})
    (first,) = runs_of(tracking_store)
    words = [word for key, value in settings.items() for word in ("-P", f"{key}={value}")]
    project = ["mlflow", "run", str(PROJECT_ROOT), "-e", "pretrain", "--env-manager", "local"]
    done = subprocess.run(
        [*project, "--experiment-name", "cartas-ptt5", *words],
        env=environment_elsewhere(MLFLOW_TRACKING_URI=tracking_store, PYTHONPATH=str(PROJECT_ROOT)),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^Continuando do passo 1 \(", done.stdout, re.MULTILINE)
    (second,) = (run for run in runs_of(tracking_store) if run.info.run_id != first.info.run_id)
    assert second.info.status == "FINISHED"
    assert second.data.tags["resumed_from"] == first.info.run_id
    assert second.data.params["pretrain.rows"] == "8"
    # The new run is told everything from the first step on.
    assert [step for step, _ in curve(tracking_store, second, "eval/nats_per_piece")][:4] == [0, 1, 20, 40]


def test_the_command_answers_an_interruption_with_its_own_exit_code(
    settings: dict[str, str], tracking_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(2, monkeypatch)
    assert main(["pretrain", *(f"--{key}={value}" for key, value in settings.items())]) == EXIT_INTERRUPTED


def test_the_time_that_is_up_still_gives_a_base(settings: dict[str, str], tracking_store: str, said: list[str]) -> None:
    base = pretrain(overrides={**settings, "pretrain.minutes": "0.0001"})
    assert (base / "model.safetensors").exists()
    (run,) = runs_of(tracking_store)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.note.content"].startswith("**Parou pelo tempo (pretrain.minutes):** ")
    assert any(line.startswith("⏱️ O tempo (pretrain.minutes) acabou antes do fim") for line in said)


# What the user can get wrong


def refusal(settings: Mapping[str, str], kind: type[UserError], **changed: str) -> str:
    with pytest.raises(kind) as error:
        pretrain(overrides={**settings, **{f"pretrain.{name}": value for name, value in changed.items()}})
    return str(error.value)


def test_without_a_corpus_the_user_is_asked_for_one(tracking_store: str, said: list[str]) -> None:
    assert main(["pretrain"]) == EXIT_USER_ERROR
    assert said[-1] == ("❌ Falta a pasta do corpus; indique-a com pretrain.corpus=PASTA (arquivos .txt em português).")


def test_a_corpus_that_is_not_there_or_empty_is_named(
    settings: dict[str, str], tmp_path: Path, tracking_store: str
) -> None:
    missing, empty = tmp_path / "nada", tmp_path / "vazia"
    assert refusal(settings, DataError, corpus=str(missing)) == (
        f"A pasta do corpus {missing} (pretrain.corpus) não existe; indique a pasta onde estão os arquivos .txt."
    )
    empty.mkdir()
    (empty / "texto.doc").write_text("Uma frase.", encoding="utf-8")
    assert refusal(settings, DataError, corpus=str(empty)) == (
        f"A pasta do corpus {empty} (pretrain.corpus) não tem nenhum .txt; ponha ali os textos, um parágrafo por linha."
    )


def test_essays_that_are_not_there_are_named(settings: dict[str, str], corpus: Path, tracking_store: str) -> None:
    assert refusal(settings, DataError, essays="nada") == (
        "A pasta dos ensaios nada (pretrain.essays) não existe; indique outra, ou pretrain.essays=none."
    )
    assert refusal(settings, DataError, essays=str(corpus)) == (
        f"A pasta dos ensaios {corpus} (pretrain.essays) não tem nenhum .md; indique outra, ou pretrain.essays=none."
    )


def test_an_output_that_cannot_be_a_folder_is_named(
    settings: dict[str, str], tmp_path: Path, tracking_store: str
) -> None:
    (tmp_path / "arquivo").write_text("", encoding="utf-8")
    for output in (tmp_path / "arquivo", tmp_path / "arquivo" / "dentro"):
        assert refusal(settings, SettingError, output=str(output)) == (
            f"pretrain.output={output} não é uma pasta; indique outra."
        )


def test_a_folder_with_other_things_in_it_is_left_alone(
    settings: dict[str, str], tmp_path: Path, tracking_store: str
) -> None:
    (tmp_path / "dados" / "base").mkdir(parents=True)
    assert refusal(settings, SettingError, output=str(tmp_path / "dados")) == (
        f"pretrain.output={tmp_path / 'dados'} já tem arquivos que não são de um pré-treino; indique uma pasta nova ou "
        "vazia."
    )


def test_weights_and_shares_that_make_no_sense_are_refused(settings: dict[str, str], tracking_store: str) -> None:
    assert refusal(settings, SettingError, weights="biblia=2") == (
        "A configuração pretrain.weights=biblia=2 (linha de comando) não serve: escreva nome:peso para cada arquivo, "
        "separados por vírgula (ex.: biblia:0.15)."
    )
    assert refusal(settings, SettingError, prefix_share="0.9", span_share="0.2") == (
        "pretrain.prefix_share, pretrain.span_share e pretrain.reword_share somam 1.2; são frações do mesmo todo, até "
        "1."
    )
    for wrong in ({}, {"start": "data/base/cartas-t5-mini"}):
        assert refusal(settings, SettingError, start_weight="0.5", **wrong) == (
            "pretrain.start_weight=0.5 pede pretrain.start=PASTA e pretrain.start_keeps=all; indique-os, ou retire-o."
        )


def test_compiling_without_a_compiler_is_refused_at_once(
    settings: dict[str, str], tracking_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining_phases, "COMPILERS", ("no-such-compiler",))
    monkeypatch.delenv("CXX", raising=False)
    assert refusal(settings, SettingError, compile="true") == (
        "pretrain.compile=true precisa de um compilador de C++, e este computador não tem; instale o g++ ou use "
        "pretrain.compile=false."
    )


def test_a_vocabulary_that_the_corpus_does_not_give_fails_the_run(
    settings: dict[str, str], tracking_store: str
) -> None:
    sentence = refusal(settings, SettingError, vocabulary="60000")
    assert re.fullmatch(
        r"pretrain\.vocabulary=60000 é mais do que este corpus permite; use pretrain\.vocabulary=\d+ ou menos, ou "
        r"junte mais texto\.",
        sentence,
    )
    (run,) = runs_of(tracking_store)
    assert (run.info.status, run.data.tags["failure"]) == ("FAILED", sentence)


def test_a_checkpoint_of_other_settings_or_other_texts_is_not_gone_on_with(
    settings: dict[str, str], tmp_path: Path, corpus: Path, tracking_store: str, said: list[str]
) -> None:
    pretrain(overrides={**settings, "pretrain.minutes": "0.0001"})
    folder = tmp_path / "base"
    assert refusal(settings, SettingError, matrix_lr="0.5") == (
        f"pretrain.matrix_lr=0.5 difere do pré-treino em {folder} (0.03); retire essa configuração para continuar, ou "
        "indique outra pasta em pretrain.output."
    )
    other = tmp_path / "outro"
    shutil.copytree(corpus, other)
    with (other / f"{ESSAYS[0].stem}.txt").open("a", encoding="utf-8") as stream:
        stream.write("\nMais uma frase para este corpus.\n")
    assert refusal(settings, TrainingError, corpus=str(other)) == (
        f"O corpus mudou desde o início do pré-treino em {folder}; recupere os textos de então, ou indique outra pasta "
        "em pretrain.output."
    )
    (folder / "checkpoint.pt").write_bytes(b"half a checkpoint")
    assert refusal(settings, TrainingError) == (
        f"O checkpoint {folder / 'checkpoint.pt'} não pôde ser lido; apague a pasta para recomeçar, ou indique outra "
        "em pretrain.output."
    )
    assert (
        json.loads((folder / "run.json").read_text(encoding="utf-8"))["run_id"]
        == runs_of(tracking_store)[0].info.run_id
    )
    (folder / "run.json").unlink()
    assert refusal(settings, TrainingError) == (
        f"{folder / 'checkpoint.pt'} não tem ao lado o run.json do seu pré-treino; indique outra pasta em "
        "pretrain.output."
    )
