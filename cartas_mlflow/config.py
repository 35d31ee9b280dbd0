"""YAML files + overrides -> one immutable :class:`~cartas_mlflow.settings.ExperimentConfig`.

Layers, later ones win: the defaults in ``settings.py``, MLflow's own variable for the experiment, the file's parents
(``extends:``), the file, the fallback file when the base model could not be had (only what it states itself, and only
what belongs to a base), the user's own ``-P`` values. A layer: dotted key -> (raw value, where it comes from).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartas_mlflow.errors import SettingError
from cartas_mlflow.original import Translation, is_original, translate
from cartas_mlflow.setting_checks import Layer, check_name, checked, layer_from, layer_of, settings_inside, typed
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.yaml_files import read_yaml

PROJECT_ROOT = Path(__file__).resolve().parent.parent
DEFAULT_CONFIG = "configs/default.yaml"
ALIASES = {
    "epochs": "training.epochs",
    "resume": "training.resume",
    "num_processes": "training.num_processes",
    "trials": "search.trials",
    "study": "search.study",
    "workers": "search.workers",
    "promote": "registry.register_model",
}
SPACE = "space"
"""The key of a configuration file that is no setting: the search space."""
CONFIG_SAYS = "auto"
"""What MLproject passes for an alias that the user did not give: the configuration decides."""
BASE_NAME = ("model.name", "model.revision")
"""What names the base that could not be had: not even typed does it outlast the fallback."""
OF_THE_BASE = ("model.", "lora.", "generation.", "training.learning_rate", "early_stopping.metric")
"""Sections and settings that are chosen for a base, and so change with it; everything else is the user's."""


@dataclass(frozen=True)
class StandIn:
    """The settings with the fallback's base in place of the one that could not be had.

    ``changed``: dotted name -> (old, new value); ``not_taken``: what the fallback file states although it is not for a
    base to decide; ``yielding``: what it states and the user's own settings do not go with.
    """

    config: ExperimentConfig
    changed: Mapping[str, tuple[Any, Any]]
    not_taken: tuple[str, ...]
    yielding: tuple[str, ...]


@dataclass(frozen=True)
class WrittenSpace:
    """A search space as written. ``nearer``: the settings that files nearer to the user than the space's own state;
    ``borrowed``: it comes from a file that those do not descend from."""

    entries: Mapping[str, Any]
    nearer: frozenset[str]
    borrowed: bool


def load_config(
    path: str | Path = DEFAULT_CONFIG, overrides: Mapping[str, Any] | None = None, *, fallback: str | Path | None = None
) -> ExperimentConfig:
    """Read a configuration file, lay the user's overrides over it, and check everything.

    Args:
        path: YAML file; relative to the working folder, or else to the project.
        overrides: dotted key -> raw value (text as typed, or typed). ``epochs`` stands for ``training.epochs``.
        fallback: second YAML file, whose base stands in: see :func:`stand_in`.

    Raises:
        SettingError: a file that cannot be read, an unknown key, an ill-typed or out-of-range value, values that do not
            go together.
    """
    given = resolve_aliases(overrides or {})
    config = checked(_environment() | _stated(path) | layer_from(given, "linha de comando"))
    if fallback is not None:
        return stand_in(config, given, fallback).config
    if config.model.fallback is not None:
        stand_in(config, given)  # a wrong one shows today, not on the day it is needed
    return config


def stand_in(config: ExperimentConfig, overrides: Mapping[str, Any], fallback: str | Path | None = None) -> StandIn:
    """The same settings on the fallback's base.

    Args:
        overrides: what the user typed: it stands, but for the name of the base that could not be had.
        fallback: YAML file; None: that of ``model.fallback``.

    Raises:
        SettingError: see :func:`load_config`; or a fallback that names no base itself.
    """
    file = str(config.model.fallback if fallback is None else fallback)
    given = resolve_aliases(overrides)
    stated = _settings_of(_chain(file, "model.fallback")[0])
    if "model.name" not in stated:
        raise SettingError(
            f"A configuração {file} (model.fallback) não diz ela mesma que modelo base entra no lugar; escreva nela "
            "model.name (o que ela herda por extends não conta)."
        )
    taken = {name: value for name, value in stated.items() if name.startswith(OF_THE_BASE)}
    layer = {"model.revision": (None, file)} | {
        name: value for name, value in taken.items() if name in BASE_NAME or name not in given
    }
    changed, yielding = _lay_over(layer_of(config), layer)
    before, after = config.flat(), changed.flat()
    return StandIn(
        changed,
        {name: (before[name], value) for name, value in after.items() if before[name] != value},
        tuple(name for name in stated if name not in taken),
        yielding,
    )


def vary(config: ExperimentConfig, values: Mapping[str, Any], where: str) -> ExperimentConfig:
    """The same configuration with some settings changed, checked like a file's.

    Args:
        values: dotted key -> raw or typed value.
        where: what the values come from, for the error's sentence.

    Raises:
        SettingError: a value that is ill-typed or out of range, or does not go with the others.
    """
    return checked(layer_of(config) | layer_from(values, where))


def read_search_space(path: str | Path, default: str) -> WrittenSpace:
    """The ``space`` of a configuration file; its parent's where it has none of its own; that of ``default`` where none
    of them has any.

    Raises:
        SettingError: a file that cannot be read, or a ``space`` that is not a map.
    """
    files = _chain(path)
    place = next((number for number, file in enumerate(files) if file.space is not None), None)
    borrowed = place is None
    if borrowed:
        lender = _chain(default)
        shared = {file.place for file in lender}
        nearer, owner = [file for file in files if file.place not in shared], lender[0]
    else:
        nearer, owner = files[:place], files[place]
    if not isinstance(owner.space, dict):
        raise SettingError(f"{SPACE} ({owner.name}) deve ser um mapa de configurações ao que se procura em cada uma.")
    return WrittenSpace(owner.space, frozenset(name for file in nearer for name in _settings_of(file)), borrowed)


def stated_settings(path: str | Path) -> dict[str, Any]:
    """The settings that a configuration file and its parents state, typed; not those that they leave at the default.

    Raises:
        SettingError: see :func:`load_config`.
    """
    flat = load_config(path).flat()
    return {key: flat[key] for key in _stated(path)}


def find_translation(path: str | Path) -> Translation | None:
    """How a settings file of the original system was understood; None for a file of this project.

    Raises:
        SettingError: see :func:`load_config`.
    """
    file = _chain(path)[0]
    return translate(dict(_leaves(file.tree))) if is_original(file.tree) else None


def find_project_file(path: str | Path) -> Path:
    """The file as the user means it: in the working folder, or else inside the project's own folder."""
    try:
        given = Path(path).expanduser()
    except RuntimeError:  # ~name of a user that this machine does not have
        given = Path(path)
    if given.is_absolute() or _exists(given):
        return given
    return PROJECT_ROOT / given if _exists(PROJECT_ROOT / given) else given


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


@dataclass(frozen=True)
class _File:
    """What one file says itself. ``name``: as it was asked for; ``place``: where it is."""

    name: str
    place: str
    tree: Mapping[str, Any]
    space: Any


def _chain(path: str | Path, named_by: str | None = None) -> list[_File]:
    """A file, its parent, its parent's parent, …. ``named_by``: who asked for the first."""
    files: list[_File] = []
    wanted: str | Path | None = path
    while wanted is not None:
        file = find_project_file(wanted)
        shown = f"{wanted} ({named_by})" if named_by else str(wanted)
        tree = read_yaml(file, shown)
        place = os.path.realpath(file)
        if place in {earlier.place for earlier in files}:
            raise SettingError(f"A configuração {shown} herda de si mesma; retire um dos extends.")
        parent, space = tree.pop("extends", None), tree.pop(SPACE, None)
        if parent is not None and not isinstance(parent, str):
            raise SettingError(f"A configuração {shown}: extends deve ser o nome de um só arquivo YAML.")
        files.append(_File(str(wanted), place, tree, space))
        named_by = f"extends em {wanted}"
        wanted = None if parent is None else _beside_or_in_project(file, parent)
    return files


def _beside_or_in_project(file: Path, name: str) -> str | Path:
    beside = file.parent / name
    return beside if _exists(beside) else name


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises on a name that is too long


def _stated(path: str | Path) -> Layer:
    """What a file and its parents state; the nearer one wins."""
    layer: Layer = {}
    for file in reversed(_chain(path)):
        layer |= _settings_of(file)
    return layer


def _settings_of(file: _File) -> Layer:
    layer: Layer = {}
    leaves = dict(_leaves(file.tree)) if is_original(file.tree) else None
    for key, value in _leaves(file.tree) if leaves is None else translate(leaves).settings.items():
        if value is None and settings_inside(key):
            continue  # a section whose lines are all commented out
        check_name(key, file.name)
        if key in layer:
            raise SettingError(f"A configuração {key} ({file.name}) aparece duas vezes; deixe só uma.")
        layer[key] = value, file.name
    return layer


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and (value or settings_inside(name)):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _environment() -> Layer:
    """MLflow's own way to choose the experiment; inside ``mlflow run`` that one has chosen already."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if not name or "MLFLOW_RUN_ID" in os.environ:
        return {}
    return {"tracking.experiment": (name, "MLFLOW_EXPERIMENT_NAME")}


def _lay_over(under: Layer, layer: Layer) -> tuple[ExperimentConfig, tuple[str, ...]]:
    """The fallback's layer over the user's; without the fewest settings that the user's own do not go with."""
    typed(under | layer)  # a value that is wrong by itself is an error
    settings = [name for name in layer if name not in BASE_NAME]
    for count in range(len(settings) + 1):
        for yielding in itertools.combinations(settings, count):
            with suppress(SettingError):
                return checked(under | {name: value for name, value in layer.items() if name not in yielding}), yielding
    raise AssertionError("the user's settings alone go together")
