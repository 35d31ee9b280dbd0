"""The commands that MLproject calls: parse, call one pipeline, turn what the user can mend into one sentence."""

from __future__ import annotations

import difflib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cartas_mlflow import __version__
from cartas_mlflow.console import open_console, say
from cartas_mlflow.environment import complete_environment
from cartas_mlflow.errors import SettingError, UserError

PROGRAM = "python -m cartas_mlflow"
EXIT_OK, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 2 for what the user can mend, 130 when interrupted. A bug keeps its traceback.

    Args:
        arguments: the words after the program's name; by default those of the command line.
    """
    open_console()
    complete_environment()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # How many turns a thread waits by spinning before it sleeps. With none, an epoch of the embedded base on two cores
    # takes 1.5 times as long (GOMP_SPINCOUNT=0 python -m cartas_mlflow train --epochs 1); with the library's 300,000,
    # two trainings on the same cores strangle each other.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    # bitsandbytes reports a kernel that it does without as soon as PEFT imports it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        # Being told to stop is like Ctrl+C: what is open gets closed, the run's status tells the truth.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        say(f"❌ {error}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        say("⚠️ Interrompido pelo usuário (Ctrl+C)")
        return EXIT_INTERRUPTED


def train_command(config: str, overrides: Mapping[str, Any]) -> int:
    """Fine-tune one adapter."""
    from cartas_mlflow.config import load_config

    load_config(config, overrides)  # a wrong setting answers at once, not after seconds of importing what trains
    from cartas_mlflow.pipelines.train import train
    from cartas_mlflow.tracking.run import RunInterrupted

    try:
        train(config, overrides)
    except RunInterrupted as interruption:
        return interruption.exit_code
    return EXIT_OK


def tune_command(config: str, overrides: Mapping[str, Any]) -> int:
    """Search for hyperparameters."""
    from cartas_mlflow.search.space import load_search

    load_search(config, overrides)  # as above
    from cartas_mlflow.pipelines.tune import tune
    from cartas_mlflow.tracking.run import RunInterrupted

    try:
        tune(config, overrides)
    except RunInterrupted as interruption:
        return interruption.exit_code
    return EXIT_OK


def promote_command(config: str, overrides: Mapping[str, Any]) -> int:
    """Register a run's model and hold it against the champion, or roll the champion back."""
    from cartas_mlflow.config import load_config

    own, settings = _own_words("promote", overrides)
    load_config(config, settings)  # as above
    rollback, force = (_switch(name, own.get(name, "false")) for name in ("rollback", "force"))
    if rollback and (force or "run_id" in own):
        raise SettingError("rollback=true não combina com run_id nem com force; peça uma coisa de cada vez.")
    from cartas_mlflow.pipelines.promote import give_back, promote_run

    if rollback:
        give_back(config, settings)
    else:
        promote_run(config, settings, run_id=own.get("run_id"), force=force)
    return EXIT_OK


def generate_command(config: str, overrides: Mapping[str, Any]) -> int:
    """Write one reading, or a table of them."""
    from cartas_mlflow.config import load_config

    own, settings = _own_words("generate", overrides)
    load_config(config, settings)  # as above
    from cartas_mlflow.pipelines.generate import generate

    files = {name: own.pop(name, None) for name in ("model", "table", "output")}
    generate(config, settings, prompt=own, **files)
    return EXIT_OK


def evaluate_command(config: str, overrides: Mapping[str, Any]) -> int:
    """Measure a model on a table."""
    from cartas_mlflow.config import load_config

    own, settings = _own_words("evaluate", overrides)
    load_config(config, settings)  # as above
    from cartas_mlflow.pipelines.evaluate import evaluate

    evaluate(config, settings, model=own.get("model"))
    return EXIT_OK


def pretrain_command(config: str, overrides: Mapping[str, Any]) -> int:
    """Make a base from a corpus."""
    from cartas_mlflow.config import load_config

    load_config(config, overrides)  # as above
    from cartas_mlflow.pipelines.pretrain import pretrain
    from cartas_mlflow.tracking.run import RunInterrupted

    try:
        pretrain(config, overrides)
    except RunInterrupted as interruption:
        return interruption.exit_code
    return EXIT_OK


@dataclass(frozen=True)
class Command:
    """``run``: configuration file, overrides -> exit code; ``config``: the file where the user names none; ``words``:
    what can be said besides settings, with its meaning."""

    run: Callable[[str, Mapping[str, Any]], int]
    summary: str
    config: str = "configs/default.yaml"
    words: Mapping[str, str] = field(default_factory=dict)


MODEL_WORD = "models:/nome@champion, models:/nome/versão, id de execução ou pasta adapter/ (padrão: o campeão)"
COMMANDS = {
    "train": Command(train_command, "treina um adaptador LoRA com as leituras"),
    "tune": Command(tune_command, "busca hiperparâmetros, sozinho ou com outros processos", "configs/tune.yaml"),
    "promote": Command(
        promote_command,
        "registra o melhor treinamento e o compara com o campeão",
        words={
            "run_id": "a execução a promover (padrão: a melhor do experimento)",
            "force": "true promove mesmo sem vencer",
            "rollback": "true devolve o posto ao campeão anterior",
        },
    ),
    "generate": Command(
        generate_command,
        "gera uma leitura, ou uma tabela delas",
        words={
            "carta": "a carta de uma leitura só",
            "evento": "a ocasião dessa leitura",
            "secao": "a seção dessa leitura",
            "tema": "o tema dessa leitura",
            "table": "arquivo com os pedidos (csv, xlsx, jsonl ou parquet), em vez de uma carta",
            "output": "arquivo a gravar, com a coluna texto (csv, xlsx, jsonl ou parquet)",
            "model": MODEL_WORD,
        },
    ),
    "evaluate": Command(
        evaluate_command, "mede um modelo nas leituras de uma tabela (data.path)", words={"model": MODEL_WORD}
    ),
    "pretrain": Command(
        pretrain_command, "cria um modelo base a partir de um corpus (pretrain.corpus)", "configs/pretrain.yaml"
    ),
}


def read_overrides(words: Sequence[str]) -> dict[str, str]:
    """``--lora.r 32 --training.epochs=5`` -> ``{"lora.r": "32", "training.epochs": "5"}``.

    A value may start with a dash (``-0.5``), but only after ``=`` with two.

    Raises:
        SettingError: a word that is not a setting, a setting without a value, or one given twice.
    """
    overrides: dict[str, str] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, separator, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise SettingError(
                f"Não entendi {word!r}; escreva cada configuração como --seção.nome valor (ex.: --lora.r 32)."
            )
        if not separator:
            if not waiting or waiting[0].startswith("--"):
                raise SettingError(f"Falta o valor de --{name}; escreva --{name} valor.")
            value = waiting.pop(0)
        if name in overrides:
            raise SettingError(
                f"A configuração --{name} foi dada duas vezes ({overrides[name]} e {value}); deixe só uma."
            )
        overrides[name] = value
    return overrides


def _own_words(command: str, overrides: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """The command's own words and the settings."""
    known = COMMANDS[command].words
    for name in overrides:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        if name not in known and near:
            raise SettingError(f"O comando {command} não conhece --{name}; você quis dizer --{near[0]}?")
    own = {name: value for name, value in overrides.items() if name in known}
    return own, {name: value for name, value in overrides.items() if name not in known}


def _switch(name: str, value: str) -> bool:
    if value.lower() not in {"true", "false"}:
        raise SettingError(f"--{name} {value} não serve; deve ser true ou false.")
    return value.lower() == "true"


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in {"-h", "--help"}:
        say(_program_help())
        return EXIT_OK if words else EXIT_USER_ERROR
    name, *rest = words
    if name == "--version":
        say(__version__)
        return EXIT_OK
    if name not in COMMANDS:
        raise SettingError(_unknown_command_message(name))
    if "--help" in rest or "-h" in {*rest[:1], *rest[-1:]}:
        say(_command_help(name))
        return EXIT_OK
    overrides = read_overrides(rest)
    return COMMANDS[name].run(overrides.pop("config", COMMANDS[name].config), overrides)


def _unknown_command_message(name: str) -> str:
    if name.startswith("-"):
        return f"Falta o comando antes de {name}; escreva {PROGRAM} {next(iter(COMMANDS))} {name} …"
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    return f"O comando {name} não existe; " + (
        f"você quis dizer {near[0]}?" if near else f"use um destes: {', '.join(COMMANDS)}."
    )


def _program_help() -> str:
    width = max(map(len, COMMANDS)) + 2
    commands = "\n".join(f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items())
    return f"""uso: {PROGRAM} COMANDO [--config ARQUIVO] [--seção.nome valor ...]

Ajuste fino do PTT5 para leituras de cartas.

comandos:
{commands}

opções:
  -h, --help  mostra esta ajuda; depois de um comando, também as configurações
  --version   mostra a versão"""


def _command_help(name: str) -> str:
    from cartas_mlflow.settings import describe_settings

    summary = COMMANDS[name].summary
    settings = "\n".join(f"  --{setting:<34} {text}" for setting, text in describe_settings())
    words = "".join(f"\n  --{word:<15} {meaning}" for word, meaning in COMMANDS[name].words.items())
    return f"""uso: {PROGRAM} {name} [--config ARQUIVO] [--seção.nome valor ...]

{summary[0].upper()}{summary[1:]}.

opções:
  -h, --help        mostra esta ajuda
  --config ARQUIVO  arquivo YAML (padrão: {COMMANDS[name].config}){words}

configurações (--seção.nome valor; no mlflow run, -P seção.nome=valor; --epochs vale training.epochs):
{settings}"""
