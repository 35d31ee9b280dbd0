"""The lookup baseline, and how long a text copies: both small enough to check by eye."""

from __future__ import annotations

import pytest

from cartas_mlflow.evaluation.baselines import longest_copied_runs, look_up

KNOWN = [
    (("O Sol", "Ano Novo", "Luz", "Amor"), "primeiro"),
    (("O Sol", "Viagem", "Luz", "Lar"), "segundo"),
    (("A Lua", "Viagem", "Sombra", "Lar"), "terceiro"),
    (("O Sol", "Viagem", "Sombra", "Lar"), "quarto"),
]


def test_lookup_answers_with_the_text_that_shares_the_most_fields() -> None:
    # Shared with each known record, in order: 0, 2 (Viagem, Lar), 4, 3.
    assert look_up([("A Lua", "Viagem", "Sombra", "Lar")], KNOWN) == ["terceiro"]


def test_ties_go_to_the_earlier_record() -> None:
    # (O Sol, Luto, Luz, Trabalho) shares O Sol and Luz with the first and with the second.
    assert look_up([("O Sol", "Luto", "Luz", "Trabalho")], KNOWN) == ["primeiro"]


def test_a_prompt_that_shares_nothing_gets_the_first_text() -> None:
    assert look_up([("O Mago", "Luto", "Conselho", "Trabalho")], KNOWN) == ["primeiro"]


def test_a_value_counts_only_in_its_own_field() -> None:
    known = [(("Amor", "Luz", "", ""), "trocado"), (("O Mago", "Luto", "Luz", "Lar"), "certo")]
    assert look_up([("O Sol", "Viagem", "Luz", "Amor")], known) == ["certo"]


def test_prompts_are_answered_in_their_order() -> None:
    prompts = [KNOWN[2][0], KNOWN[0][0], KNOWN[3][0]]
    assert look_up(prompts, KNOWN) == ["terceiro", "primeiro", "quarto"]


@pytest.mark.parametrize(
    ("text", "longest"),
    [
        ("o mar leva o que é leve", 7),  # the whole source
        ("Ontem o mar LEVA, o que foi leve", 5),  # o mar leva o que: case and punctuation do not matter
        ("que é leve o mar leva o que", 5),  # the runs do not join: 3 and 5
        ("leve leve leve", 1),
        ("nenhuma palavra comum", 0),
        ("", 0),
    ],
)
def test_the_longest_run_that_stands_word_for_word_in_a_source(text: str, longest: int) -> None:
    assert longest_copied_runs([text], ["O mar leva o que é leve."]) == [longest]


def test_a_run_does_not_pass_from_one_source_to_the_next() -> None:
    assert longest_copied_runs(["um dois três quatro"], ["zero um dois", "três quatro cinco"]) == [2]


def test_the_best_of_several_places_counts() -> None:
    # "a b" stands twice in the source; only the second place goes on with c d.
    assert longest_copied_runs(["a b c d"], ["a b x a b c d"]) == [4]


def test_repeated_words_do_not_make_a_run_longer_than_the_source() -> None:
    assert longest_copied_runs(["sim sim sim sim"], ["sim sim"]) == [2]


def test_each_text_has_its_own_run() -> None:
    assert longest_copied_runs(["um dois", "três", ""], ["um dois três"]) == [2, 1, 0]
