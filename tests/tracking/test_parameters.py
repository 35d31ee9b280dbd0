"""The settings that a run shows."""

from __future__ import annotations

from cartas_mlflow.config import load_config
from cartas_mlflow.tracking.parameters import in_effect
from cartas_mlflow.tracking.run import param_text


def shown(**changed: object) -> dict[str, object]:
    overrides = {name.replace("__", "."): value for name, value in changed.items()}
    return in_effect(load_config(overrides=overrides).flat())


def test_what_is_switched_off_is_left_out_and_comes_back_with_its_switch() -> None:
    plain = shown()
    assert not {"generation.temperature", "generation.seed", "generation.length_penalty", "data.sheet"} & plain.keys()
    assert plain["lora.bias"] == "none"
    assert shown(generation__do_sample=True)["generation.temperature"] == 1.0
    assert shown(generation__num_beams=4)["generation.length_penalty"] == 1.0
    assert "early_stopping.threshold" not in shown(early_stopping__patience=0)


def test_a_column_is_shown_where_it_is_not_called_by_its_own_name() -> None:
    assert not [name for name in shown() if name.startswith("data.columns.")]
    given = shown(data__columns__evento="none", data__template="{carta}: {tema}")
    assert "data.columns.evento" in given and given["data.columns.evento"] is None


def test_texts_are_read_as_values_are() -> None:
    flat = load_config().flat()
    texts = {name: param_text(value) for name, value in flat.items()}
    assert in_effect(texts).keys() == in_effect(flat).keys()
