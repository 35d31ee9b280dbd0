"""Readings per second of a finished training's adapter, served in several ways, in turns; and its latency over HTTP.

    python benchmarks/serving.py results/…/adapter [--decoding greedy] [--rounds 5] [--batches 1,8,64] [--requests 40]

Same adapter, same prompts (the bundled table's), same decoding, same machine:

- this project: the logged pyfunc, loaded and called through MLflow, with each engine;
- the tutorial's pyfunc: PeftModel not merged, one ``generate`` per row, every prompt padded to the training's limit
  (its class is called directly, without what MLflow adds);
- the same without the padding;
- bare: one batched ``model.generate`` on the merged model, nothing around it;
- bare CTranslate2 on the merged model, float32 and int8.

Median of the rounds. Then ``mlflow models serve`` answers one row a request to 1 and to 8 clients at once, with each
engine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.modeling.base import BaseLocation, find_base
from cartas_mlflow.modeling.engine import FastEngine
from cartas_mlflow.modeling.generation import decoding_config
from cartas_mlflow.modeling.hardware import inspect_hardware
from cartas_mlflow.modeling.loading import load_base, load_tokenizer, quiet_libraries
from cartas_mlflow.modeling.lora import load_adapter
from cartas_mlflow.registry.model import ServedModel, log_reading_model
from cartas_mlflow.settings import RECORD_FIELDS, GenerationSettings, ModelSettings, ServingSettings
from cartas_mlflow.tracking.store import quiet_mlflow

Write = Callable[[pd.DataFrame], list[str]]

OURS = "this project"
ENGINES = ("pytorch", "ctranslate2")


def main() -> None:
    options = _options()
    quiet_libraries()
    quiet_mlflow()
    served = ServedModel.load(options.adapter)
    base = find_base(ModelSettings(name=served.base_name, revision=served.base_revision, fallback=None))
    prompts = pd.read_csv(PROJECT_ROOT / "data" / "cartas.csv", dtype=str)[list(RECORD_FIELDS)]
    prompts = prompts[prompts["carta"].isin(served.cards)].sample(frac=1, random_state=0)
    params = {"num_beams": 1, "do_sample": False} if options.decoding == "greedy" else {}
    settings = GenerationSettings.model_validate({**served.generation, **params})
    with tempfile.TemporaryDirectory() as folder:
        uri, model = _log(options.adapter, base, Path(folder))
        ways = _ways(served, settings, base, options.adapter, uri, params, Path(folder))
        texts = {name: write(prompts[:64]) for name, write in ways.items()}
        print(f"\nbase: {served.base_name}; {torch.get_num_threads()} threads, {inspect_hardware('cpu').cpu}")
        print(f"decoding: {settings.model_dump(exclude_defaults=True)}")
        for name, written in texts.items():
            same = sum(a == b for a, b in zip(written, texts[OURS], strict=True))
            print(f"{name}: {same} of 64 texts equal to those of {OURS}")
        print(f"mean length: {statistics.fmean(map(len, texts[OURS])):.0f} characters\n")
        print("| rows per request | " + " | ".join(ways) + " |\n| ---: |" + " ---: |" * len(ways))
        for size in options.batches:
            rates = _rates(ways, prompts, size, options.rounds)
            print(f"| {size} | " + " | ".join(f"{rate:.1f}" for rate in rates.values()) + " |", flush=True)
        if options.requests:
            print("\n| engine | clients | p50 (ms) | p95 (ms) | requests/s |\n| --- | ---: | ---: | ---: | ---: |")
            for engine in ENGINES:
                _measure_http(model, prompts, params, engine, options.requests)


def _rates(ways: dict[str, Write], prompts: pd.DataFrame, size: int, rounds: int) -> dict[str, float]:
    """Rows per second of each way, from the median time of a round."""
    calls = max(1, 8 // size)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        start = number * size * calls % (len(prompts) - size * calls + 1)
        pieces = [prompts[place : place + size] for place in range(start, start + size * calls, size)]
        for name in (*ways,) if number % 2 else reversed(ways):
            started = time.perf_counter()
            for piece in pieces:
                ways[name](piece)
            seconds[name].append(time.perf_counter() - started)
    return {name: size * calls / statistics.median(times) for name, times in seconds.items()}


def _log(adapter: Path, base: BaseLocation, folder: Path) -> tuple[str, Path]:
    """Log the model in a store of its own; (its URI, its folder)."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = mlflow.create_experiment("serving", (folder / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=experiment):
        model_id = log_reading_model(adapter, base, ServingSettings(), description="", embed_base=True, step=0)
    (copy,) = (folder / "artifacts").glob("models/*/artifacts")
    return f"models:/{model_id}", copy


def _ways(
    served: ServedModel,
    settings: GenerationSettings,
    base: BaseLocation,
    adapter: Path,
    uri: str,
    params: dict[str, Any],
    folder: Path,
) -> dict[str, Write]:
    import mlflow.pyfunc

    tokenizer = load_tokenizer(adapter)
    merged = load_adapter(load_base(base), adapter, base).merge_and_unload().eval()
    unmerged = load_adapter(load_base(base), adapter, base).eval()
    config = decoding_config(merged, settings)

    def prompts_of(rows: pd.DataFrame) -> list[str]:
        return [served.template.format(**row) for row in rows.to_dict("records")]

    def ours(engine: str) -> Write:
        pyfunc = mlflow.pyfunc.load_model(uri, suppress_warnings=True, model_config={"serving.engine": engine})
        return lambda rows: pyfunc.predict(rows, params=params)["texto"].tolist()

    def tutorial(rows: pd.DataFrame, **padding: Any) -> list[str]:
        texts = []
        for prompt in prompts_of(rows):
            inputs = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=served.max_length, **padding)
            with torch.no_grad():
                ids = unmerged.generate(**inputs, generation_config=config)
            texts.append(tokenizer.decode(ids[0], skip_special_tokens=True).strip())
        return texts

    def bare(rows: pd.DataFrame) -> list[str]:
        inputs = tokenizer(prompts_of(rows), return_tensors="pt", padding=True)
        with torch.inference_mode():
            ids = merged.generate(**inputs, generation_config=config)
        return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def bare_fast(kind: str) -> Write:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter

        TransformersConverter(str(folder / "merged")).convert(str(folder / kind), quantization=kind)
        engine = FastEngine(merged, tokenizer)
        engine.translator = ctranslate2.Translator(str(folder / kind), intra_threads=torch.get_num_threads())

        def write(rows: pd.DataFrame) -> list[str]:
            ids = engine.generate(tokenizer(prompts_of(rows))["input_ids"], settings, 1)
            return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

        return write

    ways: dict[str, Write] = {
        OURS: ours("pytorch"),
        f"tutorial, padded to {served.max_length}": lambda rows: tutorial(rows, padding="max_length"),
        "tutorial, not padded": tutorial,
        "bare batched generate": bare,
    }
    merged.save_pretrained(folder / "merged")
    tokenizer.save_pretrained(folder / "merged")
    ways[f"{OURS}, engine ctranslate2"] = ours("ctranslate2")
    return {**ways, **{f"bare CTranslate2 {kind}": bare_fast(kind) for kind in ("float32", "int8")}}


def _measure_http(model: Path, prompts: pd.DataFrame, params: dict[str, Any], engine: str, number: int) -> None:
    import requests

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    words = ["mlflow", "models", "serve", "-m", str(model), "--env-manager", "local", "-p", str(port)]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_PYFUNC_INFERENCE_CONFIG": json.dumps({"serving.engine": engine}),
    }
    rows = itertools.cycle(prompts.to_dict("records"))
    bodies = [{"dataframe_records": [next(rows)], "params": params} for _ in range(number)]

    def ask(body: dict[str, Any]) -> float:
        started = time.perf_counter()
        requests.post(f"{address}/invocations", json=body, timeout=600).raise_for_status()
        return 1000 * (time.perf_counter() - started)

    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while not _answers(f"{address}/ping"):
                time.sleep(0.5)
            for body in bodies[:4]:
                ask(body)
            for clients in (1, 8):
                started = time.perf_counter()
                with ThreadPoolExecutor(clients) as pool:
                    times = sorted(pool.map(ask, bodies))
                rate = len(bodies) / (time.perf_counter() - started)
                middle, late = _share(times, 0.5), _share(times, 0.95)
                print(f"| {engine} | {clients} | {middle:.0f} | {late:.0f} | {rate:.1f} |", flush=True)
        finally:
            server.terminate()


def _answers(address: str) -> bool:
    import requests

    try:
        return requests.get(address, timeout=5).ok
    except requests.ConnectionError:
        return False


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("adapter", type=Path, help="adapter folder of a finished training")
    parser.add_argument("--decoding", choices=["greedy", "own"], default="greedy", help="own: as the training's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=40, help="HTTP requests per number of clients; 0: no server")
    return parser.parse_args()


if __name__ == "__main__":
    main()
