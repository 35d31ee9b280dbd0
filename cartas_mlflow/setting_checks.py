"""What settings may be, said in one Portuguese sentence each: their names, their values, and what goes together."""

from __future__ import annotations

import difflib
import string
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cartas_mlflow.errors import SettingError
from cartas_mlflow.settings import RECORD_FIELDS, TEMPLATES, DataSettings, ExperimentConfig, flatten, setting_names

Layer = dict[str, tuple[Any, str]]
"""Dotted name -> (raw value, where it comes from)."""
LONGEST_SHOWN = 80
"""Characters of a value, or of a name, that a sentence shows."""


def settings_inside(section: str) -> list[str]:
    """The dotted names of a section's settings; none if there is no such section."""
    return [name for name in setting_names() if name.startswith(f"{section}.")]


def layer_of(config: ExperimentConfig) -> Layer:
    """What was set; what was left at its default stays so."""
    return layer_from(flatten(config.model_dump(mode="json", exclude_unset=True)), "padrão")


def layer_from(values: Mapping[str, Any], where: str) -> Layer:
    """The values as a layer that comes from ``where``.

    Raises:
        SettingError: a setting that does not exist.
    """
    for key in values:
        check_name(key, where)
    return {key: (value, where) for key, value in values.items()}


def checked(layer: Layer) -> ExperimentConfig:
    """The settings that a layer, over the defaults, makes.

    Raises:
        SettingError: a value that is ill-typed or out of range, or does not go with the others.
    """
    config = typed(layer)
    _check_combinations(config)
    return config


def typed(layer: Layer) -> ExperimentConfig:
    """The same, whether or not the values go together.

    Raises:
        SettingError: a value that is ill-typed or out of range.
    """
    try:
        return ExperimentConfig.model_validate(_nest({key: value for key, (value, _) in layer.items()}))
    except ValidationError as error:
        raise SettingError(_value_sentence(error, {key: where for key, (_, where) in layer.items()})) from None


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


def check_name(key: str, where: str) -> None:
    """Raises:
    SettingError: there is no setting of that dotted name; the sentence names the nearest one.
    """
    if key in setting_names():
        return
    inside = settings_inside(key)
    if inside:
        raise SettingError(f"{key} ({where}) é uma seção, não uma configuração; escreva por exemplo {inside[0]}.")
    near = _nearest_names(key)
    raise SettingError(
        f"A configuração {shortened(key)} ({where}) não existe; "
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


def _value_sentence(error: ValidationError, origin: Mapping[str, str]) -> str:
    """The first of the values that do not serve. ``origin``: dotted name -> where its value comes from."""
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
        return shortened(",".join(map(str, value)))
    text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return shortened(text)


def shortened(text: str) -> str:
    """So much of a value as a sentence can hold."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}… ({len(text)} caracteres)"


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
    if kind == "int_parsing_size":
        return "tem algarismos demais"
    if kind.startswith("int"):
        return "deve ser um número inteiro"
    if kind.startswith("float") or kind == "finite_number":
        return "deve ser um número (com ponto decimal, ex.: 5e-5)"
    if kind.startswith("bool"):
        return "deve ser true ou false"
    if kind == "string_unicode":
        return "tem um caractere que não é texto"
    if kind == "string_type":
        return "deve ser um texto (no arquivo YAML, entre aspas)"
    if kind in {"string_too_short", "too_short"}:
        return "não pode ficar vazia"
    return f"o valor esperado é: {field.description}" if field is not None else "o valor tem o tipo errado"


def _check_combinations(config: ExperimentConfig) -> None:
    """Raises:
    SettingError: values that are right each by itself, but do not go together.
    """
    _check_columns(config.data)
    _check_template(config.data)
    _check_numbers(config)


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


def _check_numbers(config: ExperimentConfig) -> None:
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
    pretrain = config.pretrain
    objectives = pretrain.prefix_share + pretrain.span_share + pretrain.reword_share
    if round(objectives, 6) > 1:
        raise SettingError(
            f"pretrain.prefix_share, pretrain.span_share e pretrain.reword_share somam {objectives:g}; são frações do "
            "mesmo todo, até 1."
        )
    if pretrain.start_weight and (pretrain.start is None or pretrain.start_keeps != "all"):
        raise SettingError(
            f"pretrain.start_weight={pretrain.start_weight:g} pede pretrain.start=PASTA e pretrain.start_keeps=all; "
            "indique-os, ou retire-o."
        )
