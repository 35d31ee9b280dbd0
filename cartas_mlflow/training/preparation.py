"""The phases before training, which every pipeline that needs a model shares: settings, data, base, LoRA, encoding."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.config import StandIn, stand_in
from cartas_mlflow.console import say, say_box
from cartas_mlflow.data.encoding import EncodedTexts, encode_texts, unknown_characters
from cartas_mlflow.data.oddities import count_words, describe_oddities, listed
from cartas_mlflow.data.prompts import Prompts, prompt_template
from cartas_mlflow.data.records import Record, Records, load_records
from cartas_mlflow.data.splitting import Split, sample_records, split_records
from cartas_mlflow.errors import BaseModelError, SettingError
from cartas_mlflow.modeling import processes
from cartas_mlflow.modeling.base import BaseLocation, BaseUnreachable, find_base
from cartas_mlflow.modeling.hardware import Hardware, inspect_hardware
from cartas_mlflow.modeling.loading import (
    Quantization,
    check_vocabulary,
    choose_quantization,
    load_base,
    load_tokenizer,
    read_config,
)
from cartas_mlflow.modeling.lora import ParameterCount, attach_adapter, count_parameters
from cartas_mlflow.modeling.memory import Shape, release_memory
from cartas_mlflow.modeling.plan import WorkPlan, plan_work
from cartas_mlflow.modeling.precision import Precision, choose_precision, measure_bfloat16_gain
from cartas_mlflow.settings import ExperimentConfig
from cartas_mlflow.tracking.run import param_text

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


BOX_WIDTH = 76
"""Characters that a terminal of 80 leaves inside a box."""
_WRAPPED = textwrap.TextWrapper(BOX_WIDTH, subsequent_indent="      ", break_on_hyphens=False)


@dataclass(frozen=True)
class SettledBase:
    """The settings that really hold, and where the base is. ``requested``: the base that could not be had, if any."""

    config: ExperimentConfig
    location: BaseLocation
    requested: str | None = None


@dataclass(frozen=True)
class PreparedData:
    """``template``: the prompt's text with its fields in braces; ``measured``: the validation records that evaluations
    ask for, all of them or a sample."""

    records: Records
    split: Split
    template: str
    measured: tuple[Record, ...]

    def prompts(self, records: tuple[Record, ...]) -> list[str]:
        return list(Prompts(self.template, records))

    def rivals(self, records: tuple[Record, ...]) -> list[list[str]]:
        """For each record its prompt with each other card of the table; empty if the prompts tell no cards apart."""
        cards = sorted({record.carta for record in self.records.rows})
        if len(cards) < 2 or "{carta}" not in self.template:
            return []
        return [
            self.prompts(tuple(replace(record, carta=card) for card in cards if card != record.carta))
            for record in records
        ]


@dataclass(frozen=True)
class LoadedBase:
    """A base in memory, and what was chosen for this machine. ``model``: None once it was let go."""

    location: BaseLocation
    model: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    hardware: Hardware
    precision: Precision
    quantization: Quantization | None
    shape: Shape


@dataclass(frozen=True)
class EncodedSplit:
    train: EncodedTexts
    validation: EncodedTexts
    plan: WorkPlan


@dataclass(frozen=True)
class Setup:
    """Everything that stands before the first step; ``model`` is the base with its adapter, None once let go."""

    settled: SettledBase
    data: PreparedData
    base: LoadedBase
    model: PeftModel | None
    parameters: ParameterCount
    encoded: EncodedSplit

    @property
    def config(self) -> ExperimentConfig:
        return self.settled.config

    def without_weights(self) -> Setup:
        """The same, holding no weights: before others are loaded, nobody should."""
        return replace(self, model=None, base=replace(self.base, model=None))


def settle_base(
    config: ExperimentConfig,
    config_path: str | Path,
    overrides: Mapping[str, Any],
    *,
    resumed: bool = False,
    weights: bool = True,
) -> SettledBase:
    """Find the base; where it cannot be had, take the fallback's in its place and say all that changes with it.

    Args:
        config_path: where the settings come from, as the console names it.
        overrides: what the user typed: it outlasts the fallback.
        resumed: an earlier training goes on, which it can only do on its own base.
        weights: see :func:`~cartas_mlflow.modeling.base.find_base`; without them nothing will train, and a line says
            what a box would.

    Raises:
        BaseModelError: no base, and ``model.fallback=none``; or a base that is no base.
    """
    try:
        location = find_base(config.model, weights=weights)
    except BaseUnreachable as unreachable:
        if resumed:
            raise BaseModelError(
                f"O treinamento de {config_path} usa o modelo base {unreachable.name}, que não está neste computador, "
                f"e {unreachable.reason}; conecte-se à rede e repita o comando."
            ) from None
        if config.model.fallback is None:
            raise
        fallen = stand_in(config, overrides)
        location = find_base(fallen.config.model, weights=weights)
        if not weights:
            say(f"⚠️ {unreachable.name}: {unreachable.reason}; em uso: {location.description}")
            return SettledBase(fallen.config, location, unreachable.name)
        say_box(_fallback_notice(unreachable, location, config.model.fallback, fallen))
        return SettledBase(fallen.config, location, unreachable.name)
    say(f"Modelo base encontrado: {location.description}")
    return SettledBase(config, location)


def _fallback_notice(unreachable: BaseUnreachable, location: BaseLocation, file: str, fallen: StandIn) -> str:
    """What is used instead, and each setting that changes, old → new."""
    lines = [
        "AVISO: o modelo base pedido não está sendo usado.",
        f"Pedido: {unreachable.name}",
        f"Motivo: {unreachable.reason}",
        f"Em uso: {location.description}",
        f"Configuração: {file}",
        "Muda só o que depende do modelo base:",
    ]
    for name, (old, new) in fallen.changed.items():
        lines += _change(name, param_text(old), param_text(new))
    for names, sentence in (
        (fallen.not_taken, "Fica o seu, porque não depende do modelo base"),
        (fallen.yielding, f"Fica o seu, porque não combina com {Path(file).name}"),
    ):
        lines += _WRAPPED.wrap(f"{sentence}: {', '.join(names)}") if names else []
    return "\n".join([*lines, "Para exigir o modelo pedido: -P model.fallback=none"])


def _change(name: str, old: str, new: str) -> list[str]:
    whole = f"  {name}: {old} → {new}"
    if len(whole) <= BOX_WIDTH:
        return [whole]
    return [*_WRAPPED.wrap(f"  {name}: {old}"), *_WRAPPED.wrap(f"      → {new}")]


def load_data(config: ExperimentConfig, *, check: str | None = None) -> Records:
    """Read and clean the table, and tell its figures.

    Args:
        check: the command that tells more of the table, shown where something was odd.
    """
    records = load_records(config.data)
    for remark in records.table.remarks:
        say(remark)
    say(f"Dados carregados: {records.read} registros")
    oddities = list(describe_oddities(records))
    for oddity in oddities:
        say(f"⚠️ {oddity}")
    if oddities and check is not None:
        say(f"   Para ver tudo o que há na tabela: {check}")
    say(f"Dados após validação/limpeza: {len(records.rows)} registros válidos")
    say(f"Cartas únicas: {records.cards}")
    say(f"Comprimento médio: {records.mean_length:.1f} caracteres")
    return records


def split_data(config: ExperimentConfig, records: Records) -> PreparedData:
    """Split by card, and settle the prompt's text."""
    template = prompt_template(config.data)
    split = split_records(records, config.data.validation_fraction, config.data.split_seed)
    say(f"Dataset dividido: {len(split.train)} treino, {len(split.validation)} validação")
    say(f"Datasets criados: {len(split.train)} treino, {len(split.validation)} validação")
    if split.single:
        one = count_words(len(split.single), "carta tem uma leitura só e fica", "cartas têm uma leitura só e ficam")
        say(f"⚠️ {one} inteira no treino, sem medida: {listed(split.single)}".replace("ficam inteira", "ficam inteiras"))
    if split.unseen:
        say(f"⚠️ Só na validação, porque todas as cartas têm uma leitura só: {listed(split.unseen)}")
    measured = sample_records(split.validation, config.evaluation.max_records, config.data.split_seed)
    if len(measured) < len(split.validation):
        say(
            f"Leituras medidas em cada avaliação: {len(measured)}, sorteadas entre as {len(split.validation)} de "
            "validação com as cartas na proporção (evaluation.max_records)"
        )
    data = PreparedData(records, split, template, measured)
    if config.early_stopping.metric == "prompt_fit" and not data.rivals(split.validation[:1]):
        raise SettingError(
            "prompt_fit mede se a leitura é mais provável com a sua carta do que com as outras, e aqui os pedidos não "
            "distinguem cartas; escolha outra métrica (early_stopping.metric ou search.metric), ou use {carta} em "
            "data.template."
        )
    say(f"Exemplo de pedido: {data.prompts(split.train[:1])[0]}")
    return data


def load_model(settled: SettledBase) -> LoadedBase:
    """Ask the machine, choose precision and quantisation, load the base."""
    config, location = settled.config, settled.location
    hardware = inspect_hardware(config.training.device)
    shape_file = read_config(location)
    shape = Shape.of(shape_file)
    precision = choose_precision(config.training.precision, hardware, lambda: measure_bfloat16_gain(shape_file))
    quantization, why = choose_quantization(config.model, hardware, shape, precision.dtype)
    if hardware.device == "cpu":
        say(f"CPU: {hardware.cpu} ({hardware.cores} núcleos; {'em uso' if hardware.remark else 'sem GPU'})")
        say(f"RAM disponível: {hardware.free_memory:.1f}GB")
    else:
        say(f"GPU: {hardware.gpu}" + (f" (CUDA {hardware.cuda})" if hardware.cuda else " (mps)"))
        say(f"VRAM disponível: {hardware.free_memory:.1f}GB")
    if hardware.gpus > 1:
        say(f"{hardware.gpus} GPUs visíveis: um processo usa uma; numa busca cada trabalhador tem a sua")
    if hardware.remark:
        say(f"⚠️ Há uma GPU que não está em uso: {hardware.remark}")
    say(f"Precisão: {precision.dtype} ({precision.reason})")
    if precision.warning:
        say(f"⚠️ {precision.warning}")
    tokenizer = load_tokenizer(location.tokenizer_folder)
    check_vocabulary(location, shape_file, tokenizer)
    model = load_base(location, hardware.device, quantization)
    if quantization is not None:
        release_memory()  # of what was quantised
    how = f"com quantização {quantization.description}" if quantization else "sem quantização, float32"
    say(f"Modelo carregado: {location.name} ({how}: {why})")
    return LoadedBase(location, model, tokenizer, hardware, precision, quantization, shape)


def attach_lora(config: ExperimentConfig, base: LoadedBase) -> tuple[PeftModel, ParameterCount]:
    """Put the adapter on the base, and tell how little of it trains."""
    model = attach_adapter(base.model, config.lora, config.training.seed)
    count = count_parameters(model)
    say("Parâmetros treináveis configurados")
    say(str(count))
    return model, count


def encode_data(config: ExperimentConfig, base: LoadedBase, data: PreparedData) -> EncodedSplit:
    """Tokenise both sides, and choose how a batch is cut."""
    train, validation = tokenize_data(config, base.tokenizer, data)
    return EncodedSplit(train, validation, cut_batches(config, base, train.longest))


def tokenize_data(
    config: ExperimentConfig, tokenizer: PreTrainedTokenizerBase, data: PreparedData
) -> tuple[EncodedTexts, EncodedTexts]:
    """The training side and what is measured of the other, and what their texts lost on the way."""
    sides = []
    for records in (data.split.train, data.measured):
        texts = [record.texto for record in records]
        sides.append(encode_texts(tokenizer, Prompts(data.template, records), texts, config.data.max_length))
    train, validation = sides
    say(f"Tokenização concluída: {len(train)} treino, {len(validation)} validação")
    say(f"Tokens: até {train.longest[0]} no pedido e {train.longest[1]} na leitura (limite: {config.data.max_length})")
    truncated = train.truncated + validation.truncated
    if truncated:
        cut = count_words(truncated, "texto cortado", "textos cortados")
        say(f"⚠️ {cut} em {config.data.max_length} tokens; aumente data.max_length")
    if train.unknown + validation.unknown:
        say(f"⚠️ Fora do vocabulário do modelo, e por isso perdidos: {_lost_characters(tokenizer, data)}")
    return train, validation


def cut_batches(config: ExperimentConfig, base: LoadedBase, tokens: tuple[int, int]) -> WorkPlan:
    """Cut the batches for texts of up to so many tokens (prompt, reading), and tell what each phase will take."""
    number, batch = config.training.num_processes, config.training.batch_size
    if batch % number:
        raise SettingError(
            f"training.batch_size={batch} não se divide por {number} processos; use um múltiplo de {number}."
        )
    here = processes.on_this_machine(number)
    if base.hardware.device == "cuda" and base.hardware.gpus < here:
        raise SettingError(
            f"training.num_processes={here}, mas este computador tem só {base.hardware.gpus} GPU; use "
            f"training.num_processes={base.hardware.gpus} ou training.device=cpu."
        )
    plan = plan_work(config, base.hardware, base.shape, base.quantization, tokens, number)
    if (batch // number) % plan.micro_batch:
        raise SettingError(
            f"training.micro_batch_size={plan.micro_batch} não divide as {batch // number} leituras que cabem a cada "
            f"um dos {number} processos; use auto."
        )
    cut = count_words(batch // number // plan.micro_batch, "acumulação", "acumulações")
    together = f" × {number} processos" if number > 1 else ""
    say(f"Batch efetivo: {batch} ({plan.micro_batch} por passagem × {cut}{together})")
    if plan.checkpointing:
        say("Ativações recalculadas (gradient checkpointing): mais lento, com menos memória")
    free = base.hardware.free_memory
    phases = ", ".join(f"{phase} {peak:.1f}" for phase, peak in plan.peaks.items())
    say(f"Memória prevista, no máximo (GB; livres: {free:.1f}): {phases}")
    engine = {"pytorch": "PyTorch", "ctranslate2": "CTranslate2"}[plan.evaluation_engine]
    say(f"Leituras geradas por vez nas avaliações: {plan.evaluation_batch}, com {engine}")
    if plan.serving_device != base.hardware.device:
        say("⚠️ Sem quantização o modelo não cabe na GPU: a avaliação final e a geração serão na CPU, mais lentas")
    if too_large := plan.too_large(free):
        say(
            f"⚠️ Pode faltar memória em: {', '.join(too_large)}; feche outros programas, ou use um modelo base menor, "
            "data.max_length ou generation.num_beams menor"
        )
    return plan


def _lost_characters(tokenizer: PreTrainedTokenizerBase, data: PreparedData) -> str:
    lost = unknown_characters(tokenizer, (text for _, text in _whole_texts(data.records)))
    times: Counter[str] = Counter()
    lines: dict[str, list[int]] = {character: [] for character in lost}
    for line, text in _whole_texts(data.records):
        for character in lost:
            if character in text:
                times[character] += text.count(character)
                lines[character].append(line)
    return "; ".join(
        f"{character} ×{times[character]} (linha{'s' if len(places) > 1 else ''} {listed(places, 5)})"
        for character, places in lines.items()
    )


def _whole_texts(records: Records) -> Iterator[tuple[int, str]]:
    """(line, everything that stands in it)."""
    for line, record in zip(records.lines, records.rows, strict=True):
        yield line, " ".join((*record.fields(), record.texto))
