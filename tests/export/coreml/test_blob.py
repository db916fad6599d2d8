"""Constants of the weight file, as coremltools' own reader finds them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dwindle.export.coreml.blob import WeightFile, tensor_type
from dwindle.quiet import quiet


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16"])
def test_whole_numbers_keep_their_type(kind: str, tmp_path: Path) -> None:
    with quiet():
        from coremltools.libmilstoragepython import _BlobStorageReader
        from coremltools.proto import MIL_pb2
    array, file = np.arange(12).astype(kind), WeightFile()
    offset = file.add(array)
    (tmp_path / "weight.bin").write_bytes(file.content())
    reader: Any = _BlobStorageReader(str(tmp_path / "weight.bin"))
    np.testing.assert_array_equal(getattr(reader, f"read_{kind}_data")(offset), array)
    assert MIL_pb2.DataType.Name(tensor_type(array.dtype.name, array.shape).tensorType.dataType) == kind.upper()
