"""The names of metrics, now and in runs of earlier versions."""

from __future__ import annotations

import pytest

from cartas_mlflow.tracking import metric_names


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("train/loss", "loss"),
        ("train/epoch_loss", "epoch_train_loss"),
        ("eval/rougeL", "eval_rougeL"),
        ("final/chrf", "final_chrf"),
        ("final/chrf_over_base", "final_chrf_over_base"),
        ("final/best_epoch", "best_epoch"),
        ("trial/value", "trial_value"),
    ],
)
def test_a_run_of_an_earlier_version_is_read_by_its_own_names(name: str, before: str) -> None:
    assert metric_names.former(name) == before
    assert metric_names.logged({before: 0.5}, name) == 0.5
    assert metric_names.logged({before: 0.5, name: 0.7}, name) == 0.7
    assert metric_names.logged({}, name) is None


def test_the_trainers_names_become_sections() -> None:
    assert metric_names.epoch_series("eval_longest_copied_run") == "eval/longest_copied_run"
    assert metric_names.epoch_series("epoch_train_loss") == "train/epoch_loss"
    assert metric_names.held_out("domain_eval_bits_per_character") == "domain_eval/bits_per_character"
    assert metric_names.final("chrf", over="lookup") == "final/chrf_over_lookup"
