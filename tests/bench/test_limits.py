from pathlib import Path

import pytest

from dwindle.bench.limits import KINDS, Quantity, quantity, read_limits
from dwindle.errors import UsageError


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        ("max_size", "100KB", 100_000),
        ("max_size", 25_000, 25_000),
        ("max_download", "1MiB", 1 << 20),
        ("max_drop", "0.5", 0.5),
        ("max_drop", 0, 0),
        ("min_accuracy", 92.5, 92.5),
        ("max_cost", "150M", 150e6),
        ("max_cost", "1.5k", 1500),
        ("max_cost", 2e6, 2e6),
        ("max_ratio", 0.8, 0.8),
        ("max_growth", "2%", 0.02),
        ("max_growth", "0.02", 0.02),
        ("max_growth", 0, 0),
    ],
)
def test_quantities_as_people_write_them(name: str, value: Quantity, number: float) -> None:
    assert quantity(name, value) == pytest.approx(number)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", ["", "much", "-1", -1, float("nan"), float("inf"), "inf", True, [1], "5%%"])
def test_what_is_no_quantity_is_refused_by_name(name: str, value: Quantity) -> None:
    with pytest.raises(UsageError) as raised:
        quantity(name, value)
    assert (raised.value.code, raised.value.option) == ("out-of-range", name)


@pytest.mark.parametrize(
    ("name", "value"), [("max_size", 0), ("max_size", 0.5), ("max_size", 10.5), ("max_cost", "0"), ("max_growth", 2)]
)
def test_a_number_that_a_limit_cannot_be_is_refused(name: str, value: Quantity) -> None:
    with pytest.raises(UsageError):
        quantity(name, value)


@pytest.mark.parametrize(
    ("text", "code", "name", "table"),
    [
        ("[gate]\nmax_szie = 1", "unknown-name", "max_szie", "[gate]"),
        ("[gate.onnx]\nmaxdrop = 1", "unknown-name", "maxdrop", "[gate.onnx]"),
        ("[gate]\nmax_latency = 5", "no-such-limit", "max_latency", "[gate]"),
        ("[gate.device.browser]\nmax_size = 5", "no-such-limit", "max_size", "[gate.device.browser]"),
        ("[gate.device]\nmax_latency = 5", "no-such-limit", "max_latency", "[gate.device]"),
        ("[gate.device.browser]\nmax_latency = 'soon'", "out-of-range", "max_latency", "[gate.device.browser]"),
        ("[gate]\nmax_size = 'small'", "out-of-range", "max_size", "[gate]"),
        ("[gate]\nmax_size = 2026-01-01", "out-of-range", "max_size", "[gate]"),
        ("gate = 3", "no-table", None, "[gate]"),
        ("[gates]", "no-table", None, "[gate]"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_is(
    tmp_path: Path, text: str, code: str, name: str | None, table: str
) -> None:
    path = tmp_path / "budget.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        read_limits(path)
    assert (raised.value.code, raised.value.path, raised.value.name) == (code, path, name)
    assert str(path) in str(raised.value)
    assert table in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none\.toml: No such file"):
        read_limits(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "cut.toml").write_text("[gate")
    (tmp_path / "deep.toml").write_text("gate = " + "[" * 5000)
    for name in ("binary", "cut", "deep"):
        with pytest.raises(UsageError, match="is not TOML"):
            read_limits(tmp_path / f"{name}.toml")
