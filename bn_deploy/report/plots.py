"""Pictures of results."""

from __future__ import annotations

from pathlib import Path

from bn_deploy.artifact import atomic_path
from bn_deploy.train.loop import Training


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
