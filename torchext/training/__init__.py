"""Training, behind `torchext train`: one loop of plain PyTorch.

options.py    what a training is told              loop.py        fit(model, data, options)
data.py       digits, folders of images            batches.py     which images each step sees
augment.py    mirror, crop, rotation, colour       processes.py   several processes
optimiser.py  optimisers, penalties, clipping      schedule.py    the learning rate
transfer.py   trained weights, frozen layers       checkpoint.py  written whole, read safely
curves.py     loss and accuracy as a picture       text.py        texts, for `torchext charlm`
towers.py     AlexNet on two processes             cli.py         the command
"""

from .data import Data, open_data
from .loop import fit
from .options import Options

__all__ = ["Data", "Options", "fit", "open_data"]
