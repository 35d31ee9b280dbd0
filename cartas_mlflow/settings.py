"""Every setting: its type, bounds, unit and meaning (those of the pre-training: ``pretrain_settings.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field

from cartas_mlflow.pretrain_settings import PretrainSettings
from cartas_mlflow.setting_types import AutoOrCount, AutoOrSwitch, Names, OptionalDuration, OptionalText, Section

RECORD_FIELDS = ("carta", "evento", "secao", "tema")
TEMPLATES = {
    "instrucao": "Interprete a carta {carta} na ocasião {evento}, seção {secao}, tema {tema}, no seu estilo:",
    "barras": "{carta} | {evento} | {secao} | {tema}",
}
"""The prompts that ``data.template`` knows by name."""
LOWER_IS_BETTER = frozenset({"loss", "bits_per_character"})
"""Of the metrics that a setting may name."""


class ColumnNames(Section):
    """Which column of the table holds which field; ``none`` for a field that the table does not have."""

    carta: str = Field("carta", min_length=1, description="coluna da carta; a divisão é estratificada por ela")
    evento: OptionalText = Field("evento", description="coluna da ocasião")
    secao: OptionalText = Field("secao", description="coluna da seção")
    tema: OptionalText = Field("tema", description="coluna do tema")
    texto: str = Field("texto", min_length=1, description="coluna do texto a aprender")


class DataSettings(Section):
    path: str = Field(
        "data/cartas.csv", min_length=1, description="tabela de leituras: csv, xlsx, xls, xlsb, ods, jsonl ou parquet"
    )
    sheet: OptionalText = Field(None, description="planilha a ler; none = a primeira que tem as colunas")
    columns: ColumnNames = ColumnNames()
    template: str = Field(
        "instrucao", min_length=1, description="instrucao, barras, ou um modelo próprio com {carta}, {evento}, …"
    )
    validation_fraction: float = Field(0.15, gt=0, lt=1, description="fração das leituras para validação")
    split_seed: int = Field(42, ge=0, le=2**32 - 1, description="semente da divisão treino/validação")
    max_length: int = Field(450, ge=8, le=4096, description="comprimento máximo de entrada e de alvo (tokens)")


class ModelSettings(Section):
    name: str = Field(
        "unicamp-dl/ptt5-base-portuguese-vocab", min_length=1, description="id no hub ou pasta local do modelo base"
    )
    revision: OptionalText = Field(None, description="revisão (commit, ramo ou tag) do modelo no hub")
    tokenizer: OptionalText = Field(
        None, description="id no hub ou pasta local do tokenizador; none = o que está com o modelo base"
    )
    fallback: OptionalText = Field(
        "configs/mini.yaml", description="configuração usada quando o modelo base não pode ser obtido; none = erro"
    )
    hub_timeout: float = Field(3.0, gt=0, le=120, description="espera máxima pela conexão com o hub (segundos)")
    quantization: AutoOrSwitch = Field(
        "auto", description="base em 4 bits: true, false ou auto = se passar de um quarto da memória livre"
    )
    quantization_type: Literal["nf4", "fp4"] = Field("nf4", description="formato de 4 bits")
    double_quantization: bool = Field(True, description="quantizar também as constantes de quantização")


class LoraSettings(Section):
    r: int = Field(16, ge=1, le=1024, description="posto (rank) das matrizes de baixo posto")
    alpha: float = Field(32, gt=0, le=4096, description="escala do LoRA; o adaptador é multiplicado por alpha/r")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout na entrada do adaptador")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="vieses treinados")
    target_modules: Names = Field(
        ("SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o"),
        description="módulos que recebem LoRA: all-linear, finais de nomes (SelfAttention.q) ou partes (encoder)",
    )


class TrainingSettings(Section):
    epochs: int = Field(20, ge=1, le=10_000, description="épocas de treino")
    batch_size: int = Field(8, ge=1, le=4096, description="exemplos por passo do otimizador (batch efetivo)")
    micro_batch_size: AutoOrCount = Field(
        "auto", description="exemplos por passagem; auto = o maior divisor de batch_size que cabe na memória"
    )
    num_processes: int = Field(
        1, ge=1, le=64, description="processos que treinam juntos neste computador, cada um com a sua parte do batch"
    )
    learning_rate: float = Field(2e-5, gt=0, le=1, description="taxa de aprendizado máxima")
    scheduler: Literal["cosine", "linear", "constant_with_warmup", "constant"] = Field(
        "cosine", description="curva da taxa de aprendizado"
    )
    warmup_ratio: float = Field(0.15, ge=0, lt=1, description="fração dos passos em aquecimento")
    weight_decay: float = Field(0.01, ge=0, le=1, description="decaimento de pesos (AdamW)")
    max_grad_norm: float = Field(1.0, gt=0, le=1000, description="norma máxima do gradiente")
    optimizer: Literal["adamw_torch_fused", "adamw_torch", "adafactor"] = Field(
        "adamw_torch_fused", description="otimizador"
    )
    seed: int = Field(42, ge=0, le=2**32 - 1, description="semente do treino")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="dispositivo; auto = a GPU, se houver")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="formato numérico do treino"
    )
    gradient_checkpointing: AutoOrSwitch = Field(
        "auto", description="recalcular ativações para poupar memória, mais lento; auto = se nem um exemplo couber"
    )
    group_by_length: bool = Field(True, description="formar batches com textos de comprimento parecido")
    save_total_limit: int = Field(2, ge=1, le=1000, description="checkpoints mantidos")
    resume: OptionalText = Field(
        None, description="de onde continuar: last (o último interrompido), id da execução ou pasta checkpoint-N"
    )


class EarlyStoppingSettings(Section):
    metric: Literal["rougeL", "rouge1", "rouge2", "rougeLsum", "bleu", "chrf", "prompt_fit", "loss"] = Field(
        "rougeL", description="métrica de validação que escolhe a melhor época"
    )
    patience: int = Field(4, ge=0, le=10_000, description="épocas sem melhora até parar; 0 = nunca parar antes")
    threshold: float = Field(0.001, ge=0, le=100, description="melhora mínima que conta")


class GenerationSettings(Section):
    max_new_tokens: int = Field(128, ge=1, le=4096, description="comprimento máximo do texto gerado (tokens)")
    min_new_tokens: int = Field(0, ge=0, le=4096, description="comprimento mínimo do texto gerado (tokens)")
    num_beams: int = Field(1, ge=1, le=64, description="feixes da busca; 1 = gulosa")
    length_penalty: float = Field(1.0, ge=-10, le=10, description="expoente do comprimento na busca em feixe")
    no_repeat_ngram_size: int = Field(3, ge=0, le=64, description="n-gramas que não se repetem; 0 = livre")
    repetition_penalty: float = Field(1.0, gt=0, le=10, description="penalidade de repetição; 1 = nenhuma")
    do_sample: bool = Field(False, description="sortear em vez de escolher o mais provável")
    temperature: float = Field(1.0, gt=0, le=10, description="temperatura do sorteio")
    top_p: float = Field(1.0, gt=0, le=1, description="massa de probabilidade do sorteio (nucleus)")
    top_k: int = Field(0, ge=0, le=100_000, description="candidatos do sorteio; 0 = todos")
    seed: int = Field(42, ge=0, le=2**32 - 1, description="semente do sorteio")


class EvaluationSettings(Section):
    batch_size: AutoOrCount = Field(
        "auto", description="leituras geradas por vez; auto = até 128, as que cabem na memória com os seus feixes"
    )
    prompt_fit: Literal["final", "epoch", "none"] = Field(
        "final", description="quando medir se a leitura cabe no pedido: antes e no fim, também a cada época, ou nunca"
    )
    every_epochs: int = Field(1, ge=1, le=10_000, description="épocas entre avaliações")
    engine: Literal["auto", "pytorch", "ctranslate2"] = Field(
        "auto",
        description="quem gera nas avaliações; ctranslate2 escreve os mesmos textos, mais rápido em CPU; auto = ele, "
        "em CPU, para um base pequeno; onde não os escreveria (sorteio, feixes com penalidade), gera o pytorch",
    )
    max_records: int = Field(
        500, ge=1, le=10**9, description="leituras medidas, no máximo; de mais, uma amostra com as cartas na proporção"
    )
    copied_words: int = Field(
        12, ge=2, le=1000, description="palavras seguidas de um texto de treino que contam como cópia"
    )


class TrackingSettings(Section):
    experiment: str = Field("cartas-ptt5", min_length=1, description="experimento no MLflow")
    run_name: OptionalText = Field(None, description="nome da execução; none = montado a partir das configurações")
    output_dir: str = Field("results", min_length=1, description="pasta local de log, relatório e checkpoints")
    log_every_steps: int = Field(5, ge=1, le=100_000, description="passos entre pontos das curvas por passo")
    offline: bool = Field(
        False, description="não procurar o MLflow: tudo fica na pasta do treino até o comando sync o entregar"
    )
    wait: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="espera, no fim, por um MLflow que não responde (segundos); depois, o comando sync entrega",
    )
    checkpoint_minutes: float = Field(
        10.0,
        ge=0,
        le=100_000,
        description="intervalo em que o checkpoint mais novo vai também ao MLflow (minutos); 0 = não vai",
    )
    log_texts: bool = Field(
        True, description="mandar ao MLflow as leituras, reais e geradas; false = elas ficam na pasta do treino"
    )
    system_metrics: bool = Field(True, description="registrar uso de CPU, memória e GPU")
    system_metrics_interval: float = Field(5.0, ge=0.5, le=3600, description="intervalo dessas medidas (segundos)")


class RegistrySettings(Section):
    register_model: bool = Field(False, description="registrar e comparar com o campeão ao fim do treino")
    # What MLflow refuses, or takes and then does not find again under models:/NAME@champion.
    name: str = Field(
        "cartas-ptt5",
        pattern=r"^\.*[^/:'\"@?.\x00-\x1f\x7f][^/:'\"@?\x00-\x1f\x7f]*$",
        max_length=256,
        description="nome do modelo no registro, sem / : @ ? nem aspas",
    )
    metric: Literal["bits_per_character", "rougeL", "bleu", "chrf"] = Field(
        "bits_per_character", description="métrica da comparação com o campeão"
    )
    confidence: float = Field(0.9, ge=0.5, lt=1, description="confiança exigida para trocar o campeão")
    resamples: int = Field(10_000, ge=100, le=1_000_000, description="reamostragens da comparação (bootstrap)")
    seed: int = Field(42, ge=0, le=2**32 - 1, description="semente das reamostragens")
    embed_base: bool = Field(False, description="copiar também um base do hub para dentro do modelo registrado")


class ServingSettings(Section):
    engine: Literal["pytorch", "ctranslate2"] = Field(
        "pytorch", description="quem gera; ctranslate2 escreve os mesmos textos, mais rápido em CPU"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="dispositivo; auto = a GPU, se houver")
    any_card: bool = Field(False, description="aceitar cartas que não estão nos dados de treino")
    max_rows: int = Field(64, ge=1, le=10**9, description="linhas por pedido")
    max_field_length: int = Field(200, ge=1, le=10**9, description="comprimento de um campo do pedido (caracteres)")
    max_tokens: int = Field(
        65_536, ge=1, le=10**9, description="tokens por pedido: linhas × (feixes ou leituras) × max_new_tokens"
    )


class SearchSettings(Section):
    study: OptionalText = Field(
        None, description="nome do estudo; quem usa o mesmo nome busca junto; none = o nome do experimento"
    )
    trials: int = Field(20, ge=1, le=100_000, description="tentativas do estudo, somados todos os trabalhadores")
    metric: Literal["rougeL", "rouge1", "rouge2", "rougeLsum", "bleu", "chrf", "prompt_fit", "loss"] = Field(
        "loss", description="métrica de validação que a busca melhora; também escolhe a época de cada tentativa"
    )
    sampler: Literal["tpe", "random", "gp", "cmaes"] = Field("tpe", description="como novas tentativas são escolhidas")
    startup_trials: int = Field(8, ge=0, le=10_000, description="tentativas sorteadas antes de o amostrador aprender")
    pruner: Literal["hyperband", "median", "none"] = Field(
        "hyperband", description="como tentativas fracas são cortadas, época a época"
    )
    seed: int = Field(42, ge=0, le=2**31 - 1, description="semente do amostrador; cada trabalhador soma o seu número")
    workers: int = Field(1, ge=1, le=64, description="processos de busca neste computador")
    timeout: OptionalDuration = Field(
        None, description="tempo depois do qual este comando não começa outra tentativa (segundos); none = sem limite"
    )
    heartbeat: int = Field(
        10, ge=1, le=3600, description="intervalo dos sinais de vida (segundos); sem eles a tentativa é refeita"
    )


class ExperimentConfig(Section):
    """All settings of one experiment. Immutable; ``flat()`` gives them under their dotted names."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    early_stopping: EarlyStoppingSettings = EarlyStoppingSettings()
    generation: GenerationSettings = GenerationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = TrackingSettings()
    registry: RegistrySettings = RegistrySettings()
    serving: ServingSettings = ServingSettings()
    search: SearchSettings = SearchSettings()
    pretrain: PretrainSettings = PretrainSettings()

    def flat(self) -> dict[str, Any]:
        """Dotted name -> value; tuples as lists, ready for YAML."""
        return flatten(self.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """The whole configuration as YAML that ``load_config`` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), allow_unicode=True, sort_keys=False)


def setting_names() -> dict[str, Any]:
    """Dotted name -> pydantic field, for every setting, in order."""
    return {name: section.model_fields[name.rsplit(".", 1)[-1]] for name, section in _sections()}


def describe_settings() -> Iterator[tuple[str, str]]:
    """(dotted name, Portuguese meaning with its choices or bounds, and its default) of every setting."""
    schemas: dict[type[BaseModel], dict[str, Any]] = {}
    for name, section in _sections():
        key = name.rsplit(".", 1)[-1]
        if section not in schemas:
            schemas[section] = section.model_json_schema()["properties"]
        schema, default = schemas[section][key], section.model_fields[key].default
        yield name, f"{schema['description']}{_extent(schema)} (padrão: {_as_typed(default)})"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _sections(section: type[BaseModel] = ExperimentConfig, prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _sections(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", section


def _extent(schema: Mapping[str, Any]) -> str:
    parts = schema.get("anyOf", [schema])
    choices = [str(choice) for part in parts for choice in part.get("enum", [part["const"]] if "const" in part else [])]
    if schema.get("type") == "boolean":
        choices = ["true", "false"]
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    bounds = [f"{sign} {part[bound]}" for part in parts for bound, sign in signs if bound in part]
    extent = " | ".join([*choices, *([", ".join(bounds)] if bounds else [])])
    return f" [{extent}]" if extent else ""


def _as_typed(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
