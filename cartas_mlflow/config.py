"""YAML file + overrides -> one immutable :class:`~cartas_mlflow.settings.ExperimentConfig`.

Layers, later ones win: the defaults in ``settings.py``, the file's parents (``extends:``), the file, the fallback file
when the base model could not be had, the user's own ``-P`` values. A layer is a flat dict from dotted key to raw value.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cartas_mlflow.errors import SettingError
from cartas_mlflow.settings import ExperimentConfig, flatten, setting_names

PROJECT_ROOT = Path(__file__).resolve().parent.parent
DEFAULT_CONFIG = "configs/default.yaml"
ALIASES = {"epochs": "training.epochs"}
CONFIG_SAYS = "auto"
"""What MLproject passes for an alias that the user did not give: the configuration decides."""


def load_config(
    path: str | Path = DEFAULT_CONFIG, overrides: Mapping[str, Any] | None = None, *, fallback: str | Path | None = None
) -> ExperimentConfig:
    """Read a configuration file, lay the fallback file and the user's overrides over it, and check everything.

    Args:
        path: YAML file; relative to the working folder, or else to the project.
        overrides: dotted key -> raw value (text as typed, or typed). ``epochs`` stands for ``training.epochs``.
        fallback: second YAML file, laid over the first. The user's ``model.name`` and ``model.revision`` then no longer
            count: they name the base that could not be had.

    Raises:
        SettingError: a file that cannot be read, an unknown key, an ill-typed or out-of-range value.
    """
    given = {
        ALIASES.get(key, key): value
        for key, value in (overrides or {}).items()
        if not (key in ALIASES and value == CONFIG_SAYS)
    }
    if fallback is not None:
        given = {key: value for key, value in given.items() if key not in {"model.name", "model.revision"}}
    flat: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for file in filter(None, (path, fallback)):
        for key, value, where in _read_layers(file):
            flat[key], origin[key] = value, where
    for key, value in given.items():
        flat[key], origin[key] = value, "linha de comando"
    for key in flat:
        if key not in setting_names():
            raise SettingError(_unknown_key_message(key, origin[key]))
    try:
        config = ExperimentConfig.model_validate(_nest(flat))
    except ValidationError as error:
        raise SettingError(_value_message(error, origin)) from None
    _check_combinations(config)
    return config


def find_project_file(path: str | Path) -> Path:
    """The file as the user means it: in the working folder, or else inside the project's own folder."""
    given = Path(path).expanduser()
    if given.is_absolute() or given.exists():
        return given
    return PROJECT_ROOT / given if (PROJECT_ROOT / given).exists() else given


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


def _read_layers(path: str | Path, seen: tuple[Path, ...] = ()) -> Iterator[tuple[str, Any, str]]:
    file = find_project_file(path)
    if file.resolve() in seen:
        raise SettingError(f"A configuração {file} herda de si mesma por extends; retire um dos extends.")
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise SettingError(
            f"O arquivo de configuração {path} não existe; confira o caminho (ex.: {DEFAULT_CONFIG})."
        ) from None
    except IsADirectoryError:
        raise SettingError(
            f"A configuração {path} é uma pasta; indique um arquivo YAML (ex.: {DEFAULT_CONFIG})."
        ) from None
    except UnicodeDecodeError:
        raise SettingError(f"A configuração {path} não é um texto UTF-8; salve o arquivo YAML em UTF-8.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", linha {mark.line + 1}" if mark else ""
        raise SettingError(f"A configuração {path}{line} não é YAML válido; corrija a sintaxe.") from None
    if not isinstance(tree, dict):
        raise SettingError(f"A configuração {path} deve ser um mapa de seções (ex.: training: {{epochs: 20}}).")
    parent = tree.pop("extends", None)
    if parent is not None:
        beside = file.parent / str(parent)
        yield from _read_layers(beside if beside.exists() else parent, (*seen, file.resolve()))
    for key, value in flatten(tree).items():
        if isinstance(value, dict) or (value is None and any(name.startswith(f"{key}.") for name in setting_names())):
            continue
        yield key, value, str(path)


def _unknown_key_message(key: str, where: str) -> str:
    names = [*setting_names(), *ALIASES]
    by_last_part = [name for name in names if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near = by_last_part or difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    if not near:
        last = difflib.get_close_matches(
            key.rsplit(".", 1)[-1], [name.rsplit(".", 1)[-1] for name in names], n=1, cutoff=0.5
        )
        near = [name for name in names if last and name.rsplit(".", 1)[-1] == last[0]]
    hint = f"você quis dizer {near[0]}?" if near else "veja todas com python -m cartas_mlflow train --help."
    return f"A configuração {key} ({where}) não existe; {hint}"


def _value_message(error: ValidationError, origin: Mapping[str, str]) -> str:
    first = error.errors()[0]
    names = setting_names()
    key = ".".join(str(part) for part in first["loc"])
    while key not in names and "." in key:
        key = key.rsplit(".", 1)[0]
    value = first["input"]
    shown = ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else value
    return (
        f"A configuração {key}={shown} ({origin.get(key, 'padrão')}) não serve: {_expectation(first, names.get(key))}."
    )


def _expectation(error: Mapping[str, Any], field: Any) -> str:
    kind, context = error["type"], error.get("ctx", {})
    bounds = {
        "greater_than": ("gt", "deve ser maior que {}"),
        "greater_than_equal": ("ge", "deve ser no mínimo {}"),
        "less_than": ("lt", "deve ser menor que {}"),
        "less_than_equal": ("le", "deve ser no máximo {}"),
    }
    if kind in bounds:
        name, sentence = bounds[kind]
        return sentence.format(
            str(context[name]).replace(".", ",") if isinstance(context[name], float) else context[name]
        )
    if kind == "literal_error":
        options = [option.strip("' ") for option in context["expected"].replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(str(error["input"]), options, n=1, cutoff=0.4)
        if options == ["auto"]:
            return "use auto ou um número inteiro a partir de 1"
        return f"use {', '.join(options)}" + (f" (o mais próximo é {near[0]})" if near else "")
    if kind.startswith("int"):
        return "deve ser um número inteiro"
    if kind.startswith("float") or kind == "finite_number":
        return "deve ser um número (com ponto decimal, ex.: 5e-5)"
    if kind.startswith("bool"):
        return "deve ser true ou false"
    if kind in {"string_too_short", "too_short"}:
        return "não pode ficar vazia"
    return f"o valor esperado é: {field.description}" if field is not None else "o valor tem o tipo errado"


def _check_combinations(config: ExperimentConfig) -> None:
    training, generation = config.training, config.generation
    if isinstance(training.micro_batch_size, int) and training.batch_size % training.micro_batch_size:
        raise SettingError(
            f"training.micro_batch_size={training.micro_batch_size} não divide training.batch_size="
            f"{training.batch_size}; use um divisor de {training.batch_size}, ou auto."
        )
    if generation.min_new_tokens > generation.max_new_tokens:
        raise SettingError(
            f"generation.min_new_tokens={generation.min_new_tokens} é maior que generation.max_new_tokens="
            f"{generation.max_new_tokens}; diminua o mínimo ou aumente o máximo."
        )
    if generation.do_sample and generation.num_beams > 1:
        raise SettingError(
            f"generation.do_sample=true não combina com generation.num_beams={generation.num_beams}; "
            "use num_beams=1 para sortear, ou do_sample=false para a busca em feixe."
        )
