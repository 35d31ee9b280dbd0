"""Find the base model and load it.

Where it is looked for, in this order: a local folder of that name; the hub's local cache; the hub, if somebody takes
the connection within ``model.hub_timeout`` seconds (the hub client's own retries take 50 s on a closed network). The
caller decides what to do when nothing answers: :func:`find_base` raises :class:`BaseUnreachable`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cartas_mlflow.config import PROJECT_ROOT, find_project_file
from cartas_mlflow.errors import BaseModelError
from cartas_mlflow.modeling.fingerprint import fingerprint_weights, is_of
from cartas_mlflow.modeling.hub import (
    TOKENIZER_FILES,
    WEIGHT_FILES,
    BaseUnreachable,
    fetch_base,
    is_json_object,
    weight_files,
)
from cartas_mlflow.settings import ModelSettings

__all__ = ["TOKENIZER_FILES", "BaseLocation", "BaseUnreachable", "find_base", "weight_files"]


@dataclass(frozen=True)
class BaseLocation:
    """Where the base was found: a folder with its config, weights and tokenizer."""

    name: str
    """As the settings name it."""
    folder: Path
    source: str
    """``folder``, ``embedded``, ``cache`` or ``hub``."""
    revision: str | None = None
    """The hub's commit, where there is one."""
    tokenizer: Path | None = None
    """Folder of the tokenizer, where it comes from elsewhere (``model.tokenizer``)."""

    @property
    def description(self) -> str:
        """For the console, in Portuguese."""
        return {
            "folder": f"pasta local {self.folder}",
            "embedded": f"modelo embutido no projeto ({self.name})",
            "cache": f"cache local do hub ({self.name})",
            "hub": f"hub ({self.name})",
        }[self.source]

    def fingerprint(self) -> str:
        """Of the weights that are loaded: an adapter loads silently on a base of equal shapes but other weights, so the
        adapter remembers this."""
        return fingerprint_weights(self.weights)

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Whether a fingerprint, which an earlier version may have taken otherwise, is that of these weights."""
        return is_of(fingerprint, self.weights)

    @property
    def weights(self) -> tuple[Path, ...]:
        return tuple(self.folder / name for name in weight_files(self.folder))

    @property
    def tokenizer_folder(self) -> Path:
        return self.tokenizer or self.folder


def find_base(settings: ModelSettings, *, weights: bool = True, tokenizer: bool = True) -> BaseLocation:
    """Locate the base model, fetching it from the hub where that is needed and possible.

    Args:
        weights: False where settings and tokenizer are enough: the hub's weights are then not fetched.
        tokenizer: False where an adapter brings it.

    Raises:
        BaseUnreachable: it is not on this machine and nothing answers in the hub's place.
        BaseModelError: the folder is not a complete model, or the hub answers and does not give it.
    """
    elsewhere = settings.tokenizer if tokenizer else None
    parts = _Parts(weights=weights, tokenizer=tokenizer and elsewhere is None)
    location = _find(settings, parts)
    if elsewhere is None:
        return location
    of_tokenizer = settings.model_copy(update={"name": elsewhere, "revision": None})
    return replace(location, tokenizer=_find(of_tokenizer, _Parts(model=False), "model.tokenizer").folder)


@dataclass(frozen=True)
class _Parts:
    """What is wanted of a folder or a repository. ``model``: a base at all; ``weights``: they are fetched."""

    model: bool = True
    weights: bool = False
    tokenizer: bool = True


def _find(settings: ModelSettings, parts: _Parts, setting: str = "model.name") -> BaseLocation:
    folder = find_project_file(settings.name)
    if folder.is_dir():
        _check_folder(folder, parts, setting)
        embedded = folder.resolve().is_relative_to(PROJECT_ROOT / "data" / "base")
        return BaseLocation(settings.name, folder.resolve(), "embedded" if embedded else "folder")
    if settings.name.startswith("data/") or not _is_hub_id(settings.name):
        what = "do modelo base" if parts.model else "do tokenizador"
        raise BaseModelError(
            f"A pasta {what} {settings.name} não existe; confira {setting} (um id do hub ou uma pasta local)."
        )
    cached = _cached_snapshot(settings, parts)
    if cached is not None:
        return BaseLocation(settings.name, cached, "cache", cached.name)
    snapshot = fetch_base(settings, parts.weights, parts.tokenizer)
    if parts.weights:
        _check_folder(snapshot, parts, setting)
    return BaseLocation(settings.name, snapshot, "hub", snapshot.name)


def _check_folder(folder: Path, parts: _Parts, setting: str = "model.name") -> None:
    lacking = []
    if parts.model:
        config = folder / "config.json"
        if not config.exists():
            what = "é a pasta de um adaptador" if (folder / "adapter_config.json").exists() else "não tem config.json"
            raise BaseModelError(f"{folder} {what}; indique em {setting} a pasta de um modelo base completo.")
        if not is_json_object(config.read_text(encoding="utf-8", errors="replace")):
            raise BaseModelError(f"{config} não é JSON válido; copie o modelo base de novo.")
        weights = weight_files(folder)
        lacking += [name for name in weights or WEIGHT_FILES[:1] if not (folder / name).exists()]
    if parts.tokenizer and not any((folder / name).exists() for name in TOKENIZER_FILES):
        lacking.append(" ou ".join(TOKENIZER_FILES))
    if lacking:
        whole = "o modelo base completo" if parts.model else "o tokenizador completo"
        mend = ", ou indique o seu tokenizador em model.tokenizer" if parts.model and parts.tokenizer else ""
        raise BaseModelError(f"{folder} não tem {' nem '.join(lacking)}; copie {whole}{mend}.")


def _cached_snapshot(settings: ModelSettings, parts: _Parts) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(settings.name, "config.json", revision=settings.revision)
    if not isinstance(config, str):
        return None
    try:
        _check_folder(Path(config).parent, parts)
    except BaseModelError:
        return None  # a download that was cut short
    return Path(config).parent


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
