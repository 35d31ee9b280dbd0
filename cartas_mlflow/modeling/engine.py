"""The other engine: CTranslate2 decodes the merged model's texts, the same ones, about twice as fast on a CPU."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.errors import SettingError
from cartas_mlflow.modeling.processes import count
from cartas_mlflow.settings import ExperimentConfig, GenerationSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DISTRIBUTION = "ctranslate2"
UNFELT = 256 * 2**20
"""Bytes of a model that ``evaluation.engine=auto`` copies at each evaluation."""
COPIES = 3
"""Of the weights, while the engine is made: merged, read by the converter, converted."""


def check_engine(name: str) -> None:
    """Find out early that the engine of ``serving.engine`` is not there.

    Raises:
        SettingError: its package is not installed.
    """
    if name == DISTRIBUTION and importlib.util.find_spec(DISTRIBUTION) is None:
        raise SettingError(
            f"serving.engine={name} precisa do pacote {DISTRIBUTION}; instale-o com pip install {DISTRIBUTION}, ou use "
            "serving.engine=pytorch."
        )


def choose_engine(config: ExperimentConfig, *, device: str, plain: bool, size: float, processes: int) -> str:
    """Who generates in the evaluations of a model: ``ctranslate2`` or ``pytorch``.

    Args:
        device: where the model is.
        plain: its weights are float32.
        size: of the weights, in bytes.
        processes: that train together; of several, the library lets only one save what the engine is made of.

    Raises:
        SettingError: ``evaluation.engine=ctranslate2`` for weights in 4 bits.
    """
    asked = config.evaluation.engine
    if asked == "pytorch" or processes > 1 or not FastEngine.writes_the_same(config.generation):
        return "pytorch"
    if asked == DISTRIBUTION and not plain:
        raise SettingError("evaluation.engine=ctranslate2 não lê um base em 4 bits; use evaluation.engine=auto.")
    return DISTRIBUTION if asked == DISTRIBUTION or (plain and device == "cpu" and size <= UNFELT) else "pytorch"


def evaluation_engine(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, config: ExperimentConfig
) -> FastEngine | None:
    """The engine that generates in the model's place while it is evaluated; None: the model itself."""
    import torch

    weights = list(model.parameters())
    plain = all(weight.dtype == torch.float32 for weight in weights)
    size = sum(weight.nbytes for weight in weights)
    facts = {"device": model.device.type, "plain": plain, "size": size, "processes": count()}
    if choose_engine(config, **facts) == "pytorch":
        return None
    return FastEngine(merged_copy(model), tokenizer)


def merged_copy(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model with its adapter worked in; the original's weights stay as they are, to the bit."""
    from peft import PeftModel

    return copy.deepcopy(model).merge_and_unload() if isinstance(model, PeftModel) else model


class FastEngine:
    """A merged model, converted in float32.

    Raises:
        SettingError: ctranslate2 is not installed.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        check_engine(DISTRIBUTION)
        import ctranslate2
        import torch
        from ctranslate2.converters import TransformersConverter

        self.tokenizer = tokenizer
        # The converter fills a model with random numbers before it reads the weights; a training's own stay.
        with tempfile.TemporaryDirectory() as scratch, torch.random.fork_rng(devices=[]):
            source, converted = Path(scratch) / "merged", Path(scratch) / "converted"
            model.save_pretrained(source)
            tokenizer.save_pretrained(source)
            TransformersConverter(str(source)).convert(str(converted), quantization="float32")
            self.translator = ctranslate2.Translator(
                str(converted),
                device=model.device.type,
                compute_type="float32",
                intra_threads=torch.get_num_threads(),
                inter_threads=1,
            )

    @staticmethod
    def writes_the_same(settings: GenerationSettings) -> bool:
        """Whether the engine's texts are those of :func:`~cartas_mlflow.modeling.generation.generate_texts`.

        Sampling draws from other random numbers. In a beam search, CTranslate2 applies the repetition penalty to the
        logits, transformers to their logarithms as probabilities.
        """
        return not settings.do_sample and (settings.num_beams == 1 or settings.repetition_penalty == 1)

    def generate(self, prompts: Sequence[list[int]], settings: GenerationSettings, sequences: int) -> list[list[int]]:
        """Token ids of ``sequences`` texts per prompt, prompt after prompt, without the special ones."""
        results = self.translator.translate_batch(
            [self.tokenizer.convert_ids_to_tokens(ids) for ids in prompts],
            beam_size=settings.num_beams,
            num_hypotheses=sequences,
            length_penalty=settings.length_penalty,
            repetition_penalty=settings.repetition_penalty,
            no_repeat_ngram_size=settings.no_repeat_ngram_size,
            min_decoding_length=settings.min_new_tokens,
            max_decoding_length=settings.max_new_tokens,
            max_input_length=0,  # no limit of its own
            suppress_sequences=[[self.tokenizer.pad_token]],
        )
        return [self.tokenizer.convert_tokens_to_ids(tokens) for result in results for tokens in result.hypotheses]
