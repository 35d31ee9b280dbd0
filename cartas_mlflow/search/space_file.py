"""A configuration's ``space:``, read and checked before anything runs.

space:
  training.epochs: 6                                                   # the same for every trial
  training.learning_rate: {type: float, low: 1.0e-5, high: 5.0e-3, log: true}
  lora.r: {type: int, low: 4, high: 64, log: true}
  training.scheduler: {type: categorical, choices: [cosine, constant]}
  training.warmup_ratio: {type: float, low: 0, high: 0.2, when: {training.scheduler: cosine}}
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from cartas_mlflow.config import load_config, read_search_space, resolve_aliases, vary
from cartas_mlflow.errors import SettingError
from cartas_mlflow.search.space import FIXED, Dimension, Space, Value, is_searchable, same_value
from cartas_mlflow.setting_checks import check_name
from cartas_mlflow.settings import ExperimentConfig, setting_names

SEARCH_CONFIG = "configs/tune.yaml"
KINDS = {"float": {"low", "high", "log", "step"}, "int": {"low", "high", "log", "step"}, "categorical": {"choices"}}
"""Kind of dimension -> its keys, besides ``type`` and ``when``."""


def load_search(config_path: str, overrides: Mapping[str, Any]) -> tuple[ExperimentConfig, Space]:
    """The settings and the space: everything that a user can get wrong before anything is loaded.

    Raises:
        SettingError: a setting, or a dimension of the space, that cannot be.
    """
    config = load_config(config_path, overrides)
    if config.training.num_processes > 1:
        raise SettingError(
            f"training.num_processes={config.training.num_processes} vale para um treino; numa busca cada tentativa é "
            "de um processo, e quem usa várias GPUs ou núcleos é workers."
        )
    return config, read_space(config_path, config, overrides)


def read_space(config_path: str, config: ExperimentConfig, overrides: Mapping[str, Any]) -> Space:
    """The space that a search with these settings has.

    What the user typed is no longer looked for, nor what their file states when it inherits its space. A configuration
    without a space takes that of :data:`SEARCH_CONFIG`; there, its own values replace those that all trials have alike.

    Raises:
        SettingError: a dimension of the space that cannot be.
    """
    written = read_search_space(config_path, SEARCH_CONFIG)
    dimensions = {name for name, entry in _flat_entries(written.entries).items() if isinstance(entry, Mapping)}
    stated = written.nearer - dimensions if written.borrowed else written.nearer
    return parse_space(written.entries, config, (*resolve_aliases(overrides), *sorted(stated)))


def parse_space(raw: Mapping[str, Any], config: ExperimentConfig, fixed: Sequence[str] = ()) -> Space:
    """Read the YAML map and check it against the settings.

    Args:
        raw: dotted setting (or section -> map) -> dimension, or a plain value for all trials.
        fixed: settings that the user decided, which therefore stand for all trials.

    Raises:
        SettingError: an unknown setting, one that no search varies, a dimension that cannot be, or a value that the
            setting does not take.
    """
    entries = _flat_entries(raw)
    for name in entries:
        _check_searchable(name)
    constants = {name: value for name, value in entries.items() if not isinstance(value, Mapping)}
    constants = {name: value for name, value in constants.items() if name not in fixed}
    settled = vary(config, constants, "espaço da busca")
    dimensions = [
        _dimension(name, entry, settled)
        for name, entry in entries.items()
        if isinstance(entry, Mapping) and name not in fixed
    ]
    if not dimensions:
        raise SettingError("O espaço da busca não varia nenhuma configuração; dê um intervalo a ao menos uma.")
    flat = settled.flat()
    return Space(_in_order(dimensions, flat), {name: flat[name] for name in constants}, frozenset(fixed))


def _flat_entries(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    entries: dict[str, Any] = {}
    sections = {name.rsplit(".", 1)[0] for name in setting_names()}
    for key, value in raw.items():
        name = f"{prefix}{key}"
        inside = isinstance(value, Mapping) and name in sections
        if value is None:
            raise SettingError(f"{name} (espaço da busca) está sem valor; dê um intervalo, ou retire a linha.")
        for entry, content in _flat_entries(value, f"{name}.").items() if inside else ((name, value),):
            if entry in entries:
                raise SettingError(f"{entry} (espaço da busca) aparece duas vezes; deixe só uma.")
            entries[entry] = content
    return entries


def _check_searchable(name: str) -> None:
    check_name(name, "espaço da busca")
    if name in FIXED:
        raise SettingError(f"{name} (espaço da busca) não pode variar: {FIXED[name]}.")
    if not is_searchable(name):
        raise SettingError(
            f"{name} (espaço da busca) não pode variar de tentativa a tentativa; podem: lora.*, training.*, "
            "early_stopping.*, generation.*, data.template e data.max_length."
        )


def _dimension(name: str, entry: Mapping[str, Any], config: ExperimentConfig) -> Dimension:
    kind = entry.get("type")
    if not isinstance(kind, str) or kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1, cutoff=0.4)
        said = f"type: {kind} não existe" if kind is not None else "falta type"
        raise SettingError(
            f"{name} (espaço da busca): {said}; "
            + (f"você quis dizer {near[0]}?" if near else f"use {', '.join(KINDS)}.")
        )
    allowed = {"type", "when", *KINDS[kind]}
    for key in entry:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), sorted(allowed), n=1, cutoff=0.5)
            raise SettingError(
                f"{name} (espaço da busca): {key} não vale para {kind}; "
                + (f"você quis dizer {near[0]}?" if near else f"use {', '.join(sorted(allowed - {'type'}))}.")
            )
    when = _conditions(name, entry.get("when"), config)
    if kind == "categorical":
        return Dimension(name, kind, choices=_choices(name, entry.get("choices"), config), when=when)
    low, high = (_number(name, key, entry.get(key), kind) for key in ("low", "high"))
    step = _number(name, "step", entry["step"], kind) if "step" in entry else None
    log = entry.get("log", False)
    if not isinstance(log, bool):
        raise SettingError(f"{name} (espaço da busca): log deve ser true ou false.")
    if low >= high:
        raise SettingError(f"{name} (espaço da busca): low={low:g} deve ser menor que high={high:g}.")
    if log and low <= 0:
        raise SettingError(f"{name} (espaço da busca): com log: true, low={low:g} deve ser maior que 0.")
    if step is not None and (log or step <= 0 or step > high - low):
        why = "não combina com log: true" if log else f"deve ser maior que 0 e no máximo {high - low:g}"
        raise SettingError(f"{name} (espaço da busca): step={step:g} {why}.")
    between = [] if kind == "int" else [low + (step or 0.618 * (high - low))]  # a whole setting takes no such value
    for value in (low, high, *between):
        vary(config, {name: value}, "espaço da busca")
    return Dimension(name, kind, low, high, log, step, when=when)


def _number(name: str, key: str, value: Any, kind: str) -> float:
    if isinstance(value, str):  # YAML takes 1e-4, without a point, for a text
        with suppress(ValueError):
            value = float(value)
    whole = isinstance(value, (int, float)) and math.isfinite(value) and value == int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (kind == "int" and not whole):
        what = "um número inteiro" if kind == "int" else "um número"
        said = f"falta {key}, que é" if value is None else f"{key}={value} não é"
        raise SettingError(f"{name} (espaço da busca): {said} {what}.")
    return int(value) if kind == "int" else float(value)


def _choices(name: str, raw: Any, config: ExperimentConfig) -> tuple[Value, ...]:
    if not isinstance(raw, list) or len(raw) < 2:
        raise SettingError(f"{name} (espaço da busca): choices deve ser uma lista de ao menos dois valores.")
    choices: list[Value] = []
    for value in raw:
        typed = vary(config, {name: value}, "espaço da busca").flat()[name]
        written = ",".join(typed) if isinstance(typed, list) else typed
        if written in choices:
            raise SettingError(f"{name} (espaço da busca): {written} aparece duas vezes em choices; deixe uma.")
        choices.append(written)
    return tuple(choices)


def _conditions(name: str, raw: Any, config: ExperimentConfig) -> tuple[tuple[str, tuple[Value, ...]], ...]:
    if raw is None:
        return ()
    if not isinstance(raw, Mapping) or not raw:
        raise SettingError(
            f"{name} (espaço da busca): when deve dizer de que depende (ex.: training.scheduler: cosine)."
        )
    conditions = []
    for setting, values in raw.items():
        check_name(setting, f"when de {name}")
        wanted = values if isinstance(values, list) else [values]
        typed = [vary(config, {setting: value}, f"when de {name}").flat()[setting] for value in wanted]
        conditions.append((setting, tuple(",".join(value) if isinstance(value, list) else value for value in typed)))
    return tuple(conditions)


def _in_order(dimensions: Sequence[Dimension], config: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """Each dimension after those that it depends on."""
    waiting, ordered = list(dimensions), []
    by_name = {dimension.name: dimension for dimension in dimensions}
    for dimension in dimensions:
        for setting, values in dimension.when:
            _check_reachable(dimension, setting, values, by_name.get(setting), config)
    while waiting:
        ready = [d for d in waiting if not any(by_name.get(setting) in waiting for setting, _ in d.when)]
        if not ready:
            names = " e ".join(dimension.name for dimension in waiting)
            raise SettingError(f"{names} (espaço da busca) dependem em círculo umas das outras; retire um dos when.")
        ordered += ready
        waiting = [dimension for dimension in waiting if dimension not in ready]
    return tuple(ordered)


def _check_reachable(
    dimension: Dimension,
    setting: str,
    values: tuple[Value, ...],
    other: Dimension | None,
    config: Mapping[str, Any],
) -> None:
    possible = (config[setting],) if other is None else other.choices
    if other is not None and other.kind != "categorical":
        raise SettingError(
            f"{dimension.name} (espaço da busca): when só olha para configurações fixas ou categóricas, e {setting} é "
            f"{other.kind}."
        )
    if not any(same_value(value, reached) for value in values for reached in possible):
        raise SettingError(
            f"{dimension.name} (espaço da busca): when pede {setting}={values[0]}, que a busca nunca alcança; "
            f"ela tem {', '.join(map(str, possible))}."
        )
