"""The settings that a search tries before its sampler chooses: the known recipes, and the champion's."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.config import stated_settings
from cartas_mlflow.console import say
from cartas_mlflow.errors import SettingError
from cartas_mlflow.registry.promotion import champion_of
from cartas_mlflow.search.space import Known, Space, is_searchable
from cartas_mlflow.settings import ExperimentConfig, flatten, setting_names
from cartas_mlflow.yaml_files import parse_yaml

if TYPE_CHECKING:
    from mlflow import MlflowClient

RECIPES = {"receita 1": "configs/default.yaml", "receita 2": "configs/recipe-v2.yaml"}
"""Label -> file."""


def known_settings(
    config: ExperimentConfig, source: str, space: Space, client: MlflowClient, fixed: Collection[str]
) -> list[Known]:
    """Recipes, the configuration in use and the champion's settings, each once.

    Args:
        config: the settings in use, with the user's own.
        source: file that they come from.
        fixed: settings that the user gave a value for: nobody else's count.
    """
    candidates = [Known(label, stated_settings(file)) for label, file in RECIPES.items()]
    candidates.append(Known(Path(source).name, {}))
    champion = _champions_settings(client, config.registry.name)
    if champion is not None:
        candidates.append(champion)
    known: list[Known] = []
    seen: list[dict[str, Any]] = []
    for candidate in candidates:
        values = {name: value for name, value in candidate.values.items() if is_searchable(name) and name not in fixed}
        whole = {**config.flat(), **values, **space.constants}
        if whole not in seen:
            seen.append(whole)
            known.append(Known(candidate.label, values))
    return known


def _champions_settings(client: MlflowClient, name: str) -> Known | None:
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    champion = champion_of(client, name)
    if champion is None:
        return None
    try:
        text = mlflow.artifacts.load_text(f"runs:/{champion.run_id}/config/config_resolved.yaml")
        tree = parse_yaml(text.encode(), "config_resolved.yaml")
    except (MlflowException, OSError, UnicodeDecodeError, SettingError):
        say(f"⚠️ A execução da campeã (versão {champion.version}) não está mais inteira; suas configurações ficam fora.")
        return None
    names = setting_names()
    values = {key: value for key, value in flatten(tree).items() if key in names}
    return Known(f"campeã (versão {champion.version})", values)
