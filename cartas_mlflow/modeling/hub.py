"""The model hub: ask whether it is there, and fetch what a base needs, and no more.

Two failures are told apart. Nothing ever answered (offline mode, no connection, a proxy that lets nobody through,
silence): :class:`BaseUnreachable`, and a fallback may serve. Once something has answered in the hub's place, be it the
hub itself, a mirror, or a network's login page, what fails is a plain :class:`BaseModelError`: who trains for hours
should do so on the base that was asked for. On a closed network whose proxy answers every address, HF_HUB_OFFLINE=1
says that there is no hub, and the fallback serves.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.console import say
from cartas_mlflow.errors import BaseModelError, first_line
from cartas_mlflow.modeling import download
from cartas_mlflow.modeling.download import GOES_ON, RemoteFile
from cartas_mlflow.settings import ModelSettings

if TYPE_CHECKING:
    import httpx2

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""In the library's order of preference: it loads the first that is there. An index names the files of its shards."""
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
SMALL_FILES = (
    "generation_config.json",
    "README.md",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    *TOKENIZER_FILES,
)
"""What is fetched beside config.json and weights, where a repository has it."""

WITHOUT_HUB = "siga sem o hub, com HF_HUB_OFFLINE=1 (vale model.fallback) ou com uma pasta local em model.name"


class BaseUnreachable(BaseModelError):
    """The base is not on this machine and no hub answers: a fallback may serve. ``reason`` is a Portuguese clause."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(
            f"O modelo base {name} não está neste computador e {reason}; conecte-se à rede, indique uma pasta local em "
            "model.name, ou use model.fallback=configs/mini.yaml."
        )


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights, shards that an index names included; empty if there are no weights."""
    first = next((name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if first is None or not first.endswith(".index.json"):
        return [first] if first else []
    index = json.loads((folder / first).read_text(encoding="utf-8"))
    return sorted(set(index["weight_map"].values()))


def ask_hub(settings: ModelSettings) -> None:
    """Return if the hub has the model.

    ``settings.hub_timeout`` seconds are for the connection, name resolution included: where nobody takes it, the
    exchange is left to its thread. Who took it has ``download.PATIENCE`` seconds for the whole answer.

    Raises:
        BaseUnreachable: nothing answered.
        BaseModelError: something did, and it is not the model.
    """
    import httpx2
    from huggingface_hub import constants, hf_hub_url

    if constants.is_offline_mode():
        raise BaseUnreachable(settings.name, "o modo sem rede está ligado (HF_HUB_OFFLINE)")
    patience = max(download.PATIENCE, settings.hub_timeout)
    exchange = _Exchange(hf_hub_url(settings.name, "config.json", revision=settings.revision), patience)
    exchange.start()
    exchange.join(settings.hub_timeout)
    waited = settings.hub_timeout
    if exchange.is_alive() and exchange.connected:
        say(f"O hub aceitou a conexão e ainda não respondeu; esperando até {_seconds(patience)}")
        exchange.join(patience - waited)
        waited = patience
    outcome = exchange.outcome
    if outcome is None or isinstance(outcome, httpx2.TimeoutException):
        if exchange.answered:
            raise _lost(settings, f"não terminou de responder em {_seconds(waited)}")
        raise BaseUnreachable(settings.name, f"o hub não respondeu em {_seconds(waited)}")
    if isinstance(outcome, httpx2.Response):
        if outcome.status_code != 200 or not is_json_object(outcome.text):
            raise _refused(settings, outcome)
    elif isinstance(_root(outcome), ssl.SSLCertVerificationError):
        raise BaseModelError(
            f"O certificado de quem respondeu por {exchange.host} não pôde ser conferido; se a rede usa um certificado "
            f"seu, indique-o em SSL_CERT_FILE, ou {WITHOUT_HUB}; {GOES_ON}."
        )
    elif exchange.answered:
        raise _lost(settings, f"não respondeu até o fim ({type(outcome).__name__})")
    else:
        raise BaseUnreachable(settings.name, f"não há conexão com o hub ({type(outcome).__name__})")


def fetch_base(settings: ModelSettings, weights: bool, tokenizer: bool = True) -> Path:
    """Bring a base from the hub into its local cache; one form of the weights, and last, so that a cache that has them
    has all.

    Args:
        weights: False where settings and tokenizer are enough.
        tokenizer: whether the repository must have one.

    Returns:
        The snapshot's folder.

    Raises:
        BaseUnreachable: nothing answered.
        BaseModelError: the hub did, and did not give what was asked for.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import silent_tqdm

    def fetch(name: str, revision: str | None) -> Path:
        return Path(hf_hub_download(settings.name, name, revision=revision, tqdm_class=silent_tqdm))

    ask_hub(settings)
    with _failures_told(settings):
        folder = fetch("config.json", settings.revision).parent
        commit = folder.name
        info = HfApi().model_info(settings.name, revision=commit, timeout=download.PATIENCE)
        names = {file.rfilename for file in info.siblings or ()}
        _check_complete(settings.name, names, weights, tokenizer)
        for name in SMALL_FILES:
            if name in names:
                fetch(name, commit)
        if not weights:
            return folder
        form = next(name for name in WEIGHT_FILES if name in names)
        files = [form]
        if form.endswith(".index.json"):
            index = json.loads(fetch(form, commit).read_text(encoding="utf-8"))
            files = sorted(set(index["weight_map"].values()))
        remote = [file for name in files if (file := _remote_file(settings.name, name, commit))]
        download.check_space(remote)
        for file in remote:
            download.download(file)
        for name in files:
            fetch(name, commit)  # what lies in the cache is only given its name there
    return folder


def is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), Mapping)
    except json.JSONDecodeError:
        return False


class _Exchange(threading.Thread):
    """A request by the hub client's own HTTP session, which can be watched and left alone.

    ``connected``: somebody took the connection. ``answered``: their answer began, other than that of a proxy which is
    asked for the way.
    """

    def __init__(self, url: str, patience: float) -> None:
        super().__init__(daemon=True)
        self.url, self.patience = url, patience
        self.connected = self.answered = False
        self.outcome: httpx2.Response | httpx2.HTTPError | None = None
        self._tunnel = False

    @property
    def host(self) -> str:
        return self.url.split("/")[2]

    def run(self) -> None:
        import httpx2
        from huggingface_hub import get_token
        from huggingface_hub.utils import get_session

        # The library's own headers may cost a request of their own (who is asking?), before this one and as slow.
        headers = {"authorization": f"Bearer {token}"} if (token := get_token()) else {}
        try:
            self.outcome = get_session().get(
                self.url, headers=headers, timeout=self.patience, extensions={"trace": self._note}
            )
        except httpx2.HTTPError as error:
            self.outcome = error

    def _note(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("receive_response_headers.started"):
            self.connected, self._tunnel = True, info["request"].method == b"CONNECT"
        elif event == "connection.connect_tcp.complete":
            self.connected = True
        elif event.endswith("receive_response_headers.complete") and not self._tunnel:
            self.answered = True


def _remote_file(repository: str, name: str, commit: str) -> RemoteFile | None:
    """What the hub says of a file of weights; None if it does not say its SHA-256 and size (a mirror's may not): what
    cannot be checked is left to the library, which fetches it whole."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import REGEX_SHA256, repo_folder_name

    url = hf_hub_url(repository, name, revision=commit)
    told = get_hf_file_metadata(url, timeout=download.PATIENCE)
    if told.size is None or told.etag is None or not REGEX_SHA256.fullmatch(told.etag):
        return None
    cache, folder = Path(constants.HF_HUB_CACHE), repo_folder_name(repo_id=repository, repo_type="model")
    blob, lock = cache / folder / "blobs" / told.etag, cache / ".locks" / folder / f"{told.etag}.lock"
    return RemoteFile(name, url, told.size, told.etag, blob, lock)


def _check_complete(repository: str, names: Collection[str], weights: bool, tokenizer: bool) -> None:
    lacking = [" ou ".join(TOKENIZER_FILES)] if tokenizer and names.isdisjoint(TOKENIZER_FILES) else []
    if weights and names.isdisjoint(WEIGHT_FILES):
        lacking.insert(0, f"{WEIGHT_FILES[0]} ou {WEIGHT_FILES[2]}")
    if lacking:
        raise BaseModelError(
            f"O repositório {repository} não tem {' nem '.join(lacking)}; "
            "indique em model.name um modelo base completo."
        )


@contextmanager
def _failures_told(settings: ModelSettings) -> Iterator[None]:
    """What can fail after the hub's first answer, as one sentence."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import FileMetadataError, LocalEntryNotFoundError

    try:
        yield
    except LocalEntryNotFoundError as error:  # the library's word for any request that failed
        cause = error.__cause__
        if isinstance(cause, httpx2.HTTPStatusError):
            raise _refused(settings, cause.response) from error
        raise _lost(settings, f"não chegou a entregá-lo ({type(cause or error).__name__})") from error
    except httpx2.HTTPStatusError as error:
        raise _refused(settings, error.response) from error
    except (httpx2.HTTPError, FileMetadataError, json.JSONDecodeError) as error:
        raise _lost(settings, f"não chegou a entregá-lo ({type(error).__name__})") from error
    except OSError as error:
        if error.errno is None:  # the library's word for a file of another length than announced
            raise _lost(settings, "o que enviou não chegou inteiro") from error
        raise BaseModelError(
            f"O que o hub enviou não pôde ser guardado em {constants.HF_HUB_CACHE} "
            f"({error.strerror or first_line(error)}); libere espaço, ou indique outra pasta com HF_HOME; {GOES_ON}."
        ) from error


def _lost(settings: ModelSettings, what: str) -> BaseModelError:
    return BaseModelError(
        f"O hub atendeu ao pedido do modelo base {settings.name}, mas {what}; confira a rede, ou {WITHOUT_HUB}; "
        f"{GOES_ON}."
    )


def _refused(settings: ModelSettings, reply: httpx2.Response) -> BaseModelError:
    """What an answer means that is not what was asked for."""
    from huggingface_hub import get_token

    name, status, code = settings.name, reply.status_code, reply.headers.get("x-error-code", "")
    if code == "GatedRepo":
        return BaseModelError(
            f"O hub só entrega o modelo {name} a quem aceitou os seus termos; aceite-os em "
            f"https://huggingface.co/{name}, entre com a mesma conta (hf auth login) e repita o comando."
        )
    if code == "EntryNotFound":
        return BaseModelError(
            f"O repositório {name} não tem {reply.url.path.rpartition('/')[2]}; "
            "indique em model.name um modelo base completo."
        )
    if code in {"RepoNotFound", "RevisionNotFound"}:
        revision = f" na revisão {settings.revision}" if settings.revision else ""
        return BaseModelError(
            f"O hub diz que o modelo {name}{revision} não existe ou exige acesso; confira model.name e "
            "model.revision, ou entre com hf auth login."
        )
    if status == 401 and get_token():
        return BaseModelError(
            "O hub recusou o token de acesso deste computador (inválido ou vencido); entre de novo com hf auth login, "
            "corrija a variável HF_TOKEN, ou saia com hf auth logout."
        )
    if status in {408, 429} or status >= 500:
        return BaseModelError(
            f"O hub respondeu que não pode entregar o modelo base {name} agora (HTTP {status}); espere um pouco, "
            f"ou {WITHOUT_HUB}; {GOES_ON}."
        )
    return BaseModelError(
        f"Em vez do modelo base {name}, {reply.url.host} respondeu com outra coisa (HTTP {status}), como uma página de "
        f"login da rede ou um proxy; entre na rede com o navegador, ou {WITHOUT_HUB}; {GOES_ON}."
    )


def _seconds(value: float) -> str:
    return f"{value:g} s"


def _root(error: BaseException) -> BaseException:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return error
