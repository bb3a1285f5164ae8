"""Pictures of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bn_deploy.artifact import atomic_path
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
