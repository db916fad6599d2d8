"""What of MIL, Core ML's language of operations, nothing public defines, so that no stand-in can prove a file with it.

An operation's definition is its documentation and its `value_inference` in `coremltools.converters.mil.mil.ops.defs`,
and, where they differ from Core ML, what was measured of Core ML in coremltools' issues.
"""

from __future__ import annotations

from dwindle.errors import RuntimeUnavailable
from dwindle.export.parity import UNPROVEN

UNDEFINED = {
    "affine": "its documentation does not say how it samples between pixels",
    "cond": "dwindle's interpreter runs no branches",
    "crop_resize": "its documentation does not say how regions beyond the image are sampled",
    "list_gather": "dwindle's interpreter has no lists",
    "list_length": "dwindle's interpreter has no lists",
    "list_read": "dwindle's interpreter has no lists",
    "list_scatter": "dwindle's interpreter has no lists",
    "list_write": "dwindle's interpreter has no lists",
    "make_list": "dwindle's interpreter has no lists",
    "non_maximum_suppression": "its documentation does not say which of equally good boxes it keeps",
    "non_zero": "its result has no shape that the file declares",
    "random_bernoulli": "its results are random",
    "random_categorical": "its results are random",
    "random_normal": "its results are random",
    "random_uniform": "its results are random",
    "read_state": "dwindle's interpreter has no states",
    "resize": "its documentation does not say which pixel is nearest",
    "resize_nearest_neighbor": "its documentation does not say which pixel is nearest",
    "while_loop": "dwindle's interpreter runs no loops",
}
"""Why no result of an operation can be computed here, by its name."""


def unproven(operator: str, reason: str) -> RuntimeUnavailable:
    """The error for an operator of a file whose results in Core ML cannot be computed here, and why."""
    return RuntimeUnavailable(
        f"what Core ML's {operator} computes cannot be proven here: {reason}", code=UNPROVEN, name=operator
    )
