"""`torchext filters`: a picture of a model's first filters, and of what they find in an image."""

import math

import torch

from ._command import Misuse, Parser, existing_file, new_file, picture, print_json
from ._images import Broken, Reader, add_preprocessing
from ._model import first_convolution, input_shape, load, random_input


def grid(tiles):
    """[N, C, H, W] as one image [height, width, C], each tile over the whole range 0 to 1."""
    tiles = tiles - tiles.amin((1, 2, 3), keepdim=True)
    tiles = tiles / tiles.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    across = math.ceil(math.sqrt(len(tiles)))
    down = math.ceil(len(tiles) / across)
    tiles = torch.nn.functional.pad(tiles, (0, 1, 0, 1), value=1.0)  # white lines between
    blank = tiles.new_ones(down * across - len(tiles), *tiles.shape[1:])
    tiles = torch.cat([tiles, blank]).unflatten(0, (down, across))
    return tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[:-1, :-1]


@torch.no_grad()
def found_by(model, name, x):
    """The maps [C, 1, H, W] that the layer of this name makes when the model gets x."""
    maps = []
    layer = model.get_submodule(name)
    hook = layer.register_forward_hook(lambda module, args, output: maps.append(output.clone()))
    model(x)
    hook.remove()
    return maps[0][0][:, None]


def draw(file, panels):
    """A picture of two (title, tiles), side by side."""
    figure = picture(12, 6.3)
    for axes, (title, tiles) in zip(figure.subplots(1, 2), panels, strict=True):
        image = grid(tiles).numpy()
        axes.imshow(image, cmap="gray" if image.shape[2] == 1 else None, interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    figure.savefig(file, dpi=150)


def main(argv):
    parser = Parser("torchext filters", __doc__)
    parser.add_model()
    parser.add_argument("--out", required=True, type=new_file(".png"), metavar="FILE.png")
    parser.add_argument("--image", type=existing_file, metavar="FILE", help="instead of noise")
    parser.add_weights()
    add_preprocessing(parser)
    parser.add_json()
    options = parser.parse_args(argv)
    model = load(options.model, options.weights)
    name, layer = first_convolution(model)
    if layer is None:
        raise Misuse(f"MODEL: got {options.model}, expected one with a convolution")
    if options.image:
        try:
            x = Reader(model, options.model, options)(options.image)
        except Broken as error:
            raise RuntimeError(f"{options.image}: {error}") from None
    else:
        x = random_input(input_shape(model, options.model, 1, options.image_size))
    filters = layer.weight.detach()
    filters = filters if filters.shape[1] == 3 else filters.mean(1, keepdim=True)
    maps = found_by(model, name, x)
    weights, source = options.weights or "random", options.image or "noise"
    titles = f"{options.model} {name}, weights: {weights}", f"what they find in {source}"
    draw(options.out, zip(titles, (filters, maps), strict=True))
    facts = {
        "model": options.model,
        "layer": name,
        "weights": str(weights),
        "filters": list(layer.weight.shape),
        "maps": list(maps.squeeze(1).shape),
        "file": str(options.out),
    }
    if options.json:
        print_json(facts)
    else:
        sizes = ("x".join(map(str, facts[key])) for key in ("filters", "maps"))
        print("{}: filters {} and maps {} of {}".format(options.out, *sizes, name))
    return 0
