"""What a training says before it begins about the room on its disk."""

from __future__ import annotations

import re
from collections import namedtuple
from pathlib import Path

import pytest
from finished import Trained

from cartas_mlflow.config import load_config
from cartas_mlflow.training import disk
from cartas_mlflow.training.disk import tell_disk
from cartas_mlflow.training.preparation import (
    Setup,
    attach_lora,
    encode_data,
    load_data,
    load_model,
    settle_base,
    split_data,
)

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def setup(tiny_base: Path, small_table: Path) -> Setup:
    overrides = {"model.name": str(tiny_base), "training.device": "cpu", "data.path": str(small_table)}
    settled = settle_base(load_config(overrides=overrides), "configs/default.yaml", overrides)
    data = split_data(settled.config, load_data(settled.config))
    base = load_model(settled)
    model, count = attach_lora(settled.config, base)
    return Setup(settled, data, base, model, count, encode_data(settled.config, base, data))


def test_a_disk_without_room_is_told_with_the_mend(
    setup: Setup, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said.clear()
    tell_disk(setup, tmp_path, with_model=True)
    assert len(said) == 1
    assert re.fullmatch(r"Disco previsto, no máximo: \d+ MB \(livres: \d+\.\d GB\)", said[0])
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: Usage(0, 0, 1000))
    tell_disk(setup, tmp_path, with_model=True)
    assert said[-1].startswith(f"⚠️ Não cabe no disco de {tmp_path}; libere espaço, ou use tracking.output_dir")


def test_a_folder_s_base_is_copied_into_the_logged_model(setup: Setup) -> None:
    with_base = disk.expected_bytes(setup, with_model=True)
    assert with_base - disk.expected_bytes(setup, with_model=False) == pytest.approx(
        sum(path.stat().st_size for path in setup.base.location.folder.glob("*.safetensors"))
    )


def test_what_a_training_wrote_is_no_more_than_was_said(trained: Trained) -> None:
    log = (trained.folder / "training_log.log").read_text(encoding="utf-8")
    said = int(re.search(r"Disco previsto, no máximo: (\d+) MB", log)[1])
    weights = [*trained.folder.rglob("*.safetensors"), *trained.folder.rglob("*.pt")]
    assert sum(path.stat().st_size for path in weights) <= (said + 1) * 2**20
