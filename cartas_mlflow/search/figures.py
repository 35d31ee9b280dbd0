"""The pictures of a study: PNG for a quick look, one interactive page for a closer one."""

from __future__ import annotations

import copy
import html
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.trial import FrozenTrial

INK, MUTED, GRID, BLUE, RED, PALE = "#22313f", "#6b7a88", "#e3e8ec", "#2a6f97", "#c8553d", "#a9c4d4"
ENOUGH = 15
"""Trials from which on an importance is more than a hint."""
BEYOND = 0.2
"""How far beyond the untuned base the pictures go, in parts of the way from the best trial to it."""


@dataclass(frozen=True)
class StudyView:
    """What the pictures show."""

    name: str
    metric: str
    """As a person reads it: chrF, ROUGE-L, …"""
    maximize: bool
    trials: Sequence[FrozenTrial]
    """Those that count, in order."""
    untuned: float | None = None
    """What the base has without a training."""

    @property
    def complete(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state.name == "COMPLETE"]

    @property
    def parameters(self) -> list[str]:
        """Settings that vary between complete trials, in the order of their first appearance."""
        names = dict.fromkeys(name for trial in self.complete for name in trial.params)
        return [name for name in names if len({trial.params.get(name) for trial in self.complete}) > 1]

    @property
    def best(self) -> FrozenTrial:
        """The complete trial with the best value; the earlier one of two that are alike."""
        return (max if self.maximize else min)(self.complete, key=lambda trial: trial.value)

    def clipped(self, value: float) -> float:
        """A trial's value; of one that ruined the base, just beyond the untuned one: how badly it did says nothing."""
        best = self.best.value
        if self.untuned is None or (best <= self.untuned if self.maximize else best >= self.untuned):
            return value
        edge = self.untuned + BEYOND * (self.untuned - best)
        return max(value, edge) if self.maximize else min(value, edge)

    @property
    def judged(self) -> list[FrozenTrial]:
        """The trials that were measured after an epoch, the cut ones too."""
        return [t for t in self.trials if t.state.name in {"COMPLETE", "PRUNED"} and t.intermediate_values]

    @property
    def common_epoch(self) -> int:
        """The last epoch that each of the judged trials reached."""
        return min(max(trial.intermediate_values) for trial in self.judged)

    @property
    def weighed(self) -> list[FrozenTrial]:
        """The judged trials, as complete ones: the best value that each had up to the common epoch, :meth:`clipped`.

        Among those alone that no pruner cut, whatever made the others bad would seem to weigh little.
        """
        from optuna.trial import TrialState

        choose, epoch = (max if self.maximize else min), self.common_epoch
        trials = [copy.copy(trial) for trial in self.judged]
        for trial in trials:
            values = [value for step, value in trial.intermediate_values.items() if step <= epoch]
            trial.state, trial.value = TrialState.COMPLETE, self.clipped(choose(values))
        return trials

    def running_best(self) -> list[tuple[int, float]]:
        """(number of the trial, best value so far) at each complete trial."""
        choose, points = (max if self.maximize else min), []
        for trial in self.complete:
            points.append((trial.number, choose(trial.value, points[-1][1]) if points else trial.value))
        return points


def importances(view: StudyView, seed: int) -> dict[str, float]:
    """Share of the differences between trials that each setting explains (fANOVA; Hutter et al., 2014).

    The differences are those at the last epoch that all of them reached (:attr:`StudyView.weighed`). A trial that
    ruined the base counts as :meth:`StudyView.clipped`: its distance would explain everything. Empty with fewer than
    four trials, or with none that differ: there is nothing to explain then.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if not view.complete or len(view.judged) < 4:
        return {}
    weighed = view.weighed
    shared = [name for name in view.parameters if all(name in trial.params for trial in weighed)]
    if len({trial.value for trial in weighed}) < 2 or not shared:
        return {}
    return get_param_importances(
        _study_of(view, weighed), evaluator=FanovaImportanceEvaluator(seed=seed), params=shared
    )


def standing(trials: int, epoch: int) -> str:
    """How much an importance stands on, in words."""
    return f"{trials} tentativas na época {epoch}" + ("; são poucas: uma pista" if trials < ENOUGH else "")


def draw_study(view: StudyView, shares: Mapping[str, float]) -> dict[str, Figure]:
    """File name without ending -> picture; only those that there is something to draw for."""
    figures: dict[str, Figure] = {}
    if view.complete:
        figures["history"] = _draw_history(view)
    if shares:
        figures["importances"] = _draw_importances(shares, standing(len(view.judged), view.common_epoch))
    if len(view.complete) > 1 and view.parameters:
        figures["parallel_coordinates"] = _draw_parallel(view)
        figures["slices"] = _draw_slices(view)
    return figures


def interactive_page(view: StudyView, shares: Mapping[str, float], seed: int) -> str | None:
    """One HTML page with all the pictures, which needs no network; None without complete trials."""
    import optuna
    from optuna import visualization
    from optuna.importance import FanovaImportanceEvaluator

    if not view.complete:
        return None
    study = _study_of(view, [trial for trial in view.trials if trial.state.is_finished()])
    titles: list[tuple[str, Callable[[], Any]]] = [
        ("Evolução", lambda: visualization.plot_optimization_history(study, target_name=view.metric)),
        ("Curvas das tentativas, época a época", lambda: visualization.plot_intermediate_values(study)),
    ]
    if shares:
        evaluator = FanovaImportanceEvaluator(seed=seed)
        names, weighed = list(shares), _study_of(view, view.weighed)
        titles.append(
            ("Importância", lambda: visualization.plot_param_importances(weighed, evaluator=evaluator, params=names))
        )
    if len(view.complete) > 1 and view.parameters:
        titles += [
            ("Coordenadas paralelas", lambda: visualization.plot_parallel_coordinate(study, target_name=view.metric)),
            ("Fatias", lambda: visualization.plot_slice(study, target_name=view.metric)),
        ]
    parts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for number, (title, plot) in enumerate(titles):
            figure = plot().update_layout(title=None, template="plotly_white")
            parts.append(f"<h2>{title}</h2>")
            parts.append(figure.to_html(full_html=False, include_plotlyjs=number == 0))
    name = html.escape(view.name)
    return (
        f'<!doctype html>\n<html lang="pt-BR"><head><meta charset="utf-8"><title>Busca {name}</title>'
        "<style>body{font-family:sans-serif;color:#22313f;max-width:72rem;margin:2rem auto}</style></head>"
        f"<body><h1>Busca {name}</h1>\n" + "\n".join(parts) + "</body></html>\n"
    )


def _study_of(view: StudyView, trials: Sequence[FrozenTrial]) -> Study:
    """The trials as a study in memory: pictures then ask the database nothing, and show only what counts."""
    import optuna

    study = optuna.create_study(study_name=view.name, direction="maximize" if view.maximize else "minimize")
    study.add_trials(trials)
    return study


def _draw_history(view: StudyView) -> Figure:
    figure, (axes,) = _panels(1, 8.0, 4.4)
    complete = view.complete
    pruned = [trial for trial in view.trials if trial.state.name == "PRUNED" and trial.value is not None]
    for trials, label, look in (
        (pruned, "cortada", {"s": 30, "marker": "x", "color": MUTED}),
        (complete, "completa", {"s": 34, "color": BLUE}),
    ):
        if trials:
            numbers, values = [trial.number for trial in trials], [view.clipped(trial.value) for trial in trials]
            axes.scatter(numbers, values, label=label, **look)
    ruined = [trial for trial in (*complete, *pruned) if view.clipped(trial.value) != trial.value]
    for trial in ruined:
        text = f"fora da figura: {_text(trial.value)}"
        edge = (trial.number, view.clipped(trial.value))
        axes.annotate(text, edge, xytext=(7, -3), textcoords="offset points", fontsize=8, color=MUTED)
    numbers, best = zip(*view.running_best(), strict=True)
    axes.step(numbers, best, where="post", color=RED, linewidth=2, label="melhor até aqui")
    if view.untuned is not None:
        axes.axhline(view.untuned, color=MUTED, linewidth=1.6, linestyle=(0, (5, 3)), label="modelo sem ajuste")
    for trial in complete:
        label = trial.user_attrs.get("label")
        if label:
            axes.annotate(
                label, (trial.number, trial.value), xytext=(5, -3), textcoords="offset points", fontsize=8, color=INK,
                va="top",
            )  # fmt: skip
    axes.set_title(f"Evolução da busca: {view.metric}", loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_xlabel("tentativa", color=MUTED)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    _whole_numbers(axes)
    return figure


def _draw_importances(shares: Mapping[str, float], basis: str) -> Figure:
    figure, (axes,) = _panels(1, 8.0, 1.4 + 0.4 * len(shares))
    names = list(shares)[::-1]
    bars = axes.barh(range(len(names)), [shares[name] for name in names], color=BLUE, height=0.6)
    axes.set_yticks(range(len(names)), labels=names)
    axes.bar_label(bars, [f"{100 * shares[name]:.0f} %" for name in names], padding=4, fontsize=9, color=INK)
    title = f"Quanto cada configuração pesou\n(fANOVA, {basis})"
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_xlim(0, max(1e-9, 1.12 * max(shares.values())))
    axes.set_xticks([])
    axes.grid(visible=False)
    return figure


def _draw_parallel(view: StudyView) -> Figure:
    names = view.parameters
    figure, (axes,) = _panels(1, max(8.0, 1.7 * (len(names) + 1)), 5.0)
    order = sorted(view.complete, key=lambda trial: trial.value, reverse=not view.maximize)
    places = {name: _scale([trial.params.get(name) for trial in order]) for name in names}
    values = _scale([view.clipped(trial.value) for trial in order])
    for rank, trial in enumerate([*order, view.best]):
        points = [(place, places[name][trial.params[name]]) for place, name in enumerate(names) if name in trial.params]
        best = rank == len(order)
        axes.plot(
            *zip(*points, (len(names), values[view.clipped(trial.value)]), strict=True),
            color=RED if best else BLUE,
            linewidth=2.4 if best else 1.2,
            alpha=1 if best else 0.15 + 0.6 * rank / len(order),
        )
    for place, (name, scale) in enumerate([*places.items(), (view.metric, values)]):
        axes.axvline(place, color=GRID, linewidth=1)
        for value, height in _ends(scale):
            axes.annotate(
                _text(value),
                (place, height),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=MUTED,
                bbox={"color": "white", "alpha": 0.8, "pad": 0.5},
                zorder=4,
            )
        axes.annotate(
            name.replace(".", ".\n"),
            (place, 1.06),
            ha="center",
            va="bottom",
            fontsize=8,
            color=INK,
            annotation_clip=False,
        )
    axes.set_title(
        "Coordenadas paralelas: uma linha por tentativa, a melhor em vermelho",
        loc="left", pad=46, color=INK, fontsize=12, fontweight="bold",
    )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.set_ylim(-0.05, 1.05)
    return figure


def _draw_slices(view: StudyView) -> Figure:
    names = view.parameters
    columns = min(4, len(names))
    figure, panels = _panels(len(names), 3.2 * columns, 3.0 * math.ceil(len(names) / columns), columns)
    for axes, name in zip(panels, names, strict=True):
        shown = [trial for trial in view.complete if name in trial.params]
        choices = getattr(shown[0].distributions[name], "choices", ())
        words = bool(choices)
        if words:
            shown.sort(key=lambda trial: choices.index(trial.params[name]))
        places = {trial.number: _text(trial.params[name]) if words else trial.params[name] for trial in shown}
        values = [view.clipped(trial.value) for trial in shown]
        axes.scatter(list(places.values()), values, s=26, color=PALE, edgecolor=BLUE)
        if view.best.number in places:
            axes.scatter([places[view.best.number]], [view.best.value], s=60, color=RED)
        if words:
            axes.margins(x=0.25)
        else:
            _label_numbers(axes, log=shown[0].distributions[name].log)
        axes.tick_params(axis="x", labelsize=7.5)
        axes.set_title(name, loc="left", color=INK, fontsize=9, fontweight="bold")
    figure.suptitle(
        f"{view.metric} em cada valor tentado; em vermelho, o melhor", x=0.01, ha="left", color=INK, fontsize=12
    )
    return figure


def _panels(number: int, width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    # Figure without pyplot: no window system, no global state, nothing to close.
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")
    panels = [figure.add_subplot(math.ceil(number / columns), columns, place + 1) for place in range(number)]
    for axes in panels:
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(MUTED)
        axes.tick_params(which="both", colors=MUTED, length=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}".replace(".", ",")))
    return figure, panels


def _label_numbers(axes: Axes, *, log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if log:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high / low > 50 else (1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _text(value)))


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _scale(values: Sequence[Any]) -> dict[Any, float]:
    """Value -> height from 0 to 1: numbers by size (by magnitude if they span a hundredfold), words evenly."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, (str, bool)) for value in known):
        words = sorted({*known}, key=str)
        return {word: place / max(1, len(words) - 1) for place, word in enumerate(words)}
    measure = math.log if min(known) > 0 and max(known) / min(known) > 100 else float
    low, high = measure(min(known)), measure(max(known))
    return {value: (measure(value) - low) / (high - low) if high > low else 0.5 for value in known}


def _ends(scale: Mapping[Any, float]) -> list[tuple[Any, float]]:
    if any(isinstance(value, (str, bool)) for value in scale):
        return list(scale.items())
    return [min(scale.items()), max(scale.items())]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}".replace(".", ",")
    text = str(value)
    return text if len(text) <= 18 else f"{text[:17]}…"
