import pytest

from dwindle.bench.verdict import Check, Verdict
from dwindle.bench.views.comment import MOST, changed, comment, marker


def verdict(*rows: Check, **sizes: float) -> Verdict:
    return Verdict(rows, figures={name: {"size": size} for name, size in sizes.items()})


def table(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_networks_are_sorted_by_size_and_say_what_changed() -> None:
    found = Verdict(
        (Check("max_size", "b", 3e6, 2e6, True, None),),
        figures={"a": {"size": 1e6}, "b": {"size": 2e6, "accuracy": 96.2}},
        previous={"b": {"size": 1.6e6, "accuracy": 96.5}},
    )
    text = comment(found, "budget")
    assert text.startswith(marker("budget") + "\n")
    assert table(text) == [
        ["", "size", "accuracy"],
        ["b", "2.00 MB ↑ 400 KB (+25.00%)", "96.20 ↓ −0.30"],
        ["a", "1.00 MB", "–"],
    ]


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        (("size", 10.0, 10.0), "10 B ="),
        (("cost", 2e6, 4e6), "2.00M ↓ 2.00M (−50.00%)"),
        (("download", None, 5.0), "–"),
        (("accuracy", 90.0, 89.0), "90.00 ↑ +1.00"),
    ],
)
def test_a_figure_and_its_change(figures: tuple[str, float | None, float | None], shown: str) -> None:
    assert changed(*figures) == shown


def test_only_limits_that_do_not_hold_are_listed() -> None:
    missed, absent = Check("max_size", "b", 1, 2, False, None), Check("max_cost", "b", 1, None, False, "no emulator")
    text = comment(verdict(Check("max_zeros", "b", 1, 0, True, None), missed, absent, b=2), "t")
    assert [row[1] for row in table(text)[3:]] == ["max size", "max cost"]


def test_what_others_wrote_stays_text_and_mentions_nobody() -> None:
    hostile = "<!-- x --> | @everyone [a](b) `c`\n# d"
    text = comment(verdict(Check("max_size", hostile, 1, 2, False, hostile), **{hostile: 2}), hostile)
    assert "@everyone" not in text
    assert text.count("<") == 1  # the marker's own
    assert "\n# d" not in text


def test_a_comment_of_a_thousand_networks_is_cut() -> None:
    text = comment(verdict(**{f"net{n}": n for n in range(1000)}), "t")
    assert len(table(text)) == 1 + MOST
    assert f"and {1000 - MOST} more" in text
