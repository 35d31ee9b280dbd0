"""The file that MLflow runs to build the model, when it is logged and at every load."""

from mlflow.models import set_model

from cartas_mlflow.registry.model import ReadingGenerator

set_model(ReadingGenerator())
