"""The pictures of a study: drawn from what there is, and an interactive page that needs no network."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from cartas_mlflow.search.figures import StudyView, draw_study, importances, interactive_page, standing

RATE = FloatDistribution(1e-5, 1e-2, log=True)
KIND = CategoricalDistribution(["cosine", "constant"])


def trial(
    value: float | None, rate: float, kind: str = "cosine", state: TrialState = TrialState.COMPLETE
) -> FrozenTrial:
    return create_trial(
        state=state,
        value=value,
        params={"training.learning_rate": rate, "training.scheduler": kind},
        distributions={"training.learning_rate": RATE, "training.scheduler": KIND},
        intermediate_values={1: value} if value is not None else {},
    )


def view(*trials: FrozenTrial, maximize: bool = True) -> StudyView:
    for number, one in enumerate(trials):
        one.number = number
    return StudyView("<b>busca</b>", "chrF", maximize, trials)


@pytest.fixture
def searched() -> StudyView:
    return view(
        trial(0.10, 2e-5),
        trial(0.12, 5e-5, "constant"),
        trial(0.05, 1e-4, state=TrialState.PRUNED),
        trial(0.21, 1e-3),
        trial(None, 9e-3, state=TrialState.FAIL),
        trial(0.25, 2e-3, "constant"),
        trial(0.24, 1.5e-3),
    )


def test_there_is_a_picture_of_each_kind(searched: StudyView, tmp_path: Path) -> None:
    figures = draw_study(searched, importances(searched, seed=1))
    assert sorted(figures) == ["history", "importances", "parallel_coordinates", "slices"]
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_shares_of_the_settings_add_up_and_the_one_that_decides_leads(searched: StudyView) -> None:
    shares = importances(searched, seed=1)
    assert sum(shares.values()) == pytest.approx(1)
    assert next(iter(shares)) == "training.learning_rate"


def test_the_same_seed_gives_the_same_shares(searched: StudyView) -> None:
    assert importances(searched, seed=3) == importances(searched, seed=3)


def test_the_best_so_far_follows_the_direction(searched: StudyView) -> None:
    assert searched.running_best() == [(0, 0.10), (1, 0.12), (3, 0.21), (5, 0.25), (6, 0.25)]
    assert searched.best.number == 5
    losses = view(trial(3.0, 1e-4), trial(2.0, 1e-3), trial(2.5, 2e-3), maximize=False)
    assert losses.running_best() == [(0, 3.0), (1, 2.0), (2, 2.0)]
    assert losses.best.number == 1


@pytest.mark.parametrize(
    ("maximize", "values", "untuned", "drawn"),
    [
        (False, [3.8, 4.0, 6.1], 4.2, [3.8, 4.0, 4.28]),
        (False, [3.8, 4.0, 6.1], None, [3.8, 4.0, 6.1]),
        (False, [4.3, 4.5, 6.1], 4.2, [4.3, 4.5, 6.1]),
        (True, [0.3, 0.25, 0.0], 0.2, [0.3, 0.25, 0.18]),
        (True, [0.1, 0.0], 0.2, [0.1, 0.0]),
    ],
    ids=["a loss", "nothing to measure by", "all are ruined", "a score", "all scores are below"],
)
def test_a_trial_that_ruined_the_base_is_drawn_just_beyond_it(
    maximize: bool, values: list[float], untuned: float | None, drawn: list[float]
) -> None:
    trials = [trial(value, 1e-4) for value in values]
    shown = dataclasses.replace(view(*trials, maximize=maximize), untuned=untuned)
    assert [shown.clipped(value) for value in values] == pytest.approx(drawn)
    texts = [text.get_text() for text in draw_study(shown, {})["history"].axes[0].texts]
    assert texts == (["fora da figura: " + f"{values[-1]:.3g}".replace(".", ",")] if drawn != values else [])


def test_one_ruined_trial_does_not_explain_everything() -> None:
    trials = [trial(4.1 - 0.1 * place, 1e-4 * 2**place) for place in range(6)] + [trial(50.0, 5e-4, "constant")]
    raw = view(*trials, maximize=False)
    shares = importances(dataclasses.replace(raw, untuned=4.2), seed=1)
    assert importances(raw, seed=1)["training.scheduler"] > 0.5 > shares["training.scheduler"]
    assert [one.value for one in raw.complete][-1] == 50.0, "the study keeps what was measured"


@pytest.mark.parametrize(
    ("trials", "drawn"),
    [
        ([], []),
        ([trial(None, 1e-4, state=TrialState.FAIL)], []),
        ([trial(0.1, 1e-4, state=TrialState.PRUNED)], []),
        ([trial(0.1, 1e-4)], ["history"]),
        ([trial(0.1, 1e-4), trial(0.1, 1e-4)], ["history"]),
        ([trial(0.1, 1e-4), trial(0.2, 1e-3)], ["history", "parallel_coordinates", "slices"]),
    ],
)
def test_a_small_study_has_the_pictures_that_it_has_something_for(trials: list[FrozenTrial], drawn: list[str]) -> None:
    small = view(*trials)
    assert sorted(draw_study(small, importances(small, seed=1))) == drawn


def test_a_setting_that_some_trials_did_not_have_is_drawn_where_it_was_had(tmp_path: Path) -> None:
    partial = create_trial(
        value=0.3, params={"training.scheduler": "cosine"}, distributions={"training.scheduler": KIND}
    )
    figures = draw_study(view(trial(0.1, 1e-4, "constant"), partial, trial(0.2, 1e-3)), {})
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png")
    assert sorted(figures) == ["history", "parallel_coordinates", "slices"]


def test_the_page_holds_every_picture_and_fetches_nothing(searched: StudyView) -> None:
    page = interactive_page(searched, importances(searched, seed=1), seed=1)
    assert page is not None
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Evolução",
        "Curvas das tentativas, época a época",
        "Importância",
        "Coordenadas paralelas",
        "Fatias",
    ]
    assert page.count("Plotly.newPlot(") >= 5
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert "<b>busca</b>" not in page


def test_a_study_without_complete_trials_has_no_page() -> None:
    assert interactive_page(view(trial(0.1, 1e-4, state=TrialState.PRUNED)), {}, seed=1) is None


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def test_the_untuned_base_is_a_line_and_an_importance_says_what_it_stands_on(
    searched: StudyView,
) -> None:
    view = dataclasses.replace(searched, untuned=0.01)
    figures = draw_study(view, importances(view, seed=1))
    lines = {line.get_label(): list(line.get_ydata()) for line in figures["history"].axes[0].lines}
    assert lines["modelo sem ajuste"] == [0.01, 0.01]
    assert "(fANOVA, 6 tentativas na época 1; são poucas: uma pista)" in figures["importances"].axes[0].get_title(
        loc="left"
    )
    assert standing(14, 2) == "14 tentativas na época 2; são poucas: uma pista"
    assert standing(15, 6) == "15 tentativas na época 6"


def test_an_importance_weighs_what_the_pruner_cut_at_the_epoch_that_all_trials_reached() -> None:
    """Every low rate is cut at its second epoch: among the complete trials alone the rate would decide nothing."""
    kinds = ("cosine", "constant")
    complete = [trial(3.6 + 0.02 * (n % 2), 1e-3 * (1 + n % 3 / 10), kinds[n % 2]) for n in range(8)]
    for number, one in enumerate(complete):
        one.intermediate_values = {1: 3.9, 2: 3.75 + 0.001 * number, 3: one.value}
    cut = [trial(4.0, 2e-5 * (1 + n), kinds[n % 2], state=TrialState.PRUNED) for n in range(8)]
    for number, one in enumerate(cut):
        one.intermediate_values = {1: 4.1, 2: 4.0 + 0.001 * number}
    seen = view(*complete, *cut, maximize=False)
    assert seen.common_epoch == 2
    assert [one.value for one in seen.weighed] == [one.intermediate_values[2] for one in (*complete, *cut)]
    assert importances(seen, seed=1)["training.learning_rate"] > 0.8
    assert importances(view(*complete, maximize=False), seed=1)["training.scheduler"] > 0.5
