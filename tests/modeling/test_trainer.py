"""The loss, the evaluation, and the same training twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from readings import adapter_weights, reading_trainer, series, settings, shake
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

from cartas_mlflow.errors import TrainingError
from cartas_mlflow.modeling.base import BaseLocation
from cartas_mlflow.modeling.checkpoints import complete_checkpoints
from cartas_mlflow.modeling.chunked_loss import IGNORED_LABEL
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.modeling.interruption import Interruption
from cartas_mlflow.modeling.loading import Quantization, load_base
from cartas_mlflow.modeling.lora import attach_adapter, detach_adapter
from cartas_mlflow.modeling.order import LengthGroupedOrder
from cartas_mlflow.modeling.trainer import BestBeside, ReadingTrainer
from cartas_mlflow.modeling.validation import validation_loss

NF4 = Quantization("nf4", double=True, compute="bfloat16")

MakeTrainer = Callable[..., ReadingTrainer]


@pytest.fixture
def make(tiny_base: Path, bundled_rows: list[dict[str, str]], tmp_path: Path) -> MakeTrainer:
    """A trainer on 12 + 6 readings: an optimizer step of 8 and one of 4 per epoch."""

    def make(folder: str = "checkpoints", rows: int = 18, **options: Any) -> ReadingTrainer:
        named = {key: options.pop(key) for key in list(options) if "__" in key}
        return reading_trainer(tiny_base, bundled_rows[:rows], settings(**named), tmp_path / folder, **options)

    return make


class InterruptedIn(Interruption):
    """An interruption that comes while the given step is computed."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.requested = self.requested or state.global_step + 1 == self.step


# The loss


@pytest.mark.parametrize("micro_batch", [4, 1])
def test_loss_and_gradient_are_the_same_however_the_step_is_cut(make: MakeTrainer, micro_batch: int) -> None:
    whole, cut = (
        make(str(size), dropout=False, training__epochs=2, training__micro_batch_size=size) for size in (8, micro_batch)
    )
    assert cut.args.gradient_accumulation_steps == 8 // micro_batch
    for trainer in (whole, cut):
        trainer.train()
    assert len(series(whole, "loss")) == 4
    for name in ("loss", "grad_norm", "epoch_train_loss", "eval_loss"):
        assert series(cut, name) == pytest.approx(series(whole, name), rel=1e-3), name


def test_the_loss_is_the_mean_over_the_target_tokens(make: MakeTrainer) -> None:
    trainer = make(dropout=False, training__learning_rate=1e-12, training__micro_batch_size=2)
    expected = token_mean(trainer, trainer.train_dataset)
    trainer.train()
    assert series(trainer, "epoch_train_loss") == pytest.approx([expected], rel=1e-5)
    assert series(trainer, "eval_loss") == pytest.approx([token_mean(trainer, trainer.validation.encoded)], rel=1e-5)


def test_a_loss_that_is_no_number_ends_the_training_with_a_sentence(make: MakeTrainer) -> None:
    def spoil(model: PreTrainedModel) -> None:
        with torch.no_grad():
            model.shared.weight[5:].fill_(float("inf"))

    trainer = make(prepare=spoil)
    with pytest.raises(TrainingError) as caught:
        trainer.train()
    assert str(caught.value) == (
        "A perda deixou de ser um número no passo 1; use training.precision=float32 ou uma training.learning_rate "
        "menor."
    )


# The evaluation


def test_evaluation_texts_come_in_the_order_of_the_records_under_length_grouping(make: MakeTrainer) -> None:
    heard: list[list[str]] = []
    trainer = make(rows=42, validation_rows=12, training__group_by_length=True, generation__max_new_tokens=8)
    shake(trainer.model)
    trainer.score = lambda texts: heard.append(list(texts)) or {"rougeL": 0.0}
    trainer.evaluate()
    one_by_one = [
        generate_texts(
            trainer.model, trainer.processing_class, [prompt], trainer.config.generation, batch_size=1, max_length=64
        )[0]
        for prompt in trainer.validation.prompts
    ]
    assert len(set(one_by_one)) > 6
    assert heard == [one_by_one]


def test_generation_settings_reach_the_trainer_s_evaluation(make: MakeTrainer) -> None:
    def texts(**options: Any) -> tuple[str, ...]:
        trainer = make(**options)
        shake(trainer.model)
        trainer.evaluate()
        return trainer.last_evaluation.answers.texts

    def tokens(texts: tuple[str, ...]) -> int:
        return max(len(trainer_tokens(text)) for text in texts)

    trainer_tokens = make().processing_class.tokenize
    short, long = texts(generation__max_new_tokens=3), texts(generation__max_new_tokens=30)
    assert tokens(short) <= 3 < tokens(long)
    assert texts(generation__max_new_tokens=30, generation__num_beams=4) != long
    assert texts(generation__max_new_tokens=30, generation__no_repeat_ngram_size=2) != long


def test_the_evaluation_loss_does_not_hang_on_the_evaluation_batch(make: MakeTrainer) -> None:
    losses = []
    for size in (1, 4, 32):
        trainer = make(evaluation__batch_size=size)
        shake(trainer.model)
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_the_evaluation_loss_is_in_float32_even_after_a_training_in_bfloat16(make: MakeTrainer) -> None:
    trainer = make(precision="bfloat16")
    trainer.train()
    encoded = trainer.validation.encoded
    assert series(trainer, "eval_loss") == pytest.approx([token_mean(trainer, encoded)], rel=1e-6)
    # The wrapper itself has become another function: this is what must not be asked.
    with torch.no_grad():
        batch = trainer.data_collator([{key: encoded[0][key] for key in ("input_ids", "attention_mask", "labels")}])
        inside = trainer.model.get_base_model()(**batch).logits
        assert not torch.equal(trainer.model(**batch).logits, inside)


def rounded_in(trainer: ReadingTrainer) -> int:
    """Weights of which a rounded copy is kept."""
    return sum(getattr(weight, "rounded", None) is not None for weight in trainer.model.parameters())


def test_what_a_training_in_bfloat16_rounded_of_its_base_is_given_back(
    make: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(precision="bfloat16")
    at_evaluation, log = [], trainer.log
    monkeypatch.setattr(
        trainer, "log", lambda logs, *rest: (at_evaluation.append((rounded_in(trainer), *logs)), log(logs, *rest))
    )
    trainer.train()
    assert any(number > 0 and "loss" in logs for number, *logs in at_evaluation)
    assert all(number == 0 for number, *logs in at_evaluation if "eval_loss" in logs)
    assert rounded_in(trainer) == 0


def test_a_training_that_computes_activations_again_keeps_no_rounded_weight(
    make: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(precision="bfloat16", training__gradient_checkpointing="true")
    kept, log = [], trainer.log
    monkeypatch.setattr(trainer, "log", lambda logs, *rest: (kept.append(rounded_in(trainer)), log(logs, *rest)))
    trainer.train()
    assert kept
    assert set(kept) == {0}


def test_an_evaluation_leaves_the_random_numbers_and_the_mode_as_they_were(make: MakeTrainer) -> None:
    trainer = make(generation__do_sample=True, generation__temperature=1.5)
    trainer.model.train()
    before = torch.get_rng_state()
    trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), before)
    assert trainer.model.training


# 4 bits on a CPU


def test_gradients_of_a_4_bit_base_are_the_same_after_an_evaluation(make: MakeTrainer) -> None:
    """On CPUs with AVX512-BF16 the library's own 4-bit layers lose them (see ``keep_gradients_right``)."""
    trainer = make(quantization=NF4, dropout=False)
    shake(trainer.model, 0.05)
    before = gradients(trainer)
    trainer.evaluate()
    after = gradients(trainer)
    assert len(before) == 2 * (2 * 6 + 2 * 10)
    for name, gradient in before.items():
        assert torch.cosine_similarity(gradient, after[name], dim=0) > 0.999, name
        assert torch.linalg.norm(after[name]) == pytest.approx(torch.linalg.norm(gradient).item(), rel=1e-3), name


def test_a_4_bit_base_trains_on_a_cpu(make: MakeTrainer) -> None:
    trainer = make(quantization=NF4, precision="bfloat16", training__epochs=4, training__learning_rate=2e-2)
    kinds = {type(module).__name__ for module in trainer.model.modules()}
    assert "Linear4bit" in kinds
    trainer.train()
    losses = series(trainer, "epoch_train_loss")
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.2


# The same training twice


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_weights_to_the_last_bit(make: MakeTrainer, precision: str) -> None:
    def trained(name: str, seed: int) -> ReadingTrainer:
        trainer = make(name, precision=precision, training__epochs=2, training__seed=seed)
        trainer.train()
        return trainer

    one, two, other = trained("one", 1), trained("two", 1), trained("other", 2)
    assert series(one, "loss") == series(two, "loss")
    assert all(torch.equal(weights, adapter_weights(two)[name]) for name, weights in adapter_weights(one).items())
    assert series(one, "loss") != series(other, "loss")


@pytest.mark.parametrize("quantization", [None, NF4])
def test_the_next_training_on_a_base_in_memory_is_as_in_a_new_process(
    make: MakeTrainer, quantization: Quantization | None
) -> None:
    fresh = make("fresh", quantization=quantization, training__seed=2)
    fresh.train()
    first = make("first", quantization=quantization, precision="bfloat16", training__seed=1)
    first.train()
    base = first.model.get_base_model()
    detach_adapter(first.model)
    second = make("second", loaded=base, training__seed=2)
    second.train()
    for name in ("loss", "grad_norm", "eval_loss", "epoch_train_loss"):
        assert series(second, name) == series(fresh, name), name
    assert all(torch.equal(weights, adapter_weights(second)[name]) for name, weights in adapter_weights(fresh).items())


@pytest.mark.parametrize(
    ("grouped", "step", "saved_at"),
    [(True, 1, 1), (True, 5, 5), (False, 2, 2), pytest.param(True, 3, 4, id="last step of an epoch")],
)
def test_an_interrupted_training_that_goes_on_ends_as_if_it_had_never_stopped(
    make: MakeTrainer, grouped: bool, step: int, saved_at: int
) -> None:
    recipe = {
        "rows": 30,
        "training__epochs": 2,
        "training__micro_batch_size": 4,
        "training__group_by_length": grouped,
        "early_stopping__metric": "loss",
    }
    whole = make("whole", **recipe)
    whole.train()
    stopped = make("stopped", callbacks=[InterruptedIn(step)], **recipe)
    stopped.train()
    assert stopped.state.global_step == saved_at
    checkpoint = complete_checkpoints(Path(stopped.args.output_dir))[-1]
    assert checkpoint.name == f"checkpoint-{saved_at}"
    resumed = make("stopped", training__resume=str(checkpoint), **recipe)
    resumed.train(resume_from_checkpoint=str(checkpoint))

    assert whole.state.global_step == resumed.state.global_step == 6
    for name in ("loss", "grad_norm", "eval_loss", "epoch_train_loss"):
        assert series(resumed, name) == series(whole, name), name
    for name, weights in adapter_weights(whole).items():
        assert torch.equal(weights, adapter_weights(resumed)[name]), name


def test_the_order_of_an_epoch_hangs_on_seed_and_epoch_alone() -> None:
    lengths = list(range(100, 200)) + list(range(5, 105))

    def order(epoch: int, seed: int = 42) -> list[int]:
        torch.rand(7)
        sampler = LengthGroupedOrder(lengths, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != order(1, seed=43)
    assert sorted(order(1)) == list(range(200))
    padded = sum(8 * max(lengths[i] for i in order(1)[at : at + 8]) for at in range(0, 200, 8))
    assert padded < 1.2 * sum(lengths)


# What a training leaves


def test_the_best_epoch_s_adapter_comes_back_and_its_checkpoint_is_kept(make: MakeTrainer) -> None:
    trainer = make(training__epochs=4, training__save_total_limit=1, early_stopping__metric="rougeL")
    scores = iter([0.1, 0.3, 0.2, 0.1])
    kept: list[dict[str, torch.Tensor]] = []
    trainer.score = lambda texts: kept.append(adapter_weights(trainer)) or {"rougeL": next(scores)}
    trainer.train()
    assert trainer.state.best_global_step == 4
    assert all(torch.equal(weights, kept[1][name]) for name, weights in adapter_weights(trainer).items())
    assert [path.name for path in complete_checkpoints(Path(trainer.args.output_dir))] == ["checkpoint-4"]


def test_a_training_that_had_ended_finds_its_best_epoch_in_a_folder_that_was_moved(make: MakeTrainer) -> None:
    recipe = {"training__epochs": 3, "early_stopping__metric": "rougeL"}
    whole = make("whole", **recipe)
    scores = iter([0.1, 0.3, 0.2])
    whole.score = lambda texts: {"rougeL": next(scores)}
    whole.train()
    folder = Path(whole.args.output_dir)
    moved = folder.rename(folder.with_name("moved"))
    (last,) = moved.glob("checkpoint-6")
    resumed = make("moved", training__resume=str(last), callbacks=[BestBeside()], **recipe)
    resumed.train(resume_from_checkpoint=str(last))
    for name, weights in adapter_weights(whole).items():
        assert torch.equal(weights, adapter_weights(resumed)[name]), name


@pytest.mark.parametrize(("patience", "epochs"), [(2, 3), (0, 6)])
def test_early_stopping_is_told_from_reaching_the_end(make: MakeTrainer, patience: int, epochs: int) -> None:
    recipe = {"training__epochs": 6, "early_stopping__patience": patience}
    trainer = make(stopping=True, **recipe)
    trainer.train()
    assert len(series(trainer, "eval_loss")) == epochs
    assert trainer.ran_out_of_patience is (patience > 0)


def test_patience_goes_on_where_the_interrupted_training_was(make: MakeTrainer) -> None:
    recipe = {"training__epochs": 6, "early_stopping__patience": 2}
    interrupted = make(stopping=True, callbacks=[InterruptedIn(5)], **recipe)
    interrupted.train()
    assert not interrupted.ran_out_of_patience
    checkpoint = complete_checkpoints(Path(interrupted.args.output_dir))[-1]
    resumed = make(stopping=True, training__resume=str(checkpoint), **recipe)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert len(series(resumed, "eval_loss")) == 3
    assert resumed.ran_out_of_patience


def test_a_checkpoint_holds_nothing_of_the_base(make: MakeTrainer) -> None:
    from safetensors.torch import load_file

    trainer = make()
    trainer.train()
    (checkpoint,) = complete_checkpoints(Path(trainer.args.output_dir))
    assert all("lora_" in name for name in load_file(checkpoint / "adapter_model.safetensors"))
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["EpochLoss"] == {
        "args": {},
        "attributes": {"total": 0.0, "tokens": 0, "since_log": 0.0, "logged_at": 2},
    }


def test_the_warm_up_is_a_share_of_all_steps(make: MakeTrainer) -> None:
    trainer = make(training__epochs=10, training__warmup_ratio=0.15)
    assert trainer.args.warmup_steps == 3
    assert make(training__warmup_ratio=0).args.warmup_steps == 0


def token_mean(trainer: ReadingTrainer, encoded: Any) -> float:
    """Nats per target token, one text at a time, without any of the trainer's routines."""
    inner, total, tokens = trainer.model.get_base_model().eval(), 0.0, 0
    for row in encoded:
        labels = torch.tensor([row["labels"]])
        with torch.no_grad():
            logits = inner(input_ids=torch.tensor([row["input_ids"]]), labels=labels).logits
        total += cross_entropy(logits[0], labels[0], reduction="sum").item()
        tokens += labels.numel()
    return total / tokens


def gradients(trainer: ReadingTrainer) -> dict[str, torch.Tensor]:
    """Of the training loss on one batch, by LoRA weight."""
    model = trainer.model.train()
    model.zero_grad()
    rows = [trainer.train_dataset[index] for index in range(8)]
    batch = trainer.data_collator(
        [{key: row[key] for key in ("input_ids", "attention_mask", "labels")} for row in rows]
    )
    labels = batch.pop("labels")
    cross_entropy(model(**batch).logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL).backward()
    return {name: p.grad.detach().clone().flatten() for name, p in model.named_parameters() if p.grad is not None}


def test_a_merged_model_has_a_validation_loss_too(make: MakeTrainer, tiny_base: Path) -> None:
    trainer = make()
    merged = attach_adapter(
        load_base(BaseLocation("base", tiny_base, "folder")), trainer.config.lora, 42
    ).merge_and_unload()
    encoded = trainer.validation.encoded
    assert validation_loss(merged, trainer.processing_class, encoded, 4) == pytest.approx(
        validation_loss(trainer.model, trainer.processing_class, encoded, 4), rel=1e-5
    )
