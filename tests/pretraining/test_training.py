"""Pre-training: what a batch holds, what a step does, that a run goes on exactly where it was cut off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cartas_mlflow.errors import TrainingError
from cartas_mlflow.pretrain_settings import PretrainSettings, PretrainShape
from cartas_mlflow.pretraining.corpus import PretrainingCorpus
from cartas_mlflow.pretraining.loss import compute_loss
from cartas_mlflow.pretraining.machine import Machine
from cartas_mlflow.pretraining.model import build_model
from cartas_mlflow.pretraining.objective import (
    EOS,
    IGNORED,
    Objective,
    PackShape,
    continue_prefix,
    corrupt_spans,
    expand_keywords,
    make_batches,
    reword,
)
from cartas_mlflow.pretraining.optimizers import RelativeMuon, orthogonalise
from cartas_mlflow.pretraining.training import (
    Pretraining,
    WeightAverage,
    draw_chunk,
    evaluate_continuation,
    schedule_factor,
)
from cartas_mlflow.pretraining.words import Lexicon

VOCABULARY = 128
SHAPE = PretrainShape(d_model=64, d_ff=64, heads=1, encoder_layers=1, decoder_layers=2)
SETTINGS = PretrainSettings(total_tokens=20_000, warmup_tokens=1000, decay_tokens=5000, domain_tokens=0, matrix_lr=0.05)
MACHINE = Machine(rows=4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def objective() -> Objective:
    return Objective(
        prefix_share=0.5,
        span_share=0.2,
        reword_share=0.1,
        first_sentinel=VOCABULARY - 1,
        lexicon=Lexicon(starts_word=np.arange(VOCABULARY) % 2 == 0, letters=np.full(VOCABULARY, 5)),
    )


@pytest.fixture
def corpus() -> PretrainingCorpus:
    rng = np.random.default_rng(0)
    documents = [
        np.arange(start, start + length)
        for start, length in zip(rng.integers(3, 40, 60), rng.integers(8, 40, 60), strict=True)
    ]
    return PretrainingCorpus(documents[10:], np.ones(50), documents[:10], [], [])


def examples(count: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (
            np.append(rng.integers(3, 90, rng.integers(2, 20)), EOS),
            np.append(rng.integers(3, 90, rng.integers(2, 40)), EOS),
        )
        for _ in range(count)
    ]


def test_a_packed_example_costs_what_it_costs_alone() -> None:
    model = build_model(SHAPE, VOCABULARY, seed=0)
    pairs = examples(7, np.random.default_rng(1))
    shape = PackShape(rows=2, input_length=96, target_length=160)
    (packed,) = make_batches(pairs, shape, None)
    assert packed.target_segments.max() > 1, "the examples share rows"
    together = compute_loss(model, packed).item() * (packed.labels != IGNORED).sum()
    alone = 0.0
    for pair in pairs:
        (batch,) = make_batches([pair], PackShape(1, len(pair[0]), len(pair[1])), None)
        alone += compute_loss(model, batch).item() * len(pair[1])
    assert together == pytest.approx(alone, rel=1e-4)


def test_no_example_is_lost_in_packing() -> None:
    pairs = examples(50, np.random.default_rng(2))
    batches = list(make_batches(pairs, PackShape(rows=4), None))
    assert sum(batch.tokens for batch in batches) == sum(len(source) + len(target) for source, target in pairs)


def test_an_example_longer_than_a_row_is_refused() -> None:
    long = np.full(200, 5)
    with pytest.raises(ValueError, match="does not fit"):
        list(make_batches([(long, long)], PackShape(), None))


def test_the_loss_and_its_gradient_are_those_of_torch() -> None:
    model = build_model(SHAPE, VOCABULARY, seed=0)
    (batch,) = make_batches(examples(4, np.random.default_rng(3)), PackShape(rows=4), None)
    compute_loss(model, batch).backward()
    ours = model.shared.weight.grad.clone()
    model.zero_grad()
    rows = [(s, t) for s, t in examples(4, np.random.default_rng(3))]
    total = 0.0
    for source, target in rows:
        labels = torch.from_numpy(target)[None]
        total = total + model(input_ids=torch.from_numpy(source)[None], labels=labels).loss * len(target)
    (total / sum(len(target) for _, target in rows)).backward()
    theirs = model.shared.weight.grad
    assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999
    assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=1e-3)


def test_prefix_and_continuation_are_the_text(objective: Objective) -> None:
    text = np.arange(3, 43)
    source, target = continue_prefix(text, objective, np.random.default_rng(0))
    assert np.array_equal(np.concatenate([source, target]), text)
    assert objective.lexicon.starts_word[target[0]]


def test_spans_put_back_for_their_sentinels_give_the_text(objective: Objective) -> None:
    text = np.arange(3, 63)
    source, target = corrupt_spans(text, objective, np.random.default_rng(4))
    spans = {}
    for token in target:
        if token > 100:
            key = int(token)
            spans[key] = []
        else:
            spans[key].append(int(token))
    restored = [piece for token in source for piece in (spans[int(token)] if token > 100 else [int(token)])]
    assert restored == text.tolist()


def test_keywords_come_from_the_text_in_any_order_and_number(objective: Objective) -> None:
    text = np.arange(4, 44)  # words of two pieces, the first of them even
    counts, in_order = set(), 0
    for seed in range(200):
        source, target = expand_keywords(text, objective, np.random.default_rng(seed))
        assert np.array_equal(target, text)
        words = source.reshape(-1, 2)
        assert np.array_equal(words[:, 0] + 1, words[:, 1])
        assert len(set(words[:, 0])) == len(words)
        counts.add(len(words))
        in_order += len(words) > 3 and np.array_equal(source, np.sort(source))
    assert counts == set(range(1, 9))
    assert in_order < 20


def test_a_text_in_other_words_has_lost_some_and_exchanged_others(objective: Objective) -> None:
    text = np.arange(4, 84)
    source, target = reword(text, objective, np.random.default_rng(6))
    assert np.array_equal(target, text)
    words = source.reshape(-1, 2)[:, 0]
    assert 15 < len(words) < 38
    assert not np.array_equal(words, np.sort(words))
    assert np.abs(words - np.sort(words)).max() <= 24, "no word is far from its place"


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 40, 20, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices).float())
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_a_step_is_relative_to_the_size_that_the_tensor_started_with() -> None:
    small, large = (torch.nn.Parameter(torch.randn(32, 32) * size) for size in (0.01, 1.0))
    before = [small.detach().clone(), large.detach().clone()]
    optimizer = RelativeMuon([small, large], lr=0.1)
    for parameter in (small, large):
        parameter.grad = torch.randn(32, 32)
    optimizer.step()
    moved = [
        (p - b).square().mean().sqrt() / b.square().mean().sqrt() for p, b in zip((small, large), before, strict=True)
    ]
    assert moved[0].item() == pytest.approx(0.1, rel=0.25)
    assert moved[1].item() == pytest.approx(0.1, rel=0.25)


def test_the_step_size_warms_up_stays_and_decays() -> None:
    at = [schedule_factor(tokens, SETTINGS) for tokens in (0, 500, 10_000, 17_500, 20_000)]
    assert at == pytest.approx([0.001, 0.5, 1.0, 0.5, 0.02], abs=2e-3)


def test_the_average_is_swapped_in_and_out() -> None:
    model = build_model(SHAPE, VOCABULARY, seed=0)
    average = WeightAverage(model)
    original = model.shared.weight.detach().clone()
    with torch.no_grad():
        model.shared.weight.add_(1.0)
    average.swap(model)
    assert torch.equal(model.shared.weight, original)
    average.swap(model)
    assert torch.equal(model.shared.weight, original + 1.0)


def test_training_lowers_the_held_out_loss(corpus: PretrainingCorpus, objective: Objective) -> None:
    training = Pretraining(build_model(SHAPE, VOCABULARY, seed=0), SETTINGS, MACHINE)
    before = evaluate_continuation(training.model, corpus.general_held_out, decode=str)
    training.run(corpus, objective, after_step=lambda loss: False)
    after = evaluate_continuation(training.model, corpus.general_held_out, decode=str)
    assert after["nats_per_piece"] < 0.7 * before["nats_per_piece"]


def test_a_run_cut_off_goes_on_exactly(corpus: PretrainingCorpus, objective: Objective, tmp_path: Path) -> None:
    def train(training: Pretraining, steps: int) -> None:
        training.run(corpus, objective, after_step=lambda loss: training.progress.step >= steps)

    whole = Pretraining(build_model(SHAPE, VOCABULARY, seed=0), SETTINGS, MACHINE)
    train(whole, 8)
    first = Pretraining(build_model(SHAPE, VOCABULARY, seed=0), SETTINGS, MACHINE)
    train(first, 5)
    first.save(tmp_path / "checkpoint.pt")
    second = Pretraining(build_model(SHAPE, VOCABULARY, seed=7), SETTINGS, MACHINE)
    second.load(tmp_path / "checkpoint.pt")
    train(second, 8)
    assert second.progress.tokens == whole.progress.tokens
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_chunk_depends_on_seed_and_number_only(corpus: PretrainingCorpus, objective: Objective) -> None:
    training = Pretraining(build_model(SHAPE, VOCABULARY, seed=0), SETTINGS, MACHINE)
    one, two = (draw_chunk(corpus, objective, SETTINGS, training.progress)[0] for _ in range(2))
    assert np.array_equal(one.labels, two.labels)


def test_a_chunk_in_which_the_essays_come_in_is_the_same_for_a_run_that_goes_on(
    corpus: PretrainingCorpus, objective: Objective, tmp_path: Path
) -> None:
    mixed = replace(corpus, domain=[np.arange(50, 70)])
    settings = SETTINGS.model_copy(update={"domain_tokens": 18_000, "domain_share": 0.5})

    def train(training: Pretraining, steps: int) -> None:
        training.run(mixed, objective, after_step=lambda loss: training.progress.step >= steps)

    whole = Pretraining(build_model(SHAPE, VOCABULARY, seed=0), settings, MACHINE)
    train(whole, 6)
    first = Pretraining(build_model(SHAPE, VOCABULARY, seed=0), settings, MACHINE)
    train(first, 4)
    assert first.progress.tokens > settings.total_tokens - settings.domain_tokens, "cut off past the boundary"
    first.save(tmp_path / "checkpoint.pt")
    second = Pretraining(build_model(SHAPE, VOCABULARY, seed=7), settings, MACHINE)
    second.load(tmp_path / "checkpoint.pt")
    train(second, 6)
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_keywords_that_are_the_whole_text_make_a_prefix_instead(objective: Objective) -> None:
    text = np.arange(4, 14)  # five words: all of them may be drawn
    for seed in range(50):
        source, target = expand_keywords(text, objective, np.random.default_rng(seed))
        assert len(source) < len(text)
        assert np.array_equal(target, text) or np.array_equal(np.concatenate([source, target]), text)


def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"half a check")
    training = Pretraining(build_model(SHAPE, VOCABULARY, seed=0), SETTINGS, MACHINE)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt não pôde ser lido; apague a pasta para recomeçar"):
        training.load(tmp_path / "checkpoint.pt")


def test_a_loss_that_is_no_number_stops_the_run(corpus: PretrainingCorpus, objective: Objective) -> None:
    training = Pretraining(build_model(SHAPE, VOCABULARY, seed=0), SETTINGS, MACHINE)
    with torch.no_grad():
        training.model.shared.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"^A perda deixou de ser um número no passo 1; "):
        training.run(corpus, objective, after_step=lambda loss: False)
