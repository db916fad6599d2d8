from __future__ import annotations

from dataclasses import replace

from dwindle.bench.verdict import Check, Verdict
from dwindle.compress.forecast import Bytes, Forecast, Rehearsed
from dwindle.export import zeros
from dwindle.notebook import Tables, table


def test_what_a_cell_has_of_markup_is_shown_as_it_is() -> None:
    shown = table("a <b>", [("x", 1), ("<script>", "\x1b[31m")], ("name", "value"))
    assert "<script>" not in shown
    assert "\x1b" not in shown
    assert shown.count("<tr>") == 3
    assert "<caption>a &lt;b&gt;</caption>" in shown


def test_a_verdict_has_its_sentence_over_a_row_per_limit() -> None:
    size = Check("max_size", "onnx", 2_000_000, 1_500_000, True, None)
    missed = replace(size, name="max_growth.cost", limit=0.01, measured=0.25, passed=False, reason="more <layers>")
    absent = replace(size, name="max_latency", limit=8, measured=None, passed=False, reason="not measured yet")
    shown = Verdict((size, missed))._repr_html_()
    assert "<caption>1 of 2 limits missed</caption>" in shown
    assert "<tr><th>miss</th><td>max growth of cost</td><td>onnx</td><td>+1.00%</td><td>+25.00%</td>" in shown
    assert "more &lt;layers&gt;" in shown
    assert "<th>unmeasured</th>" in Verdict((absent,))._repr_html_()


def test_a_forecast_has_a_row_per_target_and_several_stand_below_each_other() -> None:
    size = Bytes("onnx", 300_000, 30_000)
    packed = zeros.Verdict("onnx", "weights", 0.1, 1, True, "as a bitmask", ())
    rehearsed = Rehearsed("onnx", "written and compared", 0)
    forecast = Forecast(0.1, 3, None, None, (size,), (packed,), (rehearsed,), untrained_loss=1.25)
    shown = forecast._repr_html_()
    assert "<th>density</th><td>about 10.0% after 3 rounds</td>" in shown
    assert "<th>onnx, rehearsed</th><td>written and compared</td>" in shown
    assert "<th>onnx</th><td>300 KB → 30.0 KB, 10.0×; smaller (as a bitmask)</td>" in shown
    assert "1.25 points" in shown
    both = Tables([forecast, forecast])
    assert both == [forecast, forecast]
    assert both._repr_html_() == shown * 2
