"""Everything that touches MLflow, and the console, while training."""
