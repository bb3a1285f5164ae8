"""Pictures of results."""

from __future__ import annotations

from pathlib import Path

from bn_deploy.artifact import atomic_path
from bn_deploy.train.loop import Training


def plot_training(training: Training, path: Path) -> None:
    """Draws loss and accuracies per epoch, and what re-estimating the statistics changed.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it keeps global state and looks for a display.
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.subplots()
    right = left.twinx()
    epochs = range(1, len(training.epochs) + 1)
    left.plot(epochs, [e.loss for e in training.epochs], color="tab:gray", marker="o", label="training loss")
    right.plot(
        epochs, [e.train_accuracy for e in training.epochs], color="tab:blue", marker="o", label="training accuracy"
    )
    right.plot(
        epochs,
        [e.test_accuracy for e in training.epochs],
        color="tab:orange",
        marker="o",
        linestyle="--",
        label="test accuracy, moving averages",
    )
    right.plot(
        [len(training.epochs)],
        [training.test_accuracy],
        color="tab:red",
        marker="*",
        markersize=14,
        linestyle="none",
        label=f"test accuracy, statistics re-estimated: {training.test_accuracy:.4f}",
    )
    left.set(xlabel="epoch", ylabel="cross-entropy", ylim=(0, None), xticks=list(epochs))
    right.set(ylabel="accuracy", ylim=(None, 1))
    right.grid(visible=True, alpha=0.3)
    lines = [*left.get_lines(), *right.get_lines()]
    left.legend(lines, [str(line.get_label()) for line in lines], loc="center right", fontsize="small")
    with atomic_path(path) as temporary:
        # Without the software's name and version the same training gives the same bytes.
        figure.savefig(temporary, dpi=120, metadata={"Software": None})
