"""Fine-tune a Portuguese T5 with LoRA to write card readings, tracked run by run in MLflow."""

__version__ = "0.1.0"
