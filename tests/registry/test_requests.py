"""What a served model is asked: rows, parameters, and the work that they make."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cartas_mlflow.registry.requests import (
    PARAMETERS,
    RequestError,
    Vocabulary,
    check_work,
    nearest_cards,
    read_parameters,
    read_rows,
)
from cartas_mlflow.settings import RECORD_FIELDS, GenerationSettings, ServingSettings

CARDS = ("A Força", "O Sol", "A Lua", "O Louco", "A Estrela", "O Mago")
KNOWN = {"carta": CARDS, "evento": ("Ano Novo", "Lua Cheia"), "secao": ("Luz", "Sombra"), "tema": ("Amor", "Família")}
ROW = {"carta": "O Sol", "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}
LIMITS = ServingSettings()


def read(*rows: dict[str, Any], used: tuple[str, ...] = RECORD_FIELDS, any_card: bool = False) -> list[dict[str, str]]:
    return read_rows(pd.DataFrame(rows, dtype=object), used, Vocabulary(KNOWN, any_card), LIMITS)


def refusal(*rows: dict[str, Any], used: tuple[str, ...] = RECORD_FIELDS) -> str:
    with pytest.raises(RequestError) as refused:
        read(*rows, used=used)
    return refused.value.sentence


def test_a_row_comes_back_as_it_was_sent() -> None:
    assert read(ROW) == [ROW]


def test_white_space_and_unicode_are_cleaned_as_in_a_training() -> None:
    sent = {**ROW, "carta": unicodedata.normalize("NFD", " A  Força "), "tema": "Vida\nnova"}
    assert read(sent) == [{**ROW, "carta": "A Força", "tema": "Vida nova"}]


@pytest.mark.parametrize("null", [None, math.nan, pd.NA, pd.NaT, np.float32("nan"), "", " \n"], ids=repr)
@pytest.mark.parametrize("field", RECORD_FIELDS)
def test_an_empty_field_names_its_row(field: str, null: Any) -> None:
    assert refusal(ROW, {**ROW, field: null}) == f"Linha 2: o campo {field} está vazio; escreva um texto."


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (7, "um número"),
        (0.5, "um número"),
        (np.int64(7), "um número"),
        (math.inf, "um número"),
        (True, "um valor lógico"),
        (["O Sol"], "uma lista"),
        (np.array(["O Sol"]), "uma lista"),
        ({"nome": "O Sol"}, "um objeto"),
        ([], "uma lista"),
    ],
    ids=repr,
)
def test_a_field_that_is_no_text_says_what_it_is(value: Any, kind: str) -> None:
    assert refusal({**ROW, "carta": value}) == f"Linha 1: o campo carta deve ser um texto, e não {kind}."


def test_a_field_of_ten_thousand_characters_is_refused() -> None:
    assert refusal({**ROW, "tema": "a" * 10_000}) == (
        "Linha 1: o campo tema tem 10000 caracteres e o limite é 200; encurte-o."
    )


def test_half_a_surrogate_pair_is_refused() -> None:
    assert refusal({**ROW, "tema": "\ud83c"}) == (
        "Linha 1: o campo tema tem um caractere Unicode incompleto; corrija o texto."
    )


def test_an_empty_table_is_refused() -> None:
    assert refusal() == "O pedido não tem nenhuma linha; mande ao menos uma carta."


def test_more_rows_than_the_limit_are_refused_before_they_are_read() -> None:
    rows = [{**ROW, "carta": 7}] * (LIMITS.max_rows + 1)
    assert refusal(*rows) == "O pedido tem 65 linhas e o limite é 64; divida-o em pedidos menores."


def test_missing_columns_are_named() -> None:
    assert refusal({"carta": "O Sol"}) == (
        "Faltam as colunas evento, secao, tema; este modelo precisa de carta, evento, secao, tema."
    )
    assert refusal({name: ROW[name] for name in ("carta", "evento", "secao")}) == (
        "Falta a coluna tema; este modelo precisa de carta, evento, secao, tema."
    )


def test_a_field_that_the_template_does_not_use_may_be_absent_or_empty() -> None:
    used = ("carta", "tema")
    assert read({"carta": "O Sol", "tema": "Amor", "secao": None}, used=used) == [{**ROW, "evento": "", "secao": ""}]


def test_even_an_unused_field_must_be_a_text() -> None:
    assert refusal({**ROW, "secao": 7}, used=("carta", "tema")) == (
        "Linha 1: o campo secao deve ser um texto, e não um número."
    )


def test_an_unknown_card_names_the_nearest_ones() -> None:
    assert refusal({**ROW, "carta": "o sal"}) == (
        "Linha 1: este modelo não conhece a carta 'o sal'; as mais próximas são O Sol, O Mago, O Louco."
    )


def test_a_card_like_no_other_is_told_some_of_the_known_ones() -> None:
    assert refusal({**ROW, "carta": "Xyzw" * 20}) == (
        "Linha 1: este modelo não conhece a carta 'XyzwXyzwXyzwXyzwXyzwXyzwXyzwXyzwXyzwXy…; "
        "ele conhece A Força, O Sol, A Lua, O Louco, A Estrela, …"
    )


def test_any_card_may_be_let_through() -> None:
    assert read({**ROW, "carta": "O Jardineiro"}, any_card=True)[0]["carta"] == "O Jardineiro"


def test_the_card_is_not_checked_where_the_template_does_not_use_it() -> None:
    assert read({**ROW, "carta": "O Jardineiro"}, used=("tema",))[0]["carta"] == "O Jardineiro"


def test_nearest_cards_disregard_case_and_accents_nearly() -> None:
    assert nearest_cards("a forca", CARDS)[0] == "A Força"
    assert nearest_cards("LUA", CARDS)[0] == "A Lua"


def test_a_refusal_is_one_sentence_of_json_with_accents() -> None:
    assert json.loads(RequestError("O campo está vazio.", 3).serialize_as_json()) == {
        "error_code": "INVALID_PARAMETER_VALUE",
        "message": "Linha 3: O campo está vazio.",
    }


def test_parameters_take_the_place_of_the_defaults() -> None:
    defaults = GenerationSettings(num_beams=2, repetition_penalty=1.3)
    settings, sequences = read_parameters({"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 9}, defaults)
    assert settings == defaults.model_copy(update={"num_beams": 4, "max_new_tokens": 9})
    assert sequences == 3


def test_a_null_parameter_and_an_unknown_one_change_nothing() -> None:
    assert read_parameters({"num_beams": None, "top_k": 5, "colour": "red"}, GenerationSettings()) == (
        GenerationSettings(),
        1,
    )


@pytest.mark.parametrize("name", [name for name, (kind, _, _) in PARAMETERS.items() if kind != "boolean"])
def test_a_parameter_out_of_range_says_the_range(name: str) -> None:
    kind, least, greatest = PARAMETERS[name]
    number = "um número" if kind == "double" else "um número inteiro"
    for value in (least - 1, greatest + 1):
        with pytest.raises(RequestError) as refused:
            read_parameters({name: value}, GenerationSettings())
        assert refused.value.sentence == (
            f"O parâmetro {name}={value!r} não serve; use {number} de {least} a {greatest}."
        )


@pytest.mark.parametrize("value", ["4", 2.5, True, [4], {}, math.nan, math.inf, -(10**30)], ids=repr)
def test_a_parameter_of_another_type_says_what_to_use(value: Any) -> None:
    with pytest.raises(RequestError, match=r"^O parâmetro num_beams=.* não serve; use um número inteiro de 1 a 16\.$"):
        read_parameters({"num_beams": value}, GenerationSettings())


@pytest.mark.parametrize("value", [1, 0, "true", None, []], ids=repr)
def test_a_switch_is_true_or_false(value: Any) -> None:
    if value is None:
        assert read_parameters({"do_sample": value}, GenerationSettings())[0].do_sample is False
        return
    with pytest.raises(RequestError, match=r"^O parâmetro do_sample=.* não serve; use true ou false\.$"):
        read_parameters({"do_sample": value}, GenerationSettings())


def test_the_models_own_default_is_always_in_range() -> None:
    defaults = GenerationSettings(max_new_tokens=1024, temperature=0.005)
    settings, _ = read_parameters({"max_new_tokens": 1024, "temperature": 0.005}, defaults)
    assert (settings.max_new_tokens, settings.temperature) == (1024, 0.005)


SPELLINGS = [
    ("carta", "o sol", "O Sol"),
    ("carta", "Sol", "O Sol"),
    ("carta", "  O  SOL. ", "O Sol"),
    ("carta", "O Sol\u200b", "O Sol"),
    ("carta", "XIX - O Sol", "O Sol"),
    ("carta", "19. O Sol", "O Sol"),
    ("carta", "forca", "A Força"),
    ("evento", "ANO NOVO", "Ano Novo"),
    ("secao", "luz", "Luz"),
    ("tema", "familia", "Família"),
    ("tema", "Dinheiro", "Dinheiro"),
    ("evento", "São João", "São João"),
]


@pytest.mark.parametrize(("field", "typed", "taken"), SPELLINGS)
def test_values_are_matched_as_people_write_them_and_others_go_as_they_are(field: str, typed: str, taken: str) -> None:
    assert read({**ROW, field: typed}) == [{**ROW, field: taken}]


@pytest.mark.parametrize("card", ["Lu", "O Sol Nascente", "Sol e Lua", "19", ""])
def test_a_card_that_is_not_plain_is_never_guessed(card: str) -> None:
    assert refusal({**ROW, "carta": card}).startswith("Linha 1: ")


def test_two_values_that_could_be_meant_are_left_alone() -> None:
    vocabulary = Vocabulary({"carta": ("O Sol", "A Sol", "Lua")})
    assert vocabulary.spell("carta", "sol") == "sol"
    assert vocabulary.spell("carta", "a sol") == "A Sol"


@pytest.mark.parametrize(
    ("given", "settings", "beams", "sampled"),
    [
        ({"do_sample": True}, {"num_beams": 4}, 1, True),
        ({"do_sample": True, "seed": 7}, {"num_beams": 4}, 1, True),
        ({"num_beams": 4}, {"do_sample": True}, 4, False),
        ({"do_sample": True, "num_return_sequences": 3}, {"num_beams": 4}, 1, True),
    ],
)
def test_a_draw_or_beams_alone_are_what_is_meant_whatever_the_training_did(
    given: dict[str, Any], settings: dict[str, Any], beams: int, sampled: bool
) -> None:
    read_settings, _ = read_parameters(given, GenerationSettings(**settings))
    assert (read_settings.num_beams, read_settings.do_sample) == (beams, sampled)


def test_sampling_and_beams_do_not_go_together() -> None:
    with pytest.raises(RequestError) as refused:
        read_parameters({"do_sample": True, "num_beams": 4}, GenerationSettings())
    assert refused.value.sentence == (
        "do_sample=true não combina com num_beams=4; use num_beams=1, ou do_sample=false."
    )


@pytest.mark.parametrize("given", [{}, {"num_beams": 2}])
def test_several_readings_need_sampling_or_as_many_beams(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refused:
        read_parameters({"num_return_sequences": 3, **given}, GenerationSettings())
    assert refused.value.sentence == (
        "num_return_sequences=3 precisa de do_sample=true, ou de num_beams de pelo menos 3: sem isso há uma só leitura."
    )


def test_fewer_new_tokens_than_the_models_minimum_lower_the_minimum() -> None:
    settings, _ = read_parameters({"max_new_tokens": 5}, GenerationSettings(min_new_tokens=20))
    assert (settings.min_new_tokens, settings.max_new_tokens) == (5, 5)


def test_a_request_that_may_generate_too_much_is_refused() -> None:
    settings = GenerationSettings(max_new_tokens=512, num_beams=16)
    check_work(8, settings, 1, LIMITS)
    with pytest.raises(RequestError) as refused:
        check_work(9, settings, 4, LIMITS)
    assert refused.value.sentence == (
        "O pedido pode gerar 73728 tokens (9 linhas × 16 × 512) e o limite é 65536; mande menos linhas, ou diminua "
        "num_beams, num_return_sequences ou max_new_tokens."
    )
