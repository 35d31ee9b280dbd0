"""The search space: dotted settings in YAML, checked against the settings before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cartas_mlflow.config import load_config, vary
from cartas_mlflow.errors import SettingError
from cartas_mlflow.search.space import Known, Space
from cartas_mlflow.search.space_file import SEARCH_CONFIG, load_search, parse_space, read_space
from cartas_mlflow.settings import ExperimentConfig

RATE = {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}}
CONFIG = ExperimentConfig()


def parsed(text: str, fixed: tuple[str, ...] = ()) -> Space:
    return parse_space(yaml.safe_load(text), CONFIG, fixed)


class Sampler:
    """Takes the place of a trial: gives what it was told to give, and keeps what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {name.replace("__", "."): value for name, value in answers.items()}
        self.asked: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, **how: Any) -> float:
        self.asked[name] = (low, high, how)
        return self.answers.get(name, low)

    def suggest_int(self, name: str, low: int, high: int, **how: Any) -> int:
        self.asked[name] = (low, high, how)
        return self.answers.get(name, low)

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        self.asked[name] = choices
        return self.answers.get(name, choices[0])


def suggested(space: Space, given: Mapping[str, Any] | None = None, **answers: Any) -> dict[str, Any]:
    return space.suggest(Sampler(**answers), CONFIG, given or {})  # type: ignore[arg-type]


def test_every_kind_of_dimension_is_asked_of_the_sampler_as_it_was_written() -> None:
    space = parsed("""
        training.learning_rate: {type: float, low: 1e-4, high: 1.0e-2, log: true}
        lora.dropout: {type: float, low: 0, high: 0.3, step: 0.1}
        lora.r: {type: int, low: 4, high: 64, log: true}
        lora.target_modules: {type: categorical, choices: [[all-linear], [q, v]]}
    """)
    trial = Sampler()
    values = space.suggest(trial, CONFIG, {})  # type: ignore[arg-type]
    assert trial.asked == {
        "training.learning_rate": (1e-4, 1e-2, {"log": True, "step": None}),
        "lora.dropout": (0.0, 0.3, {"log": False, "step": 0.1}),
        "lora.r": (4, 64, {"log": True, "step": 1}),
        "lora.target_modules": ("all-linear", "q,v"),
    }
    assert vary(CONFIG, {**values, "lora.target_modules": "q,v"}, "teste").lora.target_modules == ("q", "v")


def test_sections_may_be_nested_like_in_any_configuration() -> None:
    nested = parsed("lora: {r: {type: int, low: 4, high: 8}}\ntraining: {epochs: 3}")
    assert nested == parsed("lora.r: {type: int, low: 4, high: 8}\ntraining.epochs: 3")
    assert nested.constants == {"training.epochs": 3}


def test_a_dimension_with_a_condition_is_left_out_where_it_does_not_hold() -> None:
    space = parsed("""
        training.warmup_ratio: {type: float, low: 0.1, high: 0.2, when: {training.scheduler: [cosine, linear]}}
        training.scheduler: {type: categorical, choices: [cosine, linear, constant]}
    """)
    assert suggested(space, training__scheduler="linear") == {
        "training.scheduler": "linear",
        "training.warmup_ratio": 0.1,
    }
    assert suggested(space, training__scheduler="constant") == {"training.scheduler": "constant"}


def test_a_condition_may_rest_on_a_setting_that_does_not_vary() -> None:
    text = "lora.r: {type: int, low: 4, high: 8, when: {lora.bias: none}}\ngeneration.num_beams: 4"
    assert suggested(parsed(text)) == {"lora.r": 4, "generation.num_beams": 4}


def test_what_the_user_typed_leaves_the_space() -> None:
    space = parsed(
        "lora.r: {type: int, low: 4, high: 8}\ntraining.epochs: 3\nlora.dropout: {type: float, low: 0, high: 0.5}",
        fixed=("lora.r", "training.epochs"),
    )
    assert [dimension.name for dimension in space.dimensions] == ["lora.dropout"]
    assert space.constants == {}


def test_known_settings_become_the_dimensions_values_and_the_rest_is_kept_beside() -> None:
    space = parse_space({**RATE, "training.epochs": 6}, CONFIG)
    known = Known("receita", {"training.learning_rate": 5e-4, "training.epochs": 20, "lora.r": 32, "data.path": "x"})
    params, rest = space.enqueued(known, CONFIG)
    assert params == {"training.learning_rate": 5e-4}
    assert rest == {"lora.r": 32}


def test_a_known_value_outside_of_the_space_is_tried_as_it_is() -> None:
    space = parse_space(RATE, CONFIG)
    params, rest = space.enqueued(Known("receita", {"training.learning_rate": 0.5}), CONFIG)
    assert params == {}
    assert suggested(space, rest) == {"training.learning_rate": 0.5}


def test_a_known_setting_whose_condition_does_not_hold_is_not_asked_for() -> None:
    space = parsed("""
        training.scheduler: {type: categorical, choices: [cosine, constant]}
        training.warmup_ratio: {type: float, low: 0, high: 0.2, when: {training.scheduler: cosine}}
    """)
    params, rest = space.enqueued(Known("x", {"training.scheduler": "constant", "training.warmup_ratio": 0.1}), CONFIG)
    assert params == {"training.scheduler": "constant"}
    assert rest == {"training.warmup_ratio": 0.1}


def test_known_settings_that_say_nothing_of_a_dimension_take_the_configurations_value() -> None:
    params, rest = parse_space(RATE, vary(CONFIG, {"training.learning_rate": 3e-4}, "x")).enqueued(
        Known("em uso", {}), vary(CONFIG, {"training.learning_rate": 3e-4}, "x")
    )
    assert (params, rest) == ({"training.learning_rate": 3e-4}, {})


def test_the_largest_number_of_epochs_is_known_to_the_pruner() -> None:
    assert parse_space({**RATE, "training.epochs": 6}, CONFIG).largest("training.epochs", CONFIG) == 6
    varied = parsed("training.epochs: {type: int, low: 2, high: 9}")
    assert varied.largest("training.epochs", CONFIG) == 9
    assert parse_space(RATE, CONFIG).largest("training.epochs", CONFIG) == CONFIG.training.epochs


def test_the_space_in_words() -> None:
    space = parsed("""
        training.scheduler: {type: categorical, choices: [cosine, linear]}
        training.warmup_ratio: {type: float, low: 0, high: 0.2, step: 0.1, when: {training.scheduler: cosine}}
        lora.r: {type: int, low: 4, high: 64, log: true}
        training.epochs: 6
    """)
    assert space.described() == {
        "training.scheduler": "cosine | linear",
        "lora.r": "4 … 64 (log)",
        "training.warmup_ratio": "0 … 0.2, de 0.1 em 0.1; só com training.scheduler = cosine",
        "training.epochs": "6",
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lora.rr: {type: int, low: 1, high: 2}", "lora.rr (espaço da busca) não existe; você quis dizer lora.r?"),
        ("lora: {rr: {type: int, low: 1, high: 2}}", "lora.rr (espaço da busca) não existe; você quis dizer lora.r?"),
        ("lora.r: {low: 1, high: 2}", "falta type; use float, int, categorical"),
        ("lora.r: {type: inteiro, low: 1, high: 2}", "type: inteiro não existe; você quis dizer int?"),
        ("lora.r: {type: int, low: 1, hihg: 2}", "hihg não vale para int; você quis dizer high?"),
        ("lora.r: {type: int, low: 1}", "falta high, que é um número inteiro"),
        ("lora.r: {type: int, low: 1, high: 2.5}", "high=2.5 não é um número inteiro"),
        ("lora.r: {type: int, low: um, high: 2}", "low=um não é um número inteiro"),
        ("lora.dropout: {type: float, low: yes, high: 0.5}", "low=True não é um número"),
        ("lora.dropout: {type: float, low: .nan, high: 0.5}", "lora.dropout"),
        ("lora.r: {type: int, low: 8, high: 8}", "low=8 deve ser menor que high=8"),
        ("lora.r: {type: int, low: 0, high: 8}", "lora.r=0 (espaço da busca) não serve: deve ser no mínimo 1"),
        ("lora.r: {type: int, low: 4, high: 5000}", "lora.r=5000 (espaço da busca) não serve: deve ser no máximo 1024"),
        ("lora.r: {type: float, low: 4, high: 14}", "(espaço da busca) não serve: deve ser um número inteiro"),
        ("lora.dropout: {type: float, low: 0, high: 0.5, log: true}", "com log: true, low=0 deve ser maior que 0"),
        ("lora.dropout: {type: float, low: 0, high: 0.5, log: sim}", "log deve ser true ou false"),
        ("lora.dropout: {type: float, low: 0.1, high: 0.5, log: true, step: 0.1}", "não combina com log: true"),
        ("lora.dropout: {type: float, low: 0, high: 0.5, step: 2}", "step=2 deve ser maior que 0 e no máximo 0.5"),
        ("lora.bias: {type: categorical, choices: [none]}", "choices deve ser uma lista de ao menos dois valores"),
        ("lora.bias: {type: categorical, choices: [none, al]}", "lora.bias=al (espaço da busca) não serve"),
        ("lora.bias: {type: categorical, choices: [none, all, none]}", "none aparece duas vezes em choices"),
        ("lora.bias: {type: categorical, low: 1, choices: [none, all]}", "low não vale para categorical"),
        ("lora.r: {type: int, low: 1, high: 2, when: cosine}", "when deve dizer de que depende"),
        ("lora.r: {type: int, low: 1, high: 2, when: {lora.bia: all}}", "lora.bia (when de lora.r) não existe"),
        ("lora.r: {type: int, low: 1, high: 2, when: {lora.bias: al}}", "lora.bias=al (when de lora.r) não serve"),
        ("lora.r: {type: int, low: 1, high: 2, when: {lora.bias: all}}", "lora.bias=all, que a busca nunca alcança"),
        (
            "lora.r: {type: int, low: 1, high: 2, when: {lora.dropout: 0.5}}\n"
            "lora.dropout: {type: float, low: 0, high: 0.5}",
            "when só olha para configurações fixas ou categóricas, e lora.dropout é float",
        ),
        (
            "lora.bias: {type: categorical, choices: [none, all], when: {training.scheduler: cosine}}\n"
            "training.scheduler: {type: categorical, choices: [cosine, linear], when: {lora.bias: none}}",
            "dependem em círculo umas das outras",
        ),
        ("model.name: {type: categorical, choices: [a, b]}", "model.name (espaço da busca) não pode variar"),
        ("data.split_seed: {type: int, low: 1, high: 9}", "data.split_seed (espaço da busca) não pode variar"),
        ("search.trials: 3", "search.trials (espaço da busca) não pode variar"),
        ("training.seed: {type: int, low: 1, high: 9}", "com outra semente a mesma tentativa daria outro valor"),
        ("early_stopping.metric: bleu", "é search.metric que escolhe a época"),
        ("training.epochs: 6", "não varia nenhuma configuração"),
        ("lora.r:", "lora.r (espaço da busca) está sem valor"),
        ("lora.r: {type: [int], low: 1, high: 3}", "lora.r (espaço da busca): type: ['int'] não existe"),
        ("lora.r: {type: {int: 1}, low: 1, high: 3}", "type: {'int': 1} não existe"),
        ("lora.r: {type: int, low: 1, high: 2}\nlora: {r: 3}", "lora.r (espaço da busca) aparece duas vezes"),
        ("lora.alpha: {type: float, low: 1, high: .inf}", "lora.alpha=inf (espaço da busca) não serve"),
        ("lora.alpha: {type: float, low: .nan, high: 3}", "lora.alpha=nan (espaço da busca) não serve"),
        (f"lora.alpha: {{type: float, low: 1, high: 0x{'f' * 190}}}", "(espaço da busca) não serve: deve ser no"),
        ("lora.target_modules: {type: categorical, choices: [[[a]], [b]]}", "lora.target_modules"),
        ("training.epochs: vinte\nlora.r: {type: int, low: 1, high: 2}", "epochs=vinte (espaço da busca) não serve"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_is_one_sentence_that_names_the_mend(text: str, sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        parsed(text)
    assert sentence in str(error.value)


def test_the_bundled_space_covers_both_recipes() -> None:
    config, space = load_search(SEARCH_CONFIG, {})
    for recipe in ("configs/default.yaml", "configs/recipe-v2.yaml"):
        params, _ = space.enqueued(Known(recipe, load_config(recipe).flat()), config)
        assert sorted(params) == sorted(dimension.name for dimension in space.dimensions)


def test_a_configuration_without_a_space_takes_the_bundled_one(tmp_path: Path) -> None:
    assert load_search("configs/recommended.yaml", {})[1] == load_search(SEARCH_CONFIG, {})[1]


def test_a_configuration_inherits_its_parents_space_or_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "pai.yaml").write_text("space: {lora.r: {type: int, low: 2, high: 4}}", encoding="utf-8")
    (tmp_path / "filho.yaml").write_text("extends: pai.yaml\nsearch: {metric: bleu}", encoding="utf-8")
    (tmp_path / "outro.yaml").write_text(
        "extends: pai.yaml\nspace: {lora.r: {type: int, low: 8, high: 16}}", encoding="utf-8"
    )
    config, space = load_search(str(tmp_path / "filho.yaml"), {})
    assert (config.search.metric, space.described()) == ("bleu", {"lora.r": "2 … 4"})
    assert load_search(str(tmp_path / "outro.yaml"), {})[1].described() == {"lora.r": "8 … 16"}


def test_a_space_that_is_no_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lista.yaml").write_text("space: [lora.r]", encoding="utf-8")
    with pytest.raises(SettingError, match="deve ser um mapa"):
        load_search(str(tmp_path / "lista.yaml"), {})


def test_the_short_names_stand_for_the_searchs_settings() -> None:
    config, _ = load_search(SEARCH_CONFIG, {"trials": "30", "study": "noite", "workers": "2", "promote": "true"})
    assert (config.search.trials, config.search.study, config.search.workers) == (30, "noite", 2)
    assert config.registry.register_model


OWN_SPACE = (
    "space: {training.epochs: 6, lora.r: {type: int, low: 2, high: 64}, lora.alpha: {type: float, low: 1, high: 9}}"
)
WHO_DECIDES = {
    # files, what is typed; what is looked for, what every trial has alike
    "the space over the file that it stands in": (
        {"eu.yaml": f"training: {{epochs: 2}}\nlora: {{r: 8}}\n{OWN_SPACE}"},
        {},
        {"lora.r", "lora.alpha"},
        {"training.epochs": 6},
    ),
    "a file over the space that it inherits": (
        {"eu.yaml": "extends: pai.yaml\ntraining: {epochs: 2}\nlora: {r: 8}", "pai.yaml": OWN_SPACE},
        {},
        {"lora.alpha"},
        {},
    ),
    "a file over its parent's parent's space": (
        {"eu.yaml": "extends: pai.yaml", "pai.yaml": "extends: avo.yaml\nlora: {alpha: 2}", "avo.yaml": OWN_SPACE},
        {},
        {"lora.r"},
        {"training.epochs": 6},
    ),
    "a space over the parents of its file": (
        {"eu.yaml": f"extends: pai.yaml\n{OWN_SPACE}", "pai.yaml": "training: {epochs: 2}\nlora: {r: 8}"},
        {},
        {"lora.r", "lora.alpha"},
        {"training.epochs": 6},
    ),
    "what is typed over the space": (
        {"eu.yaml": OWN_SPACE},
        {"epochs": "3", "lora.alpha": "4"},
        {"lora.r"},
        {},
    ),
    "a recipe's own epochs over the borrowed space's, whose dimensions stay": (
        {"eu.yaml": "extends: configs/default.yaml\ntraining: {epochs: 2}\nlora: {r: 8}"},
        {},
        {dimension.name for dimension in load_search(SEARCH_CONFIG, {})[1].dimensions},
        {},
    ),
    "the borrowed space over the recipe that it comes from itself": (
        {"eu.yaml": "extends: configs/default.yaml"},
        {},
        {dimension.name for dimension in load_search(SEARCH_CONFIG, {})[1].dimensions},
        {"training.epochs": 6},
    ),
}


@pytest.mark.parametrize(("files", "typed", "searched", "constants"), WHO_DECIDES.values(), ids=WHO_DECIDES.keys())
def test_where_a_space_and_settings_meet_it_is_known_who_decides(
    files: dict[str, str],
    typed: dict[str, str],
    searched: set[str],
    constants: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    config, space = load_search("eu.yaml", typed)
    assert {dimension.name for dimension in space.dimensions} == searched
    assert dict(space.constants) == constants
    assert config.training.epochs == (3 if "epochs" in typed else load_config("eu.yaml").training.epochs)


def test_the_space_stays_the_user_s_on_a_fallback_and_has_to_suit_it(tmp_path: Path) -> None:
    entries = "generation.min_new_tokens: {type: int, low: 0, high: 90}"
    path = tmp_path / "eu.yaml"
    path.write_text(f"space: {{{entries}, lora.dropout: {{type: float, low: 0, high: 0.5}}}}", encoding="utf-8")
    fallen = load_config(path, fallback="configs/mini.yaml")
    space = read_space(str(path), fallen, {})
    assert [dimension.name for dimension in space.dimensions] == ["generation.min_new_tokens", "lora.dropout"]
    path.write_text(f"space: {{{entries.replace('90', '120')}}}", encoding="utf-8")
    assert len(load_search(str(path), {})[1].dimensions) == 1
    with pytest.raises(SettingError, match=r"generation\.min_new_tokens"):
        read_space(str(path), fallen, {})


def test_several_processes_in_a_search_are_its_workers() -> None:
    with pytest.raises(SettingError, match=r"numa busca cada tentativa é de um processo, e quem usa .* é workers\."):
        load_search(SEARCH_CONFIG, {"num_processes": "2"})
