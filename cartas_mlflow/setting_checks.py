"""YAML file + overrides -> one immutable :class:`~cartas_mlflow.settings.ExperimentConfig`.

Layers, later ones win: the defaults in ``settings.py``, the file's parents (``extends:``), the file, the fallback file
when the base model could not be had, the user's own ``-P`` values. A layer is a flat dict from dotted key to raw value.
"""

from __future__ import annotations

import difflib
import os
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cartas_mlflow.errors import SettingError
from cartas_mlflow.settings import RECORD_FIELDS, TEMPLATES, DataSettings, ExperimentConfig, flatten, setting_names

PROJECT_ROOT = Path(__file__).resolve().parent.parent
DEFAULT_CONFIG = "configs/default.yaml"
ALIASES = {
    "epochs": "training.epochs",
    "trials": "search.trials",
    "study": "search.study",
    "workers": "search.workers",
    "promote": "registry.register_model",
}
SPACE = "space"
"""The key of a configuration file that is no setting: the search space."""
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
        SettingError: a file that cannot be read, an unknown key, an ill-typed or out-of-range value, values that do not
            go together.
    """
    given = resolve_aliases(overrides or {})
    flat = _read_file(path)
    if fallback is not None:
        flat |= _read_file(fallback, "model.fallback")
        given = {key: value for key, value in given.items() if key not in {"model.name", "model.revision"}}
    config = _checked({**flat, **_from(given, "linha de comando")})
    if fallback is None and config.model.fallback is not None:
        _read_file(config.model.fallback, "model.fallback")  # a wrong one shows today, not on the day it is needed
    return config


def vary(config: ExperimentConfig, values: Mapping[str, Any], where: str) -> ExperimentConfig:
    """The same configuration with some settings changed, checked like a file's.

    Args:
        values: dotted key -> raw or typed value.
        where: what the values come from, for the error's sentence.

    Raises:
        SettingError: a value that is ill-typed or out of range, or does not go with the others.
    """
    return _checked({**{key: (value, "padrão") for key, value in config.flat().items()}, **_from(values, where)})


def read_search_space(path: str | Path) -> dict[str, Any] | None:
    """The ``space`` of a configuration file, as written; its parent's where it has none of its own.

    Raises:
        SettingError: a file that cannot be read, or a ``space`` that is not a map.
    """
    file = find_project_file(path)
    tree = _read_yaml(file, str(path))
    space = tree.get(SPACE)
    if space is None:
        return read_search_space(_parent_of(file, tree["extends"])) if "extends" in tree else None
    if not isinstance(space, dict):
        raise SettingError(f"{SPACE} ({path}) deve ser um mapa de configurações para o que se procura em cada uma.")
    return space


def stated_settings(path: str | Path) -> dict[str, Any]:
    """The settings that a configuration file and its parents state, typed; not those that they leave at the default.

    Raises:
        SettingError: see :func:`load_config`.
    """
    flat = load_config(path).flat()
    return {key: flat[key] for key in _read_file(path)}


def find_project_file(path: str | Path) -> Path:
    """The file as the user means it: in the working folder, or else inside the project's own folder."""
    try:
        given = Path(path).expanduser()
    except RuntimeError:  # ~name of a user that this machine does not have
        given = Path(path)
    if given.is_absolute() or _exists(given):
        return given
    return PROJECT_ROOT / given if _exists(PROJECT_ROOT / given) else given


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises on a name that is too long


def _from(values: Mapping[str, Any], where: str) -> dict[str, tuple[Any, str]]:
    for key in values:
        check_name(key, where)
    return {key: (value, where) for key, value in values.items()}


def _checked(flat: Mapping[str, tuple[Any, str]]) -> ExperimentConfig:
    try:
        config = ExperimentConfig.model_validate(_nest({key: value for key, (value, _) in flat.items()}))
    except ValidationError as error:
        raise SettingError(_value_message(error, {key: where for key, (_, where) in flat.items()})) from None
    _check_columns(config.data)
    _check_template(config.data)
    _check_combinations(config)
    return config


def resolve_aliases(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The user's values under their dotted names alone; an alias that is left to the configuration is gone.

    Raises:
        SettingError: a setting given under both names.
    """
    given = {key: value for key, value in overrides.items() if key not in ALIASES}
    for alias, key in ALIASES.items():
        value = overrides.get(alias, CONFIG_SAYS)
        if value == CONFIG_SAYS:
            continue
        if key in given:
            raise SettingError(f"{alias}={value} e {key}={given[key]} são a mesma configuração; deixe só uma.")
        given[key] = value
    return given


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice in one map, of which YAML would keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise _RepeatedKey(problem=key.value, problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return super().construct_mapping(node, deep)


class _RepeatedKey(yaml.MarkedYAMLError):
    pass


def _read_file(
    path: str | Path, named_by: str | None = None, children: tuple[Path, ...] = ()
) -> dict[str, tuple[Any, str]]:
    """Dotted key -> (raw value, file it comes from), of a file and its parents. ``named_by``: who asked for it."""
    file = find_project_file(path)
    shown = f"{path} ({named_by})" if named_by else str(path)
    if file.resolve() in children:
        raise SettingError(f"A configuração {shown} herda de si mesma; retire um dos extends.")
    tree = _read_yaml(file, shown)
    parent = tree.pop("extends", None)
    tree.pop(SPACE, None)  # what the search varies: read_search_space
    flat: dict[str, tuple[Any, str]] = {}
    if parent is not None:
        if not isinstance(parent, str):
            raise SettingError(f"A configuração {shown}: extends deve ser o nome de um só arquivo YAML.")
        flat = _read_file(_parent_of(file, parent), f"extends em {path}", (*children, file.resolve()))
    for key, value in flatten(tree).items():
        if value is None and _settings_inside(key):
            continue  # a section whose lines are all commented out
        check_name(key, str(path))
        flat[key] = value, str(path)
    return flat


def _parent_of(file: Path, name: str) -> str | Path:
    beside = file.parent / name
    return beside if _exists(beside) else name


def _read_yaml(file: Path, shown: str) -> dict[str, Any]:
    try:
        tree = yaml.load(file.read_text(encoding="utf-8-sig"), _Loader) or {}
    except FileNotFoundError:
        raise SettingError(
            f"O arquivo de configuração {shown} não existe; confira o caminho (ex.: {DEFAULT_CONFIG})."
        ) from None
    except IsADirectoryError:
        raise SettingError(
            f"A configuração {shown} é uma pasta; indique um arquivo YAML (ex.: {DEFAULT_CONFIG})."
        ) from None
    except OSError:
        raise SettingError(
            f"A configuração {shown} não pôde ser lida; confira o caminho e as permissões do arquivo."
        ) from None
    except UnicodeDecodeError:
        raise SettingError(f"A configuração {shown} não é um texto UTF-8; salve o arquivo YAML em UTF-8.") from None
    except _RepeatedKey as error:
        raise SettingError(
            f"A configuração {shown}, linha {error.problem_mark.line + 1}: {error.problem} aparece duas vezes; "
            "deixe só uma."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", linha {mark.line + 1}" if mark else ""
        raise SettingError(f"A configuração {shown}{line} não é YAML válido; corrija a sintaxe.") from None
    if not isinstance(tree, dict):
        raise SettingError(f"A configuração {shown} deve ser um mapa de seções (ex.: training: {{epochs: 20}}).")
    return tree


def _settings_inside(key: str) -> list[str]:
    return [name for name in setting_names() if name.startswith(f"{key}.")]


def check_name(key: str, where: str) -> None:
    """Raises:
    SettingError: there is no setting of that dotted name; the sentence names the nearest one.
    """
    if key in setting_names():
        return
    inside = _settings_inside(key)
    if inside:
        raise SettingError(f"{key} ({where}) é uma seção, não uma configuração; escreva por exemplo {inside[0]}.")
    near = _nearest_names(key)
    raise SettingError(
        f"A configuração {key} ({where}) não existe; "
        + (f"você quis dizer {_either(near)}?" if near else "veja todas com python -m cartas_mlflow train --help.")
    )


def _nearest_names(key: str) -> list[str]:
    """By the last part: the same, its initials (``lr``), a word of it, similar; or else similar as a whole."""
    ends = {name: name.rsplit(".", 1)[-1] for name in setting_names()}
    end = key.rsplit(".", 1)[-1]
    similar = difflib.get_close_matches(end, list(ends.values()), n=1, cutoff=0.6)
    return (
        [name for name in ends if ends[name] == end]
        or [name for name in ends if "_" in ends[name] and "".join(word[0] for word in ends[name].split("_")) == end]
        or [name for name in ends if end in ends[name].split("_")]
        or [name for name in ends if ends[name] in similar]
        or difflib.get_close_matches(key, list(ends), n=1, cutoff=0.5)
    )[:3]


def _either(names: list[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} ou {last}" if most else last


def _value_message(error: ValidationError, origin: Mapping[str, str]) -> str:
    first = error.errors()[0]
    names = setting_names()
    key = ".".join(str(part) for part in first["loc"])
    while key not in names and "." in key:
        key = key.rsplit(".", 1)[0]
    return (
        f"A configuração {key}={_shown(first['input'])} ({origin.get(key, 'padrão')}) não serve: "
        f"{_expectation(first, names.get(key))}."
    )


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


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
        bound = context[name]
        return sentence.format(f"{bound:g}" if isinstance(bound, float) else bound)
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        options = [option.strip("' ") for option in context["expected"].replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(str(error["input"]), options, n=1, cutoff=0.4)
        if options == ["auto"]:
            return "use auto ou um número inteiro de 1 a 4096"
        return f"use {', '.join(options)}" + (f" (o mais próximo é {near[0]})" if near else "")
    if kind.startswith("int"):
        return "deve ser um número inteiro"
    if kind.startswith("float") or kind == "finite_number":
        return "deve ser um número (com ponto decimal, ex.: 5e-5)"
    if kind.startswith("bool"):
        return "deve ser true ou false"
    if kind == "string_type":
        return "deve ser um texto (no arquivo YAML, entre aspas)"
    if kind in {"string_too_short", "too_short"}:
        return "não pode ficar vazia"
    return f"o valor esperado é: {field.description}" if field is not None else "o valor tem o tipo errado"


def _check_columns(data: DataSettings) -> None:
    fields: dict[str, str] = {}
    for field, column in data.columns.model_dump().items():
        if column is not None and column in fields:
            raise SettingError(
                f"data.columns.{fields[column]} e data.columns.{field} são a mesma coluna ({column}); indique uma para "
                "cada campo" + (", ou none se a tabela não tem o campo." if field != "texto" else ".")
            )
        fields[column] = field


def _check_template(data: DataSettings) -> None:
    template = TEMPLATES.get(data.template, data.template)
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError:
        raise SettingError(
            f"data.template={template}: as chaves {{ }} não fecham; escreva por exemplo {{carta}}."
        ) from None
    if not parts:
        near = difflib.get_close_matches(data.template, TEMPLATES, n=1, cutoff=0.5)
        raise SettingError(
            f"data.template={template} não usa nenhum campo; "
            + (f"você quis dizer {near[0]}?" if near else "use instrucao, barras, ou um texto com {carta}, {tema}, …")
        )
    for _, name, style, conversion in parts:
        if name not in RECORD_FIELDS:
            near = difflib.get_close_matches(str(name), RECORD_FIELDS, n=1, cutoff=0.6)
            raise SettingError(
                f"data.template usa {{{name}}}, que não é um campo do pedido; "
                + (f"você quis dizer {{{near[0]}}}?" if near else "use {carta}, {evento}, {secao} e {tema}.")
            )
        if style or conversion:
            raise SettingError(f"data.template dá um formato ao campo {name}; escreva só {{{name}}}.")
        if getattr(data.columns, name) is None:
            raise SettingError(
                f"data.template usa {{{name}}}, mas data.columns.{name}=none; retire o campo do modelo ou indique a "
                "coluna."
            )


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
    objectives = config.pretrain.prefix_share + config.pretrain.span_share
    if objectives > 1:
        raise SettingError(
            f"pretrain.prefix_share e pretrain.span_share somam {objectives:g}; são frações do mesmo todo, até 1."
        )
