"""A record becomes the prompt that the model reads."""

from __future__ import annotations

import pytest

from cartas_mlflow.data.prompts import make_prompt, prompt_template
from cartas_mlflow.data.records import make_record
from cartas_mlflow.settings import DataSettings

RECORD = make_record(carta="O Sol", evento="Ano Novo", secao="Luz", tema="Saúde", texto="Abra a janela.")


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("instrucao", "Interprete a carta O Sol na ocasião Ano Novo, seção Luz, tema Saúde, no seu estilo:"),
        ("barras", "O Sol | Ano Novo | Luz | Saúde"),
        ("{tema}: que diz {carta}?", "Saúde: que diz O Sol?"),
        ("{carta} {carta} {{tema}}", "O Sol O Sol {tema}"),
    ],
)
def test_a_prompt_is_its_template_with_the_records_fields(template: str, prompt: str) -> None:
    assert make_prompt(prompt_template(DataSettings(template=template)), RECORD) == prompt


def test_braces_in_a_record_are_nothing_but_text() -> None:
    record = make_record(carta="{tema}", tema="{carta}", texto="x")
    assert make_prompt("{carta} e {tema}", record) == "{tema} e {carta}"


def test_the_text_to_be_learned_is_never_in_a_prompt() -> None:
    for name in ("instrucao", "barras"):
        assert RECORD.texto not in make_prompt(prompt_template(DataSettings(template=name)), RECORD)
