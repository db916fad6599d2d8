"""Writes the profile of a Cortex-A76 that dwindle ships: `--on cortex-a76`.

    python studies/latency/cortex_a76.py

Nobody measured layers for it. The figures are those that nn-Meter (Microsoft, MIT licence) publishes of whole networks,
in `tests/integration_test/data/` of its repository: predictions, too, which it says are within 10% of a Pixel 4 for 99%
of 26,000 networks. Their layers are read from the networks of those names in torchvision. Of each network the figure is
the one that was made from torchvision's own where there is one (`reference_result_onnx_based_torch.txt`), else the one
of an ONNX or a TensorFlow file (`reference_result.txt`). Left out: ResNeXt-50, whose groups nn-Meter doesn't see, and
MobileNetV1, ProxylessNAS and Inception, which torchvision lacks or whose image size isn't told.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from dwindle.bench.prices.fit import whole_errors
from dwindle.bench.prices.profile import SCHEMA, Profile, Timed, Whole
from dwindle.bench.prices.table import profile_table
from dwindle.bench.result import Machine
from dwindle.models.layerwise.shapes import calls
from dwindle.price import tally

OUT = Path(__file__).parents[2] / "bench/prices/profiles/cortex-a76.json"
MILLISECONDS = {
    # of torchvision's networks
    "alexnet": 96.5713,
    "densenet161": 917.0045,
    "googlenet": 167.5816,
    "mnasnet1_0": 45.8056,
    "mobilenet_v2": 43.9635,
    "resnet18": 216.1971,
    "shufflenet_v2_x1_0": 21.3181,
    "squeezenet1_0": 98.3766,
    "vgg16": 1668.5085,
    "wide_resnet50_2": 1218.8905,
    # of ONNX files
    "mobilenet_v3_large": 34.9444,
    "mobilenet_v3_small": 11.8422,
    # of TensorFlow files
    "densenet121": 360.042,
    "resnet34": 422.9927,
    "resnet50": 452.7282,
    "vgg11": 786.3514,
    "vgg13": 1212.2778,
    "vgg19": 2055.622,
}
SOURCE = (
    "cortex-a76 is fitted to what nn-Meter published of 18 networks, which are predictions too, for a Pixel 4's "
    "Cortex-A76 with TensorFlow Lite 2.1, in fp32 on one thread: other phones and versions differ"
)


def whole(name: str, ms: float) -> Whole:
    """A network of torchvision, whose layers need no numbers to be listed."""
    with torch.device("meta"):
        kwargs = {"init_weights": False} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, weights=None, **kwargs).eval()
        return Whole(name, tally(call.shape for call in calls(model, (torch.zeros(1, 3, 224, 224),))), ms)


def main() -> None:
    wholes = tuple(whole(*one) for one in MILLISECONDS.items())
    made = Profile(
        schema=SCHEMA,
        target="litert",
        runtime="litert",
        version="TensorFlow Lite 2.1",
        device="cortex-a76",
        machine=Machine("Cortex-A76", 1, "Android 10"),
        threads=1,
        clock="wall time",
        made="2021-11-01T00:00:00+00:00",
        seconds=0.0,
        drift=0.0,
        timed=(Timed("fp32", {}, wholes, None, whole_errors([], wholes)),),
        source=SOURCE,
    )
    made.save(OUT)
    print("\n".join(profile_table(made)))


if __name__ == "__main__":
    main()
