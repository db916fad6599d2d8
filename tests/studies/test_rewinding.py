"""The comparison's arithmetic, on rows whose answers are known by hand."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from studies.paired import half_width
from studies.rewinding.figure import draw
from studies.rewinding.grid import Trial, compact, quick, whole
from studies.rewinding.table import settings, table


def _row(method: str, seed: int, tests: list[float], recipe: str = "paper") -> dict[str, Any]:
    trial = Trial("zoo:resnet8", "digits", method, seed, epochs=4, prune_per_round=0.5, recipe=recipe)
    history = [{"density": 0.5**i, "macs": 0, "validation": 0.0, "test": test} for i, test in enumerate(tests)]
    return {**vars(trial), "kind": trial.kind, "history": history}


METHODS = [
    *(_row("lr-rewind", seed, [90.0 + seed, 91.0 + seed, 89.0 + seed]) for seed in range(3)),
    *(_row("finetune", seed, [90.0 + seed, 90.0 + seed, 86.0 + 2 * seed]) for seed in range(3)),
    *(_row("control", seed, [90.0 + seed, 92.0 + seed]) for seed in range(3)),
]


def test_every_trial_has_a_key_of_its_own() -> None:
    trials = set(chain(quick(), compact(), whole()))
    assert len({trial.key for trial in trials}) == len(trials)


def test_drops_are_from_the_dense_network_of_the_same_seed() -> None:
    (setting,) = settings(METHODS)
    assert setting.ratios == [2.0, 4.0]
    assert setting.drops("lr-rewind", 2.0) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert setting.drops("finetune", 4.0) == {0: -4.0, 1: -3.0, 2: -2.0}
    assert setting.drops("control", 2.0) == {0: 2.0, 1: 2.0, 2: 2.0}
    assert not setting.drops("control", 4.0)


def test_a_lead_is_paired_by_seed_and_bold_only_where_its_interval_excludes_zero() -> None:
    lines = table(settings(METHODS)[0]).splitlines()
    assert "| fewer weights | lr-rewind | finetune | control |" in lines
    # Leads at 4x: 3, 2 and 1: mean 2, standard error 1/sqrt(3), Student's 4.303 of two degrees of freedom.
    assert lines[-1] == "| 4.0× | -1.00 | -3.00 (+2.00 ± 2.48) |  |"
    assert lines[-2] == "| 2.0× | +1.00 | +0.00 (**+1.00 ± 0.00**) | +2.00 (**-1.00 ± 0.00**) |"
    assert abs(half_width([1.0, 2.0, 3.0]) - 2.484) < 1e-3


def test_one_shots_control_is_one_retraining_at_every_ratio() -> None:
    trials = [
        Trial("zoo:resnet8", "digits", "lr-rewind", seed, epochs=4, density=1 / ratio, rounds=1)
        for seed in range(3)
        for ratio in (2, 8)
    ]
    rows = [
        {
            **vars(trial),
            "kind": trial.kind,
            "history": [{"density": density, "macs": 0, "test": 90.0 + trial.seed} for density in (1.0, trial.density)],
        }
        for trial in trials
    ]
    one_shot = settings([*METHODS, *rows])[0]
    assert one_shot.kind == "one-shot"
    assert one_shot.ratios == [2.0, 8.0]
    for ratio in one_shot.ratios:
        assert one_shot.drops("control", ratio) == {0: 2.0, 1: 2.0, 2: 2.0}


def test_recipes_are_measured_from_the_papers_dense_network() -> None:
    rows = [*METHODS, *(_row("lr-rewind", seed, [95.0, 93.0 + seed, 90.0], "other") for seed in range(3))]
    methods, recipes = settings(rows)
    assert methods.names == ["lr-rewind", "finetune", "control"]
    assert recipes.names == ["paper", "other"]
    assert recipes.drops("other", 2.0) == {0: 3.0, 1: 3.0, 2: 3.0}
    assert methods.drops("lr-rewind", 2.0) == {0: 1.0, 1: 1.0, 2: 1.0}, "a recipe's rows are no method's"


def test_methods_are_compared_under_a_recipe_that_several_were_run_by() -> None:
    again = [_row(method, seed, [80.0, 81.0], "other") for method in ("lr-rewind", "finetune") for seed in range(3)]
    plain, other, _ = settings([*METHODS, *again])
    assert (plain.title, other.title) == (
        "zoo:resnet8 on digits, iterative 50% a round",
        "zoo:resnet8 on digits, iterative 50% a round, other",
    )
    assert other.names == ["lr-rewind", "finetune", "control"]
    assert other.drops("finetune", 2.0) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert plain.drops("finetune", 2.0) == {0: 0.0, 1: 0.0, 2: 0.0}


def test_the_figure_has_a_line_for_each_method(tmp_path: Path) -> None:
    (setting,) = settings(METHODS)
    draw(setting, setting.names, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert all(f">{name}<" in drawn for name in setting.names)
