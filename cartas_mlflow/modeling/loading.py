"""Load a base that was found: tokenizer and weights, in float32 or in 4 bits."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.errors import BaseModelError, SettingError, first_line
from cartas_mlflow.modeling.base import TOKENIZER_FILES, BaseLocation
from cartas_mlflow.modeling.hardware import Hardware
from cartas_mlflow.modeling.memory import GIB, Shape, blocks_given_back, needs_four_bits, weight_bytes
from cartas_mlflow.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


FAMILY = ("t5", "mt5", "umt5")
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


def choose_quantization(
    settings: ModelSettings, hardware: Hardware, shape: Shape, precision: str
) -> tuple[Quantization | None, str]:
    """4 bits or not, and why (a Portuguese clause); ``true`` works on a CPU too (slow, but real).

    ``auto`` takes them only where they are needed: 4-bit products are slower and coarser.

    Raises:
        SettingError: 4 bits were asked for and the device has none.
    """
    four_bits = Quantization(settings.quantization_type, settings.double_quantization, precision)
    if settings.quantization == "false":
        return None, "forçada"
    if settings.quantization == "true":
        if hardware.device == "mps":
            raise SettingError(
                "model.quantization=true, mas a GPU da Apple (mps) não tem camadas de 4 bits; use model.quantization="
                "false ou training.device=cpu."
            )
        return four_bits, "forçada"
    size, free = f"{weight_bytes(shape) / GIB:.1f}", f"{hardware.free_memory:.1f}"
    share = "mais" if needs_four_bits(shape, hardware) else "menos"
    reason = f"sem ela o modelo ocupa {size} GB, {share} de um quarto dos {free} GB livres"
    return (four_bits if needs_four_bits(shape, hardware) else None), reason


def read_config(location: BaseLocation) -> PreTrainedConfig:
    """What a base's ``config.json`` says, looked at before its weights are.

    Raises:
        BaseModelError: it cannot be read, or tells of another kind of model than T5.
    """
    quiet_libraries()
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(location.folder)
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"O modelo em {location.folder} não pôde ser lido ({first_line(error)}); baixe ou copie o modelo de novo."
        ) from error
    if config.model_type not in FAMILY:
        raise BaseModelError(
            f"{location.name} é um modelo {config.model_type}; este projeto treina os da família T5, como o PTT5 "
            f"({', '.join(FAMILY)}): indique um deles em model.name."
        )
    return config


def check_vocabulary(location: BaseLocation, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """See that the base has an embedding for every token that the tokenizer makes.

    Raises:
        BaseModelError: it has fewer. (It would train, and fail at the first text that needs one of the others.)
    """
    tokens = max(tokenizer.get_vocab().values()) + 1
    if tokens > config.vocab_size:
        raise BaseModelError(
            f"O tokenizador tem {tokens} peças e o modelo {location.name} só {config.vocab_size}: não são um do outro; "
            "confira model.name e model.tokenizer."
        )


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

    read_config(location)
    from transformers import AutoModelForSeq2SeqLM, BitsAndBytesConfig, GenerationConfig

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
        with blocks_given_back() if quantization is not None else nullcontext():
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
    keep_gradients_right(model)
    hold_the_rest(model, quantization.compute)
    return model


def hold_the_rest(model: PreTrainedModel, compute: str) -> None:
    """Freeze a 4-bit base, in place, and hold what is not in 4 bits in the format of the products.

    In bfloat16 ``wo``, embeddings and head take half: they are frozen, and products in bfloat16 round them anyway. What
    comes out of the embeddings and goes into the head is float32, and so are the norms. (PEFT's own preparation puts
    everything into float32: 396 MB instead of 234 for PTT5 base.) Nothing is left that the library took straight from
    the file: one norm would keep the whole of it mapped, 0.8 GiB for PTT5 base.
    """
    import torch

    model.requires_grad_(False)
    narrow = getattr(torch, compute) if compute == "bfloat16" else torch.float32
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if last in {"wo", "shared", "embed_tokens", "lm_head"}:
            module.weight.data = module.weight.data.to(narrow, copy=True)
        elif not hasattr(module, "quant_type"):
            for weight in module.parameters(recurse=False):
                if weight.is_floating_point():
                    weight.data = weight.data.to(torch.float32, copy=True)
    if narrow == torch.float32:
        return
    for module in model.modules():  # each once: the encoder's and the decoder's embeddings are one
        if isinstance(module, torch.nn.Embedding) and module.weight.dtype == narrow:
            module.register_forward_hook(lambda module, inputs, hidden: hidden.float())
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, inputs: (inputs[0].to(module.weight.dtype),))
    head.register_forward_hook(lambda module, inputs, logits: logits.float())


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
