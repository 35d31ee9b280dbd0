"""The pictures of a run: losses, and metrics beside what they have to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Formatter

INK, MUTED, GRID = "#22313f", "#6b7a88", "#e3e8ec"
BLUE, RED, AMBER = "#2a6f97", "#c8553d", "#d98e04"
METRIC_LABELS = {"eval_rougeL": "ROUGE-L", "eval_chrf": "chrF", "eval_bleu": "BLEU"}
BASELINE_STYLES = ((MUTED, (0, (1, 1.5))), (AMBER, (0, (5, 3))))
"""(colour, dashes) of the baselines, in their order."""


def plot_losses(
    history: Sequence[Mapping[str, float]], best_epoch: int, baselines: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """Training and validation loss (nats per token) over the epochs; dotted, where the untuned base stands.

    Args:
        history: rows with epoch, epoch_train_loss and eval_loss.
        best_epoch: the epoch whose adapter was kept.
        baselines: as in :func:`plot_metrics`; those with a ``loss`` are drawn.
    """
    figure, (axes,) = _panels(["Perda por época (nats por token)"], width=8.0)
    for key, label, colour in (("epoch_train_loss", "treino", RED), ("eval_loss", "validação", BLUE)):
        _draw_series(axes, history, key, label, colour)
    _draw_baselines(axes, {label: row for label, row in (baselines or {}).items() if "loss" in row}, "loss")
    _mark_best(axes, best_epoch)
    _add_legend(figure, axes)
    return figure


def plot_metrics(
    history: Sequence[Mapping[str, float]], baselines: Mapping[str, Mapping[str, float]], best_epoch: int
) -> Figure:
    """One panel per metric: the generated readings over the epochs; dashed, what they have to beat.

    Args:
        history: rows with epoch and eval_* values (0 to 1).
        baselines: Portuguese label -> metric name without prefix -> value.
        best_epoch: the epoch whose adapter was kept.
    """
    figure, panels = _panels(list(METRIC_LABELS.values()), width=4.4)
    for key, axes in zip(METRIC_LABELS, panels, strict=True):
        _draw_series(axes, history, key, "modelo ajustado", BLUE)
        _draw_baselines(axes, baselines, key.removeprefix("eval_"))
        axes.set_ylim(bottom=0, top=axes.get_ylim()[1] or 1)
        _mark_best(axes, best_epoch)
    _add_legend(figure, panels[0])
    return figure


def _panels(titles: Sequence[str], width: float) -> tuple[Figure, list[Axes]]:
    # Figure without pyplot: no window system, no global state, nothing to close.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(width * len(titles), 4.4), dpi=130, layout="constrained", facecolor="white")
    panels = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, loc="left", pad=20, color=INK, fontsize=12, fontweight="bold")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(MUTED)
        axes.tick_params(colors=MUTED, length=0)
        axes.margins(y=0.08)
        axes.set_xlabel("época", color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(_decimal_comma())
    return figure, panels


def _draw_series(axes: Axes, history: Sequence[Mapping[str, float]], key: str, label: str, colour: str) -> None:
    epochs, values = [row["epoch"] for row in history], [row[key] for row in history]
    marker = "o" if len(history) <= 40 else None
    axes.plot(epochs, values, color=colour, linewidth=2, marker=marker, markersize=4, label=label)
    room = max(0.5, 0.03 * (epochs[-1] - epochs[0]))
    axes.set_xlim(epochs[0] - room, epochs[-1] + room)


def _draw_baselines(axes: Axes, baselines: Mapping[str, Mapping[str, float]], metric: str) -> None:
    for (label, values), (colour, dashes) in zip(baselines.items(), cycle(BASELINE_STYLES), strict=False):
        axes.axhline(values[metric], color=colour, linewidth=1.6, linestyle=dashes, label=label.lower())


def _mark_best(axes: Axes, epoch: int) -> None:
    # The label stands in the band between plot and title, where no line passes.
    axes.axvline(epoch, color=INK, linewidth=0.8, alpha=0.5, zorder=1)
    left, right = axes.get_xlim()
    share = (epoch - left) / (right - left)
    side = "left" if share < 0.15 else "right" if share > 0.85 else "center"
    axes.annotate(
        f"melhor: época {epoch}",
        (epoch, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha=side,
        va="bottom",
        fontsize=8.5,
        color=INK,
    )


def _add_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10, labelcolor=INK
    )


def _decimal_comma() -> Formatter:
    from matplotlib.ticker import ScalarFormatter

    class DecimalComma(ScalarFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return super().__call__(x, pos).replace(".", ",")

    formatter = DecimalComma(useOffset=False)
    formatter.set_scientific(False)
    return formatter
