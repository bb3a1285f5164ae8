"""Pictures of results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bn_deploy.artifact import atomic_path
from bn_deploy.bench.record import LatencyRecord
from bn_deploy.bench.rows import LatencyResult
from bn_deploy.train.loop import Training
from bn_deploy.verify.localise import LayerParity


def plot_training(training: Training, dataset: str, path: Path) -> None:
    """Draws loss and accuracies per epoch, and what re-estimating the statistics changed.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it keeps global state and looks for a display.
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"training on {dataset}")
    loss, accuracy = figure.subplots(1, 2)
    epochs = list(range(1, len(training.epochs) + 1))
    loss.plot(epochs, [e.loss for e in training.epochs], color="tab:gray", marker="o")
    loss.set(ylabel="training loss (cross-entropy)", ylim=(0, None))
    lines = {
        "training": [e.train_accuracy for e in training.epochs],
        "test, moving averages": [e.test_accuracy for e in training.epochs],
    }
    for (label, values), color in zip(lines.items(), ("tab:blue", "tab:orange"), strict=True):
        accuracy.plot(epochs, values, color=color, marker="o", label=label)
    accuracy.plot(
        epochs[-1:],
        [training.test_accuracy],
        color="tab:red",
        marker="*",
        markersize=14,
        linestyle="none",
        label=f"test, statistics re-estimated: {training.test_accuracy:.4f}",
    )
    accuracy.set(ylabel="accuracy")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    for axes in (loss, accuracy):
        axes.set(xlabel="epoch", xticks=epochs)
        axes.grid(visible=True, alpha=0.3)
    with atomic_path(path) as temporary:
        # Without the software's name and version the same training gives the same bytes.
        figure.savefig(temporary, dpi=120, metadata={"Software": None})


def plot_layers(layers: Sequence[LayerParity], path: Path) -> None:
    """Draws how the error of each form grows from layer to layer, relative to the size of the layer's output.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = list(dict.fromkeys(row.layer for row in layers))
    lines = {"trained": {row.layer: row.own / (row.size or 1.0) for row in layers}}
    for row in layers:
        lines.setdefault(row.stage, {})[row.layer] = row.rms / (row.size or 1.0)
    for form, points in lines.items():
        places = [place for place, name in enumerate(names) if points.get(name, 0.0) > 0]
        axes.plot(places, [points[names[p]] for p in places], marker=".", label=form)
    axes.set(yscale="log", ylabel="rms error / rms output", xlabel="layer", title="distance to float64")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize="x-small")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="x-small", ncols=3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})


_COLUMNS = {False: 2, True: 6}
"""Of the legend, by whether there are several panels."""


def plot_latency(record: LatencyRecord, path: Path) -> None:
    """Draws every sample of a measurement, and what a larger batch costs and brings.

    Left, the share of calls that are at most so long, at the smallest batch size: a line for each candidate,
    the tail included. Where there are several batch sizes, also the median at each, and images per second
    against the latency that they cost; up and to the left is better.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows: dict[str, list[LatencyResult]] = {}
    scope = record.results[0].scope
    for row in record.results:
        if row.scope == scope and not row.again:
            rows.setdefault(row.name, []).append(row)
    several = len({row.batch for row in record.results}) > 1
    figure = Figure(figsize=(15 if several else 6, 5))
    FigureCanvasAgg(figure)
    # Room that is known beforehand: to find it, matplotlib would draw every label twice.
    lines = math.ceil(len(rows) / _COLUMNS[several])
    left, bottom = (0.05, 0.12 + 0.05 * lines) if several else (0.12, 0.13 + 0.05 * lines)
    right = 0.98 if several else 0.94
    figure.subplots_adjust(left=left, right=right, top=0.86, bottom=bottom, wspace=0.22)
    panels = figure.subplots(1, 3 if several else 1, squeeze=False)[0]
    smallest = min(row.batch for row in record.results)
    backends = list(dict.fromkeys(row.backend for row in record.results))
    models = list(dict.fromkeys(row.model for row in record.results))
    for name, own in rows.items():
        style = {
            "color": f"C{models.index(own[0].model) % 10}",
            "linestyle": ("-", "--", ":", "-.")[backends.index(own[0].backend) % 4],
            "label": name,
        }
        for row in own:
            if row.batch == smallest:
                shares = np.arange(1, len(row.ascending_s) + 1) / len(row.ascending_s)
                panels[0].step(row.ascending_s * 1e3, shares, where="post", **style)
        if several:
            medians_ms = [float(np.median(row.ascending_s)) * 1e3 for row in own]
            panels[1].plot([row.batch for row in own], medians_ms, marker=".", **style)
            panels[2].plot(medians_ms, [row.throughput_per_s for row in own], marker=".", **style)
    scales = {"xscale": "log", "yscale": "log"}
    panels[0].set(
        xscale="log", xlabel="ms a call", ylabel="share of calls", title=f"every call, batch {smallest}"
    )
    if several:
        panels[1].set(**scales, xlabel="batch", ylabel="median, ms a call", title="what a larger batch costs")
        panels[2].set(**scales, xlabel="median, ms a call", ylabel="rows / s", title="what it brings")
    for panel in panels:
        panel.grid(visible=True, which="both", alpha=0.2)
    figure.suptitle(f"{scope}, {record.options.scenario}, {record.options.regime}, {record.dataset}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=_COLUMNS[several], fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})
