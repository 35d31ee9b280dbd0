"""Batched generation: the one implementation that evaluation, command line and serving share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cartas_mlflow.modeling.memory import in_pieces
from cartas_mlflow.settings import GenerationSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from cartas_mlflow.modeling.engine import FastEngine

PASS = ("leitura gerada por vez", "leituras geradas por vez")
SMALLER_EVALUATION = "use um generation.num_beams ou generation.max_new_tokens menor, ou training.device=cpu"


def generate_texts(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    settings: GenerationSettings,
    *,
    batch_size: int,
    max_length: int,
    sequences: int = 1,
    engine: FastEngine | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[str]:
    """``sequences`` texts per prompt, in the order of the prompts (all of the first prompt's, then the second's, …).

    Prompts are batched by similar length, longest first, so that little is spent on padding. The model is in evaluation
    mode meanwhile and goes back to the mode it was in.

    Args:
        batch_size: prompts generated at once; half as many from where the memory does not suffice.
        max_length: limit of a prompt, in tokens.
        sequences: texts per prompt; more than one needs sampling, or as many beams.
        engine: generates in the model's place where it writes the same texts.
        on_progress: called after each batch with the number of prompts it answered.

    Raises:
        OutOfMemory: there is not enough for one prompt.
    """
    import torch

    if not prompts:
        return []
    encoded = tokenizer(list(prompts), truncation=True, max_length=max_length)["input_ids"]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]), reverse=True)
    config = decoding_config(model, settings)
    config.num_return_sequences = sequences
    fast = engine if engine is not None and engine.writes_the_same(settings) else None
    texts: list[str] = [""] * len(encoded) * sequences
    was_training = model.training

    def write(start: int, stop: int) -> tuple[list[int], Any]:
        chosen = order[start:stop]
        inputs = [encoded[index] for index in chosen]
        if fast is not None:
            return chosen, fast.generate(inputs, settings, sequences)
        batch = tokenizer.pad({"input_ids": inputs}, return_tensors="pt")
        return chosen, model.generate(**batch.to(model.device), generation_config=config)

    model.eval()
    try:
        with torch.inference_mode(), torch.random.fork_rng(enabled=settings.do_sample):
            if settings.do_sample:
                torch.manual_seed(settings.seed)
            for chosen, ids in in_pieces(len(order), batch_size, write, PASS, SMALLER_EVALUATION):
                places = [index * sequences + number for index in chosen for number in range(sequences)]
                for place, text in zip(places, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                    texts[place] = text.strip()
                if on_progress is not None:
                    on_progress(len(chosen))
    finally:
        model.train(was_training)
    return texts


def decoding_config(model: PreTrainedModel | PeftModel, settings: GenerationSettings) -> GenerationConfig:
    """The settings as the library takes them.

    Given to ``generate`` at each call: what is set on a PEFT wrapper, or in the trainer's arguments, is ignored there.
    """
    from transformers import GenerationConfig

    sampling = (
        {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
        if settings.do_sample
        else {}
    )
    # A beam search compares sums of log-probabilities: what a constraint forbids is shared out among the other tokens.
    beams = {"length_penalty": settings.length_penalty, "early_stopping": True, "renormalize_logits": True}
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens or None,
        num_beams=settings.num_beams,
        do_sample=settings.do_sample,
        no_repeat_ngram_size=settings.no_repeat_ngram_size,
        repetition_penalty=settings.repetition_penalty,
        decoder_start_token_id=model.config.decoder_start_token_id,
        pad_token_id=model.config.pad_token_id,
        eos_token_id=model.config.eos_token_id,
        # Padding says nothing, and is the token that every text starts from: engines differ in whether a start that is
        # said again repeats itself.
        suppress_tokens=[model.config.pad_token_id],
        use_cache=True,
        **sampling,
        **(beams if settings.num_beams > 1 else {}),
    )
