"""A new T5, not yet trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cartas_mlflow.pretrain_settings import PretrainShape
from cartas_mlflow.pretraining.objective import EOS

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration


def build_model(shape: PretrainShape, vocabulary_rows: int, seed: int) -> T5ForConditionalGeneration:
    """Return a T5 v1.0 (relu, wi/wo, tied embeddings) with T5's own initialisation, dropout off for training."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocabulary_rows,
        d_model=shape.d_model,
        d_kv=64,
        d_ff=shape.d_ff,
        num_heads=shape.heads,
        num_layers=shape.encoder_layers,
        num_decoder_layers=shape.decoder_layers,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=EOS,
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    # transformers sizes the decoder's cache by the encoder's depth unless the configuration names the decoder's own
    # (PreTrainedConfig.get_text_config, 5.23); with two depths generate() fails without it.
    config.decoder_layers = shape.decoder_layers
    return T5ForConditionalGeneration(config)
