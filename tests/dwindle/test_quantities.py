from __future__ import annotations

import pytest

from dwindle.errors import UsageError
from dwindle.quantities import (
    format_bytes,
    format_left,
    format_macs,
    format_names,
    format_seconds,
    format_share,
    parse_bytes,
    parse_macs,
    parse_share,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("500KB", 500_000), ("1MiB", 1_048_576), ("1.5 mb", 1_500_000), ("4096", 4096), ("1B", 1)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "KB", "-3KB", "0", "5 parsecs", "1e3", "nan"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, check=lambda error: error.code == "invalid-value"):
        parse_bytes(text)


def test_shares() -> None:
    assert parse_share("20%") == parse_share("0.2") == parse_share(".2") == 0.2


@pytest.mark.parametrize("text", ["0", "120%", "1.5", "-1", "x", "20 percent"])
def test_what_is_not_a_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, check=lambda error: error.code == "invalid-value"):
        parse_share(text)


def test_nothing_is_a_share_where_it_may_be() -> None:
    assert [parse_share(text, zero=True) for text in ("0", "0%", "5%")] == [0, 0, 0.05]
    for text in ("x", "-1", "nan"):
        with pytest.raises(UsageError, check=lambda error: error.code == "invalid-value"):
            parse_share(text, zero=True)


@pytest.mark.parametrize(("share", "text"), [(0.2, "20%"), (0.07, "7%"), (1.0, "100%"), (0.0, "0%"), (1 / 3, None)])
def test_a_share_is_written_so_that_it_is_read_as_the_same_number(share: float, text: str | None) -> None:
    assert format_share(share) == text or text is None
    assert parse_share(format_share(share), zero=True) == share


@pytest.mark.parametrize(("text", "macs"), [("50%", 0.5), ("0.5", 0.5), ("150M", 150e6), ("4096", 4096), ("1", 1)])
def test_macs_are_a_share_of_the_dense_networks_or_a_number(text: str, macs: float) -> None:
    assert parse_macs(text) == macs
    assert parse_macs(format_macs(macs)) == macs


@pytest.mark.parametrize("text", ["half", "0", "-1", "0%", "120%", ""])
def test_what_is_no_number_of_macs_is_refused(text: str) -> None:
    with pytest.raises(UsageError, check=lambda error: error.code == "invalid-value"):
        parse_macs(text)


def test_three_digits_are_shown() -> None:
    shown = [format_bytes(n) for n in (0, 999, 1000, 9_994, 99_960, 13_962_898, 5_000_000_000)]
    assert shown == ["0 B", "999 B", "1.00 KB", "9.99 KB", "100 KB", "14.0 MB", "5.00 GB"]


def test_times() -> None:
    assert [format_seconds(s) for s in (3.4, 185, 7800)] == ["3 s", "3 min 05 s", "2 h 10 min"]
    assert format_left(0.5, 0, 90) == ""
    assert format_left(10, 20, 90) == "; about 35 s left"


@pytest.mark.parametrize(
    ("names", "most", "said"),
    [
        ("a", 1, "a"),
        ("ab", 1, "a and 1 more"),
        ("abcd", 4, "a, b, c, d"),
        ("abcdefg", 4, "a, b, c, d and 3 more"),
    ],
)
def test_many_names_are_cut_short(names: str, most: int, said: str) -> None:
    assert format_names(dict.fromkeys(names), most) == said
