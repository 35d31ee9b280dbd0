"""Judge the readings that a training writes for its validation prompts, beyond likeness to the real ones.

    python benchmarks/reading_quality.py results/20261122_143022 [--show 20]

Rows: the tuned model, the untuned base, looking a training text up, and the real readings. Columns: chrF, ROUGE-L,
BLEU; words that the pt_BR dictionary knows (Debian packages hunspell and hunspell-pt-br; left out, with a line that
says so, where they are not installed); texts that end a sentence;
the longest run of words copied from a training text, and the share of texts with 12 or more; texts whose card a
classifier recognises (tf-idf + logistic regression, trained on the training texts only).
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from cartas_mlflow.console import open_console
from cartas_mlflow.data.records import Record, load_records
from cartas_mlflow.evaluation.baselines import longest_copied_runs, look_up
from cartas_mlflow.evaluation.metrics import score_texts, split_words
from cartas_mlflow.modeling.base import find_base
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.modeling.loading import load_base, load_tokenizer
from cartas_mlflow.modeling.lora import load_adapter
from cartas_mlflow.registry.model import ServedModel
from cartas_mlflow.settings import ExperimentConfig

KNOWN_WORDS = "known words"
COLUMNS = (
    "chrF",
    "ROUGE-L",
    "BLEU",
    KNOWN_WORDS,
    "end a sentence",
    "longest copied run",
    "copy 12+ words",
    "card recognised",
)


def main() -> None:
    options = _options()
    open_console()
    folder = Path(options.folder)
    config = ExperimentConfig.model_validate(yaml.safe_load((folder / "config_resolved.yaml").read_text("utf-8")))
    train, validation = _sides(folder, config)
    real, known = [record.texto for record in validation], [record.texto for record in train]
    tuned, untuned = _generate(folder, config, validation)
    consulted = look_up([r.fields() for r in validation], [(r.fields(), r.texto) for r in train])
    recognise = _card_classifier(train)
    columns = COLUMNS
    if not _has_dictionary():
        columns = tuple(column for column in COLUMNS if column != KNOWN_WORDS)
        print(f"Without the column {KNOWN_WORDS}: install the Debian packages hunspell and hunspell-pt-br for it.\n")
    print("| readings | " + " | ".join(columns) + " |\n| --- |" + " ---: |" * len(columns))
    rows = {"tuned model": tuned, "untuned base": untuned, "lookup": consulted, "real": real}
    for name, texts in rows.items():
        scores, runs = score_texts(texts, real), longest_copied_runs(texts, known)
        cells = [
            *(f"{scores[metric]:.4f}" for metric in ("chrf", "rougeL", "bleu")),
            *([f"{_known_words(texts):.1%}"] if KNOWN_WORDS in columns else []),
            f"{sum(text.endswith(('.', '!', '?', '…')) for text in texts) / len(texts):.1%}",
            str(max(runs)),
            f"{sum(run >= config.evaluation.copied_words for run in runs) / len(runs):.1%}",
            f"{sum(recognise(texts) == [r.carta for r in validation]) / len(texts):.1%}",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    for record, text in list(zip(validation, tuned, strict=True))[: options.show]:
        print(f"\n**{record.carta}** · {record.evento} · {record.secao} · {record.tema}\n")
        print(f"- generated: {text}\n- real: {record.texto}")


def _sides(folder: Path, config: ExperimentConfig) -> tuple[list[Record], list[Record]]:
    with (folder / "split.csv").open(encoding="utf-8", newline="") as stream:
        side = {row["id"]: row["side"] for row in csv.DictReader(stream)}
    records = sorted(load_records(config.data).rows, key=lambda record: record.id)
    return tuple([r for r in records if side[r.id] == name] for name in ("train", "validation"))  # type: ignore[return-value]


def _generate(folder: Path, config: ExperimentConfig, records: Sequence[Record]) -> tuple[list[str], list[str]]:
    adapter, base = folder / "adapter", find_base(config.model)
    served = ServedModel.load(adapter)
    prompts = [served.template.format(carta=r.carta, evento=r.evento, secao=r.secao, tema=r.tema) for r in records]
    how = {"batch_size": served.batch_size, "max_length": served.max_length}
    tokenizer, model = load_tokenizer(adapter), load_base(base)
    untuned = generate_texts(model, tokenizer, prompts, config.generation, **how)
    tuned = generate_texts(load_adapter(model, adapter, base), tokenizer, prompts, config.generation, **how)
    return tuned, untuned


def _card_classifier(records: Sequence[Record]):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(
        TfidfVectorizer(tokenizer=split_words, token_pattern=None, sublinear_tf=True),
        LogisticRegression(C=30, max_iter=2000),
    )
    classifier.fit([record.texto for record in records], [record.carta for record in records])
    return lambda texts: np.asarray(classifier.predict(texts))


def _has_dictionary() -> bool:
    return shutil.which("hunspell") is not None and _hunspell("").returncode == 0


def _known_words(texts: Sequence[str]) -> float:
    """Share of the words, as written, that the dictionary knows."""
    words = [word for text in texts for word in split_words(text)]
    checked = _hunspell("\n".join(word for text in texts for word in text.split()))
    checked.check_returncode()
    return 1 - len(checked.stdout.split()) / max(len(words), 1)


def _hunspell(text: str) -> subprocess.CompletedProcess[str]:
    """The words of the text that the dictionary does not know, one a line."""
    return subprocess.run(
        ["hunspell", "-d", "pt_BR", "-i", "utf-8", "-l"], input=text, capture_output=True, text=True, check=False
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of a finished training")
    parser.add_argument(
        "--show", type=int, default=0, help="print this many readings, unselected, beside the real ones"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
