"""Fixtures: small real things (a tiny T5 with its own tokenizer, a table of readings, a sqlite tracking store)."""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import signal

import pytest

from cartas_mlflow.config import PROJECT_ROOT

pytest_plugins = ["databases", "finished", "trainings"]

# A job started in the background ignores Ctrl+C from its start; these tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

BUNDLED = PROJECT_ROOT / "data" / "cartas.csv"


@pytest.fixture(scope="session", autouse=True)
def wide_lines() -> Iterator[None]:
    """What a command says in a line stays a line, in its subprocesses too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")
        yield


@pytest.fixture(scope="session")
def bundled_rows() -> list[dict[str, str]]:
    """The bundled table, as read by the standard library."""
    with BUNDLED.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, bundled_rows: list[dict[str, str]]) -> Path:
    """A real T5 v1.0 with random weights (dimensions that 4-bit layers take) and a real SentencePiece tokenizer."""
    import sentencepiece
    import torch
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("base") / "tiny-t5"
    folder.mkdir()
    text = folder.parent / "texts.txt"
    text.write_text("\n".join(" ".join(row.values()) for row in bundled_rows), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spiece"),
        vocab_size=900,
        model_type="unigram",
        character_coverage=1.0,
        required_chars="ÁÀÂÃÉÊÍÓÔÕÚÇáàâãéêíóôõúç",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=1024,
        d_model=64,
        d_kv=16,
        num_heads=4,
        d_ff=128,
        num_layers=2,
        num_decoder_layers=2,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture
def small_table(tmp_path: Path, bundled_rows: list[dict[str, str]]) -> Path:
    """Two cards, 42 readings."""
    path = tmp_path / "pequena.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(bundled_rows[0]))
        writer.writeheader()
        writer.writerows(bundled_rows[:42])
    return path


@pytest.fixture(scope="session")
def created_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite store with its tables and nothing in them: they take seconds to create, a copy does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracking_store(created_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh sqlite store and working folder for this test; gives the tracking URI."""
    import mlflow

    shutil.copy(created_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    mlflow.set_tracking_uri(uri)
    yield uri
    while mlflow.active_run():
        mlflow.end_run("KILLED")
    mlflow.set_tracking_uri(None)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache of this test's own."""
    from huggingface_hub import constants

    folder = tmp_path / "hf" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def hub_at(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make an address the hub's, with an empty cache."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)

    def move(url: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)

    return move


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The lines that the user was shown."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend(record.getMessage().splitlines())

    logger, listener = logging.getLogger("cartas_mlflow"), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(listener)
    logger.setLevel(level)
