"""The pictures: what they show, in Portuguese, and nothing over anything else."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from cartas_mlflow.tracking.plots import plot_losses, plot_metrics

BASELINES = {
    "Base sem ajuste": {"rougeL": 0.02, "chrf": 0.06, "bleu": 0.0005},
    "Consulta": {"rougeL": 0.145, "chrf": 0.262, "bleu": 0.016},
}


def history(epochs: Sequence[int]) -> list[dict[str, float]]:
    return [
        {
            "epoch": float(epoch),
            "epoch_train_loss": 1.2 + 3 * math.exp(-epoch / 5),
            "eval_loss": 2.2 + 2 * math.exp(-epoch / 4) + 0.01 * epoch,
            "eval_rougeL": 0.16 * (1 - math.exp(-epoch / 4)),
            "eval_chrf": 0.27 * (1 - math.exp(-epoch / 3)),
            "eval_bleu": 0.022 * (1 - math.exp(-epoch / 6)),
        }
        for epoch in epochs
    ]


def png_size(figure: Figure) -> tuple[int, int]:
    """Width and height in pixels, read from the file's own header."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    content = stream.getvalue()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def extents(figure: Figure, axes: Axes) -> dict[str, Bbox]:
    """Where the texts of a panel and the legend stand, in pixels, once drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    return {
        "plot": axes.get_window_extent(renderer),
        "title": axes._left_title.get_window_extent(renderer),
        "best": axes.texts[0].get_window_extent(renderer),
        "label": axes.xaxis.label.get_window_extent(renderer),
        "legend": figure.legends[0].get_window_extent(renderer),
    }


def test_losses_are_two_lines_over_the_epochs() -> None:
    rows = history(range(1, 21))
    figure = plot_losses(rows, best_epoch=14)
    (axes,) = figure.axes
    train, validation, best = axes.get_lines()
    assert (train.get_label(), validation.get_label()) == ("treino", "validação")
    assert list(train.get_xdata()) == [row["epoch"] for row in rows]
    assert list(train.get_ydata()) == [row["epoch_train_loss"] for row in rows]
    assert list(validation.get_ydata()) == [row["eval_loss"] for row in rows]
    assert list(best.get_xdata()) == [14, 14]
    assert axes.texts[0].get_text() == "melhor: época 14"
    assert axes.get_xlabel() == "época"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["treino", "validação"]


def test_metrics_stand_beside_what_they_have_to_beat() -> None:
    rows = history(range(1, 21))
    figure = plot_metrics(rows, BASELINES, best_epoch=14)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["ROUGE-L", "chrF", "BLEU"]
    for axes, name in zip(figure.axes, ("rougeL", "chrf", "bleu"), strict=True):
        tuned, base, lookup, _ = axes.get_lines()
        assert list(tuned.get_ydata()) == [row[f"eval_{name}"] for row in rows]
        assert base.get_ydata()[0] == BASELINES["Base sem ajuste"][name]
        assert lookup.get_ydata()[0] == BASELINES["Consulta"][name]
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] > max(line.get_ydata()[0] for line in (base, lookup))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["modelo ajustado", "base sem ajuste", "consulta"]


@pytest.mark.parametrize(
    ("kind", "epochs", "best"),
    [
        ("losses", range(1, 21), 1),
        ("losses", range(1, 21), 20),
        ("losses", range(2, 201, 2), 100),
        ("losses", [1], 1),
        ("metrics", range(1, 21), 2),
        ("metrics", [1, 2], 2),
    ],
)
def test_nothing_stands_over_anything_else(kind: str, epochs: Sequence[int], best: int) -> None:
    rows = history(epochs)
    figure = plot_losses(rows, best) if kind == "losses" else plot_metrics(rows, BASELINES, best)
    width, height = figure.canvas.get_width_height()
    for axes in figure.axes:
        places = extents(figure, axes)
        names = list(places)
        for number, name in enumerate(names):
            assert places[name].x0 >= 0, (name, places[name])
            assert places[name].x1 <= width, (name, places[name])
            assert 0 <= places[name].y0 < places[name].y1 <= height, (name, places[name])
            for other in names[number + 1 :]:
                assert not places[name].overlaps(places[other]), (name, other)


def test_numbers_are_written_as_in_portuguese() -> None:
    figure = plot_metrics(history(range(1, 21)), BASELINES, best_epoch=14)
    FigureCanvasAgg(figure).draw()
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert "0,10" in ticks
    assert not any("." in tick for tick in ticks)


def test_the_losses_have_the_untuned_base_beside_them() -> None:
    baselines = {"Base sem ajuste": {"loss": 4.18, "chrf": 0.2}, "Consulta": {"chrf": 0.2}}
    figure = plot_losses(history([1, 2, 3]), 2, baselines)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines["base sem ajuste"].get_ydata()) == [4.18, 4.18]
    assert "consulta" not in lines
    low, high = figure.axes[0].get_ylim()
    assert low < 4.18 < high


def test_epochs_are_whole_numbers() -> None:
    figure = plot_losses(history([1, 2]), best_epoch=2)
    FigureCanvasAgg(figure).draw()
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1, 2]


def test_a_model_that_scores_nothing_still_has_a_picture() -> None:
    zeros = {"rougeL": 0.0, "chrf": 0.0, "bleu": 0.0}
    rows = [{**row, **{f"eval_{name}": 0.0 for name in zeros}} for row in history([1, 2, 3])]
    figure = plot_metrics(rows, {"Base sem ajuste": zeros, "Consulta": zeros}, best_epoch=1)
    assert png_size(figure)[0] > 0


def test_the_pictures_fit_a_readme() -> None:
    rows = history(range(1, 21))
    assert png_size(plot_losses(rows, 14)) == (1040, 572)
    assert png_size(plot_metrics(rows, BASELINES, 14)) == (1716, 572)
