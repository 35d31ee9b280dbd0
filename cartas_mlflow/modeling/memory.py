"""What a base takes of a device's memory, phase by phase, from its shape alone; and what is chosen so that it fits."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from cartas_mlflow.errors import OutOfMemory
from cartas_mlflow.modeling.chunked_loss import CHUNK_ROWS
from cartas_mlflow.modeling.hardware import Hardware, is_lack_of_memory
from cartas_mlflow.settings import GenerationSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Result = TypeVar("Result")
_MMAP_THRESHOLD = -3
"""glibc's M_MMAP_THRESHOLD (malloc.h); its own dynamic value ends at 32 MiB."""
GIB = 2**30
LIBRARIES = 0.7 * GIB
"""What PyTorch, transformers and MLflow take of the machine's memory before any model; on a GPU its own context."""
NF4_BYTES = 0.53
"""Of a 4-bit weight: half a byte, and its share of the doubly quantised scales (0.127 bits a weight; Dettmers et al.
2023, section 3), with some room."""
TRAINING_SHARE = 0.5
"""Of the free memory, for activations; weights, generation and other programs have the rest."""
GENERATION_SHARE = 0.25
"""Of the free memory, for the keys and values of texts that are being written."""
CPU_TRAINING = 2 * GIB
CPU_GENERATION = 0.75 * GIB
"""What larger passes would take a CPU has no use for: these keep it busy."""
LARGEST_EVALUATION_BATCH = 128
NEEDED_SHARE = 0.25
"""Of the free memory, that an unquantised base may take before ``model.quantization=auto`` takes 4 bits."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a T5. ``inner``: heads times their width; ``feed_matrices``: 2, or 3 with a gate."""

    width: int
    inner: int
    heads: int
    feed_forward: int
    feed_matrices: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shape:
        """From a base's ``config.json`` as the library reads it."""
        return cls(
            width=config.d_model,
            inner=config.num_heads * config.d_kv,
            heads=config.num_heads,
            feed_forward=config.d_ff,
            feed_matrices=3 if config.is_gated_act else 2,
            encoder_layers=config.num_layers,
            decoder_layers=config.num_decoder_layers or config.num_layers,
            vocabulary=config.vocab_size,
            tied=config.tie_word_embeddings,
        )

    @property
    def layers(self) -> int:
        return self.encoder_layers + self.decoder_layers

    @property
    def attention(self) -> int:
        """Weights of all attentions: a decoder layer has two."""
        return 4 * self.width * self.inner * (self.encoder_layers + 2 * self.decoder_layers)

    @property
    def feed(self) -> int:
        """Weights of all feed-forward matrices."""
        return self.feed_matrices * self.width * self.feed_forward * self.layers

    @property
    def parameters(self) -> int:
        """Norms and position biases, a thousandth of it, left out."""
        return self.attention + self.feed + self.vocabulary * self.width * (1 if self.tied else 2)


def weight_bytes(shape: Shape, *, four_bits: bool = False, compute: str = "float32") -> float:
    """Of the base as it lies on the device. Of a 4-bit one ``wo``, embeddings and head are not in 4 bits."""
    if not four_bits:
        return 4 * shape.parameters
    outer = shape.width * shape.feed_forward * shape.layers  # wo
    small = shape.attention + shape.feed - outer
    return NF4_BYTES * small + (2 if compute == "bfloat16" else 4) * (shape.parameters - small)


def activation_bytes(shape: Shape, tokens: int, *, checkpointing: bool = False) -> float:
    """Memory that one example takes in a training step.

    Fitted to the peak memory of real steps of T5 with LoRA on all matrices (9.4 and 222.9 million parameters, 70 to 450
    tokens, on a CPU): from 5 % below it to 50 % above. Fewer targets take up to a third less. bfloat16 autocast takes
    nearly as much as float32, since it keeps most values in both formats. With checkpointing one layer's values live at
    a time, and each layer's input (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). Without logits,
    which are :func:`logits_bytes`, whatever the number of examples.

    Args:
        tokens: of the longest text.
    """
    layer = tokens * (340 * shape.width + 16 * shape.heads * tokens)
    if checkpointing:
        return layer + 4 * shape.layers * tokens * shape.width
    return shape.layers * layer


def logits_bytes(shape: Shape) -> float:
    """Logits of a chunk of the loss, what they are computed through, and their gradient, in float32."""
    return 3 * 4 * CHUNK_ROWS * shape.vocabulary


def cache_bytes(shape: Shape, generation: GenerationSettings, prompt_tokens: int) -> float:
    """Keys and values that one text takes while it is written, with all its beams, in float32."""
    tokens = generation.max_new_tokens + prompt_tokens
    return 2 * 4 * shape.decoder_layers * tokens * shape.inner * generation.num_beams


def needs_four_bits(shape: Shape, hardware: Hardware) -> bool:
    """Whether the unquantised base would take too much of the device; Apple's GPUs have no 4-bit layers."""
    return hardware.device != "mps" and weight_bytes(shape) > NEEDED_SHARE * hardware.free_memory * GIB


def choose_micro_batch(requested: str | int, batch_size: int, hardware: Hardware, example_bytes: float) -> int:
    """Examples per forward pass: the largest divisor of ``batch_size`` whose activations fit.

    Args:
        requested: ``auto``, or the number that the user wants.
        example_bytes: what one example takes, see :func:`activation_bytes`.
    """
    if isinstance(requested, int):
        return requested
    affordable = _share(hardware, TRAINING_SHARE, CPU_TRAINING) / example_bytes
    divisors = (size for size in range(batch_size, 0, -1) if batch_size % size == 0)
    return next((size for size in divisors if size <= affordable), 1)


def choose_evaluation_batch(requested: str | int, hardware: Hardware, text_bytes: float) -> int:
    """Texts generated at once: the largest power of two, up to 128, whose keys and values fit.

    Args:
        requested: ``auto``, or the number that the user wants.
        text_bytes: what one text takes, see :func:`cache_bytes`.
    """
    if isinstance(requested, int):
        return requested
    affordable = _share(hardware, GENERATION_SHARE, CPU_GENERATION) / text_bytes
    size = LARGEST_EVALUATION_BATCH
    while size > 1 and size > affordable:
        size //= 2
    return size


def needs_checkpointing(requested: str, hardware: Hardware, example_bytes: float) -> bool:
    """Whether activations are computed again instead of kept: ``auto`` where not even one example fits otherwise."""
    if requested != "auto":
        return requested == "true"
    return example_bytes > TRAINING_SHARE * hardware.free_memory * GIB


def halve(size: int, what: tuple[str, str], mend: str) -> int:
    """The size to go on with after a lack of memory, said on the console.

    Args:
        what: Portuguese, what there are ``size`` of at once: one of it, and more.
        mend: Portuguese, what the user can do where there is nothing left to halve.

    Raises:
        OutOfMemory: ``size`` is 1.
    """
    from cartas_mlflow.console import say

    if size == 1:
        raise OutOfMemory(f"A memória não bastou nem com 1 {what[0]}; {mend}.")
    release_memory()
    say(f"⚠️ A memória não bastou com {size} {what[1]}; continuando com {size // 2}")
    return size // 2


def in_pieces(
    count: int, size: int, work: Callable[[int, int], Result], what: tuple[str, str], mend: str
) -> Iterator[Result]:
    """Yield ``work(start, stop)`` of piece after piece, ``size`` long, and half as long from where the memory lacks.

    Args:
        count: of everything that there is to do.
        what, mend: see :func:`halve`.

    Raises:
        OutOfMemory: there is not enough for one.
    """
    start = 0
    while start < count:
        stop = min(start + size, count)
        lacking = False
        try:
            result = work(start, stop)
        except (MemoryError, RuntimeError) as error:
            if not is_lack_of_memory(error):
                raise
            lacking = True
        if lacking:  # outside of the handler: the error's traceback keeps the piece's tensors alive
            size = halve(stop - start, what, mend)
            continue
        yield result
        start = stop


def release_memory() -> None:
    """Give back to the system what nobody holds any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    _tell_glibc("malloc_trim", 0)  # it keeps freed blocks of up to 32 MiB for itself unless it is told


@contextmanager
def blocks_given_back() -> Iterator[None]:
    """Meanwhile a freed block of 1 MiB or more goes back to the system at once.

    glibc keeps such blocks in its heap once it has seen larger ones come and go; quantising PTT5 large, float32 matrix
    by matrix, would leave 0.7 GiB of them. Afterwards it is as it would become by itself.
    """
    _tell_glibc("mallopt", _MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        _tell_glibc("mallopt", _MMAP_THRESHOLD, 32 << 20)


def _tell_glibc(function: str, *arguments: int) -> None:
    """Call a function of the C library's allocator; nothing where that is another (musl, other systems)."""
    if sys.platform == "linux":
        import ctypes

        found = getattr(ctypes.CDLL(None), function, None)
        if found is not None:
            found(*arguments)


def _share(hardware: Hardware, share: float, most_on_cpu: float) -> float:
    affordable = share * hardware.free_memory * GIB
    return min(affordable, most_on_cpu) if hardware.device == "cpu" else affordable
