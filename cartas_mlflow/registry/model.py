"""The logged model: an MLflow pyfunc from code, no pickle. Adapter and base in, readings out."""

from __future__ import annotations

import importlib.metadata
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import Field, field_validator

from cartas_mlflow.errors import RegistryError
from cartas_mlflow.files import OwnFile, check_seal, seal
from cartas_mlflow.modeling.base import BaseLocation, find_base
from cartas_mlflow.modeling.engine import DISTRIBUTION, FastEngine
from cartas_mlflow.modeling.generation import generate_texts
from cartas_mlflow.modeling.hardware import inspect_hardware
from cartas_mlflow.modeling.likelihood import LOSS_BATCH, bits_per_character, log_likelihoods
from cartas_mlflow.modeling.loading import load_base, load_tokenizer
from cartas_mlflow.modeling.lora import COPY_AGAIN, load_adapter
from cartas_mlflow.registry.batching import RequestBatcher
from cartas_mlflow.registry.each_row import ERROR_COLUMN, answer_each
from cartas_mlflow.registry.requests import PARAMETERS, Vocabulary, check_work, read_parameters, read_rows
from cartas_mlflow.registry.server import make_refusals_clear
from cartas_mlflow.settings import RECORD_FIELDS, GenerationSettings, ModelSettings, ServingSettings

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

LOGGED_NAME = "cartas-gerador"
SERVED_FILE = "served.json"
PACKAGE = Path(__file__).resolve().parent.parent
REQUIREMENTS = (
    "mlflow",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "tokenizers",
    "sentencepiece",
    "huggingface_hub",
    "numpy",
    "pandas",
    "pydantic",
    "pyyaml",
    "psutil",
    "requests",
)
"""What serving imports; training's other packages are not needed."""


class ServedModel(OwnFile):
    """What a reading generator has to know besides weights; stands in the adapter's folder as ``served.json``."""

    template: str
    cards: tuple[str, ...] = Field(min_length=1)
    values: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Occasions, sections and themes of the readings, by field; earlier versions did not keep them."""
    max_length: int = Field(ge=1)
    """Limit of a prompt, in tokens."""
    batch_size: int = Field(ge=1)
    base_name: str
    base_revision: str | None
    generation: dict[str, Any]
    """Decoding settings, as :class:`~cartas_mlflow.settings.GenerationSettings` takes them."""

    @field_validator("generation")
    @classmethod
    def _refuse_other_settings(cls, value: dict[str, Any]) -> dict[str, Any]:
        GenerationSettings.model_validate(value)
        return value

    @property
    def used_fields(self) -> tuple[str, ...]:
        """Fields that the template uses, in the order of a record."""
        return tuple(name for name in RECORD_FIELDS if f"{{{name}}}" in self.template)

    def save(self, adapter: Path) -> None:
        """Write it into an adapter's folder, and seal the folder."""
        self.write(adapter / SERVED_FILE)
        seal(adapter)

    @classmethod
    def load(cls, adapter: Path) -> ServedModel:
        """Read it from an adapter's folder.

        Raises:
            RegistryError: the folder is not that of a finished training.
            DamagedFile: one of the folder's files is not what was written.
        """
        path = adapter / SERVED_FILE
        if not path.exists():
            raise RegistryError(
                f"{adapter} não tem {SERVED_FILE}; indique a pasta adapter/ de um treinamento concluído."
            )
        check_seal(adapter, COPY_AGAIN)
        return cls.read(path, COPY_AGAIN)


class ReadingGenerator(PythonModel):
    """Text columns in (those that the template uses), a column ``texto`` out.

    With ``num_return_sequences=n`` each row gives n consecutive rows. Thread-safe: one generation at a time,
    which requests that came meanwhile and ask for the same kind of texts share.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load base and adapter, merged: generation is then as fast as the bare model's."""
        make_refusals_clear()
        adapter = Path(context.artifacts["adapter"])
        self.served = ServedModel.load(adapter)
        serving = {name.removeprefix("serving."): value for name, value in (context.model_config or {}).items()}
        self.serving = ServingSettings.model_validate(serving)
        self.defaults = GenerationSettings.model_validate(self.served.generation)
        base = self._locate_base(context)
        device = inspect_hardware(self.serving.device).device
        model = load_adapter(load_base(base, device), adapter, base).merge_and_unload()
        self.model, self.tokenizer = model.eval(), load_tokenizer(adapter)
        self.engine = FastEngine(self.model, self.tokenizer) if self.serving.engine == DISTRIBUTION else None
        self.batcher = RequestBatcher()

    # Of any other hint than a DataFrame's MLflow would make the signature.
    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Generate readings: a table of prompts in, a table with the column ``texto`` out; with the parameter
        ``error_column`` as :func:`~cartas_mlflow.registry.each_row.answer_each`.

        Raises:
            RequestError: a row or a parameter that cannot be used, or more work than one request may ask for.
        """
        prompts = pd.DataFrame(model_input)
        if params and params.get(ERROR_COLUMN):
            return answer_each(self, prompts, params)
        return pd.DataFrame({"texto": self.write(prompts, params, limits=self.serving)})

    def read(
        self, prompts: pd.DataFrame, params: Mapping[str, Any] | None, limits: ServingSettings | None
    ) -> tuple[list[str], GenerationSettings, int]:
        """A request as the model takes it: prompts, decoding settings, readings per prompt.

        Args:
            limits: what is refused; None: nothing but what no text can be generated for.

        Raises:
            RequestError: see :meth:`predict`.
        """
        rows = read_rows(prompts, self.served.used_fields, self.vocabulary(limits), limits)
        settings, sequences = read_parameters(params, self.defaults)
        if limits is not None:
            check_work(len(rows), settings, sequences, limits)
        return [self.served.template.format(**row) for row in rows], settings, sequences

    def vocabulary(self, limits: ServingSettings | None) -> Vocabulary:
        """What the training knew; without limits any card goes through."""
        known = {"carta": self.served.cards, **self.served.values}
        return Vocabulary(known, any_card=limits is None or limits.any_card)

    def write(
        self,
        prompts: pd.DataFrame,
        params: Mapping[str, Any] | None = None,
        *,
        limits: ServingSettings | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """The readings for a table of prompts. ``on_progress``: told the number of prompts just answered.

        Raises:
            RequestError: see :meth:`read`.
        """
        texts, settings, sequences = self.read(prompts, params, limits)
        # As many texts at once as in the evaluation, whatever the number of beams: the memory that it needs is known.
        at_once = self.served.batch_size * self.defaults.num_beams // max(sequences, settings.num_beams)

        def generate(together: Sequence[str]) -> list[str]:
            return generate_texts(
                self.model,
                self.tokenizer,
                together,
                settings,
                batch_size=min(max(1, at_once), self.served.batch_size),
                max_length=self.served.max_length,
                sequences=sequences,
                engine=self.engine,
                on_progress=on_progress,
            )

        # A draw hangs on the company it is made in, and progress is one caller's.
        alone = settings.do_sample or on_progress is not None
        return self.batcher.answer(texts, None if alone else (settings, sequences), generate)

    def bits(
        self, prompts: pd.DataFrame, readings: Sequence[str], *, on_progress: Callable[[int], None] = lambda done: None
    ) -> list[float]:
        """How the model is surprised by what a person wrote: -log2 p(reading | prompt) over the characters of each.

        Args:
            prompts: as :meth:`write` takes them, one for each reading.
            on_progress: told the number of readings just measured.

        Raises:
            RequestError: see :meth:`read`.
        """
        asked, _, _ = self.read(prompts, None, None)
        limit, at_once = self.served.max_length, self.served.batch_size
        pairs = list(zip(asked, readings, strict=True))
        sizes = {"batch_size": min(at_once, LOSS_BATCH), "max_length": limit}
        nats: list[float] = []
        for start in range(0, len(pairs), at_once):
            together = pairs[start : start + at_once]
            nats += [-value for value in log_likelihoods(self.model, self.tokenizer, together, **sizes)]
            on_progress(len(together))
        tokens = self.tokenizer(text_target=list(readings), truncation=True, max_length=limit)["input_ids"]
        return bits_per_character(self.tokenizer, nats, readings, tokens, limit)

    def _locate_base(self, context: PythonModelContext) -> BaseLocation:
        name, revision = self.served.base_name, self.served.base_revision
        if "base" in context.artifacts:
            return BaseLocation(name, Path(context.artifacts["base"]), "folder", revision)
        return find_base(ModelSettings(name=name, revision=revision, fallback=None), tokenizer=False)


def open_folder(adapter: Path, engine: str = "pytorch", device: str = "auto") -> ReadingGenerator:
    """The generator of an adapter's folder, without MLflow's store; its base is found as in training.

    Args:
        device: as ``serving.device``.

    Raises:
        RegistryError: not the folder of a finished training.
        BaseModelError: its base cannot be had, or is another than the one it was trained on.
    """
    generator = ReadingGenerator()
    config = {"serving.engine": engine, "serving.device": device}
    generator.load_context(PythonModelContext(artifacts={"adapter": str(adapter)}, model_config=config))
    return generator


def open_logged(uri: str, engine: str = "pytorch") -> ReadingGenerator:
    """The generator behind ``models:/…``: a logged model's id, a version, an alias.

    Raises:
        MlflowException: there is no such model, or it is no Python model.
        RegistryError: it is another Python model.
    """
    import mlflow.pyfunc

    path = list(sys.path)
    try:
        with tempfile.TemporaryDirectory() as scratch:  # MLflow would leave its copy behind
            config = {"serving.engine": engine}
            model = mlflow.pyfunc.load_model(uri, suppress_warnings=True, dst_path=scratch, model_config=config)
    finally:
        sys.path[:] = path
    generator = model.unwrap_python_model()
    if not isinstance(generator, ReadingGenerator):
        raise RegistryError(f"{uri} não é um gerador de leituras deste projeto ({LOGGED_NAME}).")
    return generator


def log_reading_model(
    adapter: Path,
    base: BaseLocation,
    serving: ServingSettings,
    *,
    description: str,
    embed_base: bool,
    step: int,
    run_id: str | None = None,
    model_id: str | None = None,
) -> str:
    """Log the model on a run, by default the active one; gives its id (``m-…``).

    A base from the hub is remembered by id and commit; another one, or any on request, is copied in, so that the model
    loads on another machine, from another folder, without this repository.

    Args:
        adapter: folder with adapter, tokenizer and ``served.json``.
        description: Markdown, how good the model is.
        step: the epoch of the adapter; MLflow links the run's metrics of that step to the model.
        model_id: of a logged model that has been made and is empty.
    """
    import mlflow
    from mlflow.models import Model

    served = ServedModel.load(adapter)
    artifacts = {"adapter": str(adapter)}
    if embed_base or base.source in {"folder", "embedded"}:
        artifacts["base"] = str(base.folder)
    # What mlflow.pyfunc.log_model calls, and does not let say on which run.
    info = Model.log(
        artifact_path=None,
        name=LOGGED_NAME,
        flavor=mlflow.pyfunc,
        run_id=run_id,
        model_id=model_id,
        python_model=str(Path(__file__).with_name("served_model.py")),
        code_paths=[str(PACKAGE)],
        artifacts=artifacts,
        model_config={f"serving.{name}": value for name, value in serving.model_dump().items()},
        signature=reading_signature(served),
        input_example=([_example(served)], {"num_beams": 1}),
        pip_requirements=pinned_requirements(serving.engine),
        step=step,
    )
    mlflow.set_logged_model_tags(info.model_id, {"mlflow.note.content": _describe(served, description)})
    return info.model_id


def reading_signature(served: ServedModel) -> ModelSignature:
    """Text columns, those of the template required; decoding parameters with the training's values as defaults."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    columns = [ColSpec("string", name, required=name in served.used_fields) for name in RECORD_FIELDS]
    defaults = {**served.generation, "num_return_sequences": 1, ERROR_COLUMN: False}
    parameters = [ParamSpec(name, kind, defaults[name]) for name, (kind, _, _) in PARAMETERS.items()]
    return ModelSignature(
        inputs=Schema(columns), outputs=Schema([ColSpec("string", "texto")]), params=ParamSchema(parameters)
    )


def pinned_requirements(engine: str) -> list[str]:
    """:data:`REQUIREMENTS` and the engine's, at the versions in use, without a build's own suffix (``+cpu``)."""
    names = (*REQUIREMENTS, DISTRIBUTION) if engine == DISTRIBUTION else REQUIREMENTS
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]


def _describe(served: ServedModel, description: str) -> str:
    fields = ", ".join(f"`{name}`" for name in served.used_fields)
    return (
        f"**Gerador de leituras**: adaptador LoRA sobre `{served.base_name}`. Recebe {fields}; devolve `texto`.\n\n"
        f"{description}"
    )


def _example(served: ServedModel) -> dict[str, str]:
    values = {"carta": served.cards[0], "evento": "Ano Novo", "secao": "Luz", "tema": "Amor"}
    return {name: values[name] for name in served.used_fields}
