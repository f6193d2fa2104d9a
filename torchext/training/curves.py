"""Loss and accuracy over the epochs, as a picture."""

from .._command import picture

TRAIN, VAL = "#3465a4", "#c4473a"


def draw(history, path, title):
    """Writes the PNG."""
    figure = picture(9, 3.6)
    epochs = [figures["epoch"] for figures in history]
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, colour in (("train", TRAIN), ("val", VAL)):
            values = [figures[f"{part}_{what}"] for figures in history]
            axes.plot(epochs, values, color=colour, label=part, marker=".")
        axes.set_xlabel("epoch")
        axes.set_ylabel(what)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, format="png", dpi=150)
