"""Find the base model and load it.

Where it is looked for, in this order: a local folder of that name; the hub's local cache; the hub, if it answers
within ``model.hub_timeout`` seconds (the hub client's own retries take 50 s on a closed network). The caller decides
what to do when it is nowhere to be had: :func:`find_base` raises :class:`BaseUnreachable`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cartas_mlflow.config import PROJECT_ROOT, find_project_file
from cartas_mlflow.errors import BaseModelError
from cartas_mlflow.modeling.fingerprint import fingerprint_weights, is_of
from cartas_mlflow.settings import ModelSettings

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the library's order of preference: it loads the first that is there. An index names the files of its shards."""
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
HUB_FILES = ["*.json", "*.safetensors", "spiece.model", "README.md"]


class BaseUnreachable(BaseModelError):
    """The base is not on this machine and no hub answers: a fallback may serve. ``reason`` is a Portuguese clause."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(
            f"O modelo base {name} não está neste computador e {reason}; conecte-se à rede, indique uma pasta local em "
            "model.name, ou use model.fallback=configs/mini.yaml."
        )


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


def find_base(settings: ModelSettings, *, weights: bool = True) -> BaseLocation:
    """Locate the base model, fetching it from the hub where that is needed and possible.

    Args:
        weights: False where settings and tokenizer are enough: the hub's weights are then not fetched.

    Raises:
        BaseUnreachable: it is not on this machine and no hub answers in time.
        BaseModelError: the folder is not a complete model, or the hub says that there is no such model.
    """
    folder = find_project_file(settings.name)
    if folder.is_dir():
        _check_folder(folder)
        embedded = folder.resolve().is_relative_to(PROJECT_ROOT / "data" / "base")
        return BaseLocation(settings.name, folder.resolve(), "embedded" if embedded else "folder")
    from huggingface_hub import constants

    if settings.name.startswith("data/") or not _is_hub_id(settings.name):
        raise BaseModelError(
            f"A pasta do modelo base {settings.name} não existe; confira model.name (um id do hub ou uma pasta local)."
        )
    cached = _cached_snapshot(settings)
    if cached is not None:
        return BaseLocation(settings.name, cached, "cache", cached.name)
    if constants.is_offline_mode():
        raise BaseUnreachable(settings.name, "o modo sem rede está ligado (HF_HUB_OFFLINE)")
    ask_hub(settings)
    snapshot = _download(settings, weights)
    return BaseLocation(settings.name, snapshot, "hub", snapshot.name)


def ask_hub(settings: ModelSettings) -> None:
    """Return if the hub has the model; never takes longer than ``settings.hub_timeout`` seconds.

    The whole exchange, name resolution included, has that one deadline: it runs in a thread that is abandoned.

    Raises:
        BaseUnreachable: no answer in time, or an answer that is not the hub's (a proxy's login page, an error 5xx).
        BaseModelError: the hub answers that there is no such model, that it needs a login, or that the token is none.
    """
    import requests
    from huggingface_hub import get_token, hf_hub_url

    url = hf_hub_url(settings.name, "config.json", revision=settings.revision)
    token = get_token()
    outcome: list[requests.Response | requests.RequestException] = []

    def ask() -> None:
        try:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            outcome.append(requests.get(url, headers=headers, timeout=settings.hub_timeout))
        except requests.RequestException as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(settings.hub_timeout)
    if not outcome or isinstance(outcome[0], requests.Timeout):
        raise BaseUnreachable(settings.name, f"o hub não respondeu em {settings.hub_timeout:g} s")
    reply = outcome[0]
    if isinstance(reply, requests.RequestException):
        raise BaseUnreachable(settings.name, f"não há conexão com o hub ({type(reply).__name__})")
    if reply.status_code == 401 and token and "x-error-code" not in reply.headers:
        raise BaseModelError(
            "O hub recusou o token de acesso deste computador (inválido ou vencido); entre de novo com hf auth login, "
            "corrija a variável HF_TOKEN, ou saia com hf auth logout."
        )
    if reply.status_code in {401, 403, 404} and "x-error-code" in reply.headers:
        raise _refused(settings)
    if reply.status_code != 200 or not _is_json_object(reply.text):
        raise BaseUnreachable(settings.name, f"o hub respondeu com algo que não é o modelo (HTTP {reply.status_code})")


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights, shards that an index names included; empty if there are no weights."""
    first = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if first is None or not first.endswith(".index.json"):
        return [first] if first else []
    index = json.loads((folder / first).read_text(encoding="utf-8"))
    return sorted(set(index["weight_map"].values()))


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    if not config.exists():
        what = "é a pasta de um adaptador" if (folder / "adapter_config.json").exists() else "não tem config.json"
        raise BaseModelError(f"{folder} {what}; indique em model.name a pasta de um modelo base completo.")
    if not _is_json_object(config.read_text(encoding="utf-8", errors="replace")):
        raise BaseModelError(f"{config} não é JSON válido; copie o modelo base de novo.")
    weights = weight_files(folder)
    lacking = [name for name in weights or WEIGHT_FILES[:1] if not (folder / name).exists()]
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        lacking.append(" ou ".join(TOKENIZER_FILES))
    if lacking:
        raise BaseModelError(f"{folder} não tem {' nem '.join(lacking)}; copie o modelo base completo.")


def _cached_snapshot(settings: ModelSettings) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(settings.name, "config.json", revision=settings.revision)
    if not isinstance(config, str):
        return None
    try:
        _check_folder(Path(config).parent)
    except BaseModelError:
        return None  # a download that was cut short
    return Path(config).parent


def _download(settings: ModelSettings, weights: bool) -> Path:
    import httpx2  # the hub client's own HTTP library: its errors come through
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        files = {file.rfilename for file in HfApi().model_info(settings.name, revision=settings.revision).siblings}
        patterns = [name for name in HUB_FILES if weights or not name.endswith(".safetensors")]
        if weights and not files.intersection(WEIGHT_FILES[:2]):
            patterns.append("pytorch_model*.bin")
        folder = Path(snapshot_download(settings.name, revision=settings.revision, allow_patterns=patterns))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _refused(settings) from error
    except (LocalEntryNotFoundError, httpx2.HTTPError) as error:
        raise BaseUnreachable(settings.name, f"o hub não chegou a entregá-lo ({type(error).__name__})") from error
    if weights:
        _check_folder(folder)
    return folder


def _refused(settings: ModelSettings) -> BaseModelError:
    revision = f" na revisão {settings.revision}" if settings.revision else ""
    return BaseModelError(
        f"O hub diz que o modelo {settings.name}{revision} não existe ou exige acesso; confira model.name e "
        "model.revision, ou entre com hf auth login."
    )


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), Mapping)
    except json.JSONDecodeError:
        return False
