"""Readings for many prompts: Spark with two executors against one process, and whether the texts are the same.

    python benchmarks/spark.py MODEL [--prompts 2000] [--executors 2]

MODEL: URI of a logged or registered model in the tracking store (``MLFLOW_TRACKING_URI``). Both read the same Parquet
and write one, from the start of the program to the written file: ``examples/spark.py`` on a ``local-cluster`` of
executors (each a process of its own, with one core), and the model's own ``write`` in one process with all cores.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
MEMORY = 2048
"""MiB of an executor's Java side."""
ONE_PROCESS = """
import sys, pandas as pd
from cartas_mlflow.registry.model import open_logged
prompts = pd.read_parquet(sys.argv[2])
served = open_logged(sys.argv[1])
prompts.assign(texto=served.write(prompts[["carta", "evento", "secao", "tema"]])).to_parquet(sys.argv[3], index=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--executors", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        asked, alone, together = (Path(scratch) / f"{name}.parquet" for name in ("asked", "alone", "together"))
        prompts(options.prompts).to_parquet(asked, index=False)
        cluster = f"local-cluster[{options.executors},1,{MEMORY}]"
        arguments = f"--master {cluster} --conf spark.ui.enabled=false pyspark-shell"
        spark = {"PYSPARK_SUBMIT_ARGS": arguments, "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
        partitions = ["--partitions", str(2 * options.executors)]
        taken = {
            "one process": run(["-c", ONE_PROCESS, options.model, str(asked), str(alone)], {}),
            f"Spark, {options.executors} executors": run(
                [str(ROOT / "examples" / "spark.py"), options.model, str(asked), str(together), *partitions], spark
            ),
        }
        texts = [pd.read_parquet(path).sort_values("numero")["texto"].tolist() for path in (alone, together)]
    same = sum(one == other for one, other in zip(*texts, strict=True))
    whole = next(iter(taken.values()))
    print("| way | seconds | readings per second | times one process | texts as one process's |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for way, seconds in taken.items():
        rate = f"{seconds:.0f} | {options.prompts / seconds:.1f} | {whole / seconds:.2f}"
        print(f"| {way} | {rate} | {f'{same} of {options.prompts}' if seconds is not whole else ''} |")


def prompts(count: int) -> pd.DataFrame:
    """Drawn from all combinations of what the bundled table holds, each once; numbered."""
    fields = ["carta", "evento", "secao", "tema"]
    table = pd.read_csv(ROOT / "data" / "cartas.csv")
    drawn = random.Random(0).sample(list(itertools.product(*(sorted(table[name].unique()) for name in fields))), count)
    return pd.DataFrame(drawn, columns=fields).assign(numero=range(count))


def run(words: list[str], environment: dict[str, str]) -> float:
    """Seconds of one Python program."""
    started = time.perf_counter()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    subprocess.run([sys.executable, *words], env=environment, stdout=sys.stderr, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
