"""The commands that MLproject calls: parse, call one pipeline, turn what the user can mend into one sentence."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from cartas_mlflow import __version__
from cartas_mlflow.console import open_console, say
from cartas_mlflow.errors import SettingError, UserError

EXIT_OK, EXIT_USER_ERROR, EXIT_INTERRUPTED = 0, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0, 2 for what the user can mend, 130 when interrupted. A bug keeps its traceback."""
    open_console()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        options, rest = _parser().parse_known_args(arguments)
        return _run(options.command, options.config, read_overrides(rest))
    except UserError as error:
        say(f"❌ {error}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        say("⚠️ Interrompido pelo usuário (Ctrl+C)")
        return EXIT_INTERRUPTED


def train_command(config: str, overrides: Mapping[str, Any]) -> int:
    """Fine-tune one adapter."""
    from cartas_mlflow.pipelines.train import train
    from cartas_mlflow.tracking.run import RunInterrupted

    try:
        train(config, overrides)
    except RunInterrupted as interruption:
        return interruption.exit_code
    return EXIT_OK


COMMANDS = {"train": (train_command, "treina um adaptador LoRA com as leituras")}


def read_overrides(words: Sequence[str]) -> dict[str, str]:
    """``--lora.r 32 --training.epochs=5`` -> ``{"lora.r": "32", "training.epochs": "5"}``.

    Raises:
        SettingError: a word that is not a setting, or a setting without a value.
    """
    overrides: dict[str, str] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("--") or word == "--":
            raise SettingError(
                f"Não entendi {word!r}; escreva cada configuração como --seção.nome valor (ex.: --lora.r 32)."
            )
        name, separator, value = word[2:].partition("=")
        if not separator:
            if not waiting or waiting[0].startswith("--"):
                raise SettingError(f"Falta o valor de --{name}; escreva --{name} valor.")
            value = waiting.pop(0)
        overrides[name] = value
    return overrides


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingError(
            f"Comando incompleto ou desconhecido; use: python -m cartas_mlflow {{{','.join(COMMANDS)}}} [--help]."
        )


def _run(command: str | None, config: str, overrides: Mapping[str, Any]) -> int:
    if command is None:
        _parser().print_help()
        return EXIT_USER_ERROR
    return COMMANDS[command][0](config, overrides)


def _parser() -> argparse.ArgumentParser:
    from cartas_mlflow.config import DEFAULT_CONFIG

    common = {"add_help": False, "allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = _Parser(
        prog="python -m cartas_mlflow", description="Ajuste fino do PTT5 para leituras de cartas.", **common
    )
    _translate(parser)
    parser.add_argument("--version", action="version", version=__version__, help="mostra a versão")
    parser.set_defaults(config=DEFAULT_CONFIG)
    commands = parser.add_subparsers(dest="command", title="comandos", metavar="")
    for name, (_, help_text) in COMMANDS.items():
        command = commands.add_parser(
            name, help=help_text, usage="%(prog)s [--config ARQUIVO] [--seção.nome valor ...]", **common
        )
        _translate(command)
        command.add_argument("--config", default=DEFAULT_CONFIG, metavar="ARQUIVO", help=f"padrão: {DEFAULT_CONFIG}")
        if {"--help", "-h"} & set(sys.argv[1:]):
            command.description = f"{help_text[0].upper()}{help_text[1:]}."
            command.epilog = _settings_help()
    return parser


def _translate(parser: argparse.ArgumentParser) -> None:
    parser._optionals.title = "opções"
    parser.add_argument("-h", "--help", action="help", help="mostra esta ajuda")


def _settings_help() -> str:
    from cartas_mlflow.settings import describe_settings

    lines = ["configurações (--seção.nome valor; no mlflow run, -P seção.nome=valor; --epochs vale training.epochs):"]
    return "\n".join([*lines, *(f"  --{name:<38} {text}" for name, text in describe_settings())])
