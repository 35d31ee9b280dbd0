"""Settings: their layers, their types, and the recipes that the project ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from cartas_mlflow.config import DEFAULT_CONFIG, PROJECT_ROOT, SPACE, find_project_file, load_config, stand_in, vary
from cartas_mlflow.errors import SettingError
from cartas_mlflow.settings import RECORD_FIELDS, TEMPLATES, ExperimentConfig, describe_settings, flatten, setting_names

RECIPES = sorted(path.name for path in (PROJECT_ROOT / "configs").glob("*.yaml"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_are_the_guides_recipe() -> None:
    assert load_config(DEFAULT_CONFIG) == ExperimentConfig()


@pytest.mark.parametrize(
    ("recipe", "values"),
    [
        (
            "default.yaml",
            {
                "model.name": "unicamp-dl/ptt5-base-portuguese-vocab",
                "model.quantization_type": "nf4",
                "model.double_quantization": True,
                "data.max_length": 450,
                "data.validation_fraction": 0.15,
                "data.split_seed": 42,
                "lora.r": 16,
                "lora.alpha": 32,
                "lora.dropout": 0.1,
                "lora.bias": "none",
                "training.epochs": 20,
                "training.batch_size": 8,
                "training.learning_rate": 2e-5,
                "training.scheduler": "cosine",
                "training.warmup_ratio": 0.15,
                "training.weight_decay": 0.01,
                "training.max_grad_norm": 1,
                "training.save_total_limit": 2,
                "early_stopping.metric": "rougeL",
                "early_stopping.patience": 4,
                "early_stopping.threshold": 0.001,
            },
        ),
        (
            "recipe-v2.yaml",
            {
                "model.name": "unicamp-dl/ptt5-base-portuguese-vocab",
                "data.max_length": 550,
                "lora.r": 32,
                "lora.alpha": 64,
                "lora.dropout": 0.05,
                "lora.bias": "none",
                "training.epochs": 15,
                "training.batch_size": 6,
                "training.learning_rate": 5e-5,
                "training.scheduler": "cosine",
                "training.warmup_ratio": 0.1,
                "training.weight_decay": 0.005,
                "training.max_grad_norm": 1,
                "training.save_total_limit": 3,
                "early_stopping.metric": "rougeL",
                "early_stopping.patience": 5,
                "early_stopping.threshold": 0.005,
            },
        ),
    ],
)
def test_the_two_recipes_of_the_original_are_there_to_the_figure(recipe: str, values: dict[str, Any]) -> None:
    flat = load_config(f"configs/{recipe}").flat()
    assert {key: flat[key] for key in values} == values


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_valid_and_reads_back_from_its_own_yaml(recipe: str, tmp_path: Path) -> None:
    config = load_config(f"configs/{recipe}")
    assert load_config(write(tmp_path / "resolved.yaml", config.to_yaml())) == config


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "default.yaml"])
def test_a_recipe_holds_only_what_differs_from_its_parent(recipe: str) -> None:
    tree = yaml.safe_load((PROJECT_ROOT / "configs" / recipe).read_text(encoding="utf-8"))
    parent = load_config(f"configs/{tree.pop('extends')}").flat()
    own = load_config(f"configs/{recipe}").flat()
    tree.pop(SPACE, None)
    assert [key for key in flatten(tree) if own[key] == parent[key]] == []


def test_a_file_overrides_its_parents_and_the_user_overrides_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "training: {epochs: 2, seed: 1}\nlora: {r: 4}\n")
    write(tmp_path / "b.yaml", "extends: a.yaml\ntraining: {seed: 2, batch_size: 4}\n")
    config = load_config(write(tmp_path / "c.yaml", "extends: b.yaml\ntraining: {batch_size: 16}\n"), {"lora.r": "6"})
    assert (config.training.epochs, config.training.seed, config.training.batch_size, config.lora.r) == (2, 2, 16, 6)


def test_a_parent_is_looked_for_beside_the_file_and_then_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(write(tmp_path / "a.yaml", "extends: configs/recipe-v2.yaml\n")).lora.r == 32
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs" / "recipe-v2.yaml", "lora: {r: 2}\n")
    assert load_config(tmp_path / "a.yaml").lora.r == 2


def test_two_files_that_extend_each_other_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "b.yaml", "extends: a.yaml\n")
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    with pytest.raises(SettingError, match=r"^A configuração a.yaml \(extends em b.yaml\) herda de si mesma"):
        load_config("a.yaml")


def test_a_section_whose_lines_are_commented_out_and_an_empty_file_change_nothing(tmp_path: Path) -> None:
    assert load_config(write(tmp_path / "a.yaml", "training:\n#  epochs: 3\nlora: {}\n")) == ExperimentConfig()
    assert load_config(write(tmp_path / "b.yaml", "")) == ExperimentConfig()


def test_a_file_saved_with_a_byte_order_mark_reads_like_any_other(tmp_path: Path) -> None:
    assert load_config(write(tmp_path / "a.yaml", "\ufefftraining: {epochs: 3}\n")).training.epochs == 3


def test_a_mistake_is_blamed_on_the_file_it_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pai.yaml", "lora: {r: 0}\n")
    write(tmp_path / "a.yaml", "extends: pai.yaml\nlora: {alpha: 8}\n")
    with pytest.raises(SettingError) as error:
        load_config("a.yaml")
    assert str(error.value) == "A configuração lora.r=0 (pai.yaml) não serve: deve ser no mínimo 1."


def test_the_fallback_replaces_the_file_and_the_users_own_values_replace_both(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "model: {name: some/base}\nlora: {r: 4, alpha: 4}\ntraining: {epochs: 4}\n")
    fallback = write(tmp_path / "f.yaml", "model: {name: small}\nlora: {r: 8, alpha: 8}\n")
    config = load_config(path, {"lora.r": "2"}, fallback=fallback)
    assert (config.model.name, config.lora.r, config.lora.alpha, config.training.epochs) == ("small", 2, 8, 4)


def test_a_base_that_could_not_be_had_is_not_asked_for_again() -> None:
    config = load_config(overrides={"model.name": "some/base", "model.revision": "abc"}, fallback="configs/mini.yaml")
    assert (config.model.name, config.model.revision) == ("data/base/cartas-t5-mini", None)


OWN = """
extends: configs/default.yaml
data: {path: minha.csv, max_length: 300}
model: {name: some/base, revision: v2, quantization: "true"}
lora: {r: 4, dropout: 0.3}
training: {epochs: 2, learning_rate: 3.0e-4, batch_size: 4}
early_stopping: {metric: bleu, patience: 9}
generation: {num_beams: 2, top_k: 7}
evaluation: {every_epochs: 2}
tracking: {experiment: minhas, output_dir: saida}
registry: {name: leituras}
search: {trials: 3}
"""
STAND_IN = """
extends: configs/default.yaml
model: {name: small, fallback: none}
lora: {dropout: 0}
training: {learning_rate: 1.0e-3}
early_stopping: {metric: chrf}
generation: {num_beams: 4, min_new_tokens: 36, max_new_tokens: 96}
"""
WHO_WINS: dict[str, tuple[dict[str, str], dict[str, Any], str | None, dict[str, Any]]] = {
    # name: files, what is typed, fallback, what must come out of eu.yaml
    "a parent's parent, a parent and a file": (
        {
            "avo.yaml": "training: {epochs: 1, seed: 1, batch_size: 1}",
            "pai.yaml": "extends: avo.yaml\ntraining: {seed: 2, batch_size: 2}",
            "eu.yaml": "extends: pai.yaml\ntraining: {batch_size: 3}",
        },
        {},
        None,
        {"training.epochs": 1, "training.seed": 2, "training.batch_size": 3},
    ),
    "what is typed over all files": (
        {"pai.yaml": "lora: {r: 2}", "eu.yaml": "extends: pai.yaml\nlora: {r: 3}"},
        {"lora.r": "5"},
        None,
        {"lora.r": 5},
    ),
    "a file back to the default": (
        {"pai.yaml": "tracking: {run_name: a}", "eu.yaml": "extends: pai.yaml\ntracking: {run_name: none}"},
        {},
        None,
        {"tracking.run_name": None},
    ),
    "what is not a base's stays the user's": (
        {"eu.yaml": OWN, "f.yaml": STAND_IN},
        {},
        "f.yaml",
        {
            "data.path": "minha.csv",
            "data.max_length": 300,
            "training.epochs": 2,
            "training.batch_size": 4,
            "early_stopping.patience": 9,
            "evaluation.every_epochs": 2,
            "tracking.experiment": "minhas",
            "tracking.output_dir": "saida",
            "registry.name": "leituras",
            "search.trials": 3,
        },
    ),
    "what the fallback states of a base is the fallback's": (
        {"eu.yaml": OWN, "f.yaml": STAND_IN},
        {},
        "f.yaml",
        {
            "model.name": "small",
            "model.fallback": None,
            "lora.dropout": 0,
            "training.learning_rate": 1e-3,
            "early_stopping.metric": "chrf",
            "generation.num_beams": 4,
            "generation.max_new_tokens": 96,
        },
    ),
    "what the fallback only inherits is not": (
        {"eu.yaml": OWN, "f.yaml": STAND_IN},
        {},
        "f.yaml",
        {"lora.r": 4, "model.quantization": "true", "generation.top_k": 7},
    ),
    "nor what its parent's parent states": (
        {"eu.yaml": OWN, "f.yaml": "extends: pai.yaml\nmodel: {name: small}", "pai.yaml": STAND_IN},
        {},
        "f.yaml",
        {"model.name": "small", "training.learning_rate": 3e-4, "generation.num_beams": 2, "lora.dropout": 0.3},
    ),
    "what the user inherits is the user's too": (
        {"eu.yaml": "extends: pai.yaml", "pai.yaml": OWN, "f.yaml": STAND_IN},
        {},
        "f.yaml",
        {"data.path": "minha.csv", "training.epochs": 2, "lora.r": 4, "lora.dropout": 0},
    ),
    "what is typed wins over the fallback": (
        {"eu.yaml": OWN, "f.yaml": STAND_IN},
        {"epochs": "7", "training.learning_rate": "5e-4", "lora.dropout": "0.2", "generation.num_beams": "1"},
        "f.yaml",
        {
            "training.epochs": 7,
            "training.learning_rate": 5e-4,
            "lora.dropout": 0.2,
            "generation.num_beams": 1,
            "early_stopping.metric": "chrf",
        },
    ),
    "an alias that is left to the files": (
        {"eu.yaml": OWN, "f.yaml": STAND_IN},
        {"epochs": "auto"},
        "f.yaml",
        {"training.epochs": 2},
    ),
    "but not the name of the base that could not be had": (
        {"eu.yaml": OWN, "f.yaml": STAND_IN},
        {"model.name": "other/base", "model.revision": "v3"},
        "f.yaml",
        {"model.name": "small", "model.revision": None},
    ),
    "a fallback of a revision of its own": (
        {"eu.yaml": OWN, "f.yaml": f"{STAND_IN}model.revision: v9"},
        {},
        "f.yaml",
        {"model.name": "small", "model.revision": "v9"},
    ),
    "what a fallback says of anything else is not taken": (
        {
            "eu.yaml": OWN,
            "f.yaml": "model: {name: small}\ntraining: {epochs: 50, learning_rate: 1.0e-3}\ndata: {path: outra.csv}\n"
            "early_stopping: {patience: 1}\ntracking: {experiment: outro}\nregistry: {name: outro}\n"
            "search: {trials: 99}\nevaluation: {every_epochs: 9}\nserving: {max_rows: 1}",
        },
        {},
        "f.yaml",
        {
            "data.path": "minha.csv",
            "training.epochs": 2,
            "training.learning_rate": 1e-3,
            "early_stopping.patience": 9,
            "tracking.experiment": "minhas",
            "registry.name": "leituras",
            "search.trials": 3,
            "evaluation.every_epochs": 2,
            "serving.max_rows": 64,
        },
    ),
    "sampling, where the fallback wants beams": (
        {"eu.yaml": "generation: {do_sample: true}", "f.yaml": STAND_IN},
        {},
        "f.yaml",
        {"generation.do_sample": True, "generation.num_beams": 1, "generation.min_new_tokens": 36},
    ),
    "typed sampling, where the fallback wants beams": (
        {"eu.yaml": OWN.replace("num_beams: 2, ", ""), "f.yaml": STAND_IN},
        {"generation.do_sample": "true"},
        "f.yaml",
        {"generation.do_sample": True, "generation.num_beams": 1},
    ),
    "a typed maximum below the fallback's minimum": (
        {"eu.yaml": OWN, "f.yaml": STAND_IN},
        {"generation.max_new_tokens": "20"},
        "f.yaml",
        {"generation.max_new_tokens": 20, "generation.min_new_tokens": 0, "generation.num_beams": 4},
    ),
    "typed sampling of short texts, where the fallback wants beams and long ones": (
        {"eu.yaml": OWN, "f.yaml": STAND_IN},
        {"generation.do_sample": "true", "generation.num_beams": "1", "generation.max_new_tokens": "20"},
        "f.yaml",
        {"generation.do_sample": True, "generation.num_beams": 1, "generation.max_new_tokens": 20},
    ),
    "sampling in the file and a typed maximum, each against the fallback": (
        {"eu.yaml": "generation: {do_sample: true}", "f.yaml": STAND_IN},
        {"generation.max_new_tokens": "20"},
        "f.yaml",
        {"generation.num_beams": 1, "generation.min_new_tokens": 0, "generation.max_new_tokens": 20, "lora.dropout": 0},
    ),
    "the settings of a finished training, or of a search's best trial": (
        {"eu.yaml": ExperimentConfig().to_yaml().replace("epochs: 20", "epochs: 3"), "f.yaml": STAND_IN},
        {},
        "f.yaml",
        {"training.epochs": 3, "lora.r": 16, "lora.dropout": 0, "generation.num_beams": 4, "model.name": "small"},
    ),
    "a file of the fallback's own name elsewhere": (
        {"eu.yaml": "model: {fallback: f.yaml}\ntraining: {epochs: 2}", "f.yaml": "model: {name: small}"},
        {},
        "f.yaml",
        {"training.epochs": 2, "model.fallback": "f.yaml"},
    ),
}


@pytest.mark.parametrize(("files", "typed", "fallback", "expected"), WHO_WINS.values(), ids=WHO_WINS.keys())
def test_where_layers_meet_it_is_known_who_wins(
    files: dict[str, str],
    typed: dict[str, Any],
    fallback: str | None,
    expected: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        write(Path(name), text)
    flat = load_config("eu.yaml", typed, fallback=fallback).flat()
    assert {key: flat[key] for key in expected} == expected


def test_the_guides_recipe_on_the_embedded_base_is_what_its_own_file_says() -> None:
    assert load_config(DEFAULT_CONFIG, fallback="configs/mini.yaml") == load_config("configs/mini.yaml")


def test_what_the_fallback_changes_leaves_and_gives_way_in_is_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "generation: {do_sample: true}\nlora: {dropout: 0}\nmodel: {fallback: none}")
    fallback = write(tmp_path / "f.yaml", f"{STAND_IN}training.epochs: 50")
    fallen = stand_in(load_config(path), {"early_stopping.metric": "loss"}, fallback)
    assert fallen.changed == {
        "model.name": ("unicamp-dl/ptt5-base-portuguese-vocab", "small"),
        "training.learning_rate": (2e-5, 1e-3),
        "generation.max_new_tokens": (128, 96),
        "generation.min_new_tokens": (0, 36),
    }
    assert (fallen.not_taken, fallen.yielding) == (("training.epochs",), ("generation.num_beams",))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("extends: configs/mini.yaml\n", "não diz ela mesma que modelo base entra no lugar; escreva nela model.name"),
        ("", "não diz ela mesma que modelo base entra no lugar"),
        ("model: {name: small}\nlora: {r: 0}", "lora.r=0 ({file}) não serve: deve ser no mínimo 1."),
        ("model: {nome: small}", "A configuração model.nome ({file}) não existe; você quis dizer"),
        ("model: {name: small}\nextends: nada.yaml", "nada.yaml (extends em {file}) não existe"),
    ],
)
def test_a_wrong_fallback_shows_before_it_is_needed(content: str, sentence: str, tmp_path: Path) -> None:
    file = write(tmp_path / "f.yaml", content)
    with pytest.raises(SettingError) as error:
        load_config(overrides={"model.fallback": str(file)})
    assert sentence.format(file=file) in str(error.value)


def test_a_setting_that_varies_leaves_all_others_as_they_were_left_or_set(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "eu.yaml", OWN), fallback="configs/mini.yaml")
    varied = vary(config, {"lora.r": 6, "training.epochs": 1}, "tentativa 3")
    assert varied.flat() == {**config.flat(), "lora.r": 6, "training.epochs": 1}
    assert "experiment" in varied.tracking.model_fields_set
    assert "run_name" not in varied.tracking.model_fields_set


@pytest.mark.parametrize(
    ("variables", "file", "typed", "experiment"),
    [
        ({}, "", {}, "cartas-ptt5"),
        ({"MLFLOW_EXPERIMENT_NAME": "da casa"}, "", {}, "da casa"),
        ({"MLFLOW_EXPERIMENT_NAME": ""}, "", {}, "cartas-ptt5"),
        ({"MLFLOW_EXPERIMENT_NAME": "da casa"}, "", {"tracking.experiment": "meu"}, "meu"),
        ({"MLFLOW_EXPERIMENT_NAME": "da casa"}, "tracking: {experiment: meu}", {}, "meu"),
        ({"MLFLOW_EXPERIMENT_NAME": "da casa"}, "tracking: {run_name: x}", {}, "da casa"),
        ({"MLFLOW_EXPERIMENT_NAME": "da casa", "MLFLOW_RUN_ID": "0123"}, "", {}, "cartas-ptt5"),
    ],
)  # fmt: skip
def test_mlflows_own_variable_names_the_experiment_unless_the_user_does(
    variables: dict[str, str],
    file: str,
    typed: dict[str, str],
    experiment: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = load_config(write(tmp_path / "eu.yaml", file), typed)
    assert config.tracking.experiment == experiment
    assert load_config(tmp_path / "eu.yaml", typed, fallback="configs/mini.yaml").tracking.experiment == experiment


def test_epochs_is_short_for_training_epochs() -> None:
    assert load_config(overrides={"epochs": "3"}).training.epochs == 3


def test_epochs_auto_means_the_configurations_own() -> None:
    assert load_config("configs/recipe-v2.yaml", {"epochs": "auto"}).training.epochs == 15
    assert load_config("configs/recipe-v2.yaml", {"epochs": "auto", "training.epochs": "2"}).training.epochs == 2


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("training.learning_rate", "5e-5", 5e-5),
        ("training.learning_rate", "0.00005", 5e-5),
        ("generation.length_penalty", "-0.5", -0.5),
        ("training.epochs", " 7 ", 7),
        ("lora.alpha", "32", 32.0),
        ("generation.do_sample", "true", True),
        ("generation.do_sample", "False", False),
        ("model.quantization", "TRUE", "true"),
        ("model.quantization", False, "false"),
        ("training.micro_batch_size", "auto", "auto"),
        ("training.micro_batch_size", "4", 4),
        ("lora.target_modules", "q,v", ("q", "v")),
        ("lora.target_modules", "['q', 'v']", ("q", "v")),
        ("lora.target_modules", "all-linear", ("all-linear",)),
        ("model.fallback", "none", None),
        ("tracking.run_name", "", None),
        ("tracking.run_name", " primeira leitura ", "primeira leitura"),
        ("data.columns.carta", "nome da carta", "nome da carta"),
        ("data.template", "Leia {carta}, na seção {secao}:", "Leia {carta}, na seção {secao}:"),
    ],
)
def test_a_value_is_read_as_it_is_typed(key: str, typed: Any, value: Any) -> None:
    section, name = key.rsplit(".", 1)
    node: Any = load_config(overrides={key: typed})
    for part in section.split("."):
        node = getattr(node, part)
    assert getattr(node, name) == value


def test_yaml_writes_a_number_without_a_dot_as_text_and_it_is_read_as_a_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "training: {learning_rate: 5e-5}\n")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["training"]["learning_rate"] == "5e-5"
    assert load_config(path).training.learning_rate == 5e-5


@pytest.mark.parametrize("template", [*TEMPLATES, "{carta}", "{carta} {carta} {{sem campo}} {tema}"])
def test_a_template_of_the_records_own_fields_is_accepted(template: str) -> None:
    assert load_config(overrides={"data.template": template}).data.template == template


def test_the_named_templates_use_every_field() -> None:
    for template in TEMPLATES.values():
        assert template.format(**{field: f"<{field}>" for field in RECORD_FIELDS}).count("<") == len(RECORD_FIELDS)


def test_a_field_that_the_table_lacks_is_left_out_of_the_template() -> None:
    config = load_config(overrides={"data.columns.evento": "none", "data.template": "{carta}, {secao}, {tema}:"})
    assert config.data.columns.evento is None


def test_an_experiments_configuration_cannot_be_changed() -> None:
    config = load_config()
    with pytest.raises(ValidationError, match="frozen"):
        config.training.epochs = 3


def test_the_flat_form_names_every_setting_and_nests_back_to_the_same() -> None:
    config = load_config()
    assert list(config.flat()) == list(setting_names())
    assert load_config(overrides=config.flat()) == config


def test_every_setting_has_a_meaning_and_every_number_its_bounds() -> None:
    for name, text in describe_settings():
        meaning = setting_names()[name].description
        assert meaning, name
        assert text.startswith(meaning)
        if setting_names()[name].annotation in (int, float):
            assert "≥" in text or ">" in text, name
            assert "≤" in text or "<" in text, name


def test_a_project_file_is_found_from_any_folder_and_the_working_folders_own_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_project_file("configs/mini.yaml") == PROJECT_ROOT / "configs" / "mini.yaml"
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs" / "mini.yaml", "")
    assert find_project_file("configs/mini.yaml") == Path("configs/mini.yaml")
    assert find_project_file("nada.yaml") == Path("nada.yaml")
    assert find_project_file("~/nada.yaml") == Path.home() / "nada.yaml"
