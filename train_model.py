"""The old command's door: ``python train_model.py`` is ``python -m cartas_mlflow train``."""

import sys

from cartas_mlflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
