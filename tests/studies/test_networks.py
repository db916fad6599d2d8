from __future__ import annotations

from typing import Any

import pytest
import torch

from studies.networks.sample import Made, batch, ready
from studies.networks.table import table


def row(network: str, part: str, column: str, **values: Any) -> dict[str, Any]:
    return {"network": network, "part": part, "column": column, "seconds": 1.5, "peak_mb": 800, **values}


def cut(network: str, left: float, *, inexact: bool = False, align: int = 8) -> dict[str, Any]:
    values = {"half": left <= 0.5, "macs_left": left, "inexact": inexact, "align": align, "error": 1e-15}
    return row(network, "cut", "channels", **values)


def test_the_table_counts_what_is_half_what_is_exact_and_what_only_others_write() -> None:
    rows = [
        cut("plain:a", 0.49),
        cut("plain:b", 0.5, inexact=True, align=1),
        cut("plain:c", 0.8),
        row("plain:a", "torch-pruning", "channels", half=True, macs_left=0.48, error=0.6),
        row("plain:b", "torch-pruning", "channels", outcome="failed", said="RuntimeError: no"),
        *(row("plain:a", "onnx", column, outcome="right", said=None) for column in ("channels", "sparse", "plain")),
        row("plain:b", "onnx", "channels", outcome="refused", said="the operator x"),
        row("plain:b", "onnx", "sparse", outcome="right", said=None),
        row("plain:b", "onnx", "plain", outcome="right"),
    ]
    lines = table(rows, ["plain:a", "plain:b", "plain:c", "other:d"]).splitlines()
    counts = {line.split(" ")[1].strip(",:"): line for line in lines if line.startswith("- ")}
    assert counts["3"].endswith(
        "3 of 4 networks were tried: 2 were cut to half of their multiply-accumulates, 1 of them exactly"
    )
    ran = counts["torch-pruning"].split(": ")
    assert ran[0] == "- torch-pruning, run on 2 of 4 networks (plain 2 of 3; none of other)"
    assert ran[1].startswith("1 to half, 0 of them exactly; 2 of the same by dwindle")
    assert counts["onnx"].startswith(
        "- onnx, written of 2 of 4 networks (plain 2 of 3; none of other): 1 as right files"
    )
    assert counts["onnx"].endswith("1 of which are missing among ours")
    assert counts["not"] == "- not run yet: files of coreml, executorch, litert"
    cells = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    assert "| plain:a | 49% | 2, 800 | 48%, inexact | ✓ ✓ ✓ |" in cells["plain:a"]
    assert "| ~50% (align 1) |" in cells["plain:b"]
    assert "| refused ✓ ✓ |" in cells["plain:b"]
    assert "| fails |" in cells["plain:b"]
    assert "other:d" not in cells
    assert "- plain:b, onnx, channels: the operator x" in lines


def test_the_table_has_no_column_of_what_was_not_run() -> None:
    lines = table([cut("a", 0.49)], ["a"]).splitlines()
    assert [line for line in lines if line.startswith("- ")] == [
        "- 1 of 1 networks were tried: 1 were cut to half of their multiply-accumulates, 1 of them exactly",
        "- not run yet: torch-pruning",
        "- not run yet: files of onnx, coreml, executorch, litert",
    ]
    assert "| a | 49% | 2, 800 |" in lines


def test_what_begins_at_zero_gets_values_and_batch_norm_fits_them() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.nn.init.zeros_(network[0].bias)
    model = ready(Made(network, (torch.randn(1, 3, 9, 9),)))
    assert model[0].bias.abs().min() > 0
    assert model[1].running_mean.any()
    assert not model.training
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
    assert sorted(batch((tokens,), 2)[0][1].tolist()) == tokens[0].tolist()


@pytest.mark.slow
@pytest.mark.needs("timm", "transformers")
def test_a_column_is_made_in_a_process_of_its_own() -> None:
    from studies.networks import run

    assert len(run.NETWORKS) >= 60
    ours = run.apart("plain:espcn", "cut", "channels")
    assert ours["half"]
    assert not ours["inexact"]
    assert ours["error"] < 1e-10
    assert run.apart("plain:espcn", "torch-pruning", "channels")["half"]
    assert run.apart("plain:espcn", "onnx", "channels")["outcome"] == "right"
    assert run.apart("plain:espcn", "onnx", "plain")["outcome"] == "right"
    assert run.apart("no such", "cut", "channels")["outcome"] == "failed"
