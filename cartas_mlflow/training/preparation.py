"""The phases before training, which every pipeline that needs a model shares: settings, data, base, LoRA, encoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.config import load_config
from cartas_mlflow.console import decimal, say, say_box
from cartas_mlflow.data.cleaning import clean_text
from cartas_mlflow.data.encoding import EncodedTexts, encode_texts
from cartas_mlflow.data.prompts import make_prompt, prompt_template
from cartas_mlflow.data.records import Record, Records, load_records
from cartas_mlflow.data.splitting import Split, split_records
from cartas_mlflow.data.tables import list_lines
from cartas_mlflow.modeling.base import BaseLocation, BaseUnreachable, find_base
from cartas_mlflow.modeling.hardware import Hardware, inspect_hardware
from cartas_mlflow.modeling.loading import Quantization, choose_quantization, load_base, load_tokenizer
from cartas_mlflow.modeling.lora import ParameterCount, attach_adapter, count_parameters
from cartas_mlflow.modeling.precision import Precision, activation_bytes, choose_micro_batch, choose_precision
from cartas_mlflow.settings import ExperimentConfig

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FEW_VALIDATION = 10
"""Validation readings below which a metric says little: one of them weighs a tenth."""


@dataclass(frozen=True)
class SettledBase:
    """The settings that really hold, and where the base is. ``requested``: the base that could not be had, if any."""

    config: ExperimentConfig
    location: BaseLocation
    requested: str | None = None


@dataclass(frozen=True)
class PreparedData:
    """``template``: the prompt's text with its fields in braces."""

    records: Records
    split: Split
    template: str

    def prompts(self, records: tuple[Record, ...]) -> list[str]:
        return [make_prompt(self.template, record) for record in records]


@dataclass(frozen=True)
class LoadedBase:
    """A base in memory, and what was chosen for this machine."""

    location: BaseLocation
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    hardware: Hardware
    precision: Precision
    quantization: Quantization | None


@dataclass(frozen=True)
class EncodedSplit:
    train: EncodedTexts
    validation: EncodedTexts
    micro_batch_size: int


@dataclass(frozen=True)
class Setup:
    """Everything that stands before the first step; ``model`` is the base with its adapter."""

    settled: SettledBase
    data: PreparedData
    base: LoadedBase
    model: PeftModel
    parameters: ParameterCount
    encoded: EncodedSplit

    @property
    def config(self) -> ExperimentConfig:
        return self.settled.config


def settle_base(config: ExperimentConfig, config_path: str | Path, overrides: Mapping[str, Any]) -> SettledBase:
    """Find the base; where it cannot be had, take the fallback's settings and say so.

    Raises:
        BaseModelError: no base, and ``model.fallback=none``; or a base that is no base.
    """
    try:
        location = find_base(config.model)
    except BaseUnreachable as unreachable:
        if config.model.fallback is None:
            raise
        fallen = load_config(config_path, overrides, fallback=config.model.fallback)
        location = find_base(fallen.model)
        say_box(
            "AVISO: o modelo base pedido não está sendo usado.\n"
            f"Pedido: {unreachable.name}\n"
            f"Motivo: {unreachable.reason}\n"
            f"Em uso: {location.description}\n"
            f"Configuração: {config.model.fallback} (taxa de aprendizado, módulos LoRA e geração próprios)\n"
            "Para exigir o modelo pedido: -P model.fallback=none"
        )
        return SettledBase(fallen, location, unreachable.name)
    say(f"Modelo base encontrado: {location.description}")
    return SettledBase(config, location)


def load_data(config: ExperimentConfig) -> Records:
    """Read and clean the table, and tell how it was read, what was left out, and its figures."""
    records = load_records(config.data)
    table = records.table
    if table.sheet is not None:
        say(f"Planilha: {clean_text(table.sheet)} (cabeçalho na linha {table.header_line})")
    elif table.header_line > 1:
        say(f"Cabeçalho na linha {table.header_line}")
    for note in table.notes:
        say(note)
    say(f"Dados carregados: {records.read} registros")
    for line in describe_left_out(records):
        say(line)
    if records.shared_texts:
        say(f"⚠️ {records.shared_texts} leituras têm um texto que aparece em mais de um registro (mantidas)")
    say(f"Dados após validação/limpeza: {len(records.rows)} registros válidos")
    say(f"Cartas únicas: {records.cards}")
    say(f"Comprimento médio: {decimal(records.mean_length, 1)} caracteres")
    return records


def describe_left_out(records: Records) -> Iterator[str]:
    """Why rows were left out, and their lines; a sentence for each reason."""
    if records.errors:
        dropped = _count(len(records.errors), "linha descartada", "linhas descartadas")
        cells = [f"linha {line}, coluna {column}: {error}" for line, column, error in records.errors]
        yield f"⚠️ {dropped} por erro de planilha ({_first(cells, '; ')})"
    if records.formulas:
        dropped = _count(len(records.formulas), "linha descartada", "linhas descartadas")
        lines = list_lines([line for line, _ in records.formulas])
        yield f"⚠️ {dropped} por fórmula sem valor calculado (no arquivo: {lines}); abra-o no Excel e salve de novo"
    if records.empty:
        line, column = records.empty[0]
        dropped = _count(len(records.empty), "linha descartada", "linhas descartadas")
        yield f"⚠️ {dropped} por célula vazia (a primeira: linha {line}, coluna {column})"
    if records.repeated:
        dropped = _count(len(records.repeated), "linha repetida descartada", "linhas repetidas descartadas")
        yield f"⚠️ {dropped} (no arquivo: {list_lines(records.repeated)})"


def split_data(config: ExperimentConfig, records: Records) -> PreparedData:
    """Split by card, and settle the prompt's text."""
    template = prompt_template(config.data)
    split = split_records(records, config.data.validation_fraction, config.data.split_seed)
    say(f"Dataset dividido: {len(split.train)} treino, {len(split.validation)} validação")
    if split.unseen:
        unseen = _count(len(split.unseen), "carta da validação não está", "cartas da validação não estão")
        say(f"⚠️ {unseen} no treino: {_first(split.unseen)}")
    elif split.single:
        single = _count(len(split.single), "carta com uma só leitura fica", "cartas com uma só leitura ficam")
        say(f"⚠️ {single} inteira{'s' * (len(split.single) > 1)} no treino: {_first(split.single)}")
    if len(split.validation) < FEW_VALIDATION:
        few = _count(len(split.validation), "leitura", "leituras")
        say(f"⚠️ Com {few} de validação as métricas são só uma indicação; acrescente leituras quando puder")
    data = PreparedData(records, split, template)
    say(f"Exemplo de pedido: {data.prompts(split.train[:1])[0]}")
    return data


def load_model(settled: SettledBase) -> LoadedBase:
    """Ask the machine, choose precision and quantisation, load the base."""
    config, location = settled.config, settled.location
    hardware = inspect_hardware(config.training.device)
    precision = choose_precision(config.training.precision, hardware)
    quantization = choose_quantization(config.model, hardware.device, precision.dtype)
    if hardware.device == "cuda":
        say(f"GPU: {hardware.gpu} (CUDA {hardware.cuda})")
        say(f"VRAM disponível: {decimal(hardware.free_memory, 1)}GB")
    else:
        say(f"CPU: {hardware.cpu} ({hardware.cores} núcleos; sem GPU)")
        say(f"RAM disponível: {decimal(hardware.free_memory, 1)}GB")
    say(f"Precisão: {precision.dtype} ({precision.reason})")
    if precision.warning:
        say(f"⚠️ {precision.warning}")
    model = load_base(location, hardware.device, quantization)
    how = f"com quantização {quantization.description}" if quantization else "sem quantização (float32)"
    say(f"Modelo carregado: {location.name} {how}")
    return LoadedBase(location, model, load_tokenizer(location.folder), hardware, precision, quantization)


def attach_lora(config: ExperimentConfig, base: LoadedBase) -> tuple[PeftModel, ParameterCount]:
    """Put the adapter on the base, and tell how little of it trains."""
    model = attach_adapter(base.model, config.lora, config.training.seed)
    count = count_parameters(model)
    say("Parâmetros treináveis configurados")
    say(str(count))
    return model, count


def encode_data(config: ExperimentConfig, base: LoadedBase, data: PreparedData) -> EncodedSplit:
    """Tokenise both sides, and choose how a batch is cut."""
    train, validation = tokenize_data(config, base, data)
    return EncodedSplit(train, validation, cut_batches(config, base, max(train.longest)))


def tokenize_data(config: ExperimentConfig, base: LoadedBase, data: PreparedData) -> tuple[EncodedTexts, EncodedTexts]:
    """Training and validation side, and what their texts lost on the way."""
    sides = []
    for records in (data.split.train, data.split.validation):
        texts = [record.texto for record in records]
        sides.append(encode_texts(base.tokenizer, data.prompts(records), texts, config.data.max_length))
    train, validation = sides
    say(f"Tokenização concluída: {len(train.dataset)} treino, {len(validation.dataset)} validação")
    say(f"Tokens: até {train.longest[0]} no pedido e {train.longest[1]} na leitura (limite: {config.data.max_length})")
    truncated, unknown = train.truncated + validation.truncated, train.unknown + validation.unknown
    if truncated:
        cut = _count(truncated, "texto cortado", "textos cortados")
        say(f"⚠️ {cut} em {config.data.max_length} tokens; aumente data.max_length")
    if unknown:
        say(f"⚠️ Fora do vocabulário do modelo, e por isso perdidos: {_first(describe_lost(data, train, validation))}")
    return train, validation


def describe_lost(data: PreparedData, train: EncodedTexts, validation: EncodedTexts) -> list[str]:
    """``🌙 ×3 (linhas 4, 9, 12)`` for each lost character, the most frequent first."""
    lines = dict(zip((row.id for row in data.records.rows), data.records.lines, strict=True))
    where: dict[str, list[int]] = {}
    for records, side in ((data.split.train, train), (data.split.validation, validation)):
        for character, places in side.lost.items():
            where.setdefault(character, []).extend(lines[records[place].id] for place in places)
    ordered = sorted(where, key=lambda character: -len(where[character]))
    return [
        f"{character} ×{len(where[character])} (linha{'s' * (len(set(where[character])) > 1)} "
        f"{list_lines(sorted(set(where[character])))})"
        for character in ordered
    ]


def cut_batches(config: ExperimentConfig, base: LoadedBase, tokens: int) -> int:
    """Examples per forward pass, for texts of up to so many tokens."""
    shape = base.model.config
    micro = choose_micro_batch(
        config.training.micro_batch_size,
        config.training.batch_size,
        base.hardware,
        activation_bytes(
            layers=shape.num_layers + shape.num_decoder_layers,
            width=shape.d_model,
            heads=shape.num_heads,
            vocabulary=shape.vocab_size,
            tokens=tokens,
        ),
    )
    pieces = config.training.batch_size // micro
    cut = _count(pieces, "acumulação", "acumulações")
    say(f"Batch efetivo: {config.training.batch_size} ({micro} por passagem × {cut})")
    return micro


def _first(texts: Sequence[str], separator: str = ", ") -> str:
    return separator.join(texts[:10]) + (f"{separator}…" if len(texts) > 10 else "")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
