"""``mlflow models serve`` on the champion: a real server, in a folder elsewhere, asked over HTTP."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import mlflow
import psutil
import pytest
import requests
from champions import Champion
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trainings import Trainings, free_port, in_store, started

from cartas_mlflow.registry.requests import PARAMETERS
from cartas_mlflow.registry.server import EXAMPLE

pytestmark = pytest.mark.slow

FIELDS = ("carta", "evento", "secao", "tema")
JSON = "application/json"


@dataclass(frozen=True)
class Server:
    address: str
    pid: int

    def post(self, body: Any, kind: str | None = JSON) -> requests.Response:
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        headers = {} if kind is None else {"Content-Type": kind}
        return requests.post(f"{self.address}/invocations", data=data, headers=headers, timeout=120)

    def texts(self, rows: list[dict[str, str]], **params: Any) -> list[str]:
        reply = self.post({"dataframe_records": rows, "params": params})
        assert reply.status_code == 200, reply.text
        return [row["texto"] for row in reply.json()["predictions"]]

    def memory(self) -> float:
        """Of the server's processes, in MiB."""
        root = psutil.Process(self.pid)
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)]) / 2**20


@pytest.fixture(scope="module")
def server(champion: Champion, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, address = tmp_path_factory.mktemp("serving"), f"http://127.0.0.1:{(port := free_port())}"
    words = ["mlflow", "models", "serve", "-m", champion.uri, "--env-manager", "local", "-p", str(port)]
    variables = {"MLFLOW_TRACKING_URI": champion.server, "TMPDIR": str(folder)}
    with started(words, folder, f"{address}/ping", **variables) as process:
        yield Server(address, process.pid)


@pytest.fixture(scope="module")
def evaluated(
    finished_trainings: Trainings, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[dict[str, str], str]]:
    """The validation records' fields, each with the text of the training's final evaluation."""
    import csv

    with in_store(finished_trainings.uri, tmp_path_factory.mktemp("reading")):
        text = mlflow.artifacts.load_text(f"runs:/{finished_trainings.runs['good']}/samples/final.csv")
    rows = list(csv.DictReader(text.splitlines()))
    return [({name: row[name] for name in FIELDS}, row["gerado"]) for row in rows]


def test_every_format_is_answered_with_the_evaluations_texts(
    server: Server, evaluated: list[tuple[dict[str, str], str]]
) -> None:
    rows, texts = [row for row, _ in evaluated[:3]], [text for _, text in evaluated[:3]]
    columns = {name: [row[name] for row in rows] for name in FIELDS}
    lines = [",".join(row[name] for name in FIELDS) for row in rows]
    replies = [
        server.post({"dataframe_records": rows}),
        server.post({"dataframe_split": {"columns": list(FIELDS), "data": [list(row.values()) for row in rows]}}),
        server.post({"inputs": rows}),
        server.post({"inputs": columns}),
        server.post({"instances": rows}),
        server.post("\n".join([",".join(FIELDS), *lines]), "text/csv"),
        server.post("\n".join([",".join(FIELDS), *lines]), "text/csv; charset=utf-8"),
        server.post({"dataframe_records": rows, "params": {"num_beams": 1, "colour": "red"}}, f"{JSON};charset=utf-8"),
    ]
    assert [reply.status_code for reply in replies] == [200] * len(replies)
    for reply in replies:
        assert reply.json() == {"predictions": [{"texto": text} for text in texts]}


def test_the_whole_validation_set_is_answered_with_the_evaluations_texts(
    server: Server, evaluated: list[tuple[dict[str, str], str]]
) -> None:
    assert server.texts([row for row, _ in evaluated]) == [text for _, text in evaluated]


def test_accents_are_answered_as_they_are(server: Server, evaluated: list[tuple[dict[str, str], str]]) -> None:
    wild = {"do_sample": True, "temperature": 3.0}
    reply = server.post({"dataframe_records": [row for row, _ in evaluated], "params": wild})
    assert set("ãéç") <= set(reply.content.decode("utf-8"))
    assert "\\u" not in reply.text


def test_parameters_reach_the_model(server: Server, evaluated: list[tuple[dict[str, str], str]]) -> None:
    row, text = evaluated[0]
    (short,) = server.texts([row], max_new_tokens=4)
    assert text.startswith(short)
    assert len(server.texts([row], do_sample=True, num_return_sequences=3)) == 3
    assert server.texts([row], do_sample=True, seed=5) == server.texts([row], do_sample=True, seed=5)


SUN = {"carta": "O Louco", "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}


def records(**changed: Any) -> dict[str, Any]:
    return {"dataframe_records": [{**SUN, **changed}]}


def asking(**params: Any) -> dict[str, Any]:
    return {"dataframe_records": [SUN], "params": params}


EMPTY = "Linha 1: o campo tema está vazio; escreva um texto."
MISSING = "Falta a coluna tema; este modelo precisa de carta, evento, secao, tema."
NO_ROW = "O pedido não tem nenhuma linha; mande ao menos uma carta."
NUMBER = "Linha 1: o campo tema deve ser um texto, e não um número."
NO_TYPE = "Mande o pedido como application/json ou text/csv (cabeçalho Content-Type)."
WITHOUT_THEME = {name: SUN[name] for name in FIELDS[:3]}
HEADER = "carta,evento,secao,tema"


@dataclass(frozen=True)
class Bad:
    body: Any
    sentence: str
    kind: str | None = JSON
    status: int = 400


REFUSED = {
    "unknown card": Bad(
        records(carta="O Loco"),
        "Linha 1: este modelo não conhece a carta 'O Loco'; as mais próximas são O Louco, O Mago.",
    ),
    "unknown card, csv": Bad(
        f"{HEADER}\nXYZ,a,b,c\n",
        "Linha 1: este modelo não conhece a carta 'XYZ'; ele conhece A Imperatriz, A Sacerdotisa, O Louco, O Mago.",
        "text/csv",
    ),
    "missing, records": Bad({"dataframe_records": [WITHOUT_THEME]}, MISSING),
    "missing, split": Bad({"dataframe_split": {"columns": FIELDS[:3], "data": [["O Louco", "a", "b"]]}}, MISSING),
    "missing, inputs": Bad({"inputs": [WITHOUT_THEME]}, MISSING),
    "missing, instances": Bad({"instances": [WITHOUT_THEME]}, MISSING),
    "missing, csv": Bad("carta,evento,secao\nO Louco,a,b\n", MISSING, "text/csv"),
    "missing in the second row": Bad({"instances": [SUN, WITHOUT_THEME]}, EMPTY.replace("1", "2")),
    "null, records": Bad(records(tema=None), EMPTY),
    "null, split": Bad({"dataframe_split": {"columns": FIELDS, "data": [["O Louco", "a", "b", None]]}}, EMPTY),
    "null, inputs": Bad({"inputs": [{**SUN, "tema": None}]}, EMPTY),
    "null, inputs as columns": Bad({"inputs": {name: [SUN[name] if name != "tema" else None] for name in SUN}}, EMPTY),
    "null, instances": Bad({"instances": [{**SUN, "tema": None}]}, EMPTY),
    "null, csv": Bad(f"{HEADER}\nO Louco,a,b,\n", EMPTY, "text/csv"),
    "not a number": Bad(records(tema=float("nan")), EMPTY),
    "empty text": Bad(records(tema=" "), EMPTY),
    "number, records": Bad(records(tema=7), NUMBER),
    "number, split": Bad({"dataframe_split": {"columns": FIELDS, "data": [["O Louco", "a", "b", 7]]}}, NUMBER),
    "number, inputs": Bad({"inputs": [{**SUN, "tema": 7}]}, NUMBER),
    "number, instances": Bad({"instances": [{**SUN, "tema": 0.5}]}, NUMBER),
    "list": Bad(records(tema=["Amor"]), NUMBER.replace("um número", "uma lista")),
    "object": Bad({"inputs": [{**SUN, "tema": {}}]}, NUMBER.replace("um número", "um objeto")),
    "long": Bad(records(tema="a" * 10_000), "Linha 1: o campo tema tem 10000 caracteres e o limite é 200; encurte-o."),
    "surrogate": Bad(
        records(tema="\ud800"), "Linha 1: o campo tema tem um caractere Unicode incompleto; corrija o texto."
    ),
    "no rows": Bad({"dataframe_records": []}, NO_ROW),
    "no rows, csv": Bad(f"{HEADER}\n", NO_ROW, "text/csv"),
    "empty rows": Bad(
        {"inputs": [{}]},
        "Faltam as colunas carta, evento, secao, tema; este modelo precisa de carta, evento, secao, tema.",
    ),
    "too many rows": Bad(
        {"dataframe_records": [SUN] * 65}, "O pedido tem 65 linhas e o limite é 64; divida-o em pedidos menores."
    ),
    "too much work": Bad(
        {"dataframe_records": [SUN] * 64, "params": {"max_new_tokens": 512, "num_beams": 16}},
        "O pedido pode gerar 524288 tokens (64 linhas × 16 × 512) e o limite é 65536; mande menos linhas, ou diminua "
        "num_beams, num_return_sequences ou max_new_tokens.",
    ),
    "beams": Bad(asking(num_beams=0), "O parâmetro num_beams=0 não serve; use um número inteiro de 1 a 16."),
    "temperature": Bad(asking(temperature=-1), "O parâmetro temperature=-1 não serve; use um número de 0.01 a 10."),
    "top_p": Bad(asking(top_p=1.5), "O parâmetro top_p=1.5 não serve; use um número de 0.01 a 1."),
    "tokens": Bad(
        asking(max_new_tokens=10**9),
        "O parâmetro max_new_tokens=1000000000 não serve; use um número inteiro de 1 a 512.",
    ),
    "text for a number": Bad(
        asking(num_beams="4"), "O parâmetro num_beams='4' não serve; use um número inteiro de 1 a 16."
    ),
    "number for a switch": Bad(asking(do_sample=1), "O parâmetro do_sample=1 não serve; use true ou false."),
    "several without sampling": Bad(
        asking(num_return_sequences=2),
        "num_return_sequences=2 precisa de do_sample=true, ou de num_beams de pelo menos 2: sem isso há uma só "
        "leitura.",
    ),
    "sampling with beams": Bad(
        asking(do_sample=True, num_beams=2),
        "do_sample=true não combina com num_beams=2; use num_beams=1, ou do_sample=false.",
    ),
    "params": Bad(
        {"inputs": [SUN], "params": [4]}, 'params deve ser um objeto; por exemplo: {"params": {"num_beams": 4}}.'
    ),
    "broken JSON": Bad(
        '{"inputs": [', f"O corpo do pedido não é JSON válido (linha 1, coluna 13); por exemplo: {EXAMPLE}"
    ),
    "empty body": Bad(b"", f"O corpo do pedido não é JSON válido (linha 1, coluna 1); por exemplo: {EXAMPLE}"),
    "not UTF-8": Bad(b'{"inputs": "\xff"}', "O corpo do pedido não está em UTF-8."),
    "content type": Bad(records(), NO_TYPE, "application/xml", 415),
    "no content type": Bad(records(), NO_TYPE, None, 415),
    "charset": Bad(
        records(),
        "O pedido deve estar em UTF-8, sem outros detalhes em Content-Type.",
        f"{JSON}; charset=latin-1",
        415,
    ),
    "too large": Bad(b" " * (2**20 + 1), "O pedido tem 1048577 bytes e o limite é 1048576; divida-o.", JSON, 413),
}


@pytest.mark.parametrize("bad", REFUSED.values(), ids=REFUSED)
def test_a_bad_request_gets_one_clear_sentence(server: Server, bad: Bad) -> None:
    reply = server.post(bad.body, bad.kind)
    assert reply.status_code == bad.status
    assert_clear(reply)
    assert reply.json() == {"error_code": "BAD_REQUEST", "message": bad.sentence}


def assert_clear(reply: requests.Response) -> None:
    """One Portuguese sentence in JSON: no traceback, no path, nothing of the server's inside."""
    body = reply.json()
    assert set(body) == {"error_code", "message"}
    assert "\n" not in body["message"]
    assert not re.search(r"Traceback|stack_trace|File \"|\.py\b|site-packages|/tmp/|/home/|/root/", reply.text)


def test_sixteen_clients_at_once_get_their_own_answers(
    server: Server, evaluated: list[tuple[dict[str, str], str]]
) -> None:
    row = evaluated[0][0]
    sampled = {seed: server.texts([row], do_sample=True, seed=seed) for seed in range(16)}
    assert len({text for texts in sampled.values() for text in texts}) > 10

    def ask(client: int) -> list[str]:
        chooser, wrong = random.Random(client), []
        for _ in range(3):
            chosen = chooser.sample(evaluated, chooser.randint(1, 6))
            if server.texts([row for row, _ in chosen]) != [text for _, text in chosen]:
                wrong.append(f"{client}: {chosen}")
            if server.texts([row], do_sample=True, seed=client) != sampled[client]:
                wrong.append(f"{client}: sampled")
        return wrong

    with ThreadPoolExecutor(16) as clients:
        assert [wrong for answers in clients.map(ask, range(16)) for wrong in answers] == []


texts = st.text(max_size=20) | st.sampled_from(["O Louco", "O Mago", "Amor", "", "\x00", "None", "NaN", "{carta}"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
cells = st.dictionaries(st.sampled_from(FIELDS) | texts, values, max_size=5)
rows = st.lists(cells | st.builds(lambda changed: {**SUN, **changed}, cells) | values, max_size=3)
parameters = st.dictionaries(st.sampled_from(sorted(PARAMETERS)), values)
names = st.lists(st.sampled_from(FIELDS), max_size=5) | values
tables = (
    st.fixed_dictionaries({"dataframe_records": rows | values}, optional={"params": parameters | values})
    | st.fixed_dictionaries({"inputs": rows | cells | values}, optional={"params": parameters})
    | st.fixed_dictionaries({"instances": rows | cells | values}, optional={"params": parameters})
    | st.fixed_dictionaries(
        {"dataframe_split": values | st.fixed_dictionaries({"columns": names, "data": st.lists(values, max_size=3)})}
    )
)
wrong_parameters = parameters.map(lambda params: asking(**{"max_new_tokens": 0, **params}))
bodies = (tables | wrong_parameters | values).map(lambda body: json.dumps(body).encode())
lines = st.lists(st.lists(texts, max_size=5).map(",".join), max_size=4).map("\n".join)
malformed = st.one_of(
    st.tuples(bodies, st.just(JSON)),
    st.tuples(bodies.flatmap(lambda body: st.integers(0, len(body)).map(lambda end: body[:end])), st.just(JSON)),
    st.tuples(st.binary(max_size=60), st.sampled_from([JSON, "text/csv"])),
    st.tuples(lines.map(lambda text: text.encode(errors="surrogatepass")), st.just("text/csv")),
    st.tuples(
        bodies, st.sampled_from(["", "text/plain", f"{JSON}; charset=utf-16", "text/csv", "*/*", "text/csv;a=b"])
    ),
)


def test_three_hundred_malformed_requests_leave_it_alive_and_its_memory_steady(
    server: Server, evaluated: list[tuple[dict[str, str], str]]
) -> None:
    def bombard(number: int) -> list[int]:
        statuses = []

        @settings(
            max_examples=number, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
        )
        @given(malformed)
        def ask(request: tuple[bytes, str]) -> None:
            reply = server.post(*request)
            assert reply.status_code in {200, 400, 413, 415}, (request, reply.text)
            statuses.append(reply.status_code)
            if reply.status_code != 200:
                assert_clear(reply)

        ask()
        return statuses

    bombard(100)
    before = server.memory()
    statuses = bombard(300)
    assert len(statuses) >= 300
    assert sum(status != 200 for status in statuses) >= 0.95 * len(statuses)
    row, text = evaluated[0]
    assert server.texts([row]) == [text]
    assert server.memory() - before < 16
