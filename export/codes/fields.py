"""Codes of one to four bits as fields of words: two, four or eight of them in a byte; of three bits 21 in eight bytes.

The first codes lie in the lowest field of all words, the next ones in the second field of all, and so on: in that order
a runtime unpacks them by two operations on whole strings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WORDS: dict[int, type[np.unsignedinteger[Any]]] = {4: np.uint8, 3: np.uint64, 2: np.uint8, 1: np.uint8}
"""The type of a word, by the bits of a code. Only words of 64 bits waste less than two percent on codes of three."""


def shifts(bits: int) -> NDArray[np.unsignedinteger[Any]]:
    """By how many bits each field of a word is shifted: shape (fields of a word,), of the word's type.

    >>> shifts(2).tolist()
    [0, 2, 4, 6]
    """
    word = np.dtype(WORDS[bits])
    found: NDArray[np.unsignedinteger[Any]] = np.arange(8 * word.itemsize // bits, dtype=word) * word.type(bits)
    return found


def encode(codes: NDArray[np.int8], bits: int) -> NDArray[np.unsignedinteger[Any]]:
    """codes: from 0 to 2ᵇⁱᵗˢ - 1, shape (n,). Returns words of the type WORDS[bits]."""
    by = shifts(bits)
    fields = np.pad(codes.astype(by.dtype), (0, -codes.size % by.size)).reshape(by.size, -1)
    return np.asarray(np.bitwise_or.reduce(fields << by[:, None]))


def decode(words: NDArray[np.unsignedinteger[Any]], bits: int, count: int) -> NDArray[np.int8]:
    """The `count` codes; raises ValueError where the words are not theirs."""
    by = shifts(bits)
    if words.dtype != by.dtype or words.size != -(-count // by.size):
        raise ValueError(f"{words.size} words of {words.dtype} are not {count} codes of {bits} bits")
    found: NDArray[np.int8] = (
        (words >> by[:, None] & by.dtype.type((1 << bits) - 1)).reshape(-1)[:count].astype(np.int8)
    )
    if not np.array_equal(encode(found, bits), words):
        raise ValueError("there are bits set beyond the last code")
    return found
