"""The logged model: what it holds, what it answers, and where it loads."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import yaml
from champions import Champion, log_model
from mlflow import MlflowClient
from trainings import Trainings, environment_elsewhere

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.errors import BaseModelError, RegistryError
from cartas_mlflow.evaluation.confidence import Answers
from cartas_mlflow.modeling.base import find_base
from cartas_mlflow.modeling.loading import load_base, load_tokenizer
from cartas_mlflow.modeling.lora import attach_adapter, save_adapter
from cartas_mlflow.registry.model import (
    LOGGED_NAME,
    REQUIREMENTS,
    ReadingGenerator,
    ServedModel,
    open_folder,
    open_logged,
    pinned_requirements,
    reading_signature,
)
from cartas_mlflow.registry.requests import RequestError
from cartas_mlflow.settings import TEMPLATES, GenerationSettings, LoraSettings, ModelSettings, ServingSettings

FIELDS = ["carta", "evento", "secao", "tema"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def generator(finished_trainings: Trainings) -> ReadingGenerator:
    return open_folder(finished_trainings.adapters["good"])


@pytest.fixture
def evaluated(trainings: Trainings) -> pd.DataFrame:
    """The validation records with the texts of the training's final evaluation."""
    return read_samples(trainings.runs["good"])


@pytest.fixture
def logged(trainings: Trainings) -> str:
    """URI of the model that the training logged."""
    (output,) = MlflowClient().get_run(trainings.runs["good"]).outputs.model_outputs
    return f"models:/{output.model_id}"


def read_samples(run_id: str) -> pd.DataFrame:
    text = mlflow.artifacts.load_text(f"runs:/{run_id}/samples/final.csv")
    return pd.DataFrame(csv.DictReader(text.splitlines()))


def served_model(**others: Any) -> ServedModel:
    facts = {
        "template": TEMPLATES["instrucao"],
        "cards": ("O Louco", "O Mago"),
        "max_length": 450,
        "batch_size": 32,
        "base_name": "base",
        "base_revision": None,
        "generation": GenerationSettings().model_dump(),
    }
    return ServedModel(**{**facts, **others})


def files_of(uri: str, folder: Path) -> dict[str, Path]:
    root = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    return {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}


def test_it_writes_what_the_evaluation_wrote(generator: ReadingGenerator, evaluated: pd.DataFrame) -> None:
    assert generator.write(evaluated[FIELDS]) == list(evaluated["gerado"])
    assert len(set(evaluated["gerado"])) > 5


def test_it_writes_the_same_in_any_order_and_company(generator: ReadingGenerator, evaluated: pd.DataFrame) -> None:
    for seed in range(3):
        some = evaluated.sample(frac=random.Random(seed).uniform(0.2, 1), random_state=seed)
        assert generator.write(some[FIELDS]) == list(some["gerado"])


def test_it_writes_the_same_for_a_row_by_itself(generator: ReadingGenerator, evaluated: pd.DataFrame) -> None:
    alone = [generator.write(evaluated[FIELDS].iloc[[row]])[0] for row in range(12)]
    assert alone == list(evaluated["gerado"][:12])


def test_the_logged_model_answers_like_the_folder(logged: str, evaluated: pd.DataFrame) -> None:
    answer = mlflow.pyfunc.load_model(logged).predict(evaluated[FIELDS])
    assert list(answer.columns) == ["texto"]
    assert list(answer["texto"]) == list(evaluated["gerado"])


def test_predict_takes_a_list_of_rows_too(logged: str, evaluated: pd.DataFrame) -> None:
    rows = evaluated[FIELDS][:2].to_dict("records")
    assert list(mlflow.pyfunc.load_model(logged).predict(rows)["texto"]) == list(evaluated["gerado"][:2])


def test_with_an_error_column_every_other_row_is_answered(logged: str, evaluated: pd.DataFrame) -> None:
    model, asked = mlflow.pyfunc.load_model(logged), evaluated[FIELDS][:4].reset_index(drop=True)
    asked.loc[1, "carta"], asked.loc[2, "tema"] = "O Sou", ""
    answer = model.predict(asked, params={"error_column": True})
    assert list(answer["texto"]) == [evaluated["gerado"][0], "", "", evaluated["gerado"][3]]
    assert [error.split(";")[0] for error in answer["erro"]] == [
        "",
        "este modelo não conhece a carta 'O Sou'",
        "o campo tema está vazio",
        "",
    ]
    none = model.predict(asked[1:3], params={"error_column": True})
    assert list(none["texto"]) == ["", ""]
    with pytest.raises(RequestError, match="retire num_return_sequences"):
        model.predict(asked, params={"error_column": True, "num_return_sequences": 2, "num_beams": 2})


def test_several_readings_stand_together_best_first(generator: ReadingGenerator, evaluated: pd.DataFrame) -> None:
    prompts = evaluated[FIELDS][:3]
    both = generator.write(prompts, {"num_beams": 4, "num_return_sequences": 2})
    assert len(both) == 6
    assert both[::2] == generator.write(prompts, {"num_beams": 4})
    assert both[::2] != both[1::2]


def test_sampling_repeats_itself_with_the_same_seed_only(generator: ReadingGenerator, evaluated: pd.DataFrame) -> None:
    prompts, sampling = evaluated[FIELDS][:3], {"do_sample": True, "num_return_sequences": 2}
    first = generator.write(prompts, {**sampling, "seed": 1})
    assert first == generator.write(prompts, {**sampling, "seed": 1})
    assert first != generator.write(prompts, {**sampling, "seed": 2})
    assert first != generator.write(prompts, {**sampling, "seed": 1, "temperature": 0.5})
    assert first[0] != first[1]


def test_fewer_tokens_give_the_beginning(generator: ReadingGenerator, evaluated: pd.DataFrame) -> None:
    (short,) = generator.write(evaluated[FIELDS][:1], {"max_new_tokens": 5})
    assert short
    assert evaluated["gerado"][0].startswith(short)


def test_more_beams_are_generated_in_smaller_batches(
    generator: ReadingGenerator, evaluated: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    generate = generator.model.generate

    def watched(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        return generate(**inputs)

    monkeypatch.setattr(generator.model, "generate", watched)
    monkeypatch.setattr(generator, "served", generator.served.model_copy(update={"batch_size": 32}))
    prompts, few = evaluated[FIELDS][:10], {"max_new_tokens": 2}
    generator.write(prompts, few)
    generator.write(prompts, {**few, "num_beams": 8})
    generator.write(prompts, {**few, "num_beams": 8, "num_return_sequences": 8})
    assert sizes == [10, 4, 4, 2, 4, 4, 2]


def test_predict_holds_to_the_limits_and_writing_does_not(generator: ReadingGenerator, evaluated: pd.DataFrame) -> None:
    unknown = evaluated[FIELDS][:1].assign(carta="O Jardineiro", tema="a" * 300)
    assert generator.write(unknown, {"max_new_tokens": 2})
    with pytest.raises(RequestError, match="o campo tema tem 300 caracteres"):
        generator.predict(None, unknown)


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"serving.any_card": True}, None),
        ({"serving.max_rows": 1}, "O pedido tem 2 linhas e o limite é 1"),
        ({"serving.any_card": True, "serving.max_tokens": 3}, "O pedido pode gerar 64 tokens"),
        ({}, "não conhece a carta 'O Jardineiro'"),
    ],
    ids=str,
)
def test_mlflows_own_variable_changes_the_limits(
    logged: str, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], refused: str | None
) -> None:
    monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", json.dumps(given))
    model = mlflow.pyfunc.load_model(logged)
    rows = pd.DataFrame([{"carta": "O Jardineiro", "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}] * 2)
    if refused is None:
        assert len(model.predict(rows)) == 2
        return
    with pytest.raises(RequestError, match=refused):
        model.predict(rows)


def test_mlflows_own_variable_changes_the_engine_too(
    logged: str, evaluated: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", '{"serving.engine": "ctranslate2"}')
    model = mlflow.pyfunc.load_model(logged)
    assert model.unwrap_python_model().engine is not None
    assert list(model.predict(evaluated[FIELDS])["texto"]) == list(evaluated["gerado"])


def test_a_model_served_by_the_fast_engine_requires_it() -> None:
    assert pinned_requirements("pytorch") == pinned_requirements("ctranslate2")[:-1]
    assert pinned_requirements("ctranslate2")[-1].startswith("ctranslate2==4.")


def test_the_signature_requires_the_fields_of_the_template() -> None:
    signature = reading_signature(served_model(template="{carta} | {tema}"))
    assert [(column.name, column.required) for column in signature.inputs] == [
        ("carta", True),
        ("evento", False),
        ("secao", False),
        ("tema", True),
    ]
    assert [column.name for column in signature.outputs] == ["texto"]


def test_the_signatures_defaults_are_the_trainings_decoding() -> None:
    generation = GenerationSettings(num_beams=4, max_new_tokens=96, seed=7).model_dump()
    parameters = {spec.name: spec for spec in reading_signature(served_model(generation=generation)).params}
    assert {name: (spec.dtype.name, spec.default) for name, spec in parameters.items()} == {
        "max_new_tokens": ("integer", 96),
        "num_beams": ("integer", 4),
        "do_sample": ("boolean", False),
        "temperature": ("double", 1.0),
        "top_p": ("double", 1.0),
        "no_repeat_ngram_size": ("integer", 3),
        "seed": ("long", 7),
        "num_return_sequences": ("integer", 1),
        "error_column": ("boolean", False),
    }


def test_the_model_holds_code_adapter_and_base_and_no_pickle(logged: str, tmp_path: Path) -> None:
    files = files_of(logged, tmp_path)
    assert {
        "served_model.py",
        "code/cartas_mlflow/registry/model.py",
        "artifacts/adapter/adapter_model.safetensors",
        "artifacts/adapter/served.json",
        "artifacts/writing-t5/model.safetensors",
    } <= set(files)
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".bin", ".pt", ".pyc"))]
    requirements = files["requirements.txt"].read_text().split()
    assert [line.split("==")[0] for line in requirements] == list(REQUIREMENTS)
    assert all("+" not in line for line in requirements)


def test_the_example_is_of_a_card_that_the_model_knows(logged: str, tmp_path: Path) -> None:
    example = json.loads(files_of(logged, tmp_path)["serving_input_example.json"].read_text())
    row = {"carta": "A Imperatriz", "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}
    assert example == {"inputs": [row], "params": {"num_beams": 1}}


def test_the_logged_model_carries_its_description_and_metrics(trainings: Trainings, logged: str) -> None:
    model = MlflowClient().get_logged_model(logged.removeprefix("models:/"))
    assert model.name == LOGGED_NAME
    assert "Recebe `carta`, `evento`, `secao`, `tema`; devolve `texto`." in model.tags["mlflow.note.content"]
    metrics = {metric.key: metric for metric in model.metrics}
    final = MlflowClient().get_run(trainings.runs["good"]).data.metrics
    measured = {name for name in final if name.startswith("final/")}
    measured = {name for name in measured if "_over_" not in name} - {"final/best_epoch"}
    assert measured and measured <= set(metrics)
    assert metrics["final/chrf"].value == final["final/chrf"]
    assert metrics["final/chrf"].dataset_name == "leituras"


def test_the_logged_model_is_as_surprised_by_a_reading_as_in_its_training(
    trainings: Trainings, logged: str, evaluated: pd.DataFrame
) -> None:
    real, told = list(evaluated["real"]), []
    bits = open_logged(logged).bits(evaluated[FIELDS], real, on_progress=told.append)
    assert bits == pytest.approx([float(value) for value in evaluated["bits_per_character"]], abs=1e-4)
    assert sum(told) == len(real) > 5
    corpus = MlflowClient().get_run(trainings.runs["good"]).data.metrics["final/bits_per_character"]
    assert Answers(bits=bits).bits_over(real) == pytest.approx(corpus, abs=1e-5)


@pytest.fixture
def hub_adapter(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an adapter on a base that is in the hub's local cache."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    snapshot = cache / "models--alguem--tiny-t5" / "snapshots" / COMMIT
    shutil.copytree(tiny_base, snapshot)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)

    location = find_base(ModelSettings(name="alguem/tiny-t5", fallback=None))
    model = attach_adapter(load_base(location), LoraSettings(r=2, target_modules=("all-linear",)), seed=0)
    adapter = tmp_path / "adapter"
    save_adapter(model, load_tokenizer(location.folder), adapter, location)
    served_model(base_name=location.name, base_revision=location.revision).save(adapter)
    return adapter


def test_a_base_from_the_hub_is_remembered_by_its_commit(hub_adapter: Path, empty_store: str, tmp_path: Path) -> None:
    uri = f"models:/{log_model(hub_adapter)}"
    (tmp_path / "copy").mkdir()
    files = files_of(uri, tmp_path / "copy")
    assert not [name for name in files if name.endswith("/model.safetensors")]
    assert json.loads(files["artifacts/adapter/served.json"].read_text())["base_revision"] == COMMIT
    assert open_logged(uri).served.base_name == "alguem/tiny-t5"
    shutil.rmtree(tmp_path / "hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
        with pytest.raises(BaseModelError, match="alguem/tiny-t5 não está neste computador"):
            open_logged(uri)


def test_a_base_from_the_hub_is_embedded_on_request(hub_adapter: Path, empty_store: str, tmp_path: Path) -> None:
    uri = f"models:/{log_model(hub_adapter, embed_base=True)}"
    shutil.rmtree(tmp_path / "hub")
    prompts = pd.DataFrame([{"carta": "O Louco", "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}])
    assert len(open_logged(uri).write(prompts, {"max_new_tokens": 2})) == 1


def test_another_kind_of_model_is_not_taken_for_a_generator(empty_store: str, tmp_path: Path) -> None:
    code = tmp_path / "outro.py"
    code.write_text(
        "import mlflow, pandas\n"
        "class Other(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input: pandas.DataFrame):\n"
        "        return model_input\n"
        "mlflow.models.set_model(Other())\n"
    )
    info = mlflow.pyfunc.log_model(name="outro", python_model=str(code), pip_requirements=["mlflow"])
    with pytest.raises(RegistryError, match="não é um gerador de leituras deste projeto"):
        open_logged(info.model_uri)


def test_opening_a_logged_model_leaves_nothing_behind(
    logged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    path = list(sys.path)
    open_logged(logged)
    assert list(scratch.iterdir()) == []
    assert sys.path == path


def test_a_folder_without_the_trainings_facts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError) as refused:
        open_folder(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path} não tem served.json; indique a pasta adapter/ de um treinamento concluído."
    )


def test_the_limits_of_serving_are_the_models_configuration(logged: str, tmp_path: Path) -> None:
    meta = yaml.safe_load(files_of(logged, tmp_path)["MLmodel"].read_text())
    assert meta["flavors"]["python_function"]["config"] == {
        f"serving.{name}": value for name, value in ServingSettings().model_dump().items()
    }


ELSEWHERE = """
import importlib.metadata, importlib.util, json, sys
from importlib.machinery import PathFinder
from packaging.requirements import Requirement

def closure(names):
    found, waiting = set(), list(names)
    while waiting:
        name = Requirement(waiting.pop()).name.lower().replace("_", "-")
        try:
            wanted = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            waiting += [w for w in wanted if not (m := Requirement(w).marker) or m.evaluate({"extra": ""})]
    return found

class OnlyRequired(PathFinder):
    # A finder of modules for which packages that nobody requires do not exist.
    owners = importlib.metadata.packages_distributions()
    allowed = closure(json.loads(sys.argv[2])) | {"cartas-mlflow"}  # the logged copy, which is on the path

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        owners = {o.lower().replace("_", "-") for o in cls.owners.get(name.partition(".")[0], [])}
        return None if owners and not owners & cls.allowed else super().find_spec(name, path, target)

sys.meta_path[:] = [f for f in sys.meta_path if f is not PathFinder and "editable" not in repr(f)] + [OnlyRequired]
sys.path[:] = [p for p in sys.path if p != sys.argv[3]]
assert importlib.util.find_spec("optuna") is None and importlib.util.find_spec("cartas_mlflow") is None

import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
texts = model.predict(pandas.DataFrame(json.load(sys.stdin)))["texto"].tolist()
import cartas_mlflow
print(json.dumps({"texts": texts, "code": cartas_mlflow.__file__}))
"""


@pytest.mark.slow
def test_it_loads_elsewhere_with_its_requirements_alone(
    champion: Champion, evaluated: pd.DataFrame, tmp_path: Path
) -> None:
    """From a tracking server, in another folder, without this repository and without packages that it does not name."""
    answer = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, champion.uri, json.dumps(REQUIREMENTS), str(PROJECT_ROOT)],
        cwd=tmp_path,
        env=environment_elsewhere(MLFLOW_TRACKING_URI=champion.server, TMPDIR=str(tmp_path)),
        input=evaluated[FIELDS].to_json(orient="records"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout.splitlines()[-1])
    assert result["texts"] == list(evaluated["gerado"])
    assert Path(result["code"]).is_relative_to(tmp_path)
