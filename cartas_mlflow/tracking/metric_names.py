"""The names of metrics in MLflow, in sections that its pages fold, and what earlier versions called them."""

from __future__ import annotations

from collections.abc import Mapping

STEP_SERIES = {"loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/grad_norm"}
"""The trainer's name -> the series over its steps."""
EPOCH_LOSS, EVALUATED = "epoch_train_loss", "eval_"
"""The trainer's name of the mean training loss of an epoch, and what the names of an evaluation begin with."""
BEST_EPOCH = "final/best_epoch"
TRIAL_VALUE = "trial/value"
"""What a search ranks a trial by."""
ONLY_AT_THE_END = {"bits_per_character"}
"""Over the epochs they are another curve in other units: the loss's."""
ONLY_REPORTED = {"generated_prompt_fit", "longest_copied_run"}
"""Figures of the end that nobody sorts runs by: they stand in the report."""
FORMER_SECTIONS = {"train": "", "eval": "eval_", "final": "final_", "trial": "trial_"}
"""Section -> what stood in its place in runs of versions before 0.2."""
FORMER_NAMES = {"train/epoch_loss": "epoch_train_loss", BEST_EPOCH: "best_epoch"}


def epoch_series(name: str) -> str:
    """The trainer's name of a figure of an epoch -> its series: ``eval_chrf`` -> ``eval/chrf``."""
    return "train/epoch_loss" if name == EPOCH_LOSS else f"eval/{name.removeprefix(EVALUATED)}"


def final(metric: str, over: str | None = None) -> str:
    """The figure of the adapter that a training leaves; ``over``: less that of a rival, the ``base``."""
    return f"final/{metric}" + ("" if over is None else f"_over_{over}")


def evaluated(metric: str) -> str:
    """The figure of a model on any table, by the command that measures just that."""
    return f"evaluation/{metric}"


def held_out(name: str) -> str:
    """A figure of a pre-training: ``domain_eval_bits_per_character`` -> ``domain_eval/bits_per_character``."""
    return name.replace(EVALUATED, EVALUATED.replace("_", "/"))


def former(name: str) -> str:
    """How runs of earlier versions call a metric."""
    section, _, rest = name.partition("/")
    return FORMER_NAMES.get(name, FORMER_SECTIONS[section] + rest)


def logged(metrics: Mapping[str, float], name: str) -> float | None:
    """A metric of a run, under its name or its former one; None where it has neither."""
    return metrics.get(name, metrics.get(former(name)))
