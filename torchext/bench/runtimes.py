"""The runtimes that people export their models to, as contenders for whole models in inference."""

import contextlib
import importlib
import io
import os
import subprocess
import tempfile
import typing

import numpy as np
import torch

from .case import MODELS, bind, prepare
from .contenders import AbsentError, Compile, Contender


class Runtime(Contender):
    """`package` is what pip calls it and `module` what Python does."""

    module = package = ""
    dtypes = ("float32",)
    # OpenMP would bind the main thread to a core, on which all of a runtime's own threads then run.
    env: typing.ClassVar = {"OMP_PROC_BIND": "false"}

    def version(self, device):
        try:
            module = importlib.import_module(self.module)
        except ImportError:
            raise AbsentError(f"{self.package} is not installed") from None
        return f"{self.package} {module.__version__}"

    def applies(self, case):
        return case.family == MODELS and case.dtype in self.dtypes and case.device == "cpu"

    def build(self, case):
        function, inputs = prepare(case, case.reference(), "contiguous"), case.inputs("contiguous")
        with torch.no_grad():
            return self.bind(function, inputs, torch.get_num_threads())

    def bind(self, function, inputs, threads):
        """The zero-argument call, which gives tensors."""
        raise NotImplementedError


class OnnxRuntime(Runtime):
    name = package = "onnxruntime"
    module = "onnxruntime"

    def bind(self, function, inputs, threads):
        import onnxruntime

        with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
            file = os.path.join(directory, "model.onnx")
            torch.onnx.export(function, inputs, file, dynamo=True, verbose=False)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 3
            session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
        fed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
        return lambda: [torch.from_numpy(y) for y in session.run(None, fed)]


class OpenVino(Runtime):
    name = package = "openvino"
    module = "openvino"
    dtypes = ("float32", "bfloat16")

    def bind(self, function, inputs, threads):
        import openvino

        narrow = inputs[0].dtype == torch.bfloat16
        inputs = [x.float() for x in inputs]
        model = openvino.convert_model(function.float(), example_input=tuple(inputs))
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if narrow else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        fed = [x.numpy() for x in inputs]

        def run():
            found = request.infer(fed, share_inputs=True, share_outputs=True)
            outputs = [torch.from_numpy(found[i]) for i in range(len(found))]
            return [y.bfloat16() for y in outputs] if narrow else outputs

        return run


class Ncnn(Runtime):
    """Its models have no batch: images go through one after another."""

    name = package = module = "ncnn"
    dtypes = ("float32", "bfloat16")
    env: typing.ClassVar = {}  # its threads are OpenMP's

    def version(self, device):
        try:
            import pnnx
        except ImportError:
            raise AbsentError("pnnx, ncnn's converter, is not installed") from None
        return f"{super().version(device)}, pnnx {pnnx.__version__}"

    def bind(self, function, inputs, threads):
        import ncnn

        (x,) = inputs
        narrow = x.dtype == torch.bfloat16
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_bf16_storage = net.opt.use_bf16_packed = narrow
        net.opt.use_fp16_storage = net.opt.use_fp16_packed = net.opt.use_fp16_arithmetic = False
        with tempfile.TemporaryDirectory() as directory:
            _to_ncnn(function.float(), x[:1].float(), directory)
            for load, file in ((net.load_param, "param"), (net.load_model, "bin")):
                if load(os.path.join(directory, f"model.ncnn.{file}")):
                    raise RuntimeError("ncnn can't load what pnnx made: layers that ncnn lacks")
        fed = [image.numpy() for image in x.float()]

        def run():
            found = []
            for image in fed:
                extractor = net.create_extractor()
                extractor.input(net.input_names()[0], ncnn.Mat(image))
                failed, y = extractor.extract(net.output_names()[0])
                if failed:
                    raise RuntimeError(f"ncnn: extract gives {failed}")
                found.append(torch.from_numpy(np.array(y)))
            y = torch.stack(found)
            return [y.bfloat16() if narrow else y]

        return run


def _to_ncnn(function, x, directory):
    """Writes model.ncnn.param and .bin."""
    import pnnx

    file = os.path.join(directory, "model.pt")
    torch.jit.trace(function, x, check_trace=False).save(file)
    shape = ",".join(map(str, x.shape))
    unwanted = ("pnnxbin=/dev/null", "pnnxonnx=/dev/null")  # writing them takes half of the time
    command = [pnnx.EXEC_PATH, file, f"inputshape=[{shape}]", "fp16=0", *unwanted]
    subprocess.run(command, check=True, capture_output=True)


class Zentorch(Compile):
    """AMD's backend of torch.compile."""

    name = "zentorch"

    def version(self, device):
        try:
            import zentorch
        except ImportError:
            raise AbsentError("zentorch is not installed") from None
        return f"zentorch {zentorch.__version__}"

    def applies(self, case):
        return case.family == MODELS and case.device == "cpu"

    def build(self, case):
        torch._dynamo.reset()
        function = prepare(case, case.reference(), "contiguous")
        return bind(case, torch.compile(function, backend="zentorch"), "contiguous")


RUNTIMES = (OnnxRuntime(), OpenVino(), Ncnn(), Zentorch())
