"""``python -m cartas_mlflow``."""

import sys

from cartas_mlflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
