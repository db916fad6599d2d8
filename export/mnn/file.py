"""A .mnn file: its layers, the constants in them, and what its bytes are spent on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from dwindle.export.mnn import flat, forms
from dwindle.export.mnn.flat import Table, schema
from dwindle.manifest import Breakdown

Array = NDArray[Any]
_INPUT = 34
"""The schema's OpType of what the network takes."""


def parse(content: bytes) -> Table:
    """A file's tables, as the schema's `Net` has them; raises ValueError for what is not a .mnn file."""
    net = flat.read(content, "Net")
    if not net.get("oplists"):
        raise ValueError("it is not an MNN file")
    return net


def serialize(net: Table) -> bytes:
    """The file of a `Net`."""
    return flat.write(net, "Net")


def layers(net: Table) -> Iterator[Table]:
    """Every layer (the schema's `Op`), those inside control flow last."""
    yield from net["oplists"]
    for graph in net.get("subgraphs", ()):
        yield from graph.get("nodes", ())


def constants(layer: Table) -> dict[str, Array]:
    """The floating-point vectors in a layer, by the names of their fields, in the order of the schema.

    A convolution's weights are what MNN computes with, in whichever form they are stored. Raises ValueError for
    damaged ones.
    """
    if "main" not in layer:
        return {}
    kind, main = schema().union[layer["main_type"] - 1], layer["main"]
    found = {}
    for field in schema().tables[kind]:
        if kind == "Convolution2D" and field.name == "weight":
            found[field.name] = forms.decode(main)
        elif field.vector and field.kind == "<f4" and field.name in main:
            found[field.name] = main[field.name]
    return found


def thresholds(layer: Table) -> forms.Thresholds:
    """The shares of zeros from which MNN computes a layer faster sparsely, by block.

    Empty where it has no sparse kernels for it: for all but an undivided convolution whose weights are constants.
    """
    common = layer["main"]["common"]
    if layer["type"] != forms.CONVOLUTION or common.get("group", 1) != 1 or len(layer["inputIndexes"]) != 1:
        return {}
    width, height = (common.get(f"kernel{axis}", 1) for axis in "XY")
    steps = {common.get(f"{what}{axis}", 1) for what in ("stride", "dilate") for axis in "XY"}
    # ConvolutionWinogradImpl::canUseWinograd
    return forms.WINOGRAD if width == height > 1 and steps == {1} else forms.THRESHOLDS


def sparse_blocks(net: Table) -> list[int]:
    """For each convolution and linear layer that MNN computes sparsely, the output channels of its blocks."""
    found = []
    for layer in layers(net):
        sparse = layer.get("main", {}).get("sparseParameter") if layer.get("type") == forms.CONVOLUTION else None
        if sparse and "index" in layer["main"].get("quanParameter", {}):
            found += [each.get("i", 0) for each in sparse.get("args", ()) if each.get("key") == b"sparseBlockOC"]
    return found


def strip(net: Table) -> None:
    """Removes in place what no runtime reads: inner names, and an identifier that differs between conversions.

    MNN lists inputs and outputs by name. Where that would change their order, their names get a number.
    """
    net["mnn_uuid"] = net["bizCode"] = None
    names, inputs = (
        net["tensorName"],
        [layer["outputIndexes"][0] for layer in net["oplists"] if layer["type"] == _INPUT],
    )
    outputs = [names.index(name) for name in net["outputName"]]
    kept = {place: names[place] for place in (*inputs, *outputs)}
    for group in (inputs, outputs):
        own = [kept[place] for place in group]
        if own != sorted(own):
            kept |= {place: b"%03d_%s" % (index, kept[place]) for index, place in enumerate(group)}
    net["tensorName"] = [kept.get(place, b"") for place in range(len(names))]
    net["outputName"] = [kept[place] for place in outputs]
    for layer in layers(net):
        layer["name"] = kept[layer["outputIndexes"][0]] if layer["type"] == _INPUT else None


def breakdown(content: bytes) -> Breakdown:
    """What a file's bytes are spent on. The mask is the places of survivors, values are weights of convolutions and
    linear layers. Raises ValueError for what is not such a file."""
    net = parse(content)
    mask = values = rest = 0
    for layer in layers(net):
        for name, array in constants(layer).items():
            if "common" in layer["main"] and name == "weight":
                places, held = forms.sizes(layer["main"])
                mask, values = mask + places, values + held
            else:
                rest += array.nbytes
    return Breakdown.of(len(content), mask=mask, values=values, graph=len(content) - mask - values - rest)
