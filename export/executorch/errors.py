"""What ExecuTorch's error numbers mean: `Error` in its runtime/core/error.h (1.5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

MEANINGS = {
    0x01: "Internal: an internal error",
    0x02: "InvalidState: the program is in no state for what was asked",
    0x03: "EndOfMethod: there are no more steps to run",
    0x04: "AlreadyLoaded: it is loaded already",
    0x10: "NotSupported: an operation is not supported as it is used there",
    0x11: "NotImplemented: an operation is not implemented",
    0x12: "InvalidArgument: an operation got an argument that it does not take",
    0x13: "InvalidType: a value has another type than its operation takes",
    0x14: "OperatorMissing: the runtime lacks an operator of the program",
    0x15: "RegistrationExceedingMaxKernels: more kernels than the runtime can register",
    0x16: "RegistrationAlreadyRegistered: a kernel is registered twice",
    0x20: "NotFound: something that the program names is not there",
    0x21: "MemoryAllocationFailed: memory could not be allocated",
    0x22: "AccessFailed: something could not be read",
    0x23: "InvalidProgram: the program is not valid",
    0x24: "InvalidExternalData: the data beside the program is not valid",
    0x25: "OutOfResources: too little memory or another resource",
    0x30: "DelegateInvalidCompatibility: the delegate is of another version",
    0x31: "DelegateMemoryAllocationFailed: the delegate could not allocate memory",
    0x32: "DelegateInvalidHandle: the delegate's part of the program is not valid",
}
_NUMBER = re.compile(r"error:? (0x[0-9a-fA-F]+)")


@contextmanager
def translated(step: str) -> Iterator[None]:
    """Within it, an error of ExecuTorch's runtime names the step and what its number means.

    step: what is done, such as `loading`.
    """
    try:
        yield
    except RuntimeError as error:
        number = _NUMBER.search(str(error))
        meaning = MEANINGS.get(int(number[1], 16)) if number else None
        if number is None or meaning is None:
            raise
        raise RuntimeError(f"{step} ended with ExecuTorch's error {number[1]}, {meaning}") from None
