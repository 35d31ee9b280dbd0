"""One training by several processes: the leader's side, and the side of those who take part in silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cartas_mlflow.config import load_config
from cartas_mlflow.console import hushed, say
from cartas_mlflow.modeling import processes
from cartas_mlflow.training import fitting, preparation
from cartas_mlflow.training.session import Session


def as_launched(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings, with the number of processes where torchrun or ``accelerate launch`` gives it.

    A resumption needs as many, so that it stands with the others.
    """
    given = dict(overrides or {})
    if processes.count() > 1:
        given["training.num_processes"] = processes.count()
    return given


@contextmanager
def leading(setup: preparation.Setup, session: Session) -> Iterator[None]:
    """The other processes, where there are to be some, take part in what the block fits.

    Raises:
        TrainingError: one of them died.
    """
    base, settings = setup.base, setup.config.training
    words = [
        "train",
        f"--config={session.resolved}",
        f"--training.precision={base.precision.dtype}",
        f"--training.device={base.hardware.device}",
        f"--model.quantization={str(base.quantization is not None).lower()}",
    ]
    number = settings.num_processes
    with processes.followers(number, words, session.folder, base.hardware.device):
        if number > 1:
            say(f"Treinando com {number} processos")
        order = fitting.Order(base.precision, setup.encoded.plan, str(session.checkpoints), session.checkpoint)
        processes.told_by_leader(order)
        yield


def follow(config_path: str, overrides: Mapping[str, Any]) -> None:
    """Prepare as the leader does, meet it, and train with it to the end.

    Raises:
        UserError: what the leader would tell the user too.
    """
    with hushed():
        config = load_config(config_path, overrides)
        settled = preparation.settle_base(config, config_path, overrides)
        data = preparation.split_data(settled.config, preparation.load_data(settled.config))
        base = preparation.load_model(settled)
        model, count = preparation.attach_lora(settled.config, base)
        encoded = preparation.encode_data(settled.config, base, data)
        setup = preparation.Setup(settled, data, base, model, count, encoded)
        processes.join(base.hardware.device)
        order = processes.told_by_leader(None)
        setup = replace(
            setup,
            base=replace(base, precision=order.precision),
            encoded=replace(encoded, plan=order.plan),
        )
        score = fitting.reading_score(data, settled.config.evaluation.copied_words)
        fitting.fit(setup, score, run=None, folder=Path(order.folder), resume=order.resume)
