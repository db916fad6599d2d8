"""A .pt2 file of torch.export, by its zip archive and the JSON in it; its pickles are never read.

The members are described in torch/csrc/export/pt2_archive_constants.h, the JSON in torch/_export/serde/schema.py.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dwindle.bench.files.contents import CONSTANT, GRAPH, Contents, Tensor
from dwindle.bench.files.ledger import Ledger, kind_of

_TYPES = (
    "?", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex32", "complex64",
    "complex128", "bool", "bfloat16",
)  # fmt: skip
"""The schema's ScalarType."""

_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_GRAPH = "models/model.json"
_LOCAL = struct.Struct("<26xHH")
"""Of an entry's own header in a zip archive: the lengths of its name and of its extra field, which its data follow."""


def read(path: Path) -> Contents:
    """What is in an archive of torch.export."""
    ledger = Ledger(path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        if _GRAPH not in entries:
            raise ValueError(f"it has no {_GRAPH}")
        tensors: dict[str, tuple[str, str, str]] = {}
        for config in _CONFIGS:
            if config in entries:
                tensors |= _tensors(config, _json(archive, entries[config]))
        for name, entry in entries.items():
            lengths = _LOCAL.unpack_from(ledger.content, entry.header_offset)
            start = entry.header_offset + 30 + sum(lengths)
            kind, title, storage = tensors.get(name, (GRAPH, name, ""))
            whole = entry.compress_type == zipfile.ZIP_STORED
            ledger.claim(start, entry.compress_size, kind, title, storage if whole else "")
        graph = _json(archive, entries[_GRAPH])["graph_module"]
    inputs, outputs = _interface(graph)
    operators = Counter(str(node["target"]).removeprefix("torch.ops.") for node in graph["graph"]["nodes"])
    return Contents("PyTorch", ledger.parts("archive"), inputs, outputs, dict(operators))


def _json(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    """A member as JSON. PyTorch stores them as they are: what was compressed could grow beyond any memory."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename} is compressed, which PyTorch doesn't do")
    return json.loads(archive.read(entry))


def _tensors(config: str, document: Any) -> dict[str, tuple[str, str, str]]:
    """Kind, name and storage type of each member that holds a tensor, by the member's name."""
    found = {}
    for name, entry in _dictionary(_dictionary(document).get("config")).items():
        entry = _dictionary(entry)
        meta = _dictionary(entry.get("tensor_meta"))
        storage = _type(meta)
        member = config.rpartition("/")[0] + "/" + str(entry.get("path_name"))
        kind = CONSTANT if storage == "int64" else kind_of(len(_shape(meta)))
        found[member] = (kind, name, "" if storage == "?" or entry.get("use_pickle") else storage)
    return found


def _interface(module: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and outputs that a caller gives and gets, without the weights."""
    values = _dictionary(_dictionary(module["graph"]).get("tensor_values"))
    signature = _dictionary(module.get("signature"))
    sides = (("input_specs", "user_input"), ("output_specs", "user_output"))
    inputs, outputs = (tuple(_named(signature.get(specs), kind, values)) for specs, kind in sides)
    return inputs, outputs


def _named(specs: Any, kind: str, values: dict[str, Any]) -> Iterator[Tensor]:
    for spec in specs or ():
        if kind in spec:
            argument = _dictionary(_dictionary(spec[kind]).get("arg"))
            name = str(_dictionary(argument.get("as_tensor")).get("name", "?"))
            meta = _dictionary(values.get(name))
            yield Tensor(name, _type(meta), _shape(meta))


def _type(meta: dict[str, Any]) -> str:
    number = meta.get("dtype")
    return _TYPES[number] if isinstance(number, int) and 0 <= number < len(_TYPES) else "?"


def _shape(meta: dict[str, Any]) -> tuple[int | str, ...]:
    """Sizes; one that is not fixed is an expression."""
    sizes = [_dictionary(size) for size in meta.get("sizes") or ()]
    return tuple(
        size["as_int"] if isinstance(size.get("as_int"), int) else str(_dictionary(size.get("as_expr")).get("expr_str"))
        for size in sizes
    )


def _dictionary(document: Any) -> dict[str, Any]:
    """JSON's object; raises ValueError for anything else but nothing."""
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ValueError("its JSON has other values where objects belong")
    return document
