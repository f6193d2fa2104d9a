"""The runtimes that people export their models to, as contenders for whole models in inference."""

import contextlib
import importlib
import io
import os
import tempfile
import typing

import torch

from .case import bind, prepare
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
        return case.family == "models" and case.dtype in self.dtypes and case.device == "cpu"

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
        return case.family == "models" and case.device == "cpu"

    def build(self, case):
        torch._dynamo.reset()
        function = prepare(case, case.reference(), "contiguous")
        return bind(case, torch.compile(function, backend="zentorch"), "contiguous")


RUNTIMES = (OnnxRuntime(), OpenVino(), Zentorch())
