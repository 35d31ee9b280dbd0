"""A checkpoint on a full disk: it is left out, the older ones stay whole, and the training goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from finished import train_here
from safetensors.torch import save_file

from cartas_mlflow.modeling.checkpoints import complete_checkpoints, find_damage
from cartas_mlflow.modeling.saving import save_or_skip


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 64 KiB."""
    place = tmp_path_factory.mktemp("disco")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


WAYS = {
    "open": lambda path: path.write_bytes(b"0" * 200_000),
    "torch": lambda path: torch.save(torch.zeros(50_000), path),
    "safetensors": lambda path: save_file({"w": torch.zeros(50_000)}, path),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_library_says_in_its_own_way_that_the_disk_is_full(way: str, small_disk: Path, said: list[str]) -> None:
    checkpoint = small_disk / "checkpoint-7"

    def save() -> None:
        checkpoint.mkdir()
        (checkpoint / "config.json").write_text("{}", encoding="utf-8")
        WAYS[way](checkpoint / "weights")

    assert not save_or_skip(checkpoint, save)
    assert list(small_disk.iterdir()) == []
    assert said == [
        f"⚠️ O disco de {small_disk} está cheio: checkpoint-7 não foi salvo, e ainda não há nenhum. O treino continua; "
        "libere espaço para o próximo."
    ]


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), RuntimeError("shape mismatch")])
def test_another_failure_is_no_full_disk(error: Exception, tmp_path: Path) -> None:
    def save() -> None:
        raise error

    with pytest.raises(type(error)):
        save_or_skip(tmp_path / "checkpoint-7", save)


@pytest.mark.slow
def test_a_training_goes_on_without_the_checkpoint_and_keeps_the_best_one_that_it_has(
    quick: dict[str, Any], empty_store: str, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    real = torch.save

    def save(content: object, place: Any, *args: Any, **kwargs: Any) -> None:
        if "checkpoint-10" in str(place):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(content, place, *args, **kwargs)

    monkeypatch.setattr(torch, "save", save)
    done = train_here(quick, early_stopping__patience=0)
    assert done.run.info.status == "FINISHED"
    assert done.result.best_epoch in {1, 3}
    whole = complete_checkpoints(done.folder / "checkpoints")
    assert [path.name for path in whole] == ["checkpoint-5", "checkpoint-15"]
    assert [find_damage(path) for path in whole] == [None, None]
    assert sum("está cheio: checkpoint-10 não foi salvo, e o mais novo continua sendo checkpoint-5" in s for s in said)
