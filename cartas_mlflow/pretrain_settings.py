"""The settings of the pre-training: how a base is made."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from cartas_mlflow.setting_types import AutoOrCount, OptionalDuration, OptionalText, Section, Weights


class PretrainShape(Section):
    """Sizes of the T5 that ``pretrain`` makes: inner dimensions in 64s, as 4-bit layers on a CPU want them."""

    d_model: int = Field(320, ge=64, le=4096, multiple_of=64, description="largura do modelo, múltiplo de 64")
    d_ff: int = Field(1024, ge=64, le=16_384, multiple_of=64, description="largura interna, múltiplo de 64")
    heads: int = Field(5, ge=1, le=64, description="cabeças de atenção, de 64 dimensões cada uma")
    encoder_layers: int = Field(2, ge=1, le=48, description="camadas do codificador")
    decoder_layers: int = Field(4, ge=1, le=48, description="camadas do decodificador")


class PretrainSettings(Section):
    """A token is an input or target token of a packed batch, padding not counted."""

    corpus: OptionalText = Field(None, description="pasta com os .txt do corpus, um parágrafo por linha")
    weights: Weights = Field(
        (), description="quantas vezes uma volta pelo corpus lê cada arquivo: nome:peso, separados por vírgula"
    )
    essays: OptionalText = Field("data/arcanos", description="pasta com os ensaios do domínio (.md); none = nenhum")
    output: str = Field(
        "results/pretrain", min_length=1, description="pasta do checkpoint, do vocabulário e da base; continua o que há"
    )
    start: OptionalText = Field(
        None, description="base de que se parte, da mesma forma e com o seu vocabulário; none = tudo do zero"
    )
    start_keeps: Literal["language", "all"] = Field(
        "language",
        description="o que se herda dele: language = embeddings e decodificador (como escreve), all = todos os pesos "
        "(continuar a aprender, com outros textos)",
    )
    start_weight: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="parte dos pesos de partida na média que se grava, com start_keeps=all; 0 = só o que se aprendeu",
    )
    vocabulary: int = Field(8000, ge=64, le=64_000, description="peças do vocabulário")
    shape: PretrainShape = PretrainShape()
    document_tokens: int = Field(96, ge=16, le=96, description="comprimento máximo de um trecho do corpus (tokens)")
    prefix_share: float = Field(0.5, ge=0, le=1, description="fração dos trechos em que se continua um começo")
    span_share: float = Field(
        0.2, ge=0, le=1, description="fração com lacunas a preencher; o resto parte de palavras soltas"
    )
    reword_share: float = Field(0.1, ge=0, le=1, description="fração que se refaz de palavras fora de ordem e faltando")
    total_tokens: int = Field(40_000_000, ge=1, le=10**12, description="tokens do pré-treino inteiro")
    warmup_tokens: int = Field(600_000, ge=0, le=10**12, description="tokens do início, em aquecimento")
    decay_tokens: int = Field(10_000_000, ge=0, le=10**12, description="tokens do fim, em que o passo diminui até 2 %")
    domain_tokens: int = Field(10_000_000, ge=0, le=10**12, description="tokens do fim que incluem os ensaios")
    domain_share: float = Field(0.1, ge=0, le=1, description="fração dos trechos, nessa parte, que vem dos ensaios")
    matrix_lr: float = Field(0.02, gt=0, le=1, description="passo das matrizes (Muon), relativo ao seu tamanho")
    embedding_lr: float = Field(0.02, gt=0, le=1, description="passo dos embeddings (Adam)")
    weight_decay: float = Field(0.05, ge=0, le=1, description="decaimento das matrizes, relativo ao passo")
    average: float = Field(0.99, ge=0, lt=1, description="memória da média dos pesos, que é o que se avalia e grava")
    rows: AutoOrCount = Field("auto", description="linhas de 256 tokens por passo; auto = 32, numa GPU 64 a 256")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = a GPU, se houver")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="formato das contas; auto = bfloat16 na GPU que o tem, na CPU o que um passo medido aprova"
    )
    seed: int = Field(42, ge=0, le=2**32 - 1, description="semente dos pesos e dos sorteios")
    minutes: OptionalDuration = Field(None, description="tempo máximo desta chamada (minutos); none = até total_tokens")
    threads: AutoOrCount = Field("auto", description="núcleos usados; auto = todos")
    compile: bool = Field(False, description="compilar o passo: mais rápido, mas precisa de um compilador de C++")
    log_steps: int = Field(20, ge=1, le=100_000, description="passos entre dois pontos da curva")
    eval_steps: int = Field(200, ge=1, le=100_000, description="passos entre duas validações")
    save_minutes: float = Field(4.0, ge=0, le=1440, description="minutos entre dois checkpoints")
    held_out: int = Field(1200, ge=1, le=1_000_000, description="parágrafos de validação, no máximo")

    @field_validator("weights")
    @classmethod
    def _refuse_malformed_weights(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if not re.fullmatch(r"[^:]+:\d+(\.\d+)?", entry):
                raise ValueError("escreva nome:peso para cada arquivo, separados por vírgula (ex.: biblia:0.15)")
        return value

    @property
    def source_weights(self) -> dict[str, float]:
        """File name without ``.txt`` -> weight."""
        return {name: float(weight) for name, weight in (entry.split(":") for entry in self.weights)}
