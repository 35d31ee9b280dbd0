"""Which checkpoint can be trusted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from readings import reading_trainer, settings

from cartas_mlflow.errors import TrainingError
from cartas_mlflow.modeling.checkpoints import checkpoint_step, complete_checkpoints, find_checkpoint

WRITTEN_IN_ORDER = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "tokenizer_config.json",
    "tokenizer.json",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
)


@pytest.fixture(scope="module")
def written(tiny_base: Path, bundled_rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints 1 and 2 of a real training."""
    folder = tmp_path_factory.mktemp("training") / "checkpoints"
    reading_trainer(tiny_base, bundled_rows[:14], settings(training__epochs=2), folder).train()
    return folder


@pytest.fixture
def checkpoints(written: Path, tmp_path: Path) -> Path:
    """A copy of them, to be damaged."""
    return shutil.copytree(written, tmp_path / "treino" / "checkpoints")


def test_what_the_trainer_wrote_to_the_end_is_complete(checkpoints: Path) -> None:
    assert [path.name for path in complete_checkpoints(checkpoints)] == ["checkpoint-1", "checkpoint-2"]
    assert checkpoint_step(checkpoints / "checkpoint-2") == 2
    assert {path.name for path in (checkpoints / "checkpoint-2").iterdir()} == {
        *WRITTEN_IN_ORDER,
        "README.md",
        "checksums.json",
    }


@pytest.mark.parametrize("stage", range(len(WRITTEN_IN_ORDER)))
def test_a_save_that_was_killed_at_any_stage_is_not_complete(checkpoints: Path, stage: int) -> None:
    for name in WRITTEN_IN_ORDER[stage:]:
        (checkpoints / "checkpoint-2" / name).unlink()
    assert checkpoint_step(checkpoints / "checkpoint-2") is None
    assert [path.name for path in complete_checkpoints(checkpoints)] == ["checkpoint-1"]


@pytest.mark.parametrize("content", [b"", b'{"global_step": 2, "epo', b"\x00" * 200, b"\xff\xfe", b"[2]", b"{}", b"2"])
def test_a_trainer_state_cut_short_is_not_complete(checkpoints: Path, content: bytes) -> None:
    (checkpoints / "checkpoint-2" / "trainer_state.json").write_bytes(content)
    assert checkpoint_step(checkpoints / "checkpoint-2") is None


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors"])
def test_an_empty_part_is_a_missing_part(checkpoints: Path, name: str) -> None:
    (checkpoints / "checkpoint-2" / name).write_bytes(b"")
    assert checkpoint_step(checkpoints / "checkpoint-2") is None


def test_a_folder_that_tells_another_step_than_its_name_is_not_complete(checkpoints: Path) -> None:
    (checkpoints / "checkpoint-2").rename(checkpoints / "checkpoint-7")
    assert [path.name for path in complete_checkpoints(checkpoints)] == ["checkpoint-1"]


def test_checkpoints_are_ordered_by_step_not_by_name(checkpoints: Path) -> None:
    state = checkpoints / "checkpoint-2" / "trainer_state.json"
    state.write_text(state.read_text().replace('"global_step": 2', '"global_step": 10'))
    (checkpoints / "checkpoint-2").rename(checkpoints / "checkpoint-10")
    (checkpoints / "checkpoint-1").rename(checkpoints / "checkpoint-9")
    state = checkpoints / "checkpoint-9" / "trainer_state.json"
    state.write_text(state.read_text().replace('"global_step": 1', '"global_step": 9'))
    assert [path.name for path in complete_checkpoints(checkpoints)] == ["checkpoint-9", "checkpoint-10"]


def test_what_is_no_checkpoint_is_passed_over(checkpoints: Path) -> None:
    (checkpoints / "checkpoint-3").write_text("a file")
    (checkpoints / "checkpoint-best").mkdir()
    (checkpoints / "runs").mkdir()
    assert len(complete_checkpoints(checkpoints)) == 2


@pytest.mark.parametrize("named", ["checkpoints/checkpoint-1", "checkpoints", "."])
def test_a_checkpoint_its_folder_or_the_training_s_folder_can_be_named(checkpoints: Path, named: str) -> None:
    expected = "checkpoint-1" if named.endswith("-1") else "checkpoint-2"
    assert find_checkpoint(str(checkpoints.parent / named)) == checkpoints / expected


def test_a_relative_path_is_made_whole(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoints.parent)
    assert find_checkpoint("checkpoints/checkpoint-1") == checkpoints / "checkpoint-1"


def test_a_half_written_newest_one_is_passed_over_for_the_newest_complete_one(checkpoints: Path) -> None:
    (checkpoints / "checkpoint-2" / "trainer_state.json").unlink()
    assert find_checkpoint(str(checkpoints)) == checkpoints / "checkpoint-1"


def test_naming_a_half_written_one_is_an_error_that_names_the_newest_complete_one(checkpoints: Path) -> None:
    (checkpoints / "checkpoint-2" / "optimizer.pt").unlink()
    with pytest.raises(TrainingError) as caught:
        find_checkpoint(str(checkpoints / "checkpoint-2"))
    assert str(caught.value) == (
        f"O checkpoint {checkpoints / 'checkpoint-2'} (training.resume) está incompleto; use o mais novo íntegro, "
        f"{checkpoints / 'checkpoint-1'}."
    )


def test_a_lone_half_written_one_means_a_new_training(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints / "checkpoint-1")
    (checkpoints / "checkpoint-2" / "optimizer.pt").unlink()
    with pytest.raises(TrainingError, match=r"está incompleto; comece um treinamento novo\.$"):
        find_checkpoint(str(checkpoints / "checkpoint-2"))


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nada \(training\.resume\) não existe; indique uma pasta checkpoint-N"):
        find_checkpoint(str(tmp_path / "nada"))


def test_a_folder_without_checkpoints_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"Não há checkpoint completo em .*; indique em training\.resume"):
        find_checkpoint(str(tmp_path))
