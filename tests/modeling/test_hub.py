"""What the hub, or whoever speaks in its place, may do, and what the user then reads; how a download goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import hub_stand_in
import pytest
from hub_stand_in import COMMIT, REPOSITORY, Answer, Manners, serving

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.errors import BaseModelError
from cartas_mlflow.modeling import download
from cartas_mlflow.modeling.base import BaseLocation, BaseUnreachable, find_base
from cartas_mlflow.modeling.hub import ask_hub
from cartas_mlflow.modeling.loading import load_base, load_tokenizer
from cartas_mlflow.settings import ModelSettings

WAIT = 0.4
PATIENCE = 1.5
WEIGHTS = "model.safetensors"
FIND = """
from cartas_mlflow.errors import BaseModelError
from cartas_mlflow.modeling.base import find_base
from cartas_mlflow.settings import ModelSettings
try:
    found = find_base(ModelSettings(name="{name}"))
    print(found.source, found.revision, found.folder)
except BaseModelError as error:
    print(type(error).__name__, error)
"""


def settings(**values: object) -> ModelSettings:
    return ModelSettings(**{"name": REPOSITORY, **values})


@contextmanager
def within(least: float, most: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert least <= time.monotonic() - started < most


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits in tenths of a second, and nobody's token."""
    monkeypatch.setattr(download, "PATIENCE", PATIENCE)
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def repository(tiny_base: Path, tmp_path: Path) -> Path:
    """A repository's files as PTT5's: two forms of the weights, the vocabulary alone, and what nobody needs."""
    folder = tmp_path / "repositorio"
    folder.mkdir()
    for name in ("config.json", "spiece.model", WEIGHTS):
        shutil.copy(tiny_base / name, folder)
    (folder / "README.md").write_text("# PTT5")
    for name in ("pytorch_model.bin", "spiece.vocab", "tf_model.h5", "model.ckpt.index.json"):
        (folder / name).write_bytes(b"not needed")
    return folder


def size_of(repository: Path) -> int:
    return (repository / WEIGHTS).stat().st_size


# Nothing answers: a fallback may serve


@pytest.mark.parametrize(
    ("nobody", "reason", "least", "most"),
    [
        (lambda: nullcontext(hub_stand_in.closed_port()), "não há conexão com o hub (ConnectError)", 0, WAIT),
        (lambda: nullcontext("http://nao.existe.invalid"), "não há conexão com o hub (ConnectError)", 0, WAIT + 0.5),
        (hub_stand_in.black_hole, "o hub não respondeu em 0.4 s", WAIT, WAIT + 0.5),
        (hub_stand_in.silent_hub, "o hub não respondeu em 1.5 s", PATIENCE, PATIENCE + 0.5),
        (
            lambda: hub_stand_in.hub(hub_stand_in.hanging_up),
            "não há conexão com o hub (RemoteProtocolError)",
            0,
            WAIT,
        ),
    ],
    ids=["closed port", "no such host", "black hole", "silence", "hangs up"],
)
def test_where_nothing_answers_a_fallback_may_serve(
    nobody: Callable[[], AbstractContextManager[str]],
    reason: str,
    least: float,
    most: float,
    hub_at: Callable[[str], None],
) -> None:
    with nobody() as url:
        hub_at(url)
        with within(least, most), pytest.raises(BaseUnreachable) as caught:
            find_base(settings(hub_timeout=WAIT))
    assert caught.value.reason == reason
    assert "model.fallback=configs/mini.yaml" in str(caught.value)


def test_a_proxy_that_lets_nobody_through_is_no_hub(
    hub_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.utils import close_session

    with hub_stand_in.hub(hub_stand_in.saying(403)) as proxy:
        monkeypatch.setenv("https_proxy", proxy)
        close_session()
        hub_at("https://huggingface.co")
        with pytest.raises(BaseUnreachable, match=r"não há conexão com o hub \(ProxyError\)"):
            find_base(settings())
    close_session()


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_the_offline_switch_asks_nobody(switch: str, tiny_base: Path, tmp_path: Path) -> None:
    log: list[str] = []
    with hub_stand_in.hub(serving(tiny_base, log)) as url:
        said = find_in_another_process(HF_ENDPOINT=url, HF_HOME=str(tmp_path), **{switch: "1"})
    assert said.startswith("BaseUnreachable")
    assert "o modo sem rede está ligado (HF_HUB_OFFLINE)" in said
    assert log == []


# Something answers, and not with the model: an error

GOES_ON = "repetido, o mesmo comando continua de onde parou."
WITHOUT_HUB = "HF_HUB_OFFLINE=1 (vale model.fallback) ou com uma pasta local em model.name"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda _: hub_stand_in.no_such_model, ["na revisão v2 não existe ou exige acesso", "model.revision"]),
        (lambda _: hub_stand_in.gated, ["aceitou os seus termos", f"https://huggingface.co/{REPOSITORY}", "repita"]),
        (lambda _: hub_stand_in.invalid_credentials, ["(HTTP 401)", WITHOUT_HUB, GOES_ON]),
        (lambda _: hub_stand_in.saying(403), ["(HTTP 403)", WITHOUT_HUB, GOES_ON]),
        (lambda _: hub_stand_in.saying(404), ["(HTTP 404)", WITHOUT_HUB, GOES_ON]),
        (lambda _: hub_stand_in.saying(429), ["agora (HTTP 429); espere um pouco", WITHOUT_HUB, GOES_ON]),
        (lambda _: hub_stand_in.saying(500), ["agora (HTTP 500); espere um pouco", WITHOUT_HUB, GOES_ON]),
        (lambda _: hub_stand_in.login_page, ["127.0.0.1 respondeu", "login", WITHOUT_HUB, GOES_ON]),
        (lambda _: hub_stand_in.saying(302, Location="/"), ["TooManyRedirects", WITHOUT_HUB, GOES_ON]),
        (lambda _: hub_stand_in.trickling, ["não terminou de responder em 3 s", WITHOUT_HUB, GOES_ON]),
        (hub_stand_in.breaking_off, ["não chegou a entregá-lo (RemoteProtocolError)", WITHOUT_HUB, GOES_ON]),
        (lambda files: serving(without(files, "config.json")), [f"{REPOSITORY} não tem config.json; indique"]),
        (lambda files: serving(without(files, "spiece.model")), ["não tem tokenizer.json ou spiece.model; indique"]),
        (
            lambda files: serving(without(files, WEIGHTS, "pytorch_model.bin")),
            ["não tem model.safetensors ou pytorch_model.bin; indique"],
        ),
        (
            lambda files: serving(files, manners=Manners(cut=size_of(files) // 3)),
            [f"O download de {WEIGHTS} parou em 0.3 de 0.9 MB", "confira a rede", GOES_ON],
        ),
        (
            lambda files: serving(files, manners=Manners(changed=True)),
            ["não é o que o hub anuncia (SHA-256)", "repita"],
        ),
        (lambda files: serving(files, manners=Manners(cdn="http://127.0.0.1:9")), ["(ConnectError)", GOES_ON]),
    ],
    ids=lambda row: row[0].split(";")[0] if isinstance(row, list) else "",
)
def test_where_something_answers_a_failure_is_an_error(
    answer: Callable[[Path], Answer], words: list[str], repository: Path, hub_at: Callable[[str], None]
) -> None:
    with hub_stand_in.hub(answer(repository)) as url:
        hub_at(url)
        with pytest.raises(BaseModelError) as caught:
            find_base(settings(revision="v2"))
    assert not isinstance(caught.value, BaseUnreachable)
    for word in words:
        assert word in str(caught.value)


def test_a_token_that_the_hub_does_not_know_is_named(
    hub_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_vencido")
    with hub_stand_in.hub(hub_stand_in.invalid_credentials) as url:
        hub_at(url)
        with pytest.raises(BaseModelError, match="O hub recusou o token de acesso deste computador") as refused:
            find_base(settings())
    assert not isinstance(refused.value, BaseUnreachable)


def test_a_disk_without_room_is_an_error_before_the_download(
    repository: Path, hub_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    usage = shutil.disk_usage("/")._replace(free=300_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with hub_stand_in.hub(serving(repository, log)) as url:
        hub_at(url)
        with pytest.raises(BaseModelError, match=r"tem 0\.3 MB livres, .* têm \d\.\d MB; libere espaço, .* HF_HOME"):
            find_base(settings())
    assert not any(line.startswith("GET") and WEIGHTS in line for line in log)


# The hub has ways of its own, and the model comes


@pytest.mark.parametrize(
    ("manners", "words"),
    [
        (Manners(), "baixado"),
        (Manners(cut=100_000, times=1), "(RemoteProtocolError); tentando de novo"),
        (
            Manners(cut=100_000, times=1, ranges=False),
            "não continua um download interrompido: model.safetensors recomeça",
        ),
        (Manners(rate=1e6), "baixado"),
    ],
    ids=["as it should", "cut once", "cut once, without Range", "1 MB/s"],
)
def test_the_model_comes(
    manners: Manners, words: str, repository: Path, hub_at: Callable[[str], None], said: list[str]
) -> None:
    with hub_stand_in.hub(serving(repository, manners=manners)) as url:
        hub_at(url)
        found = find_base(settings())
    assert (found.source, found.revision) == ("hub", COMMIT)
    assert (found.folder / WEIGHTS).read_bytes() == (repository / WEIGHTS).read_bytes()
    assert any(words in line for line in said), said


def test_a_hub_that_answers_after_the_timeout_is_waited_for_and_the_user_told(
    repository: Path, hub_at: Callable[[str], None], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE", 30.0)
    with hub_stand_in.hub(hub_stand_in.late(serving(repository), 3.5)) as url:
        hub_at(url)
        assert find_base(ModelSettings(name=REPOSITORY)).source == "hub"
    assert said[0] == "O hub aceitou a conexão e ainda não respondeu; esperando até 30 s"


def test_weights_that_lie_on_another_server_come_from_there_without_the_token(
    repository: Path, hub_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_segredo")
    tokens: dict[str, set[str | None]] = {"hub": set(), "cdn": set()}

    def noting(who: str, answer: Answer) -> Answer:
        return lambda handler: (tokens[who].add(handler.headers.get("Authorization")), answer(handler))[1]

    with (
        hub_stand_in.hub(noting("cdn", serving(repository, manners=Manners(cut=100_000, times=1)))) as cdn,
        hub_stand_in.hub(noting("hub", serving(repository, manners=Manners(cdn=cdn)))) as url,
    ):
        hub_at(url)
        found = find_base(settings())
    assert (found.folder / WEIGHTS).read_bytes() == (repository / WEIGHTS).read_bytes()
    assert tokens == {"hub": {"Bearer hf_segredo"}, "cdn": {None}}


# A broken download goes on


def test_the_second_start_fetches_only_the_rest(
    repository: Path, hub_at: Callable[[str], None], hub_cache: Path, said: list[str]
) -> None:
    from huggingface_hub import try_to_load_from_cache

    third = size_of(repository) // 3
    with hub_stand_in.hub(serving(repository, manners=Manners(cut=third))) as url:
        hub_at(url)
        with pytest.raises(BaseModelError, match=GOES_ON):
            find_base(settings())
    part = hub_cache / f"models--{REPOSITORY.replace('/', '--')}" / "blobs" / f"{digest(repository)}.incomplete"
    assert part.read_bytes() == (repository / WEIGHTS).read_bytes()[:third]

    log: list[str] = []
    with hub_stand_in.hub(serving(repository, log)) as url:
        hub_at(url)
        found = find_base(settings())
    assert [line for line in log if line.startswith("GET") and WEIGHTS in line] == [
        f"GET /{REPOSITORY}/resolve/{COMMIT}/{WEIGHTS} bytes={third}-"
    ]
    assert (found.folder / WEIGHTS).read_bytes() == (repository / WEIGHTS).read_bytes()
    assert try_to_load_from_cache(REPOSITORY, WEIGHTS) == str(found.folder / WEIGHTS)
    assert not part.exists()
    assert any(line.endswith("já estavam aqui") for line in said)


@pytest.mark.parametrize("length", [1000, 10**7])
def test_a_part_of_another_file_is_never_taken(
    length: int, repository: Path, hub_at: Callable[[str], None], hub_cache: Path, said: list[str]
) -> None:
    blobs = hub_cache / f"models--{REPOSITORY.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{digest(repository)}.incomplete").write_bytes(b"x" * length)
    with hub_stand_in.hub(serving(repository)) as url:
        hub_at(url)
        found = find_base(settings())
    assert (found.folder / WEIGHTS).read_bytes() == (repository / WEIGHTS).read_bytes()
    assert any("não era o começo deste arquivo" in line for line in said)


def test_a_login_page_instead_of_the_rest_costs_nothing_of_what_is_here(
    repository: Path, hub_at: Callable[[str], None], hub_cache: Path
) -> None:
    blobs = hub_cache / f"models--{REPOSITORY.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    part = blobs / f"{digest(repository)}.incomplete"
    part.write_bytes((repository / WEIGHTS).read_bytes()[:1000])
    with (
        hub_stand_in.hub(hub_stand_in.login_page) as portal,
        hub_stand_in.hub(serving(repository, manners=Manners(cdn=portal))) as url,
    ):
        hub_at(url)
        with pytest.raises(BaseModelError, match=r"No lugar de model\.safetensors veio outra coisa"):
            find_base(settings())
    assert part.stat().st_size == 1000


def test_two_commands_at_once_fetch_a_file_once(repository: Path, tmp_path: Path) -> None:
    log: list[str] = []
    with hub_stand_in.hub(serving(repository, log, Manners(rate=3e5))) as url:
        environment = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")}
        first, second = (start_in_another_process(**environment) for _ in range(2))
        answers = [process.communicate(timeout=60)[0].split()[:2] for process in (first, second)]
    assert [answer[1] for answer in answers] == [COMMIT, COMMIT]
    assert sum(line.startswith("GET") and WEIGHTS in line for line in log) == 1


def test_a_command_that_was_killed_leaves_what_it_had(repository: Path, tmp_path: Path) -> None:
    environment = {"HF_HOME": str(tmp_path / "hf")}
    with hub_stand_in.hub(serving(repository, manners=Manners(rate=2e5))) as url:
        process = start_in_another_process(HF_ENDPOINT=url, **environment)
        deadline = time.monotonic() + 60
        part = (
            tmp_path / "hf/hub" / f"models--{REPOSITORY.replace('/', '--')}" / f"blobs/{digest(repository)}.incomplete"
        )
        while not (part.exists() and part.stat().st_size > 50_000):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.communicate()
    had = part.stat().st_size
    log: list[str] = []
    with hub_stand_in.hub(serving(repository, log)) as url:
        assert find_in_another_process(HF_ENDPOINT=url, **environment).startswith("hub ")
    assert f"GET /{REPOSITORY}/resolve/{COMMIT}/{WEIGHTS} bytes={had}-" in log


# What is fetched


@pytest.mark.parametrize(
    ("absent", "present", "fetched"),
    [
        ([], [], ["README.md", "config.json", WEIGHTS, "spiece.model"]),
        ([WEIGHTS], [], ["README.md", "config.json", "pytorch_model.bin", "spiece.model"]),
        (
            [],
            ["generation_config.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"],
            [
                "README.md",
                "added_tokens.json",
                "config.json",
                "generation_config.json",
                WEIGHTS,
                "special_tokens_map.json",
                "spiece.model",
                "tokenizer_config.json",
            ],
        ),
    ],
    ids=["PTT5", "only .bin", "PTT5 v2"],
)
def test_one_form_of_the_weights_is_fetched_and_what_is_needed_beside_them(
    absent: list[str], present: list[str], fetched: list[str], repository: Path, hub_at: Callable[[str], None]
) -> None:
    without(repository, *absent)
    for name in present:
        (repository / name).write_text("{}")
    with hub_stand_in.hub(serving(repository)) as url:
        hub_at(url)
        found = find_base(settings())
    assert sorted(file.name for file in found.folder.iterdir()) == fetched


def test_shards_are_fetched_as_their_index_names_them(repository: Path, hub_at: Callable[[str], None]) -> None:
    (repository / WEIGHTS).rename(repository / "model-00001-of-00002.safetensors")
    for name in ("model-00002-of-00002.safetensors", "model-of-another-time.safetensors"):
        (repository / name).write_bytes(b"second")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (repository / "model.safetensors.index.json").write_text(json.dumps(index))
    with hub_stand_in.hub(serving(repository)) as url:
        hub_at(url)
        found = find_base(settings())
    assert sorted(file.name for file in found.folder.glob("*.safetensors")) == sorted(set(index["weight_map"].values()))
    assert not (found.folder / "pytorch_model.bin").exists()


def test_without_weights_none_are_fetched(repository: Path, hub_at: Callable[[str], None]) -> None:
    log: list[str] = []
    with hub_stand_in.hub(serving(repository, log)) as url:
        hub_at(url)
        found = find_base(settings(), weights=False)
    assert sorted(file.name for file in found.folder.iterdir()) == ["README.md", "config.json", "spiece.model"]
    assert len(load_tokenizer(found.folder)) == len(load_tokenizer(repository))
    assert not any(name in line for line in log for name in (WEIGHTS, ".bin"))


def test_a_revision_with_a_slash_is_asked_for_by_its_name(repository: Path, hub_at: Callable[[str], None]) -> None:
    log: list[str] = []
    with hub_stand_in.hub(serving(repository, log)) as url:
        hub_at(url)
        ask_hub(settings(revision="refs/pr/1"))
    assert log == [f"GET /{REPOSITORY}/resolve/refs%2Fpr%2F1/config.json"]


def test_what_came_once_is_used_without_the_hub(repository: Path, tmp_path: Path) -> None:
    home = str(tmp_path / "hf")
    with hub_stand_in.hub(serving(repository)) as url:
        source, revision, folder = find_in_another_process(HF_ENDPOINT=url, HF_HOME=home).splitlines()[-1].split()
    assert (source, revision) == ("hub", COMMIT)
    gone = find_in_another_process(HF_ENDPOINT=hub_stand_in.closed_port(), HF_HOME=home).split()
    assert gone == ["cache", COMMIT, folder]
    located = BaseLocation(REPOSITORY, Path(folder), "cache", COMMIT)
    here = BaseLocation(str(repository), repository, "folder")
    assert load_base(located).num_parameters() == load_base(here).num_parameters()
    assert load_tokenizer(located.folder).encode("O Louco") == load_tokenizer(repository).encode("O Louco")


# What is said


def test_a_slow_download_says_how_far_it_is(
    repository: Path, hub_at: Callable[[str], None], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LINE_EVERY", 0.2)
    with hub_stand_in.hub(serving(repository, manners=Manners(rate=1e6))) as url:
        hub_at(url)
        find_base(settings())
    total = download.megabytes(size_of(repository))
    assert said[0] == f"Baixando {WEIGHTS}: {total} MB"
    lines = [line for line in said if line.startswith(f"Baixando {WEIGHTS}… ")]
    assert lines
    assert all(line.partition(" de ")[2].startswith(f"{total} MB, ") and line.endswith(" MB/s") for line in lines)
    assert said[-1].startswith(f"{WEIGHTS} baixado: {total} MB em ")


@pytest.mark.parametrize(
    ("count", "text"), [(892_000_000, "892"), (11_400_000_000, "11400"), (940_000, "0.9"), (0, "0.0")]
)
def test_bytes_are_said_in_megabytes(count: int, text: str) -> None:
    assert download.megabytes(count) == text


def without(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def digest(repository: Path) -> str:
    return hashlib.sha256((repository / WEIGHTS).read_bytes()).hexdigest()


def start_in_another_process(**environment: str) -> subprocess.Popen[str]:
    """The endpoint, the cache and the offline switch are read when the hub client is imported."""
    command = [sys.executable, "-c", FIND.format(name=REPOSITORY)]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    return subprocess.Popen(command, env=inherited | environment, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT)


def find_in_another_process(**environment: str) -> str:
    process = start_in_another_process(**environment)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return said.strip()
