"""What the phases before training tell the user about data, machine and tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cartas_mlflow.config import load_config
from cartas_mlflow.errors import SettingError
from cartas_mlflow.training.preparation import (
    LoadedBase,
    PreparedData,
    encode_data,
    load_data,
    load_model,
    settle_base,
    split_data,
)
from cartas_mlflow.training.record import split_table


def write_table(path: Path, rows: list[tuple[str, ...]]) -> Path:
    lines = ["carta;evento;tema;secao;texto", *(";".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def reading(card: str, number: int, text: str | None = None) -> tuple[str, ...]:
    return card, "Ano Novo", f"Tema {number}", "Luz", text or f"Leitura {number} de {card}."


@pytest.fixture
def loaded_base(tiny_base: Path) -> LoadedBase:
    overrides = {"model.name": str(tiny_base), "training.device": "cpu"}
    return load_model(settle_base(load_config(overrides=overrides), "configs/default.yaml", overrides))


def prepared(table: Path, **overrides: str) -> PreparedData:
    config = load_config(overrides={"data.path": str(table), **overrides})
    return split_data(config, load_data(config))


def test_the_tables_figures_are_told(small_table: Path, said: list[str]) -> None:
    data = prepared(small_table)
    assert said == [
        "Dados carregados: 42 registros",
        "Dados após validação/limpeza: 42 registros válidos",
        "Cartas únicas: 2",
        "Comprimento médio: 162.7 caracteres",
        "Dataset dividido: 35 treino, 7 validação",
        "Datasets criados: 35 treino, 7 validação",
        f"Exemplo de pedido: {data.prompts(data.split.train[:1])[0]}",
    ]
    assert said[-1].startswith("Exemplo de pedido: Interprete a carta O ")


def test_what_was_dropped_is_told_with_its_lines(tmp_path: Path, said: list[str]) -> None:
    rows = [reading("O Sol", number) for number in range(12)]
    table = write_table(
        tmp_path / "t.csv", [*rows, reading("O Sol", 12, " "), rows[0], rows[3], reading("O Sol", 13, rows[1][-1])]
    )
    prepared(table)
    assert said[:5] == [
        "Dados carregados: 16 registros",
        "⚠️ 1 linha descartada por célula vazia (a primeira: linha 14, coluna texto)",
        "⚠️ 2 linhas repetidas descartadas (no arquivo: 15, 16)",
        "⚠️ 2 leituras têm um texto que aparece em mais de um registro (mantidas)",
        "Dados após validação/limpeza: 13 registros válidos",
    ]


def test_a_readings_rivals_are_its_prompt_with_each_other_card(tmp_path: Path) -> None:
    rows = [reading(card, number) for card in ("O Sol", "A Lua", "A Torre") for number in range(4)]
    data = prepared(write_table(tmp_path / "t.csv", rows), **{"data.template": "{carta}, {tema}"})
    record = next(record for record in data.split.train if record.carta == "O Sol")
    assert data.rivals((record,)) == [[f"A Lua, {record.tema}", f"A Torre, {record.tema}"]]


@pytest.mark.parametrize(
    ("cards", "template"), [(("O Sol",), "{carta}, {tema}"), (("O Sol", "A Lua"), "Leitura sobre {tema}")]
)
def test_prompts_that_tell_no_cards_apart_have_no_fit(tmp_path: Path, cards: tuple[str, ...], template: str) -> None:
    table = write_table(tmp_path / "t.csv", [reading(card, number) for card in cards for number in range(12)])
    data = prepared(table, **{"data.template": template})
    assert data.rivals(data.split.validation) == []
    with pytest.raises(SettingError, match=r"^prompt_fit mede .* não distinguem cartas; escolha outra"):
        prepared(table, **{"data.template": template, "early_stopping.metric": "prompt_fit"})


def test_long_lists_of_lines_are_cut(tmp_path: Path, said: list[str]) -> None:
    rows = [reading("O Sol", number) for number in range(12)]
    prepared(write_table(tmp_path / "t.csv", [*rows, *rows]))
    assert said[1] == "⚠️ 12 linhas repetidas descartadas (no arquivo: 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, …)"


def test_texts_that_are_cut_and_characters_that_are_lost_are_told(
    tmp_path: Path, loaded_base: LoadedBase, said: list[str]
) -> None:
    long = "palavra " * 80
    table = write_table(
        tmp_path / "t.csv",
        [
            *(reading("O Sol", number) for number in range(10)),
            reading("O Sol", 10, long),
            reading("O Sol", 11, "日本 日"),
        ],
    )
    settings = {"data.max_length": "64", "data.validation_fraction": "0.2", "training.batch_size": "6"}
    data = prepared(table, **settings)
    said.clear()
    encoded = encode_data(load_config(overrides=settings), loaded_base, data)
    assert said[0] == "Tokenização concluída: 9 treino, 3 validação"
    assert said[2] == "⚠️ 1 texto cortado em 64 tokens; aumente data.max_length"
    assert said[3].startswith("⚠️ Fora do vocabulário do modelo, e por isso perdidos: ")
    assert said[3].endswith("; 日 ×2 (linha 13); 本 ×1 (linha 13)")
    assert said[4] == "Batch efetivo: 6 (6 por passagem × 1 acumulação)"
    assert said[5].startswith("Memória prevista, no máximo (GB; livres: ")
    assert said[6] == "Leituras geradas por vez nas avaliações: 128, com CTranslate2"
    assert encoded.plan.micro_batch == 6


def test_the_machine_and_what_was_chosen_for_it_are_told(loaded_base: LoadedBase, said: list[str]) -> None:
    overrides = {
        "model.name": str(loaded_base.location.folder),
        "training.device": "cpu",
        "training.precision": "float16",
    }
    load_model(settle_base(load_config(overrides=overrides), "configs/default.yaml", overrides))
    assert said[0] == f"Modelo base encontrado: pasta local {loaded_base.location.folder}"
    assert said[1].startswith("CPU: ")
    assert said[1].endswith(" núcleos; sem GPU)")
    assert said[2].startswith("RAM disponível: ")
    assert said[3] == "Precisão: float32 (float16 forçado, sem efeito em CPU)"
    assert said[4] == "⚠️ float16 não tem efeito no treino em CPU: o cálculo será em float32."
    assert said[5].startswith(
        f"Modelo carregado: {loaded_base.location.name} (sem quantização, float32: sem ela o modelo ocupa 0.0 GB, "
        "menos de um quarto dos "
    )


def test_of_many_validation_records_a_sample_is_measured_and_a_line_says_so(small_table: Path, said: list[str]) -> None:
    whole, data = prepared(small_table), prepared(small_table, **{"evaluation.max_records": "4"})
    assert (whole.measured, data.split) == (whole.split.validation, whole.split)
    assert len(data.measured) == 4 and set(data.measured) < set(data.split.validation)
    assert [line for line in said if "evaluation.max_records" in line] == [
        "Leituras medidas em cada avaliação: 4, sorteadas entre as 7 de validação com as cartas na proporção "
        "(evaluation.max_records)"
    ]
    sides = [line.rsplit(",", 1)[1] for line in split_table(data).splitlines()[1:]]
    assert Counter(sides) == {"train": 35, "validation": 4, "unmeasured": 3}
    assert "unmeasured" not in split_table(whole)
