"""The commands that MLproject calls, a row each: parse, call one pipeline, say in a sentence what the user can mend."""

from __future__ import annotations

import difflib
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any

from cartas_mlflow import __version__
from cartas_mlflow.console import open_console, say
from cartas_mlflow.environment import complete_environment
from cartas_mlflow.errors import RunInterrupted, SettingError, Undelivered, UserError

PROGRAM = "python -m cartas_mlflow"
EXIT_OK, EXIT_USER_ERROR, EXIT_UNDELIVERED, EXIT_INTERRUPTED = 0, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 2 for what the user can mend, 3 when the work is done and MLflow has not got
    all of it, 130 when interrupted. A bug keeps its traceback.

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
    except Undelivered as error:
        say(f"📦 {error}")
        return EXIT_UNDELIVERED
    except UserError as error:
        say(f"❌ {error}")
        return EXIT_USER_ERROR
    except RunInterrupted as interruption:
        return interruption.exit_code
    except KeyboardInterrupt:
        say("⚠️ Interrompido pelo usuário (Ctrl+C)")
        return EXIT_INTERRUPTED


@dataclass(frozen=True)
class Word:
    """What can be said to a command besides settings.

    ``switch``: it is true or false. ``into``: the pipeline gets it inside the mapping of this name.
    """

    meaning: str
    switch: bool = False
    into: str | None = None


@dataclass(frozen=True)
class Command:
    """A pipeline as the command line offers it: ``pipelines/NAME.py`` holds the function of the same name.

    ``config``: the file where the user names none; ``words``: its keyword arguments; ``operand``: the one of them that
    may be said first and without its name; ``check``: reads file and
    overrides, so that a wrong setting answers at once, not after seconds of importing what trains.
    """

    summary: str
    config: str = "configs/default.yaml"
    words: Mapping[str, Word] = field(default_factory=dict)
    operand: str | None = None
    check: str = "cartas_mlflow.config:load_config"


MODEL = Word("models:/nome@champion, models:/nome/versão, id de execução ou pasta adapter/ (padrão: o campeão)")
COMMANDS = {
    "train": Command("treina um adaptador LoRA com as leituras", check="cartas_mlflow.training.door:check_training"),
    "check": Command(
        "confere uma tabela (data.path) antes de treinar",
        words={"output": Word("arquivo onde gravar a tabela limpa (csv, xlsx, jsonl ou parquet)")},
    ),
    "tune": Command(
        "busca hiperparâmetros, sozinho ou com outros processos",
        "configs/tune.yaml",
        check="cartas_mlflow.search.space_file:load_search",
    ),
    "promote": Command(
        "registra o melhor treinamento e o compara com o campeão",
        words={
            "run_id": Word("a execução a promover (padrão: a melhor do experimento)"),
            "force": Word("true promove mesmo sem vencer", switch=True),
            "rollback": Word("true devolve o posto ao campeão anterior", switch=True),
        },
    ),
    "compare": Command(
        "põe execuções lado a lado: configurações, medidas e leituras",
        words={
            "runs": Word(
                "as execuções, separadas por vírgulas: ids, nomes, last:3, study:NOME ou champion (padrão: last:2)"
            )
        },
    ),
    "generate": Command(
        "gera uma leitura, ou uma tabela delas",
        words={
            "carta": Word("a carta de uma leitura só", into="prompt"),
            "evento": Word("a ocasião dessa leitura", into="prompt"),
            "secao": Word("a seção dessa leitura", into="prompt"),
            "tema": Word("o tema dessa leitura", into="prompt"),
            "table": Word("arquivo com os pedidos (csv, xlsx, jsonl ou parquet), em vez de uma carta"),
            "output": Word("arquivo a gravar, com a coluna texto (csv, xlsx, jsonl ou parquet)"),
            "model": MODEL,
        },
    ),
    "evaluate": Command("mede um modelo nas leituras de uma tabela (data.path)", words={"model": MODEL}),
    "sync": Command(
        "entrega ao MLflow o que os treinos guardaram enquanto ele não respondia",
        words={"folder": Word("a pasta de um treino, ou uma com vários (padrão: tracking.output_dir)")},
        operand="folder",
    ),
    "pretrain": Command("cria um modelo base a partir de um corpus (pretrain.corpus)", "configs/pretrain.yaml"),
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


def _own_words(command: str, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's keyword arguments and the settings."""
    known = COMMANDS[command].words
    own: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for name, value in overrides.items():
        word = known.get(name)
        if word is not None and word.into is not None:
            own.setdefault(word.into, {})[name] = value
        elif word is not None:
            own[name] = _switch(name, value) if word.switch else value
        elif near := difflib.get_close_matches(name, known, n=1, cutoff=0.7):
            raise SettingError(f"O comando {command} não conhece --{name}; você quis dizer --{near[0]}?")
        else:
            settings[name] = value
    return own, settings


def _switch(name: str, value: str) -> bool:
    if value.lower() not in {"true", "false"}:
        raise SettingError(f"--{name} {value} não serve; deve ser true ou false.")
    return value.lower() == "true"


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in {"-h", "--help"}:
        say(_program_help(), whole=True)
        return EXIT_OK if words else EXIT_USER_ERROR
    name, *rest = words
    if name == "--version":
        say(__version__)
        return EXIT_OK
    if name not in COMMANDS:
        raise SettingError(_unknown_command_message(name))
    if "--help" in rest or "-h" in {*rest[:1], *rest[-1:]}:
        say(_command_help(name), whole=True)
        return EXIT_OK
    operand = COMMANDS[name].operand
    if operand is not None and rest and not rest[0].startswith("-"):
        rest = [f"--{operand}", *rest]
    overrides = read_overrides(rest)
    config = overrides.pop("config", COMMANDS[name].config)
    own, settings = _own_words(name, overrides)
    resolve_name(COMMANDS[name].check)(config, settings)
    resolve_name(f"cartas_mlflow.pipelines.{name}:{name}")(config, settings, **own)
    return EXIT_OK


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
    words = "".join(f"\n  --{own:<15} {word.meaning}" for own, word in COMMANDS[name].words.items())
    return f"""uso: {PROGRAM} {name} [--config ARQUIVO] [--seção.nome valor ...]

{summary[0].upper()}{summary[1:]}.

opções:
  -h, --help        mostra esta ajuda
  --config ARQUIVO  arquivo YAML (padrão: {COMMANDS[name].config}){words}

configurações (--seção.nome valor; no mlflow run, -P seção.nome=valor; --epochs vale training.epochs):
{settings}"""
