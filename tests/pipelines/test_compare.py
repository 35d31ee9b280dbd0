"""Finished runs side by side: every way of naming them, what cannot be compared, and what the comparison leaves."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from trainings import EXPERIMENT, Trainings, environment_elsewhere, free_port, in_store

from cartas_mlflow.cli import main
from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.console import wrapped
from cartas_mlflow.errors import RegistryError, UserError
from cartas_mlflow.pipelines.compare import compare
from cartas_mlflow.registry.candidates import best_run, find_candidate
from cartas_mlflow.registry.comparison import differing_settings
from cartas_mlflow.registry.promotion import CHAMPION, register

CHAMPIONS = "campeãs"
NAMES = {"terse": "curta", "good": 'a "boa" d\'água', "as_good": "repetida", "other_split": "repetida"}
"""What a person called the trainings."""
SETTINGS = {"registry.name": CHAMPIONS, "tracking.experiment": EXPERIMENT, "registry.resamples": "300"}


@dataclasses.dataclass(frozen=True)
class Shelf:
    """A store with the finished trainings, a study of three trials and some runs that are no trainings.

    ``runs``: by the names of the tests.
    """

    uri: str
    runs: dict[str, str]

    def compare(self, words: str) -> tuple[Run, Path]:
        """The comparison's own run, and its HTML file."""
        page = compare(overrides=SETTINGS, runs=words)
        (run, *_) = MlflowClient().search_runs([self.run("good").info.experiment_id], "tags.utility = 'compare'")
        return run, page

    def run(self, name: str) -> Run:
        return MlflowClient().get_run(self.runs[name])


@pytest.fixture(scope="module")
def filled_store(finished_trainings: Trainings, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("prateleira")
    shutil.copy(finished_trainings.uri.removeprefix("sqlite:///"), folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with in_store(uri, folder):
        client = MlflowClient()
        runs = dict(finished_trainings.runs)
        for variant, name in NAMES.items():
            client.set_tag(runs[variant], "mlflow.runName", name)
        version = register(client, str(find_candidate(client, runs["good"]).model_id), CHAMPIONS).version
        client.set_registered_model_alias(CHAMPIONS, CHAMPION, version)
        home = client.get_run(runs["good"]).info.experiment_id
        runs |= _study(client, home, runs["terse"], folder)
        runs["barren"] = client.create_run(home, run_name="busca vã", tags={"search.study": "vã"}).info.run_id
        runs["without texts"] = client.create_run(home, run_name="sem leituras").info.run_id
        runs["deleted"] = client.create_run(home, run_name="apagada").info.run_id
        client.delete_run(runs["deleted"])
        runs["elsewhere"] = client.create_run(client.create_experiment("outro"), run_name="de fora").info.run_id
    return Shelf(uri, runs)


def _study(client: MlflowClient, home: str, source: str, folder: Path) -> dict[str, str]:
    """A study as the search leaves it: five trials, of which four are complete and one of those kept no texts."""
    texts = mlflow.artifacts.download_artifacts(f"runs:/{source}/samples/final.csv", dst_path=str(folder))
    parent = client.create_run(home, run_name="busca noite", tags={"search.study": "noite"}).info.run_id
    runs = {"study": parent}
    for name, value in {
        "second": 0.4,
        "first": 0.5,
        "third": 0.3,
        "fourth": 0.2,
        "no texts": 0.9,
        "pruned": 0.8,
    }.items():
        state = "pruned" if name == "pruned" else "complete"
        tags = {"mlflow.parentRunId": parent, "trial.state": state, "outcome": "finished"}
        runs[name] = client.create_run(home, run_name=f"tentativa {name}", tags=tags).info.run_id
        client.log_metric(runs[name], "trial_value", value)
        client.log_param(runs[name], "derived.trainable_params", 1)
        if name != "no texts":
            client.log_artifact(runs[name], texts, "samples")
    return runs


@pytest.fixture
def shelf(filled_store: Shelf, tmp_path: Path) -> Iterator[Shelf]:
    """A copy of the filled store, in use, in an empty working folder."""
    shutil.copy(filled_store.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with in_store(uri, tmp_path):
        yield dataclasses.replace(filled_store, uri=uri)


WAYS: dict[str, tuple[Callable[[dict[str, str]], str], list[str]]] = {
    "ids": (lambda runs: f"{runs['good']},{runs['terse']}", ["good", "terse"]),
    "beginnings of ids": (lambda runs: f"{runs['terse'][:8]},{runs['as_good'][:12]}", ["terse", "as_good"]),
    "a name": (lambda runs: f"curta,{runs['good']}", ["terse", "good"]),
    "a name with both kinds of quotes": (lambda runs: 'curta,a "boa" d\'água', ["terse", "good"]),
    "spaces and a comma too many": (lambda runs: f" curta , {runs['good']}, ", ["terse", "good"]),
    "the same run twice": (lambda runs: f"curta,{runs['terse']},{runs['good'][:9]}", ["terse", "good"]),
    "the newest, the oldest of them first": (lambda runs: "last:2", ["as_good", "other_split"]),
    "more than there are": (lambda runs: "last:6", ["terse", "good", "as_good", "other_split"]),
    "the champion and the newest": (lambda runs: "champion,last:1", ["good", "other_split"]),
    "a study by name": (lambda runs: "study:noite", ["first", "second", "third"]),
    "a study by its run": (lambda runs: runs["study"], ["first", "second", "third"]),
    "a study by its run's name": (lambda runs: "busca noite", ["first", "second", "third"]),
    "a trial by name": (lambda runs: "curta,tentativa fourth", ["terse", "fourth"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_runs_are_found_as_people_name_them(shelf: Shelf, way: str) -> None:
    words, expected = WAYS[way]
    run, _ = shelf.compare(words(shelf.runs))
    compared = [value for key, value in sorted(run.data.tags.items()) if key.startswith("compared.")]
    assert compared == [shelf.runs[name] for name in expected]


ERRORS: dict[str, tuple[Callable[[dict[str, str]], str], str]] = {
    "nothing": (
        lambda runs: " , ",
        "Diga em runs quais execuções comparar: ids (ou o começo deles), nomes, last:3, study:NOME ou champion, "
        "separados por vírgulas.",
    ),
    "an unknown name": (
        lambda runs: "curta,longa",
        "A execução longa não existe no experimento leituras; confira o nome ou o id (os treinamentos mais novos: "
        'repetida, {other_split:.12}; repetida, {as_good:.12}; a "boa" d\'água, {good:.12}).',
    ),
    "an unknown id": (lambda runs: f"curta,{'0' * 32}", f"A execução {'0' * 32} não existe no experimento leituras; "),
    "a name with wildcards": (lambda runs: "curta,%", "A execução % não existe no experimento leituras; "),
    "a name that two runs have": (
        lambda runs: "curta,repetida",
        "repetida serve a 2 execuções ({other_split:.12}, {as_good:.12}); use o id de uma delas.",
    ),
    "one run only": (
        lambda runs: "curta",
        "runs=curta é uma execução só (curta, {terse:.12}), e são precisas duas ou mais; acrescente outra: ids (ou o "
        "começo deles), nomes, last:3, study:NOME ou champion, separados por vírgulas.",
    ),
    "one run by two names": (lambda runs: f"curta,{runs['terse']}", "runs=curta,{terse} é uma execução só (curta, "),
    "too many runs": (
        lambda runs: "last:4,study:noite,tentativa fourth,tentativa pruned",
        "runs=last:4,study:noite,tentativa fourth,tentativa pruned são 9 execuções, e cabem 8 lado a lado; escolha "
        "menos.",
    ),
    "no number": (lambda runs: "last:dois", "last:dois não serve; escreva quantas execuções, por exemplo last:3."),
    "zero": (lambda runs: "last:0", "last:0 não serve; escreva quantas execuções, por exemplo last:3."),
    "a run without texts": (
        lambda runs: "curta,sem leituras",
        "A execução {without texts} não tem samples/final.csv, as leituras de validação; treine de novo para comparar.",
    ),
    "a run of another experiment": (
        lambda runs: "curta,de fora",
        "A execução de fora é do experimento outro, e a comparação é no leituras; indique tracking.experiment=outro "
        "(no mlflow run, --experiment-name), ou outra execução.",
    ),
    "an id of another experiment": (
        lambda runs: f"curta,{runs['elsewhere']}",
        "A execução {elsewhere} é do experimento outro, e a comparação é no leituras; ",
    ),
    "a deleted run": (
        lambda runs: f"curta,{runs['deleted']}",
        "A execução {deleted} foi apagada; recupere-a com mlflow runs restore --run-id {deleted}, ou indique outra.",
    ),
    "an unknown study": (
        lambda runs: "study:dia",
        "O experimento leituras não tem o estudo dia; tem: noite, vã.",
    ),
    "a study without texts": (
        lambda runs: "study:vã",
        "O estudo vã não tem nenhuma tentativa completa que guardou as leituras (samples/final.csv); espere uma "
        "terminar, ou compare outras execuções.",
    ),
}


@pytest.mark.parametrize("mistake", ERRORS)
def test_what_cannot_be_compared_is_one_sentence_with_the_mend(shelf: Shelf, mistake: str, said: list[str]) -> None:
    words, sentence = ERRORS[mistake]
    given = [word for key, value in SETTINGS.items() for word in (f"--{key}", value)]
    assert main(["compare", f"--runs={words(shelf.runs)}", *given]) == 2
    assert said[-1].startswith(f"❌ {_filled(sentence, shelf.runs)}")
    home = shelf.run("good").info.experiment_id
    assert list(MlflowClient().search_runs([home], "tags.utility = 'compare'")) == []
    assert not Path("results").exists()


def _filled(sentence: str, runs: dict[str, str]) -> str:
    return re.sub(
        r"\{([\w ]+)(?::\.(\d+))?\}", lambda found: runs[found[1]][: int(found[2]) if found[2] else None], sentence
    )


def test_an_experiment_without_trainings_says_so(shelf: Shelf) -> None:
    MlflowClient().create_experiment("vazio")
    with pytest.raises(UserError, match="O experimento vazio não tem treinamento concluído; treine antes, ou indique"):
        compare(overrides={**SETTINGS, "tracking.experiment": "vazio"}, runs="last:2")
    with pytest.raises(RegistryError, match="O experimento nenhum não existe"):
        compare(overrides={**SETTINGS, "tracking.experiment": "nenhum"}, runs="last:2")


def test_a_champion_that_there_is_not_says_so(shelf: Shelf) -> None:
    with pytest.raises(RegistryError, match="Ainda não há campeã em models:/nenhuma@champion"):
        compare(overrides={**SETTINGS, "registry.name": "nenhuma"}, runs="champion,curta")


def test_a_server_that_does_not_answer_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with in_store(address, tmp_path):
        assert main(["compare", "--runs", "last:2"]) == 2
    assert said[-1].startswith(f"❌ O servidor MLflow em {address} não responde (")


@pytest.fixture(scope="module")
def compared(filled_store: Shelf, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, dict[str, str]]:
    """The comparison that most of the tests look at: the good training, the terse one, one split otherwise."""
    folder = tmp_path_factory.mktemp("comparada")
    shutil.copy(filled_store.uri.removeprefix("sqlite:///"), folder / "mlflow.db")
    with in_store(f"sqlite:///{folder / 'mlflow.db'}", folder):
        words = ",".join(filled_store.runs[name] for name in ("good", "terse", "other_split"))
        run, page = dataclasses.replace(filled_store).compare(words)
        report = MlflowClient().list_artifacts(run.info.run_id, "report")
        return run, page, {"artifacts": " ".join(item.path for item in report), "words": words}


def test_the_comparison_is_a_run_of_its_own_linked_to_the_others(
    compared: tuple[Run, Path, dict[str, str]], filled_store: Shelf
) -> None:
    run, _, seen = compared
    assert run.info.status == "FINISHED"
    assert run.data.tags["utility"] == "compare"
    assert run.data.params == {"compare.runs": seen["words"]}
    assert run.data.metrics == {}
    assert seen["artifacts"] == "report/comparacao.html report/comparacao.md"
    description = run.data.tags["mlflow.note.content"]
    for letter, name in zip("ABC", ("good", "terse", "other_split"), strict=True):
        run_id = filled_store.runs[name]
        assert run.data.tags[f"compared.{letter}"] == run_id
        assert f"](#/experiments/{run.info.experiment_id}/runs/{run_id})" in description
    first, second, *_ = description.splitlines()
    assert first.startswith('- A [a "boa" d\'água](#/') and first.endswith("): **a referência**")
    assert second.startswith("- B [curta](#/") and "): **Bits por caractere não se disting" in second
    assert "; ROUGE-L pior que A: -0," in second


def test_lists_of_trainings_do_not_take_it_for_one(shelf: Shelf) -> None:
    before = best_run(MlflowClient(), EXPERIMENT, "chrf").info.run_id
    run, _ = shelf.compare("curta,last:1")
    again, _ = shelf.compare("last:2")
    assert run.info.run_id not in again.data.tags.values()
    MlflowClient().log_metric(run.info.run_id, "final/chrf", 1.0)
    assert best_run(MlflowClient(), EXPERIMENT, "chrf").info.run_id == before


class _Page(HTMLParser):
    """What a browser would fetch, and the text of the rows, readings and marks."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.marks = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        self.marks += tag == "mark"


def test_the_page_is_one_file_that_needs_no_network(compared: tuple[Run, Path, dict[str, str]]) -> None:
    text = compared[1].read_text(encoding="utf-8")
    page = _Page()
    page.feed(text)
    assert page.links == []
    assert not re.search(r"url\(|@import|https?://", text)
    assert page.marks > 50


def test_the_page_tells_what_differs_and_who_is_better(compared: tuple[Run, Path, dict[str, str]]) -> None:
    text = compared[1].read_text(encoding="utf-8")
    settings = text.partition("Configurações que diferem")[2].partition("</table>")[0]
    assert re.findall(r"<code>(.*?)</code>", settings.replace("<wbr>", "")) == [
        "data.split_seed",
        "generation.max_new_tokens",
        "generation.min_new_tokens",
    ]
    assert "a &#34;boa&#34; d&#39;água: <b>a referência</b>" in text
    assert re.search("curta: <b>Bits por caractere não se distingue de A: .+; ROUGE-L pior que A: -0,", text)
    assert re.search(r"C e A têm \d+ leituras de validação em comum \(42 de C, 42 de A\): ", text)


def test_the_markdown_is_the_short_form(compared: tuple[Run, Path, dict[str, str]]) -> None:
    text = compared[1].with_suffix(".md").read_text(encoding="utf-8")
    assert text.startswith("# Comparação de 3 execuções\n\nExperimento leituras, ")
    assert text.count("\n### ") == 20
    assert "| `data.split_seed` | 42 | 42 | 7 |" in text
    assert "<b>" in text


def test_the_terminal_shows_a_table_that_fits_and_ends_with_the_page(shelf: Shelf, said: list[str]) -> None:
    _, page = shelf.compare("last:3,study:noite")
    assert said[0] == "=== COMPARANDO 6 EXECUÇÕES ==="
    assert said[-1] == f"📄 Comparação para ler e mandar: {page}"
    assert max(len(part) for line in said[:-2] for part in wrapped(line, 80).splitlines()) <= 80
    assert any(re.fullmatch(r"chrF( +0\.\d{4}){6}", line) for line in said)
    assert any(re.fullmatch(r"⚖️ chrF: B .+ A: [+-]0\.\d{3} \[[+-]0\.\d{3}; [+-]0\.\d{3}\]", line) for line in said)


def test_runs_that_share_no_prompts_are_told_so(shelf: Shelf, said: list[str], tmp_path: Path) -> None:
    client, table = MlflowClient(), tmp_path / "final.csv"
    fields = "id,carta,evento,secao,tema,gerado,real"
    table.write_text(f"{fields}\n1,O Sol,Ano Novo,Luz,Amor,Outro texto.,Outra leitura.\n", encoding="utf-8")
    alone = client.create_run(shelf.run("good").info.experiment_id, run_name="sozinha").info.run_id
    client.log_artifact(alone, str(table), "samples")
    _, page = shelf.compare("curta,sozinha")
    assert "⚠️ B e A não têm nenhuma leitura de validação em comum" in " ".join(said)
    text = page.read_text(encoding="utf-8")
    assert "sozinha: <b>sem veredito contra A</b>" in text
    assert "Estas execuções não têm pedidos de validação em comum." in text


def test_a_setting_typed_otherwise_is_the_same_setting(shelf: Shelf) -> None:
    client, home = MlflowClient(), shelf.run("good").info.experiment_id
    runs: list[Any] = []
    for rate, names, old in (
        ("5e-5", "SelfAttention.q, SelfAttention.v", "1"),
        ("0.00005", "SelfAttention.q,SelfAttention.v", "2"),
    ):
        run_id = client.create_run(home).info.run_id
        params = {"training.learning_rate": rate, "lora.target_modules": names, "lora.bias": f"antigo-{old}"}
        for key, value in params.items():
            client.log_param(run_id, key, value)
        runs.append(client.get_run(run_id))
    assert differing_settings(runs) == {"lora.bias": ["antigo-1", "antigo-2"]}


@pytest.mark.slow
def test_mlflow_run_compares(shelf: Shelf, tmp_path: Path) -> None:
    output = tmp_path / "saída"
    values = {"runs": "curta,champion", "registry.name": CHAMPIONS, "tracking.output_dir": str(output)}
    done = subprocess.run(
        [
            *("mlflow", "run", str(PROJECT_ROOT), "--env-manager", "local", "-e", "compare"),
            *("--experiment-name", EXPERIMENT),
            *(word for name, value in values.items() for word in ("-P", f"{name}={value}")),
        ],
        cwd=tmp_path,
        env=environment_elsewhere(MLFLOW_TRACKING_URI=shelf.uri, PYTHONPATH=str(PROJECT_ROOT)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = MlflowClient().search_runs([shelf.run("good").info.experiment_id], "tags.utility = 'compare'")
    assert run.info.status == "FINISHED"
    assert (run.data.tags["compared.A"], run.data.tags["compared.B"]) == (shelf.runs["terse"], shelf.runs["good"])
    assert run.info.run_name == f"comparação {shelf.runs['terse'][:6]} × {shelf.runs['good'][:6]}"
    assert len(list(output.glob("*/comparacao.html"))) == 1
