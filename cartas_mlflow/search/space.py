"""What a search varies: dimensions over dotted settings, constants, and which settings may vary at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cartas_mlflow.settings import ExperimentConfig

if TYPE_CHECKING:
    from optuna import Trial

Value = float | int | str | bool | None

SEARCHED_SECTIONS = ("lora.", "training.", "early_stopping.", "generation.", "data.template", "data.max_length")
"""What may differ from trial to trial; anything else would make trials incomparable, or load the base anew."""
FIXED = {
    "training.device": "vale para o processo inteiro",
    "training.precision": "vale para o processo inteiro",
    "training.resume": "uma tentativa não continua outra",
    "training.num_processes": "cada tentativa é de um processo",
    "training.seed": "com outra semente a mesma tentativa daria outro valor",
    "generation.seed": "com outra semente a mesma tentativa daria outro valor",
    "early_stopping.metric": "é search.metric que escolhe a época",
}
"""Settings of those sections that no search varies, and why."""


@dataclass(frozen=True)
class Dimension:
    """One setting and where to look for its value.

    ``when``: (setting, values) pairs; where one does not hold, the dimension is left out and the setting keeps the
    configuration's value.
    """

    name: str
    kind: str
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()
    when: tuple[tuple[str, tuple[Value, ...]], ...] = ()

    def suggest(self, trial: Trial) -> Value:
        """The sampler's choice for a trial."""
        if self.kind == "categorical":
            return trial.suggest_categorical(self.name, self.choices)
        if self.kind == "int":
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)

    def place(self, value: Any) -> Value | None:
        """The value as this dimension writes it; None where it lies outside."""
        if self.kind == "categorical":
            return next((choice for choice in self.choices if same_value(choice, value)), None)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return None
        if self.step is None:
            return value
        steps = (value - self.low) / self.step
        return value if abs(steps - round(steps)) < 1e-9 else None

    def __str__(self) -> str:
        if self.kind == "categorical":
            text = " | ".join(map(str, self.choices))
        else:
            text = f"{self.low:g} … {self.high:g}" + (" (log)" if self.log else "")
            text += f", de {self.step:g} em {self.step:g}" if self.step else ""
        conditions = (f"{name} = {' ou '.join(map(str, values))}" for name, values in self.when)
        return text + "".join(f"; só com {condition}" for condition in conditions)


@dataclass(frozen=True)
class Known:
    """Settings worth trying first. ``values``: dotted name -> value."""

    label: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """``dimensions``: those that others depend on come first; ``constants``: what every trial has alike; ``fixed``: the
    settings that the user decided."""

    dimensions: tuple[Dimension, ...]
    constants: Mapping[str, Any]
    fixed: frozenset[str] = field(default=frozenset(), compare=False)

    def suggest(self, trial: Trial, config: ExperimentConfig, given: Mapping[str, Any]) -> dict[str, Any]:
        """The trial's values: constants, the values it was given (recipes have some), and what the sampler chooses."""
        values = {**given, **self.constants}
        flat = config.flat()
        for dimension in self.dimensions:
            if dimension.name not in values and _holds(dimension, {**flat, **values}):
                values[dimension.name] = dimension.suggest(trial)
        return values

    def enqueued(self, known: Known, config: ExperimentConfig) -> tuple[dict[str, Value], dict[str, Any]]:
        """Known settings as (values of dimensions, values that no dimension holds); constants win over both."""
        chosen = {name: value for name, value in known.values.items() if is_searchable(name)}
        everything = {**config.flat(), **chosen, **self.constants}
        params: dict[str, Value] = {}
        for dimension in self.dimensions:
            placed = dimension.place(everything[dimension.name]) if _holds(dimension, everything) else None
            if placed is not None:
                params[dimension.name] = placed
            else:
                chosen[dimension.name] = everything[dimension.name]
        rest = {name: value for name, value in chosen.items() if name not in params and name not in self.constants}
        return params, rest

    def largest(self, name: str, config: ExperimentConfig) -> Any:
        """The largest value that a numeric setting can have in a trial."""
        for dimension in self.dimensions:
            if dimension.name == name:
                numbers = dimension.choices if dimension.kind == "categorical" else (dimension.high,)
                return max([*numbers, config.flat()[name]] if dimension.when else numbers)
        return self.constants.get(name, config.flat()[name])

    def described(self) -> dict[str, str]:
        """Dotted name -> where it is looked for, in words."""
        return {dimension.name: str(dimension) for dimension in self.dimensions} | {
            name: str(value) for name, value in self.constants.items()
        }


def is_searchable(name: str) -> bool:
    """Whether a search may vary this setting."""
    return name.startswith(SEARCHED_SECTIONS) and name not in FIXED


def _holds(dimension: Dimension, values: Mapping[str, Any]) -> bool:
    return all(any(same_value(wanted, values[setting]) for wanted in allowed) for setting, allowed in dimension.when)


def same_value(written: Any, value: Any) -> bool:
    return written == (",".join(value) if isinstance(value, (list, tuple)) else value)
