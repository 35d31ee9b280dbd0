"""A study that many share: exactly as many trials as asked for, whoever works on it, dies or comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from databases import PASSWORD
from study_worker import KNOWN, SPACE

from cartas_mlflow.config import PROJECT_ROOT, vary
from cartas_mlflow.errors import SearchError, TrackingError, TrainingError
from cartas_mlflow.search.choosing import choose_pruner, choose_sampler
from cartas_mlflow.search.pruning import Pruning
from cartas_mlflow.search.space import Known, Space
from cartas_mlflow.search.space_file import parse_space
from cartas_mlflow.search.storage import VARIABLE, find_storage
from cartas_mlflow.search.study import MAX_RETRIES, Claimed, Finished, SharedStudy, facts_of
from cartas_mlflow.settings import ExperimentConfig, SearchSettings

Join = Callable[..., "Colleague"]
TERMS = {"base": "a mesma"}


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder to hand to ``find_storage``; with the environment that makes it sqlite or a real PostgreSQL."""
    monkeypatch.delenv(VARIABLE, raising=False)
    if request.param == "postgres":
        monkeypatch.setenv(VARIABLE, request.getfixturevalue("postgres"))
    return tmp_path


@pytest.fixture
def join() -> Iterator[Callable[..., Colleague]]:
    """Makes colleagues; their connections are closed after the test."""
    with ExitStack() as opened:

        def make(folder: Path, **options: Any) -> Colleague:
            colleague = Colleague(folder, **options)
            opened.enter_context(colleague.study)
            return colleague

        yield make


def settings(**changed: Any) -> tuple[ExperimentConfig, Space]:
    search = {
        f"search.{name}": value
        for name, value in {"sampler": "random", "metric": "chrf", "heartbeat": 1, **changed}.items()
    }
    config = vary(ExperimentConfig(), search, "teste")
    return config, parse_space(SPACE, config)


class Colleague:
    """A process' view of the study, in this process."""

    def __init__(self, folder: Path, *, known: list[Known] = KNOWN, terms: Mapping[str, Any] = TERMS, **changed: Any):
        self.config, self.space = settings(**changed)
        self.dead: list[int] = []
        self.study = SharedStudy(
            find_storage(folder), "estudo", self.config.search, lambda trial: self.dead.append(trial.number)
        )
        self.parent = self.study.join(terms, self.space, self.config, known, lambda: "mãe")

    def work(self, objective: Callable[[Claimed], float] = lambda claimed: 1.0, **hooks: Any) -> bool:
        return self.study.work(self.space, self.config, objective, **hooks)


@contextmanager
def processes(number: int, folder: Path, *words: str) -> Iterator[list[subprocess.Popen[str]]]:
    """So many workers, each a process of its own; killed at the end of the block, should they still be there."""
    started = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("study_worker.py")), str(folder), *words],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        )
        for _ in range(number)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def lines(process: subprocess.Popen[str]) -> list[list[str]]:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return [line.split() for line in output.splitlines()]


def began(said: list[list[str]]) -> list[int]:
    return [int(words[1]) for words in said if words[0] == "began"]


def test_three_processes_that_start_together_do_exactly_the_trials_asked_for(storage: Path, join: Join) -> None:
    with processes(3, storage, "12", "0.05") as workers:
        said = [lines(worker) for worker in workers]
    assert sorted(number for one in said for number in began(one)) == list(range(12))
    study = join(storage, trials=12).study
    assert [trial.state.name for trial in study.all_trials()] == ["COMPLETE"] * 12
    values = [trial.params["lora.dropout"] for trial in study.trials()]
    assert values[0] == 0.25
    assert len(set(values)) == 12, "no two workers may draw the same"


def test_a_killed_workers_trial_is_done_again_by_another_with_the_same_values(tmp_path: Path, join: Join) -> None:
    with processes(2, tmp_path, "6", "1.5") as (victim, survivor):
        assert victim.stdout is not None
        _, number, value = victim.stdout.readline().split()
        victim.send_signal(signal.SIGKILL)
        said = lines(survivor)
    assert ["dead", number] in said
    study = join(tmp_path, trials=6).study
    killed = study.all_trials()[int(number)]
    assert killed.state.name == "FAIL"
    again = next(trial for trial in study.all_trials() if trial.system_attrs.get("retry_history") == [int(number)])
    assert again.state.name == "COMPLETE"
    assert str(again.params["lora.dropout"]) == value
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE"] * 6
    assert len(study.all_trials()) == 7


def test_the_study_is_opened_once_and_everybody_gets_its_run(storage: Path, join: Join) -> None:
    first = join(storage)
    second = join(storage)
    assert first.parent == second.parent == "mãe"
    assert (first.study.worker, second.study.worker) == (1, 2)


def test_a_worker_that_comes_back_finds_nothing_left_to_do_or_only_what_was_added(tmp_path: Path, join: Join) -> None:
    done: list[int] = []

    def note(claimed: Claimed) -> float:
        done.append(claimed.number)
        return 0.0

    assert join(tmp_path, trials=3).work(note)
    assert join(tmp_path, trials=3).work(note)
    assert done == [0, 1, 2]
    assert join(tmp_path, trials=5).work(note)
    assert done == [0, 1, 2, 3, 4]
    values = [trial.params["lora.dropout"] for trial in join(tmp_path, trials=5).study.trials()]
    assert len(set(values)) == 5, "the same seed, started again, may not draw the same again"


def test_an_interrupted_trial_goes_back_in_line_and_counts_once(tmp_path: Path, join: Join) -> None:
    colleague = join(tmp_path, trials=3)

    def interrupted(claimed: Claimed) -> float:
        if claimed.number == 1:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        colleague.work(interrupted)
    assert [trial.state.name for trial in colleague.study.all_trials()] == ["COMPLETE", "FAIL"]
    assert len(colleague.study.trials()) == 1
    assert join(tmp_path, trials=3).work()
    trials = colleague.study.all_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].params == trials[1].params
    assert len(colleague.study.trials()) == 3


def test_a_trial_that_kills_its_process_again_and_again_is_given_up(tmp_path: Path, join: Join) -> None:
    colleague = join(tmp_path, trials=1)
    for _ in range(MAX_RETRIES):
        with pytest.raises(KeyboardInterrupt):
            colleague.work(_interrupted)
    with pytest.raises(KeyboardInterrupt):
        colleague.work(_interrupted)
    assert colleague.work()
    assert [trial.state.name for trial in colleague.study.trials()] == ["FAIL"]


def test_a_process_that_died_before_it_answered_for_its_trial_leaves_none_behind(tmp_path: Path, join: Join) -> None:
    colleague = join(tmp_path, trials=2)
    colleague.study.study.add_trial(_running_trial())
    assert colleague.work()
    assert colleague.dead == [1]  # trial 0 waits: it is the known one
    assert [trial.state.name for trial in colleague.study.trials()] == ["COMPLETE"] * 2


def test_a_worker_taken_for_dead_goes_on_with_the_next_trial(tmp_path: Path, join: Join) -> None:
    colleague = join(tmp_path, trials=2)
    other = join(tmp_path, trials=2)

    def slept(claimed: Claimed) -> float:
        if claimed.number == 0:  # a laptop that was closed: meanwhile the others have given it up
            other.study.study.tell(0, state=_fail())
            other.study._revive(other.study.study, other.study.study.trials[0])
        return 1.0

    assert colleague.work(slept)
    assert [trial.state.name for trial in colleague.study.all_trials()] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert len(colleague.study.trials()) == 2


def test_a_trial_that_fails_keeps_its_reason_and_counts(tmp_path: Path, join: Join) -> None:
    colleague = join(tmp_path, trials=2)

    def failing(claimed: Claimed) -> float:
        if claimed.number == 0:
            raise TrainingError("A memória não bastou.")
        return 0.5

    assert colleague.work(failing)
    first, second = colleague.study.trials()
    assert (first.state.name, facts_of(first)["reason"]) == ("FAIL", "A memória não bastou.")
    assert second.value == 0.5
    assert colleague.study.best().number == 1


def test_a_tracking_server_that_is_gone_fails_no_trial(tmp_path: Path, join: Join) -> None:
    colleague = join(tmp_path, trials=1)

    def server_is_gone(claimed: Claimed) -> float:
        raise TrackingError("O servidor MLflow parou de responder.")

    with pytest.raises(TrackingError):
        colleague.work(server_is_gone)
    assert colleague.study.trials() == []
    assert join(tmp_path, trials=1).work()


def test_a_bug_ends_the_worker_and_its_trial_waits_for_another(tmp_path: Path, join: Join) -> None:
    colleague = join(tmp_path, trials=1)
    with pytest.raises(ZeroDivisionError):
        colleague.work(lambda claimed: 1 / 0)
    assert colleague.study.trials() == []
    assert join(tmp_path, trials=1).work()


def test_other_terms_are_refused_and_the_difference_is_named(tmp_path: Path, join: Join) -> None:
    join(tmp_path)
    with pytest.raises(SearchError, match="foi aberto com base=a mesma, e este comando tem outra"):
        join(tmp_path, terms={"base": "outra"})


def test_known_settings_are_tried_first_and_only_once(tmp_path: Path, join: Join) -> None:
    known = [Known("a", {"lora.dropout": 0.1}), Known("b", {"lora.dropout": 0.2, "training.batch_size": 3})]
    seen: list[tuple[str | None, Mapping[str, Any]]] = []

    def note(claimed: Claimed) -> float:
        seen.append((claimed.label, claimed.values))
        return 0.0

    join(tmp_path, known=known, trials=2).work(note)
    join(tmp_path, known=known, trials=3).work(note)
    assert [label for label, _ in seen] == ["a", "b", None]
    assert seen[1][1] == {"lora.dropout": 0.2, "training.batch_size": 3}


def test_every_process_is_told_of_every_end_and_one_of_them_first(tmp_path: Path, join: Join) -> None:
    one, other = join(tmp_path, trials=4), join(tmp_path, trials=4)
    values = iter([0.2, 0.1, 0.4, 0.3])
    told: dict[Colleague, list[Finished]] = {one: [], other: []}
    turns = iter([one, other, one, one])

    def listen(who: Colleague) -> None:
        told[who].extend(who.study.newly_finished())

    one.work(lambda claimed: next(values), after=lambda: listen(next(turns)))
    listen(one)
    listen(other)
    ends = [(1, 0, 0.2), (2, 1, 0.2), (3, 2, 0.4), (4, 3, 0.4)]
    for heard in told.values():
        assert [(end.place, end.trial.number, end.best) for end in heard] == ends
    assert [end.place for end in told[one] if end.first] == [1, 3, 4]
    assert [end.place for end in told[other] if end.first] == [2]


def test_who_joins_later_is_not_told_what_was_told_before(tmp_path: Path, join: Join) -> None:
    one = join(tmp_path, trials=2)
    one.work()
    assert len(one.study.newly_finished()) == 2
    assert join(tmp_path, trials=2).study.newly_finished() == []


def test_a_study_is_closed_once_for_the_trials_that_it_has(tmp_path: Path, join: Join) -> None:
    colleague, closed = join(tmp_path, trials=1), []
    colleague.work()
    assert colleague.study.close_once(lambda: closed.append(1))
    assert not colleague.study.close_once(lambda: closed.append(2))
    colleague = join(tmp_path, trials=2)
    colleague.work()
    assert colleague.study.close_once(lambda: closed.append(3))
    assert closed == [1, 3]


def test_with_a_loss_the_smallest_value_is_the_best(tmp_path: Path, join: Join) -> None:
    colleague, values = join(tmp_path, trials=3, metric="loss"), iter([3.0, 1.0, 2.0])
    colleague.work(lambda claimed: next(values))
    assert colleague.study.best().value == 1.0
    assert [end.best for end in colleague.study.newly_finished()] == [3.0, 1.0, 1.0]


def test_time_that_is_up_stops_before_the_next_trial(tmp_path: Path, join: Join) -> None:
    colleague, answers = join(tmp_path, trials=5), iter([True, True, False])
    assert not colleague.work(before=lambda: next(answers))
    assert len(colleague.study.trials()) == 2


def test_a_database_that_goes_away_is_one_sentence_without_its_password(
    join: Join, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    monkeypatch.setenv(VARIABLE, postgres)
    colleague = join(tmp_path)
    server, _, name = postgres.rpartition("/")

    def drop(claimed: Claimed) -> float:
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        return 1.0

    with pytest.raises(SearchError) as error, colleague.study:
        colleague.work(drop)
    assert f'database "{name}" does not exist' in str(error.value)
    assert "a busca continua de onde estava" in str(error.value)
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes"])
def test_every_sampler_goes_on_from_other_workers_trials(sampler: str, tmp_path: Path, join: Join) -> None:
    for trials in (4, 6):
        colleague = join(tmp_path, trials=trials, sampler=sampler, startup_trials=2)
        assert colleague.work(lambda claimed: -abs(claimed.values["lora.dropout"] - 0.4))
    assert len(colleague.study.trials()) == 6


def test_samplers_and_pruners_are_those_asked_for() -> None:
    names = {"tpe": "TPESampler", "random": "RandomSampler", "gp": "GPSampler", "cmaes": "CmaEsSampler"}
    for sampler, name in names.items():
        assert type(choose_sampler(SearchSettings(sampler=sampler), 1)).__name__ == name
    names = {"hyperband": "HyperbandPruner", "median": "MedianPruner", "none": "NopPruner"}
    for pruner, name in names.items():
        assert type(choose_pruner(SearchSettings(pruner=pruner), 1, 9)).__name__ == name
    assert type(choose_pruner(SearchSettings(pruner="hyperband"), 1, 1)).__name__ == "NopPruner"


@pytest.mark.parametrize("pruner", ["hyperband", "median"])
def test_a_weak_trial_is_cut_by_its_epochs_and_keeps_its_last_value(pruner: str, tmp_path: Path, join: Join) -> None:
    import optuna
    from transformers import TrainerControl, TrainerState, TrainingArguments

    colleague = join(tmp_path, trials=10, pruner=pruner)
    colleague.study.study.pruner = choose_pruner(colleague.config.search, 1, 4)
    arguments = TrainingArguments(str(tmp_path), num_train_epochs=4, use_cpu=True)
    epochs: list[int] = []

    def objective(claimed: Claimed) -> float:
        weak, control, pruning = claimed.number >= 5, TrainerControl(), Pruning(claimed.trial, "chrf")
        for epoch in range(1, 5):
            value = (0.1 if weak else 0.5) + 0.01 * epoch
            pruning.on_evaluate(arguments, TrainerState(epoch=float(epoch)), control, {"eval_chrf": value})
            if control.should_training_stop:
                assert pruning.pruned
                epochs.append(epoch)
                raise optuna.TrialPruned
        return value

    colleague.work(objective)
    states = [trial.state.name for trial in colleague.study.trials()]
    assert states[:5] == ["COMPLETE"] * 5
    assert states.count("PRUNED") == len(epochs) >= 1
    assert min(epochs) >= 2, "nothing is cut in the first third"
    cut = next(trial for trial in colleague.study.trials() if trial.state.name == "PRUNED")
    assert cut.value == pytest.approx(0.1 + 0.01 * epochs[0])


def test_known_settings_are_never_cut_and_the_pruner_takes_note_of_them(tmp_path: Path, join: Join) -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    asked: list[int] = []

    class Cutting:
        """A pruner that would cut everything."""

        def prune(self, study: Any, trial: Any) -> bool:
            asked.append(trial.number)
            return True

    colleague, cut = join(tmp_path, trials=2), []
    colleague.study.study.pruner = Cutting()
    arguments = TrainingArguments(str(tmp_path), num_train_epochs=9, use_cpu=True)

    def objective(claimed: Claimed) -> float:
        pruning = Pruning(claimed.trial, "chrf", spared=claimed.label is not None)
        pruning.on_evaluate(arguments, TrainerState(epoch=1.0), TrainerControl(), {"eval_chrf": 0.1})
        cut.append((claimed.label, pruning.pruned))
        return 0.1

    colleague.work(objective)
    assert cut == [("conhecida", False), (None, True)]
    assert asked == [0, 1]


def _interrupted(claimed: Claimed) -> float:
    raise KeyboardInterrupt


def _fail() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


def _running_trial() -> Any:
    import optuna

    return optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
