"""Know before training: the same lines as training, and what else there is to know."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.errors import DataError, SettingError
from cartas_mlflow.pipelines.check import check
from cartas_mlflow.training.preparation import load_data
from cartas_mlflow.training.review import check_command

Rows = list[dict[str, str]]


def write(path: Path, rows: Rows) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["carta", "evento", "secao", "tema", "texto"])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def rows(bundled_rows: Rows) -> Rows:
    return [dict(row) for row in bundled_rows[:42]]


def review(path: Path, base: Path, **options: str) -> None:
    check(overrides={"data.path": str(path), "model.name": str(base)}, **options)


def test_it_says_what_training_says_of_the_same_table(
    rows: Rows, tiny_base: Path, tmp_path: Path, said: list[str]
) -> None:
    from cartas_mlflow.config import load_config

    rows[3]["texto"] = ""
    rows[9] = rows[8]
    table = write(tmp_path / "t.csv", rows)
    load_data(load_config(overrides={"data.path": str(table)}))
    training = list(said)
    said.clear()
    review(table, tiny_base)
    assert said[1 : 1 + len(training)] == training
    assert "Dados após validação/limpeza: 40 registros válidos" in said
    assert "Linhas deixadas de fora: 5 (texto vazia), 11 (repetida)" in said
    assert said[-1] == "✅ Pode treinar com esta tabela"


def test_it_tells_what_there_is_to_know(rows: Rows, tiny_base: Path, tmp_path: Path, said: list[str]) -> None:
    rows[1]["texto"] += " Ligue (11) 98765-4321."
    rows[2]["texto"] += " ana@exemplo.com 日"
    rows[4]["texto"] = rows[3]["texto"]
    rows[6]["texto"] = rows[5]["texto"] + " Sim."
    review(write(tmp_path / "t.csv", rows), tiny_base)
    text = "\n".join(said)
    for expected in (
        "cabeçalho na linha 1",
        "Colunas: carta = carta, evento = evento, secao = secao, tema = tema, texto = texto",
        "Linhas deixadas de fora: nenhuma",
        "Leituras por carta (2): O Louco 21, O Mago 21",
        "Leituras por ocasião (7): ",
        "Leituras por seção (3): ",
        "Leituras por tema (",
        "Dados pessoais (LGPD), e-mail ×1: linha 4: ana…om",
        "Dados pessoais (LGPD), telefone ×1: linha 3: ",
        "1 par de textos iguais: linhas 5 e 6",
        "1 par de textos quase iguais: linhas 7 e 8",
        "日 ×1 (linha 4)",
        "Tokens por leitura: de ",
        "Tempo por época neste computador (",
    ):
        assert expected in text


def test_texts_on_both_sides_of_the_split_are_told(
    rows: Rows, tiny_base: Path, tmp_path: Path, said: list[str]
) -> None:
    for row in rows[:21]:
        row["texto"] = rows[0]["texto"]
    review(write(tmp_path / "t.csv", rows), tiny_base)
    assert [line for line in said if "dos dois lados da divisão" in line]


def test_the_cleaned_table_is_the_same_readings_under_the_usual_names(
    rows: Rows, tiny_base: Path, tmp_path: Path, said: list[str]
) -> None:
    table = tmp_path / "t.csv"
    lines = [["Arcano", "Quando", "Parte", "Assunto", "Leitura"], *(
        [f" {row['carta']}\u200b", row["evento"], row["secao"], row["tema"], row["texto"]] for row in rows
    )]  # fmt: skip
    with table.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=";").writerows(lines)
    review(table, tiny_base, output=str(tmp_path / "limpa.csv"))
    said.clear()
    again = check(overrides={"data.path": str(tmp_path / "limpa.csv"), "model.name": str(tiny_base)})
    assert (again.table.remarks, len(again.rows)) == ((), 42)
    assert "Linhas deixadas de fora: nenhuma" in said


@pytest.mark.parametrize(
    ("output", "message"),
    [("t.csv", "é a própria tabela"), ("x.doc", "terminação"), ("nada/x.csv", "A pasta de --output")],
)
def test_an_output_that_cannot_be_is_refused_first(
    output: str, message: str, rows: Rows, tiny_base: Path, tmp_path: Path, said: list[str]
) -> None:
    with pytest.raises(SettingError, match=message):
        review(write(tmp_path / "t.csv", rows), tiny_base, output=str(tmp_path / output))
    assert said == []


def test_a_table_that_cannot_be_trained_on_is_refused_with_the_reason(
    rows: Rows, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="tem só 5 leituras válidas"):
        review(write(tmp_path / "t.csv", rows[:5]), tiny_base)


def test_training_points_to_the_review_where_something_was_odd(rows: Rows, tmp_path: Path, said: list[str]) -> None:
    from cartas_mlflow.config import load_config

    for number, odd in enumerate((False, True)):
        rows[0]["texto"] = "" if odd else rows[0]["texto"]
        config = load_config(overrides={"data.path": str(write(tmp_path / f"{number}.csv", rows))})
        said.clear()
        load_data(config, check=check_command(config.data))
        command = f"python -m cartas_mlflow check --data.path {tmp_path / f'{number}.csv'}"
        assert [line for line in said if command in line] == [f"   Para ver tudo o que há na tabela: {command}"] * odd


@pytest.mark.slow
def test_the_command_takes_seconds_and_loads_no_weights(tmp_path: Path) -> None:
    code = (
        "import sys, resource; from cartas_mlflow.cli import main; code = main(['check']);"
        "used = resource.getrusage(resource.RUSAGE_SELF);"
        "print(code, 'peft' in sys.modules, 'datasets' in sys.modules, used.ru_utime + used.ru_stime)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    exit_code, peft, datasets, seconds = result.stdout.splitlines()[-1].split()
    assert (exit_code, peft, datasets) == ("0", "False", "False")
    assert float(seconds) < 5
    assert list(tmp_path.iterdir()) == []
