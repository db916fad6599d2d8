import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from dwindle.bench import Bench, report
from dwindle.bench.result import (
    COMPRESSED,
    DENSE,
    PORTABLE,
    Accuracy,
    Agreement,
    Compare,
    Cost,
    Latency,
    Machine,
    McNemar,
    Noise,
    Operator,
    Picture,
    Row,
    RuntimeUsed,
)
from dwindle.bench.rows import blank_rows, untried
from dwindle.bench.views.axes import LEAST_POINTS, plane
from dwindle.bench.views.chart import frontier
from dwindle.checkpoint import Checkpoint, finish, start
from dwindle.errors import DwindleError
from dwindle.manifest import Breakdown, Manifest, manifests
from dwindle.record import Round

Export = Callable[..., Manifest]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Reader(HTMLParser):
    """A page's text, and that every element is closed in order."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.text += " " if tag == "small" else ""
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert name not in ("src", "href") or (value or "").startswith("data:image/png;base64,"), value
            assert not name.startswith("on")

    def handle_endtag(self, tag: str) -> None:
        self.text += " " if tag in ("td", "th", "dt", "dd", "small") else ""
        if tag not in ("circle", "line", "polyline"):
            assert self.open.pop() == tag
        else:
            self.open.remove(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def read(page: Path) -> str:
    reader = Reader()
    reader.feed(page.read_text())
    reader.close()
    assert reader.open == []
    assert not {"script", "link", "iframe"} & set(reader.seen)
    assert "url(" not in page.read_text()
    assert "@import" not in page.read_text()
    return re.sub(r"\s+", " ", reader.text)


def measured(row: Row) -> Row:
    """As if bench had run: what it really measures is test_stage's affair."""
    if row.target == "coreml":
        return untried(row, "Core ML runs on Apple's systems only, and this is not a Mac")
    dense = row.role == DENSE
    return replace(
        row,
        runtime=RuntimeUsed("onnxruntime", "1.32.0", 1),
        latency=Latency(5.0, 2.0, 0.2, 0.21, 0.25, 0.19, 0.205, 6, 4, 240),
        compare=None if dense else Compare("exports/onnx/dense.onnx", 1.012, (1.005, 1.019), "median"),
        accuracy=Accuracy("accuracy", 97.0 if dense else 96.3, 360, (94.7, 98.3), "test"),
        memory_bytes=4_000_000,
        noise=Noise(dense, () if dense else ("load average 5.0 on 2 cores",), 0.99, 0.01, 20.0, 0.01, 5.0),
    )


@pytest.fixture
def page(checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]) -> Path:
    """With an export measured through onnxruntime and one that can't be here."""
    export("onnx", *onnx_files)
    export("coreml", *onnx_files, precision="fp16")
    blank = blank_rows(checkpoint.path, manifests(checkpoint.exports))
    rows = tuple(measured(row) for pair in blank for row in pair)
    Bench(rows, Machine("CPU", 2, "Linux"), 0, "2026-01-01T00:00:00+00:00", "0.1").save(checkpoint.bench_path)
    return report(checkpoint)


def test_the_page_says_what_is_known_and_what_is_not(
    page: Path, checkpoint: Checkpoint, onnx_files: tuple[Path, Path]
) -> None:
    text = read(page)
    assert page == checkpoint.path / "report.html"
    for figure in ("30.0%", "of the weights left", "onnxruntime 1.", "bitmask + fp32 survivors", "budget 12.0 KB"):
        assert figure in text
    assert "96.30 94.7–98.3 −0.70 205 µs 200 µs 1.012 1.005–1.019 5.00 ms 4.00 MB noisy" in text
    assert text.index("onnx dense") < text.index("coreml dense"), "the target that it was made for is first"
    assert "load average 5.0 on 2 cores" in text
    assert "coreml: latency, accuracy, memory, noise, latency ratio, agreement. Core ML runs on" in text
    assert "2 weight tensors bit-equal" in text
    assert "Not measured, and why" in text
    assert "dwindle compress blobs:net --task blobs:Blobs --size 12000 -o net.dwindle" in text
    assert "cut to" not in text


def test_what_was_lost_is_red(page: Path, checkpoint: Checkpoint) -> None:
    red = re.compile('<(td data-label="([^"]+)"|li) class="lost">')
    assert [each[2] for each in red.finditer(page.read_text())] == [None]  # of the size, which is more than was asked
    found = Bench.load(checkpoint.bench_path)
    lost = Accuracy("accuracy", 95.0, 360, (93.0, 97.0), "test")
    slow = Compare("exports/onnx/dense.onnx", 1.2, (1.1, 1.3), "median")
    compressed = found.find("onnx", COMPRESSED)[0]
    others = [row for row in found.rows if row is not compressed]
    replace(found, rows=(*others, replace(compressed, accuracy=lost, compare=slow))).save(checkpoint.bench_path)
    found_red = [each[2] for each in red.finditer(report(checkpoint).read_text())]
    assert found_red == [None, None, None, "change, points", "time / dense"]


def test_arm64_cost_is_shown_as_what_it_is(page: Path, checkpoint: Checkpoint) -> None:
    assert "ARM64 cost" not in read(page)
    found = Bench.load(checkpoint.bench_path)
    counts = Cost({"all": 121_300_000}, None, 310_000_000, 300_000_000, None, 7e-8, 1e-4, "rt 1", "qemu-user 7", "a76")
    dense, compressed = found.find("onnx", DENSE)[0], found.find("onnx", COMPRESSED)[0]
    slim = replace(counts, instructions={"all": 45_600_000}, ratio=0.3759, sparse={"all": 22_800_000})
    others = found.find("coreml", DENSE) + found.find("coreml", COMPRESSED)
    rows = (*others, replace(dense, cost=counts), replace(compressed, cost=slim))
    replace(found, rows=rows).save(checkpoint.bench_path)
    text = read(report(checkpoint))
    assert "ARM64 cost: instructions that one inference executes on an emulated a76 (qemu-user 7)" in text
    assert "not a time" in text
    assert "onnx dense rt 1 121.3 M 310.0 M 1.033× 7e-08" in text
    assert "onnx compressed rt 1 45.6 M 0.376 310.0 M 1.033× 0.500 7e-08" in text


def test_operators_are_listed_with_what_ran_them(page: Path, checkpoint: Checkpoint) -> None:
    assert "Where the time goes" not in read(page)
    found = Bench.load(checkpoint.bench_path)
    operators = (Operator("conv <1>", "Conv", 0.15, 0.75, "XNNPACK"), Operator("sort", "sort", 0.05, 0.25, PORTABLE))
    rows = tuple(replace(row, operators=operators) if row.latency else row for row in found.rows)
    replace(found, rows=rows).save(checkpoint.bench_path)
    text = read(report(checkpoint))
    assert "onnx compressed: 2 operators, the slowest 75% of the time" in text
    assert "conv <1> Conv XNNPACK 150 µs 75.0%" in text
    assert "sort portable kernels 50.0 µs 25.0%" in text


def test_without_bench_it_shows_sizes_and_says_what_to_run(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]
) -> None:
    export("onnx", *onnx_files)
    text = read(report(checkpoint))
    assert "Not benched yet: run dwindle bench" in text
    assert "<code>dwindle bench" in (checkpoint.path / "report.html").read_text()
    assert "test, in PyTorch" in text
    assert "−0.50 points" in text


def test_figures_of_older_files_are_not_shown(
    page: Path, checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]
) -> None:
    export("onnx", onnx_files[1], onnx_files[0])
    assert "newer than the last bench" in read(report(checkpoint))


def test_without_exports_the_frontier_is_there(checkpoint: Checkpoint) -> None:
    text = read(report(checkpoint))
    assert "Nothing is exported yet" in text
    assert "11.8 KB, 97.10" in text


def test_cut_layers_show_both_widths(checkpoint: Checkpoint, nets: tuple[nn.Module, nn.Module]) -> None:
    slim = {name: tensor[:4] if name == "0.weight" else tensor for name, tensor in nets[1].state_dict().items()}
    tensors = {"weights": slim, "dense": nets[0].state_dict(), "masks": {}}
    cut = finish(checkpoint, tensors, {"shapes": {"0.weight": [4, 1, 3, 3]}})
    text = read(report(cut))
    assert "8×1×3×3 4×1×3×3 4 of 8 50.0%" in text
    assert "10×512 whole 10 of 10" in text


def test_what_a_file_consists_of_is_drawn_where_its_manifest_says(
    checkpoint: Checkpoint, export: Export, onnx_files: tuple[Path, Path]
) -> None:
    manifest = export("onnx", *onnx_files)
    values = 4 * (8 * 9 + 512 * 10)
    breakdown = Breakdown.of(manifest.file.bytes, mask=0, values=values, graph=100)
    replace(manifest, breakdown=breakdown).write(checkpoint.exports / "onnx")
    export("older", *onnx_files)
    page = report(checkpoint)
    (drawn,) = re.findall(r'<div class="split">(.*?)</div>', page.read_text())
    shares = [float(share) for share in re.findall(r"width:([\d.]+)%", drawn)]
    assert len(shares) == 3  # no mask: these weights are plain
    assert sum(shares) == pytest.approx(100, abs=0.05)
    assert "values 20.8 KB" in read(page)  # (8·9 + 512·10) · 4


def test_answers_that_changed_are_told(page: Path, checkpoint: Checkpoint) -> None:
    assert "Answers" not in read(page)
    bench = Bench.load(checkpoint.bench_path)
    same = Agreement("exports/onnx/dense.onnx", 98.6, (96.8, 99.4), 360, 5, (14, 122), McNemar(4, 1, 0.375))
    rows = tuple(replace(r, agreement=same if r.accuracy and r.role != DENSE else None) for r in bench.rows)
    replace(bench, rows=rows).save(checkpoint.bench_path)
    text = read(report(checkpoint))
    assert "onnx compressed in onnxruntime: 5 of 360 samples in another class than the dense file's" in text
    assert "McNemar's exact p = 0.38." in text
    shown = replace(same, pictures=(Picture(14, "QUJD", 3, 3, 8), Picture(122, "REVG", 5, 6, 7)))
    rows = tuple(replace(r, agreement=shown if r.accuracy and r.role != DENSE else None) for r in bench.rows)
    replace(bench, rows=rows).save(checkpoint.bench_path)
    page = report(checkpoint)
    assert re.findall(r'src="data:image/png;base64,([^"]*)"', page.read_text()) == ["QUJD", "REVG"]
    assert "class 3 → class 8" in read(page)
    assert "now wrong" in read(page)
    assert "is class 5" in read(page)


def test_an_unfinished_checkpoint_has_a_page(tmp_path: Path) -> None:
    fresh = start(tmp_path / "new.dwindle", {"model": {"spec": "zoo:resnet8"}, "target": "onnx"})
    text = read(report(fresh))
    assert "Unfinished" in text
    assert "No round has been finished yet" in text


def test_what_a_user_typed_is_shown_and_not_run(checkpoint: Checkpoint) -> None:
    nasty = "</title><script>alert(1)</script>"
    page = report(replace(checkpoint, origin={"model": nasty, "task": {"data": nasty}, "target": "onnx"}))
    assert nasty in read(page)
    assert "<script" not in page.read_text()


def test_it_goes_where_it_is_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert report(checkpoint.path, tmp_path / "deep" / "a.html") == tmp_path / "deep" / "a.html"
    (tmp_path / "file").write_text("")
    with pytest.raises(DwindleError, match="cannot write"):
        report(checkpoint, tmp_path / "file" / "a.html")


def points(svg: str) -> list[tuple[float, float]]:
    circles = ElementTree.fromstring(svg).iter("circle")
    return [(float(circle.attrib["cx"]), float(circle.attrib["cy"])) for circle in circles]


def history(*rounds: tuple[float, int | None, float]) -> list[Round]:
    return [Round(i, density, size, score, 0.1, 1.0) for i, (density, size, score) in enumerate(rounds)]


def test_the_frontier_puts_smaller_left_and_better_above() -> None:
    svg = frontier(history((1, 80_000, 91.0), (0.5, 40_000, 92.0), (0.25, 20_000, 88.0)), 21_000, 900, 400, "a")
    (dense, first, last), width = points(svg), 900
    assert 0 < last[0] < first[0] < dense[0] < width
    assert first[1] < dense[1] < last[1] < 400
    assert dense[0] - first[0] == pytest.approx(first[0] - last[0], abs=0.2)  # halving twice: a log scale
    assert "budget 21.0 KB" in svg


def test_a_band_holds_the_interval_of_every_round_within_the_frame() -> None:
    rounds = [(1.0, 80_000, 99.0), (0.5, 40_000, 100.0), (0.25, 20_000, 98.0)]
    judged = [replace(record, samples=200) for record in history(*rounds)]
    (polygon,) = ElementTree.fromstring(frontier(judged, None, 900, 400, "a")).iter("polygon")
    ends = [tuple(map(float, pair.split(","))) for pair in polygon.attrib["points"].split()]
    drawn = points(frontier(judged, None, 900, 400, "a"))
    for (x, y), (above, high), (below, low) in zip(drawn, ends[:3], reversed(ends[3:]), strict=True):
        assert x == above == below
        assert 44 <= high <= y <= low <= 400 - 48
    assert drawn[0][1] - ends[0][1] < ends[-1][1] - drawn[0][1]  # near 100 there is more room below
    assert "95%: 96.4–99.7" in frontier(judged, None, 900, 400, "a")


def test_rounds_of_unknown_samples_have_no_band(checkpoint: Checkpoint) -> None:
    assert "<polygon" not in frontier(history((1, 80_000, 91.0), (0.5, 40_000, 92.0)), None, 900, 400, "a")
    assert "95% interval of" not in read(report(checkpoint))
    judged = tuple(replace(record, samples=1000) for record in checkpoint.history)
    assert "95% interval of 1,000 samples" in read(report(replace(checkpoint, history=judged)))


@pytest.mark.parametrize(
    "rounds",
    [
        [(1.0, 1000, 50.0)],
        [(1.0, 1000, 50.0), (1.0, 1000, 50.0)],
        [(1.0, None, 99.9), (0.001, None, 0.0)],
        [(1.0, 10**9, 99.91), (0.9, 10**3, 99.92)],
        [(1.0, None, 99.9), (0.5, 10, 99.9)],
    ],
)
@pytest.mark.parametrize("width", [400, 1000])
def test_the_frontier_stays_within_its_frame(rounds: list[tuple[float, int | None, float]], width: int) -> None:
    svg = frontier(history(*rounds), 500, width, 400, "a")
    assert all(0 <= x <= width and 0 <= y <= 400 for x, y in points(svg))
    ticks = [e for e in ElementTree.fromstring(svg).iter("text") if e.attrib["text-anchor"] == "middle"]
    assert 2 <= len(ticks) <= 14
    if rounds[0][1] is None:
        assert "density" in svg


@pytest.mark.needs("chromium")
class TestInABrowser:
    def shoot(self, page: Path, picture: Path, *options: str) -> str:
        """Takes a screenshot without network; returns what the console said."""
        done = subprocess.run(
            [
                str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
                f"--user-data-dir={picture.parent / 'profile'}", f"--screenshot={picture}", *options,
                page.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    @pytest.mark.slow
    def test_it_renders_light_and_dark_without_a_word_on_the_console(self, page: Path, tmp_path: Path) -> None:
        light, dark = tmp_path / "light.png", tmp_path / "dark.png"
        assert self.shoot(page, light, "--window-size=1200,2000") == ""
        assert self.shoot(page, dark, "--window-size=500,2000", "--blink-settings=preferredColorScheme=0") == ""
        assert _luminance(light) > 240
        assert _luminance(dark) < 40
        with Image.open(light) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 50  # something is drawn

    def test_the_console_would_speak_up(self, page: Path, tmp_path: Path) -> None:
        broken = tmp_path / "broken.html"
        broken.write_text(page.read_text().replace("</main>", '<img src="https://example.com/x.png"></main>'))
        assert "Content Security Policy" in self.shoot(broken, tmp_path / "broken.png")


def _luminance(picture: Path) -> float:
    """Of the corner, where the page has nothing but its background."""
    with Image.open(picture) as opened:
        return float(opened.convert("L").getpixel((2, 2)))  # type: ignore[arg-type]


@given(st.lists(st.floats(2, 100), min_size=1, max_size=5))
def test_an_axis_of_percentages_spans_enough_and_holds_every_score(scores: list[float]) -> None:
    drawn = plane([1e3] * len(scores), scores, True, 400, 300).y
    assert drawn.high - drawn.low >= LEAST_POINTS
    assert drawn.low <= min(scores) <= max(scores) <= drawn.high


def test_a_metric_from_0_to_1_keeps_its_own_scale() -> None:
    drawn = plane([1e3, 2e3], [0.42, 0.44], True, 400, 300).y
    assert drawn.high - drawn.low < 1
