"""`torchext export`: a model as a file for other runtimes, which is loaded again and compared."""

import contextlib
import io
import warnings

import torch

from ._command import Misuse, Parser, first_line, needed, new_file, print_json
from ._model import input_shape, load, traced
from ._verify import Referee, sum_lengths

TRACED, COMPARED = 2, 3  # images at once: the file takes any number of them


def write_onnx(model, x, file):
    """ONNX's own operators only: torchext's are written as what they are made of."""
    needed("onnxscript")
    program = torch.onnx.export(
        model,
        (x,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["image"],
        output_names=["scores"],
        verbose=False,
    )
    program.save(file)


def read_onnx(file):
    """The function that the file is, run by onnxruntime; None where that is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.contiguous().numpy()})[0])


def write_pt2(model, x, file):
    """For torch.export.load, where torchext has been imported: its ops are in it."""
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: batch},)), file)


def read_pt2(file):
    return torch.export.load(file).module()


FORMATS = {"onnx": (write_onnx, read_onnx, ".onnx"), "pt2": (write_pt2, read_pt2, ".pt2")}


@contextlib.contextmanager
def in_one_line(kind):
    """Without the exporters' progress and advice; of what went wrong, the cause."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Misuse:
            raise
        except Exception as error:  # each exporter has its own
            while error.__cause__:
                error = error.__cause__
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise RuntimeError(f"--{kind}: PyTorch could not write it: {reason}") from None


def main(argv):
    parser = Parser("torchext export", __doc__)
    parser.add_model()
    for kind, (write, _, suffix) in FORMATS.items():
        parser.add_argument(
            f"--{kind}", type=new_file(suffix), metavar=f"FILE{suffix}", help=write.__doc__
        )
    parser.add_weights()
    parser.add_image_size()
    parser.add_json()
    options = parser.parse_args(argv)
    files = {kind: file for kind in FORMATS if (file := getattr(options, kind))}
    if not files:
        raise Misuse("--onnx: got neither it nor --pt2, expected one of them")
    model = load(options.model, options.weights)
    facts = [_export(options, model, kind, file) for kind, file in files.items()]
    if options.json:
        print_json(facts)
    return 1 if any(one["right"] is False for one in facts) else 0


@torch.no_grad()
def _export(options, model, kind, file):
    """Writes the file and tells what came out when it was loaded and run."""
    write, read, _ = FORMATS[kind]
    shape = input_shape(model, options.model, TRACED, options.image_size)
    lengths = sum_lengths(traced(options.model, model, shape))
    with in_one_line(kind):
        write(model, torch.randn(shape), file)
        run = read(file)
    megabytes = file.stat().st_size / 2**20
    facts = {"model": options.model, "file": str(file), "format": kind, "mb": megabytes}
    if run is None:
        told = "not compared: onnxruntime is not installed (pip install onnxruntime)"
        facts |= {"right": None}
    else:
        x = torch.randn(COMPARED, *shape[1:])
        verdict = Referee(model).compare("", ((x,), {}), max(lengths.values()), run)
        facts |= {"right": verdict.right, "error": verdict.error, "allowed": verdict.allowed}
        told = "loaded and run, {}: error {:.1e}, allowed {:.1e}".format(
            "all right" if verdict.right else "WRONG", verdict.error, verdict.allowed
        )
    if not options.json:
        print(f"{file} ({megabytes:.1f} MB): {told}")
    return facts
