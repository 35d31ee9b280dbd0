"""Trainings whose model was deleted, or whose files went away: the others can still be promoted."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput

from cartas_mlflow.errors import RegistryError
from cartas_mlflow.registry.candidates import best_run, check_files, find_candidate
from cartas_mlflow.registry.model import LOGGED_NAME


@pytest.fixture
def client(tracking_store: str) -> MlflowClient:
    return MlflowClient(tracking_store)


def training(client: MlflowClient, experiment: str, value: float, name: str = "final/chrf") -> tuple[str, str]:
    """A finished training as the store shows it, its model without files; the ids of run and model."""
    run = client.create_run(experiment, tags={"outcome": "finished"}).info.run_id
    client.log_metric(run, name, value)
    model = client.create_logged_model(experiment, name=LOGGED_NAME, source_run_id=run)
    client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
    return run, model.model_id


def test_a_model_that_was_deleted_does_not_stop_the_experiment(client: MlflowClient) -> None:
    experiment = client.create_experiment("e")
    second, _ = training(client, experiment, 40)
    _, deleted = training(client, experiment, 50)
    client.delete_logged_model(deleted)
    assert best_run(client, "e", "chrf").info.run_id == second


@pytest.mark.parametrize("before", [30, 60])
def test_trainings_of_an_earlier_version_are_candidates_too(client: MlflowClient, before: float) -> None:
    experiment = client.create_experiment("e")
    earlier, _ = training(client, experiment, before, "final_chrf")
    later, _ = training(client, experiment, 50)
    assert best_run(client, "e", "chrf").info.run_id == (earlier if before > 50 else later)


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ({"bits_per_character": 1.4}, 0),
        ({"bits_per_character": 1.6}, 1),
        ({"bits_per_character": 1.6, "loss": 2.0}, 1),
        ({"loss": 2.0}, 1),
    ],
)
def test_the_fewest_bits_are_the_best_and_losses_of_earlier_versions_count_where_there_are_none(
    client: MlflowClient, figures: dict[str, float], best: int
) -> None:
    experiment = client.create_experiment("e")
    runs = []
    for values in (figures, {"bits_per_character": 1.5, "loss": 3.0}):
        run, _ = training(client, experiment, 0.5)
        runs.append(run)
        for name, value in values.items():
            client.log_metric(run, f"final/{name}", value)
    assert best_run(client, "e", "bits_per_character").info.run_id == runs[best]


def test_trainings_of_an_earlier_version_alone_are_ranked_by_their_loss(client: MlflowClient) -> None:
    experiment = client.create_experiment("e")
    training(client, experiment, 3.0, "final_loss")
    second, _ = training(client, experiment, 2.0, "final_loss")
    assert best_run(client, "e", "bits_per_character").info.run_id == second


def test_a_model_whose_files_went_away_is_refused_with_their_place(client: MlflowClient) -> None:
    run, model = training(client, client.create_experiment("e"), 40)
    place = Path(client.get_logged_model(model).artifact_location)
    with pytest.raises(RegistryError) as error:
        check_files(client, find_candidate(client, run))
    assert str(place) in str(error.value)
    place.mkdir(parents=True, exist_ok=True)
    (place / "MLmodel").write_text("a: 1\n", encoding="utf-8")
    check_files(client, find_candidate(client, run))


def test_a_deleted_experiment_is_one_sentence_with_the_mend(client: MlflowClient) -> None:
    client.delete_experiment(client.create_experiment("e"))
    with pytest.raises(RegistryError, match="foi apagado; recupere-o"):
        best_run(client, "e", "chrf")
