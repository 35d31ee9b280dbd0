"""A worker of a study whose trials only take time: joins, works, prints one line per trial that it began and ended.

python study_worker.py FOLDER TRIALS SECONDS_PER_TRIAL [SAMPLER]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from cartas_mlflow.config import vary
from cartas_mlflow.search.space import Known
from cartas_mlflow.search.space_file import parse_space
from cartas_mlflow.search.storage import find_storage
from cartas_mlflow.search.study import Claimed, SharedStudy
from cartas_mlflow.settings import ExperimentConfig

SPACE = {"lora.dropout": {"type": "float", "low": 0, "high": 0.5}}
KNOWN = [Known("conhecida", {"lora.dropout": 0.25})]


def work(folder: Path, trials: int, seconds: float, sampler: str = "random") -> None:
    settings = {"search.trials": trials, "search.heartbeat": 1, "search.sampler": sampler}
    config = vary(ExperimentConfig(), settings, "teste")
    space = parse_space(SPACE, config)

    def objective(claimed: Claimed) -> float:
        print("began", claimed.number, claimed.values["lora.dropout"], flush=True)
        time.sleep(seconds)
        print("ended", claimed.number, flush=True)
        return float(claimed.values["lora.dropout"])

    study = SharedStudy(find_storage(folder), "estudo", config.search, lambda trial: print("dead", trial.number))
    study.join({"base": "a mesma"}, space, config, KNOWN, lambda: "mãe")
    study.work(space, config, objective)


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
