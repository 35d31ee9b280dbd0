"""The pictures of a run: losses, and metrics beside what they have to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#22313f", "#6b7a88", "#e3e8ec"
TRAIN, VALIDATION = "#c8553d", "#2a6f97"
METRIC_COLOURS = {"eval_rougeL": "#2a6f97", "eval_chrf": "#588157", "eval_bleu": "#bc6c25"}
METRIC_LABELS = {"eval_rougeL": "ROUGE-L", "eval_chrf": "chrF", "eval_bleu": "BLEU"}


def plot_losses(history: Sequence[Mapping[str, float]], best_epoch: int | None) -> Figure:
    """Training and validation loss (nats per token) over the epochs. ``history``: rows with epoch, epoch_train_loss, eval_loss."""
    figure, axes = _frame("Perda por época", "perda (nats por token)")
    epochs = [row["epoch"] for row in history]
    for key, label, colour in (("epoch_train_loss", "treino", TRAIN), ("eval_loss", "validação", VALIDATION)):
        _line(axes, epochs, [row.get(key, float("nan")) for row in history], label, colour)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    _mark_best(axes, best_epoch)
    return figure


def plot_metrics(
    history: Sequence[Mapping[str, float]], baselines: Mapping[str, Mapping[str, float]], best_epoch: int | None
) -> Figure:
    """One panel per metric: generated readings over the epochs; dashed, what they have to beat.

    Args:
        history: rows with epoch and eval_* values (0 to 1).
        baselines: Portuguese label -> metric name without prefix -> value.
    """
    figure, panels = _panels(list(METRIC_LABELS.values()))
    epochs = [row["epoch"] for row in history]
    for (key, label), axes in zip(METRIC_LABELS.items(), panels, strict=True):
        _line(axes, epochs, [row[key] for row in history], "modelo ajustado", METRIC_COLOURS[key])
        for (name, values), style in zip(baselines.items(), ((0, (1, 1.5)), (0, (5, 3))), strict=False):
            value = values[key.removeprefix("eval_")]
            axes.axhline(value, color=MUTED, linewidth=1.4, linestyle=style, label=name)
        axes.set_ylim(bottom=0)
        _mark_best(axes, best_epoch)
        axes.set_title(label, loc="left", color=INK, fontsize=12, fontweight="bold")
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _frame(title: str, unit: str) -> tuple[Figure, Axes]:
    figure, (axes,) = _panels([title], width=8.0)
    axes.set_title(title, loc="left", color=INK, fontsize=13, fontweight="bold")
    axes.set_ylabel(unit, color=MUTED)
    return figure, axes


def _panels(titles: Sequence[str], width: float = 4.4) -> tuple[Figure, list[Axes]]:
    # Figure without pyplot: no window system, no global state, nothing to close.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(width * len(titles), 4.2), dpi=130, layout="constrained", facecolor="white")
    panels = [figure.add_subplot(1, len(titles), number + 1) for number in range(len(titles))]
    for axes in panels:
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(MUTED)
        axes.tick_params(colors=MUTED, length=0)
        axes.set_xlabel("época", color=MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, panels


def _line(axes: Axes, epochs: Sequence[float], values: Sequence[float], label: str, colour: str) -> None:
    axes.plot(epochs, values, color=colour, linewidth=2, marker="o", markersize=3.5, label=label)


def _mark_best(axes: Axes, epoch: int | None) -> None:
    if epoch is not None:
        axes.axvline(epoch, color=MUTED, linewidth=0.8)
        axes.annotate(
            f"melhor: {epoch}", (epoch, 1), xycoords=("data", "axes fraction"), xytext=(4, -4),
            textcoords="offset points", va="top", fontsize=8, color=MUTED,
        )  # fmt: skip
