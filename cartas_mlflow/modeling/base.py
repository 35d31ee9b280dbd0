"""Find the base model and load it.

Where it is looked for, in this order: a local folder of that name; the hub's local cache; the hub, if it answers within
``model.hub_timeout`` seconds (the hub client's own retries take 50 s on a closed network). The caller decides what to do
when it is nowhere to be had: :func:`find_base` raises :class:`BaseUnreachable`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.config import PROJECT_ROOT, find_project_file
from cartas_mlflow.errors import BaseModelError
from cartas_mlflow.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
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
        """First 16 hex digits of the SHA-256 of the weight files: an adapter loads silently on a base of equal shapes
        but other weights, so the adapter remembers this."""
        digest = hashlib.sha256()
        for file in sorted(path for path in self.folder.iterdir() if path.suffix in {".safetensors", ".bin"}):
            if file.name == "training_args.bin":
                continue
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Quantization:
    """A 4-bit base. ``kind``: ``nf4`` or ``fp4``; ``compute``: torch dtype name of the matrix products."""

    kind: str
    double: bool
    compute: str

    @property
    def description(self) -> str:
        return f"4-bit ({self.kind}{', dupla quantização' if self.double else ''}, cálculo em {self.compute})"


def find_base(settings: ModelSettings) -> BaseLocation:
    """Locate the base model, fetching it from the hub where that is needed and possible.

    Raises:
        BaseUnreachable: it is not on this machine and no hub answers in time.
        BaseModelError: the folder is not a complete model, or the hub says that there is no such model.
    """
    folder = find_project_file(settings.name)
    if folder.is_dir():
        _check_folder(folder)
        embedded = folder.resolve().is_relative_to(PROJECT_ROOT / "data" / "base")
        return BaseLocation(settings.name, folder.resolve(), "embedded" if embedded else "folder")
    if settings.name.startswith((".", "/", "~", "data/")) or settings.name.count("/") > 1 or "\\" in settings.name:
        raise BaseModelError(
            f"A pasta do modelo base {settings.name} não existe; confira model.name (um id do hub ou uma pasta local)."
        )
    cached = _cached_snapshot(settings)
    if cached is not None:
        return BaseLocation(settings.name, cached, "cache", cached.name)
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        raise BaseUnreachable(settings.name, "o modo sem rede está ligado (HF_HUB_OFFLINE)")
    ask_hub(settings)
    snapshot = _download(settings)
    return BaseLocation(settings.name, snapshot, "hub", snapshot.name)


def ask_hub(settings: ModelSettings) -> None:
    """Return if the hub has the model; never takes longer than ``settings.hub_timeout`` seconds.

    The whole exchange, name resolution included, has that one deadline: it runs in a thread that is abandoned.

    Raises:
        BaseUnreachable: no answer in time, or an answer that is not the hub's (a proxy's login page, an error 5xx).
        BaseModelError: the hub answers that there is no such model, or that it needs a login.
    """
    import requests
    from huggingface_hub import constants, get_token

    url = f"{constants.ENDPOINT}/{settings.name}/resolve/{settings.revision or 'main'}/config.json"
    headers = {"authorization": f"Bearer {get_token()}"} if get_token() else {}
    answer: dict[str, Any] = {}

    def ask() -> None:
        try:
            reply = requests.get(url, headers=headers, timeout=settings.hub_timeout)
        except requests.RequestException as error:
            answer["failure"] = type(error).__name__
        else:
            answer["status"], answer["body"] = reply.status_code, reply.text
            answer["is_hub"] = any(header.lower() in {"x-error-code", "x-repo-commit"} for header in reply.headers)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(settings.hub_timeout)
    if not answer:
        raise BaseUnreachable(settings.name, f"o hub não respondeu em {settings.hub_timeout:g} s")
    if "failure" in answer:
        raise BaseUnreachable(settings.name, f"não há conexão com o hub ({answer['failure']})")
    if answer["status"] in {401, 403, 404} and answer["is_hub"]:
        raise BaseModelError(
            f"O hub diz que o modelo {settings.name}"
            + (f" na revisão {settings.revision}" if settings.revision else "")
            + " não existe ou exige acesso; confira model.name e model.revision, ou entre com hf auth login."
        )
    if answer["status"] != 200 or not _is_json_object(answer["body"]):
        raise BaseUnreachable(settings.name, f"o hub respondeu com algo que não é o modelo (HTTP {answer['status']})")


def choose_quantization(settings: ModelSettings, device: str, precision: str) -> Quantization | None:
    """``auto`` means 4 bits on CUDA only; ``true`` works on a CPU too (slow, but real)."""
    if settings.quantization == "false" or (settings.quantization == "auto" and device != "cuda"):
        return None
    return Quantization(settings.quantization_type, settings.double_quantization, precision)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a base or of an adapter folder."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def load_base(location: BaseLocation, device: str = "cpu", quantization: Quantization | None = None) -> PreTrainedModel:
    """Load the weights in float32 (autocast does the rest), or in 4 bits.

    Raises:
        BaseModelError: not an encoder-decoder text model, or files that do not fit together.
    """
    import torch

    quiet_libraries()
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, BitsAndBytesConfig

    config = AutoConfig.from_pretrained(location.folder)
    if not config.is_encoder_decoder:
        raise BaseModelError(
            f"{location.name} é um modelo {config.model_type}, que não é codificador-decodificador; use um T5 (ex.: PTT5)."
        )
    options: dict[str, Any] = {"dtype": torch.float32}
    if quantization is not None:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.kind,
            bnb_4bit_use_double_quant=quantization.double,
            bnb_4bit_compute_dtype=getattr(torch, quantization.compute),
        )
        options["device_map"] = {"": device}
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(location.folder, **options)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BaseModelError(
            f"Os pesos em {location.folder} não puderam ser lidos ({reason}); baixe ou copie o modelo de novo."
        ) from error
    if quantization is None:
        return model.to(device)
    from peft import prepare_model_for_kbit_training

    keep_gradients_right(model)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def keep_gradients_right(model: PreTrainedModel) -> None:
    """Keep 4-bit layers on the kernel that has a backward pass.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks every 4-bit layer at the first forward in evaluation mode; from
    then on the training forward takes a kernel without backward and the gradients of lower layers silently vanish.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quiet_libraries() -> None:
    """Silence what the libraries print of themselves: the console belongs to the phases. Call before importing peft."""
    import warnings

    from transformers.utils import logging as transformers_logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    if not config.exists():
        what = "é a pasta de um adaptador" if (folder / "adapter_config.json").exists() else "não tem config.json"
        raise BaseModelError(f"{folder} {what}; indique em model.name a pasta de um modelo base completo.")
    if not _is_json_object(config.read_text(encoding="utf-8", errors="replace")):
        raise BaseModelError(f"{config} não é JSON válido; copie o modelo base de novo.")
    for kind, names in (("pesos", WEIGHT_FILES), ("tokenizador", TOKENIZER_FILES)):
        if not any((folder / name).exists() for name in names):
            raise BaseModelError(f"{folder} não tem {kind} ({' ou '.join(names[:3:2])}); copie o modelo base completo.")


def _cached_snapshot(settings: ModelSettings) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    def cached(file: str) -> str | None:
        found = try_to_load_from_cache(settings.name, file, revision=settings.revision)
        return found if isinstance(found, str) else None

    config = cached("config.json")
    if config is None or not any(map(cached, WEIGHT_FILES)) or not any(map(cached, TOKENIZER_FILES)):
        return None
    return Path(config).parent


def _download(settings: ModelSettings) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        files = HfApi().list_repo_files(settings.name, revision=settings.revision)
        weights = next((name for name in WEIGHT_FILES if name in files), None)
        patterns = list(HUB_FILES)
        if weights is not None and weights.startswith("pytorch_model"):
            patterns.append("pytorch_model*.bin")
        folder = Path(snapshot_download(settings.name, revision=settings.revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise BaseUnreachable(settings.name, f"a conexão com o hub caiu ({type(error).__name__})") from error
    except (RepositoryNotFoundError, HfHubHTTPError) as error:
        raise BaseModelError(
            f"O hub não entregou o modelo {settings.name} ({type(error).__name__}); confira model.name e tente de novo."
        ) from error
    _check_folder(folder)
    return folder


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), Mapping)
    except json.JSONDecodeError:
        return False
