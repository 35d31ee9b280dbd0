"""The whole way of a base of any size on this machine: seconds and peak memory, phase by phase and format by format.

    python benchmarks/true_size.py BASE [--formats float32 bfloat16 nf4] [--rows 66] [--epochs 1] [--set key=value …]

BASE: a folder with config.json and tokenizer (spiece.model is enough). Without weights it gets random ones, in a folder
beside the results: right for memory and speed, useless for texts. Each format is a process of its own that runs the
project's own ``train``, then promotes the model, loads it as a server does and asks it for readings.
Memory: what the process holds of the machine's, sampled every 20 ms; on a GPU what PyTorch has allocated of the GPU's.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

FORMATS = {
    "float32": {"training.precision": "float32", "model.quantization": "false"},
    "bfloat16": {"training.precision": "bfloat16", "model.quantization": "false"},
    "nf4": {"training.precision": "auto", "model.quantization": "true"},
    "auto": {},
}
PHASE = re.compile(r"(\d+\. .*?)\.*$")


class Phases(logging.Handler):
    """Listens to the console: each line that begins with a number begins a phase."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, object]] = []
        self.peak, self.started = 0.0, time.perf_counter()
        threading.Thread(target=self._sample, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        if found := PHASE.match(record.getMessage().splitlines()[0] if record.getMessage() else ""):
            self.begin(found[1])

    def begin(self, name: str) -> None:
        """End the phase that is on, and begin another; an empty name begins none."""
        import torch

        now = time.perf_counter()
        if self.rows and "seconds" not in self.rows[-1]:
            gpu = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
            self.rows[-1] |= {"seconds": now - self.started, "ram": self.peak, "gpu": gpu}
        self.started, self.peak = now, 0.0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        if name:
            self.rows.append({"phase": name})

    def _sample(self) -> None:
        import psutil

        process = psutil.Process()
        while True:
            self.peak = max(self.peak, process.memory_info().rss / 2**30)
            time.sleep(0.02)


def main() -> None:
    """Print a Markdown table: a row a phase, two columns a format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["float32", "bfloat16", "nf4"])
    parser.add_argument("--rows", type=int, default=66, help="readings of the bundled table")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_format(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        base = with_weights(options.base, Path(scratch))
        found = {name: run_apart(name, base, Path(scratch), sys.argv[2:]) for name in options.formats}
    print_table(found)


def with_weights(base: Path, scratch: Path) -> Path:
    """The base; or, where it has no weights, a copy with random ones."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    from cartas_mlflow.modeling.base import weight_files

    if weight_files(base):
        return base.resolve()
    copy = shutil.copytree(base, scratch / base.resolve().name)
    AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(copy)).save_pretrained(copy)
    return copy


def run_apart(name: str, base: Path, scratch: Path, words: list[str]) -> dict:
    """Run one format in a process of its own; gives what it wrote."""
    result = scratch / f"{name}.json"
    subprocess.run([sys.executable, __file__, str(base), *words, "--one", f"{name}:{result}"], check=True)
    return json.loads(result.read_text())


def run_format(options: argparse.Namespace) -> None:
    """Train, promote, load and ask; write what each phase took."""
    import mlflow
    import pandas as pd

    from cartas_mlflow.console import open_console
    from cartas_mlflow.pipelines.promote import promote
    from cartas_mlflow.pipelines.train import train
    from cartas_mlflow.registry.model import open_logged

    name, result = options.one.split(":", 1)
    folder = Path(result).with_suffix("")
    folder.mkdir()
    table = pd.read_csv("data/cartas.csv").groupby("carta").head(-(-options.rows // 22)).head(options.rows)
    table.to_csv(folder / "leituras.csv", index=False)
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment("cartas-ptt5", (folder / "artifacts").as_uri())
    overrides = {
        "model.name": str(options.base),
        "data.path": str(folder / "leituras.csv"),
        "training.epochs": options.epochs,
        "tracking.output_dir": str(folder / "results"),
        **FORMATS[name],
        **dict(entry.split("=", 1) for entry in options.set),
    }
    open_console()
    phases = Phases()
    logging.getLogger("cartas_mlflow").addHandler(phases)
    trained = train("configs/default.yaml", overrides)
    phases.begin("promote")
    promote(run_id=trained.run_id, force=True)
    phases.begin("load as a server")
    served = open_logged("models:/cartas-ptt5@champion")
    phases.begin("8 readings, served")
    prompts = table.head(8)[["carta", "evento", "secao", "tema"]]
    served.write(prompts)
    phases.begin("")
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    Path(result).write_text(json.dumps({"rows": phases.rows, "ram": whole}))


def print_table(found: dict[str, dict]) -> None:
    """One row a phase; the last, the whole process's peak."""
    names = list(found)
    print("\n| phase | " + " | ".join(f"{name} (s) | {name} (GiB)" for name in names) + " |")
    print("| --- |" + " ---: |" * 2 * len(names))
    for rows in zip(*(found[name]["rows"] for name in names), strict=True):
        cells = (
            f"{row['seconds']:.1f} | {row['ram']:.2f}" + (f" + {row['gpu']:.2f} GPU" if row["gpu"] is not None else "")
            for row in rows
        )
        print(f"| {rows[0]['phase']} | " + " | ".join(cells) + " |")
    print("| whole process | " + " | ".join(f"| {found[name]['ram']:.2f}" for name in names) + " |")


if __name__ == "__main__":
    main()
