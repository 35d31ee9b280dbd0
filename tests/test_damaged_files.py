"""The project's own files, damaged: one sentence that names the file, or the same texts; never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from finished import Trained
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cartas_mlflow.cli import EXIT_OK, EXIT_USER_ERROR, main
from cartas_mlflow.errors import UserError
from cartas_mlflow.files import MANIFEST, DamagedFile, OwnFile, check_seal, parse_table, seal, write_text
from cartas_mlflow.registry.model import open_folder

ADAPTER = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "served.json",
    "base.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
CHECKPOINT = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
TRAINING = ("run.json", "split.csv", "config_resolved.yaml")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b"") and None,
    "{}": replace(b"{}"),
    "[]": replace(b"[]"),
    "garbage": replace(bytes(range(256)) * 3),
    "a flipped bit": flip,
    "absent": Path.unlink,
}


@pytest.fixture(scope="module")
def asked(trained: Trained) -> list[str]:
    import pandas as pd

    card = json.loads((trained.result.adapter / "served.json").read_text(encoding="utf-8"))["cards"][0]
    prompt = pd.DataFrame([{"carta": card, "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}])
    assert open_folder(trained.result.adapter).write(prompt)
    return [w for name, value in prompt.iloc[0].items() for w in (f"--{name}", str(value))]


def unseal(folder: Path) -> None:
    """As an earlier version wrote it."""
    (folder / MANIFEST).unlink()


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
@pytest.mark.parametrize("damage", DAMAGES, ids=str)
@pytest.mark.parametrize("name", ADAPTER)
def test_a_damaged_adapter_is_one_sentence(
    name: str, damage: str, sealed: bool, trained: Trained, asked: list[str], tmp_path: Path, said: list[str]
) -> None:
    adapter = shutil.copytree(trained.result.adapter, tmp_path / "adapter")
    if damage == "a flipped bit" and not sealed:
        pytest.skip("nobody can see it without a seal")
    command = ["generate", "--model", str(adapter), *asked]
    assert main(command) == EXIT_OK
    whole = said[-1]
    if not sealed:
        unseal(adapter)
    DAMAGES[damage](adapter / name)
    code = main(command)
    if sealed:
        assert (code, name in said[-1]) == (EXIT_USER_ERROR, True)
    if code == EXIT_USER_ERROR:
        assert said[-1].startswith("❌ ")
        assert said[-1].endswith(".")
    else:
        assert said[-1] == whole


@pytest.mark.parametrize("name", ADAPTER)
def test_an_adapter_that_never_had_a_seal_is_used_as_it_is(name: str, trained: Trained, tmp_path: Path) -> None:
    adapter = shutil.copytree(trained.result.adapter, tmp_path / "adapter")
    unseal(adapter)
    assert open_folder(adapter)


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
@pytest.mark.parametrize("damage", set(DAMAGES) - {"a flipped bit"})
@pytest.mark.parametrize("name", CHECKPOINT)
def test_a_damaged_checkpoint_is_one_sentence(
    name: str, damage: str, sealed: bool, trained: Trained, tmp_path: Path, said: list[str]
) -> None:
    folder = shutil.copytree(trained.folder, tmp_path / "treino")
    *_, checkpoint = sorted((folder / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    if not sealed:
        unseal(checkpoint)
    DAMAGES[damage](checkpoint / name)
    assert main(["train", "--training.resume", str(checkpoint)]) == EXIT_USER_ERROR
    assert said[-1].startswith(f"❌ O checkpoint {checkpoint} (training.resume) está ")
    assert "; use o mais novo íntegro, " in said[-1]


@pytest.mark.parametrize("name", CHECKPOINT)
def test_a_flipped_bit_of_a_checkpoint_is_seen(name: str, trained: Trained, tmp_path: Path, said: list[str]) -> None:
    folder = shutil.copytree(trained.folder, tmp_path / "treino")
    *_, checkpoint = sorted((folder / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    flip(checkpoint / name)
    assert main(["train", "--training.resume", str(checkpoint)]) == EXIT_USER_ERROR
    assert "; use o mais novo íntegro, " in said[-1]


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
@pytest.mark.parametrize("name", TRAINING)
def test_a_damaged_training_folder_is_one_sentence(
    name: str, damage: str, trained: Trained, tmp_path: Path, said: list[str]
) -> None:
    folder = shutil.copytree(trained.folder, tmp_path / "treino")
    if damage == "a flipped bit" and name == "run.json":
        pytest.skip("a run's id of another run is told by MLflow")
    DAMAGES[damage](folder / name)
    assert main(["train", "--training.resume", str(folder)]) == EXIT_USER_ERROR
    assert said[-1].startswith("❌ ")
    assert name in said[-1]


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_it_goes_on(
    trained: Trained, tmp_path: Path, said: list[str]
) -> None:
    from cartas_mlflow.modeling.checkpoints import find_checkpoint

    folder = shutil.copytree(trained.folder, tmp_path / "treino")
    *_, before, newest = sorted((folder / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    flip(newest / "optimizer.pt")
    assert find_checkpoint(str(folder)) == before
    assert said == [
        f"⚠️ {newest.name} está danificado (optimizer.pt: mudou desde que foi gravado, diz checksums.json); tentando o "
        "anterior."
    ]


class Small(OwnFile):
    name: str
    number: int = 0


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), damage=st.sampled_from(["cut", "bytes", "json", "delete", "bits"]))
def test_two_hundred_corruptions_end_in_success_or_one_sentence(
    trained: Trained, tmp_path: Path, seed: int, damage: str
) -> None:
    chance = random.Random(seed)
    adapter = tmp_path / f"adapter-{seed}-{damage}"
    shutil.copytree(trained.result.adapter, adapter, dirs_exist_ok=True)
    name = chance.choice([*ADAPTER, MANIFEST])
    path = adapter / name
    content = path.read_bytes()
    changed = {
        "cut": content[: chance.randrange(len(content.rstrip()))],  # more than the white space at its end
        "bytes": chance.randbytes(chance.randrange(1, 400)),
        "json": chance.choice([b"{}", b"[]", b"null", b"3", b'"x"', b'{"name": 3}', b'{"model": {}}']),
        "bits": bytes(b ^ (chance.random() < 0.01) for b in content[:5000]) + content[5000:],
        "delete": content,
    }[damage]
    path.write_bytes(changed)
    if damage == "delete":
        path.unlink()
    try:
        open_folder(adapter)
        assert changed == content
    except UserError as error:
        assert str(error).endswith(".")
        assert "\n" not in str(error)
    finally:
        shutil.rmtree(adapter)


CONTENTS = {
    "no JSON": ("{", "não é JSON"),
    "a list": ("[]", "não é um objeto JSON"),
    "a key missing": ('{"number": 1}', "falta name"),
    "another version's key": ('{"name": "a", "new": 1}', "tem new, que esta versão não conhece"),
    "another type": ('{"name": "a", "number": "1"}', "o valor de number não serve"),
}


@pytest.mark.parametrize(("content", "why"), CONTENTS.values(), ids=CONTENTS.keys())
def test_a_file_of_other_content_says_what_is_wrong(content: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "pequeno.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DamagedFile) as damaged:
        Small.read(path, "copie de novo")
    assert str(damaged.value) == f"O arquivo {path} está danificado ({why}); copie de novo."


def test_what_was_written_is_read(tmp_path: Path) -> None:
    Small(name="Ação", number=2).write(tmp_path / "pequeno.json")
    assert Small.read(tmp_path / "pequeno.json", "") == Small(name="Ação", number=2)
    assert [path.name for path in tmp_path.iterdir()] == ["pequeno.json"]


def test_a_seal_tells_what_changed(tmp_path: Path) -> None:
    for name in ("a", "b", "README.md"):
        (tmp_path / name).write_text(name)
    seal(tmp_path)
    (tmp_path / "README.md").write_text("outro")
    (tmp_path / "novo").write_text("x")
    check_seal(tmp_path, "copie de novo")
    (tmp_path / "b").write_text("B")
    with pytest.raises(DamagedFile, match=r"b está danificado \(mudou desde que foi gravado, diz checksums\.json\)"):
        check_seal(tmp_path, "copie de novo")


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "falta a coluna id"), ("id,lado\n", "falta a coluna side"), ("id,side\na\n", "a linha 2 está cortada")],
)
def test_a_table_of_other_content_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(DamagedFile) as damaged:
        parse_table(text, "split.csv", ("id", "side"), "copie de novo")
    assert str(damaged.value) == f"O arquivo split.csv está danificado ({why}); copie de novo."


def test_two_threads_that_write_the_same_file_leave_it_whole(tmp_path: Path) -> None:
    file, content = tmp_path / "estado.json", "x" * 100_000
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write_text, file, letter + content) for letter in "ab" * 100]:
            done.result()
    assert file.read_text(encoding="utf-8") in {"a" + content, "b" + content}
    assert list(tmp_path.iterdir()) == [file]
