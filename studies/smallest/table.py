"""The smallest files side by side."""

from __future__ import annotations

import statistics
from typing import Any


def table(rows: list[dict[str, Any]]) -> str:
    """A line per target and way: medians over the seeds, and bytes over dwindle's, paired by seed."""
    lines = [
        "| target | way | bytes | deflated | × dwindle's bytes | validation against dense | test against dense "
        "| settings | seeds |",
        "|---|---|---:|---:|---:|---:|---:|---|---:|",
    ]
    for target, way in dict.fromkeys((row["target"], row["way"]) for row in rows):
        mine = {row["seed"]: row for row in rows if (row["target"], row["way"]) == (target, way)}
        ours = {row["seed"]: row for row in rows if (row["target"], row["way"]) == (target, "dwindle")}
        found = {seed: row for seed, row in mine.items() if row["found"]}
        if not found:
            lines.append(f"| {target} | {way} | none within a point | | | | | | {len(mine)} |")
            continue
        cells = [
            f"{statistics.median(row['found'][name] for row in found.values()):,.0f}" for name in ("bytes", "deflated")
        ]
        both = [seed for seed in found if seed in ours and ours[seed]["found"]]
        times = [found[seed]["found"]["bytes"] / ours[seed]["found"]["bytes"] for seed in both]
        cells.append(f"{statistics.median(times):.2f}" if times else "")
        cells += [
            f"{statistics.median(row['found'][split] - row['dense'][split] for row in found.values()):+.2f}"
            for split in ("validation", "test")
        ]
        settings = "; ".join(dict.fromkeys(row["found"]["settings"] for row in found.values()))
        lines.append(f"| {target} | {way} | " + " | ".join(cells) + f" | {settings} | {len(found)} of {len(mine)} |")
    return "\n".join(lines) + "\n"
