"""Load a base that was found: tokenizer and weights, in float32 or in 4 bits."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.errors import BaseModelError, first_line
from cartas_mlflow.modeling.base import TOKENIZER_FILES, BaseLocation
from cartas_mlflow.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_ODD_CONTENT = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)


@dataclass(frozen=True)
class Quantization:
    """A 4-bit base. ``kind``: ``nf4`` or ``fp4``; ``compute``: torch dtype name of the matrix products."""

    kind: str
    double: bool
    compute: str

    @property
    def description(self) -> str:
        return f"4-bit ({self.kind}{', dupla quantização' if self.double else ''}, cálculo em {self.compute})"


def choose_quantization(settings: ModelSettings, device: str, precision: str) -> Quantization | None:
    """``auto`` means 4 bits on CUDA only; ``true`` works on a CPU too (slow, but real)."""
    if settings.quantization == "false" or (settings.quantization == "auto" and device != "cuda"):
        return None
    return Quantization(settings.quantization_type, settings.double_quantization, precision)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a base or of an adapter folder.

    Raises:
        BaseModelError: files that are not there, or cannot be read.
    """
    from transformers import AutoTokenizer

    # Without its file the library makes a tokenizer that knows no word, and every text comes out empty.
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise BaseModelError(f"{folder} não tem {' nem '.join(TOKENIZER_FILES)}, o tokenizador; copie a pasta de novo.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        # The tokenizers library raises bare Exceptions; the others are what odd content makes of the wrapper.
        if type(error) is not Exception and not isinstance(error, _ODD_CONTENT):
            raise
        raise BaseModelError(
            f"O tokenizador em {folder} não pôde ser lido ({first_line(error)}); copie a pasta de novo."
        ) from error
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise BaseModelError(
            f"O tokenizador em {folder} não diz quais são os seus sinais de fim e de preenchimento "
            "(tokenizer_config.json); copie a pasta de novo."
        )
    return tokenizer


def load_base(location: BaseLocation, device: str = "cpu", quantization: Quantization | None = None) -> PreTrainedModel:
    """Load the weights in float32 (autocast does the rest), or in 4 bits.

    What the folder's ``generation_config.json`` says does not count: how texts are generated is up to the settings.

    Raises:
        BaseModelError: not an encoder-decoder text model, or files that are damaged or do not fit together.
    """
    import torch
    from safetensors import SafetensorError

    quiet_libraries()
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, BitsAndBytesConfig, GenerationConfig

    options: dict[str, Any] = {"dtype": torch.float32}
    if quantization is not None:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=quantization.kind,
            bnb_4bit_use_double_quant=quantization.double,
            bnb_4bit_compute_dtype=getattr(torch, quantization.compute),
        )
        options["device_map"] = {"": device}
    try:
        config = AutoConfig.from_pretrained(location.folder)
        if not config.is_encoder_decoder:
            raise BaseModelError(
                f"{location.name} é um modelo {config.model_type}, que não é codificador-decodificador; "
                "use um T5 (ex.: PTT5)."
            )
        model, report = AutoModelForSeq2SeqLM.from_pretrained(location.folder, output_loading_info=True, **options)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise BaseModelError(
            f"O modelo em {location.folder} não pôde ser lido ({first_line(error)}); baixe ou copie o modelo de novo."
        ) from error
    if report["missing_keys"]:
        # The library would go on with random weights in their place.
        raise BaseModelError(
            f"Faltam {len(report['missing_keys'])} matrizes de pesos em {location.folder} (ex.: "
            f"{min(report['missing_keys'])}); baixe ou copie o modelo de novo."
        )
    model.generation_config = GenerationConfig()
    if quantization is None:
        return model.to(device)
    from peft import prepare_model_for_kbit_training

    keep_gradients_right(model)
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def keep_gradients_right(model: PreTrainedModel) -> None:
    """Keep 4-bit layers on the kernel that has a backward pass.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks every 4-bit layer at the first forward in evaluation mode; from
    then on the training forward takes a kernel without backward and the gradients of lower layers silently vanish.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quiet_libraries() -> None:
    """Silence what the libraries print of themselves: the console belongs to the phases. Call before importing peft."""
    import warnings

    from transformers.utils import logging as transformers_logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
