"""A lack of memory, in each phase: the work goes on in smaller pieces, with the same result."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from readings import reading_trainer, series, settings, shake

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.errors import OutOfMemory
from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.chunked_loss import head_deferred, summed_cross_entropy
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.modeling.likelihood import text_losses
from cartas_mlflow.modeling.loading import Quantization, load_base, load_tokenizer
from cartas_mlflow.modeling.lora import attach_adapter
from cartas_mlflow.modeling.trainer import ReadingTrainer
from cartas_mlflow.modeling.validation import validation_loss
from cartas_mlflow.settings import LoraSettings

Make = Callable[..., ReadingTrainer]


@pytest.fixture
def make(tiny_base: Path, bundled_rows: list[dict[str, str]], tmp_path: Path) -> Make:
    """A trainer on 12 + 6 readings: an optimizer step of 8 and one of 4."""

    def make(folder: str, **options: Any) -> ReadingTrainer:
        named = {key: options.pop(key) for key in list(options) if "__" in key}
        return reading_trainer(tiny_base, bundled_rows[:18], settings(**named), tmp_path / folder, **options)

    return make


@contextmanager
def room_for(model: torch.nn.Module, most: int, *, when: Callable[[], bool] = lambda: True) -> Iterator[list[int]]:
    """A device on which no more texts than ``most`` fit into the encoder; gives the sizes that did not."""
    refused: list[int] = []

    def look(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        size = len(kwargs["input_ids"])
        if when() and size > most:
            refused.append(size)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    handle = model.get_base_model().encoder.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield refused
    finally:
        handle.remove()


# Training


@pytest.mark.parametrize(("most", "tried"), [(4, [8, 4]), (3, [8, 4, 2]), (1, [8, 4, 2, 1])])
def test_a_pass_that_does_not_fit_is_made_in_pieces_with_the_same_gradient(
    make: Make, most: int, tried: list[int], said: list[str]
) -> None:
    whole, short = (make(name, dropout=False, training__epochs=2) for name in ("whole", "short"))
    whole.train()
    with room_for(short.model, most, when=torch.is_grad_enabled) as refused:
        short.train()
    for name in ("loss", "grad_norm", "epoch_train_loss", "eval_loss"):
        assert series(short, name) == pytest.approx(series(whole, name), rel=1e-3), name
    assert refused == tried[:-1]
    assert [line for line in said if "memória" in line] == [
        f"⚠️ A memória não bastou com {size} exemplos por passagem; continuando com {size // 2}" for size in tried[:-1]
    ]


def test_a_lack_of_memory_on_the_way_back_leaves_nothing_behind(make: Make) -> None:
    """Gradients of half the matrices are there when it comes."""
    whole, short = (make(name, dropout=False) for name in ("whole", "short"))
    whole.train()
    spared = iter([False])

    def fail(gradient: torch.Tensor) -> None:
        if not next(spared, True):
            raise torch.OutOfMemoryError("CUDA out of memory")

    def watch(module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(fail)

    handle = short.model.get_base_model().encoder.block[0].layer[0].SelfAttention.o.register_forward_hook(watch)
    short.train()
    handle.remove()
    for name in ("loss", "grad_norm", "epoch_train_loss", "eval_loss"):
        assert series(short, name) == pytest.approx(series(whole, name), rel=1e-3), name
    assert short.examples_at_once == 4


def test_where_not_one_example_fits_the_sentence_is_of_the_training(make: Make) -> None:
    trainer = make("none")
    with room_for(trainer.model, 0, when=torch.is_grad_enabled), pytest.raises(OutOfMemory) as caught:
        trainer.train()
    assert str(caught.value) == (
        "A memória não bastou nem com 1 exemplo por passagem; use training.gradient_checkpointing=true, "
        "model.quantization=true ou um modelo base menor."
    )


# Evaluation


@pytest.mark.parametrize("most", [5, 2, 1])
def test_an_evaluation_that_does_not_fit_has_the_same_loss_and_texts(make: Make, most: int, said: list[str]) -> None:
    trainer = make("evaluation", generation__max_new_tokens=12)
    shake(trainer.model)
    prompts, tokenizer = trainer.validation.prompts, trainer.processing_class
    counted: list[int] = []

    def measure(progress: Callable[[int], None] | None = None) -> tuple[float, list[str]]:
        loss = validation_loss(trainer.model, tokenizer, trainer.validation.encoded, 6)
        generation = trainer.config.generation
        limits = {"batch_size": 6, "max_length": 64}
        return loss, generate_texts(trainer.model, tokenizer, prompts, generation, on_progress=progress, **limits)

    expected = measure()
    with room_for(trainer.model, most):
        loss, texts = measure(counted.append)
    assert (pytest.approx(loss, rel=1e-5), texts) == expected
    assert len(set(texts)) > 1
    assert sum(counted) == len(prompts)
    assert "⚠️ A memória não bastou com 6 textos por vez na perda de validação; continuando com 3" in said
    assert "⚠️ A memória não bastou com 6 leituras geradas por vez; continuando com 3" in said


def test_where_not_one_text_fits_the_sentence_is_of_the_generation(make: Make) -> None:
    trainer = make("none")
    arguments = trainer.model, trainer.processing_class, trainer.validation.prompts, trainer.config.generation
    with room_for(trainer.model, 0), pytest.raises(OutOfMemory) as caught:
        generate_texts(*arguments, batch_size=6, max_length=64)
    assert str(caught.value) == (
        "A memória não bastou nem com 1 leitura gerada por vez; use um generation.num_beams ou "
        "generation.max_new_tokens menor, ou training.device=cpu."
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of a process's memory is Linux's")
def test_a_real_limit_of_memory_is_lived_with(tiny_base: Path) -> None:
    """``ulimit -v``: the texts of 2,000 prompts under a limit that a few hundred at once fit into."""
    program = textwrap.dedent(
        """
        import resource, sys, torch
        from pathlib import Path
        from cartas_mlflow.console import open_console
        from cartas_mlflow.modeling.base import BaseLocation
        from cartas_mlflow.modeling.generation import generate_texts
        from cartas_mlflow.modeling.loading import load_base, load_tokenizer
        from cartas_mlflow.settings import GenerationSettings

        open_console()
        torch.set_num_threads(1)
        folder = Path(sys.argv[1])
        model, tokenizer = load_base(BaseLocation("base", folder, "folder")), load_tokenizer(folder)
        def write(count, size):
            prompts = [f"O Sol, leitura {number}" for number in range(count)]
            how = GenerationSettings(max_new_tokens=6, num_beams=4)
            return generate_texts(model, tokenizer, prompts, how, batch_size=size, max_length=64)
        few = write(8, 8)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = used + 60 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        many = write(2000, 2000)
        print(len(many), many[:8] == few)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_base)], capture_output=True, text=True, cwd=PROJECT_ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "⚠️ A memória não bastou com 2000 leituras geradas por vez; continuando com 1000" in done.stdout
    assert done.stdout.splitlines()[-1] == "2000 True"


# The loss in chunks


def test_the_loss_in_chunks_and_its_gradients_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cartas_mlflow.modeling.chunked_loss.CHUNK_ROWS", 7)
    torch.manual_seed(0)
    hidden, weight = torch.randn(30, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    labels = torch.randint(0, 50, (30,))
    labels[::4] = -100
    (total,) = text_losses((hidden @ weight.T)[None], labels[None])
    total.backward()
    expected = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    chunked = summed_cross_entropy(hidden, weight, labels)
    (2 * chunked).backward()
    assert chunked.item() == pytest.approx(total.item(), rel=1e-6)
    for found, wanted in zip((hidden.grad, weight.grad), expected, strict=True):
        torch.testing.assert_close(found, 2 * wanted)


def test_the_head_is_deferred_in_training_mode_only_and_whole_again_afterwards(tiny_base: Path) -> None:
    model = attach_adapter(load_base(BaseLocation("base", tiny_base, "folder")), LoraSettings(), seed=1)
    width, vocabulary = model.config.d_model, model.config.vocab_size

    def last_size() -> int:
        return model(input_ids=torch.tensor([[5, 1]]), labels=torch.tensor([[6, 1]])).logits.shape[-1]

    with head_deferred(model) as head:
        assert model.eval()(input_ids=torch.tensor([[5]]), decoder_input_ids=torch.tensor([[0]])).logits.shape[-1] == (
            vocabulary
        )
        deferred = model.train()(input_ids=torch.tensor([[5]]), decoder_input_ids=torch.tensor([[0]])).logits
        assert deferred.shape[-1] == width
    assert last_size() == vocabulary
    assert "forward" not in vars(head)


# The rest of a 4-bit base


def test_what_is_not_in_4_bits_is_held_in_bfloat16_and_computes_nearly_the_same(tiny_base: Path) -> None:
    location, tokenizer = BaseLocation("base", tiny_base, "folder"), load_tokenizer(tiny_base)
    narrow, wide = (
        load_base(location, "cpu", Quantization("nf4", True, compute)) for compute in ("bfloat16", "float32")
    )
    for name, weight in narrow.named_parameters():
        assert not weight.requires_grad
        held = any(part in name for part in (".wo.", "shared", "lm_head", "embed_tokens"))
        assert weight.dtype == (
            torch.bfloat16 if held else torch.float32 if weight.is_floating_point() else torch.uint8
        )
    assert narrow.get_memory_footprint() < wide.get_memory_footprint()
    batch = tokenizer(["O Sol, Ano Novo"], text_target=["Um dia claro."], return_tensors="pt")
    first, second = narrow(**batch), wide(**batch)
    assert first.logits.dtype == torch.float32
    assert first.loss.item() == pytest.approx(second.loss.item(), rel=0.02)
    adapted = attach_adapter(narrow, LoraSettings(target_modules=("all-linear",)), seed=1)
    adapted(**batch).loss.backward()
    gradients = [weight.grad for weight in adapted.parameters() if weight.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
