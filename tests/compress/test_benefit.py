"""What a granularity brings is what the target says of it, and `auto` and `fast` follow from that."""

from __future__ import annotations

from dwindle import registry
from dwindle.compress.benefit import choose
from dwindle.compress.request import Request
from dwindle.compress.resolve import resolve
from dwindle.export import targets
from dwindle.export.target import Target


def test_a_verdict_says_on_what_grounds() -> None:
    dense = targets.load("executorch").verdict("weights", 0.1)
    assert not dense.smaller
    assert dense.sentence().startswith(
        "not smaller (zeros are stored like any other weight); not faster on the CPU (measured, "
    )
    apple = targets.load("coreml").verdict("weights", 0.1).sentence()
    assert "faster on the NPU (vendor, Apple's coremltools guide" in apple
    assert "1.63 ms dense and 1.23, 1.05 and 0.86 ms" in apple
    assert apple.endswith("unknown whether faster on the CPU and the GPU")
    assert targets.load("executorch").verdict("channel", 0.5).gain("CPU") == "both"


def test_fast_is_what_the_targets_kernels_gain_from() -> None:
    (phase,) = resolve(Request("zoo:resnet8", "digits", granularity="fast", density=0.1)).phases
    assert phase[0].kind == "channel"
    for name, expected in {"onnx": "channel", "mnn": "4x1", "litert": "unstructured"}.items():
        kind: type[Target] = registry.resolve(targets.GROUP, name, "target")
        assert kind.fastest == expected


def test_auto_takes_what_makes_the_file_fit() -> None:
    assert choose("onnx", True, computing=None)[0] == "unstructured"
    assert choose("executorch", False, computing=None)[0] == "channel"
    assert choose("onnx", True, computing="macs")[0] == "channel"
