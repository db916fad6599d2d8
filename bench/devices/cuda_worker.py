"""The worker process of a file on a GPU: `python -m dwindle.bench.devices.cuda_worker RUNTIME FILE THREADS`.

Answers as `worker` does. An inference begins and ends with arrays in the CPU's memory, as on every other device: what
bringing them there and back takes is in its time, and the GPU has finished when the clock stops.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle import onnx_session
from dwindle.bench.runtimes.onnxruntime import OnnxRuntime
from dwindle.bench.runtimes.runtime import Infer
from dwindle.bench.runtimes.torch import Torch, compiled, module_of
from dwindle.bench.worker import Session, serve

if TYPE_CHECKING:
    import numpy as np
    from torch import nn
    from torch.fx import GraphModule


class TorchOnCuda(Torch):
    """PyTorch on the GPU, in fp32 throughout: TensorFloat-32, the default of convolutions, rounds to 10 bits."""

    accelerator = "GPU"
    half = False
    """Whether it computes in fp16."""

    def version(self) -> str:
        import torch

        torch.zeros(1, device="cuda")  # CUDA itself is loaded with the first tensor
        return super().version()

    def load(self, path: Path, threads: int) -> Infer:
        import torch

        from dwindle.models.signature import outputs_of

        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = False
        module = self.prepared(module_of(path), path)

        def infer(arrays: list[np.ndarray]) -> list[np.ndarray]:
            with torch.inference_mode():
                inputs = [torch.from_numpy(array).to("cuda") for array in arrays]
                if self.half:
                    inputs = [tensor.half() if tensor.is_floating_point() else tensor for tensor in inputs]
                outputs = outputs_of(module(*inputs))
                halves = [output.float() if output.dtype == torch.half else output for output in outputs]
                found = [output.cpu() for output in halves]
                torch.cuda.synchronize()
            return [output.numpy() for output in found]

        torch.cuda.synchronize()
        return infer

    def prepared(self, module: GraphModule, path: Path) -> nn.Module:
        return module.to("cuda")


class CompiledOnCuda(TorchOnCuda):
    """The program that TorchOnCuda runs, by torch.compile."""

    compiles = True

    def version(self) -> str:
        import torch._inductor.compile_fx  # noqa: F401  torch.compile imports it at its first call

        return super().version()

    def prepared(self, module: GraphModule, path: Path) -> nn.Module:
        return compiled(module.to("cuda"), path)


class TwoOfFour(TorchOnCuda):
    """PyTorch on the GPU in fp16, by the sparse tensor cores wherever a layer's weights are 2:4."""

    half = True

    def prepared(self, module: GraphModule, path: Path) -> nn.Module:
        from torch.sparse import to_sparse_semi_structured

        from dwindle.bench.devices.semi_structured import sparse

        return sparse(module.half().to("cuda"), to_sparse_semi_structured)


class OnnxOnCuda(OnnxRuntime):
    """onnxruntime on the GPU."""

    accelerator = "GPU"
    providers = (("CUDAExecutionProvider", {"use_tf32": 0}), "CPUExecutionProvider")

    def load(self, path: Path, threads: int) -> Infer:
        session = self.session(path, threads)
        if session.get_providers()[0] != "CUDAExecutionProvider":
            raise RuntimeError("onnxruntime could not start on the GPU, and would have run the file on the CPU")
        return onnx_session.infer(session)


RUNTIMES: dict[str, type[TorchOnCuda | OnnxOnCuda]] = {
    "torch": TorchOnCuda,
    "torch-compiled": CompiledOnCuda,
    "torch-2:4": TwoOfFour,
    "onnxruntime": OnnxOnCuda,
}


def main() -> None:
    name, file, threads = sys.argv[1:]
    serve(lambda: Session(RUNTIMES[name](), Path(file), int(threads)).answer)


if __name__ == "__main__":
    main()
