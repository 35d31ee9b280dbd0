"""Write a pre-trained T5 as the folder that everything else loads: weights in bf16, tokenizer, model card."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration


def write_base_folder(model: T5ForConditionalGeneration, tokenizer_folder: Path, folder: Path, card: str) -> None:
    """Write ``folder`` aside and put it in place in one rename; an older folder of that name is replaced.

    model: the T5 with the weights to publish (its own precision is left alone). tokenizer_folder: ``tokenizer.json``,
    ``tokenizer_config.json``, ``spiece.model``. card: text of README.md.
    """
    from transformers import T5ForConditionalGeneration

    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    published = T5ForConditionalGeneration(model.config)
    published.load_state_dict(model.state_dict())
    with _no_bars():
        published.to(torch.bfloat16).save_pretrained(aside)
    for name in ("tokenizer.json", "tokenizer_config.json", "spiece.model"):
        shutil.copyfile(tokenizer_folder / name, aside / name)
    (aside / "README.md").write_text(card, encoding="utf-8")
    for path in aside.iterdir():
        path.chmod(0o644)
    if folder.exists():
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
        aside.replace(folder)
        shutil.rmtree(old)
    else:
        aside.replace(folder)


@contextmanager
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
