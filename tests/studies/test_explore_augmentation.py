from __future__ import annotations

import pytest

from studies.rewinding.explore_augmentation import Setting, run, table
from studies.rewinding.grid import SMALLEST

QUICK = Setting("zoo:resnet8", "digits", epochs=1, per_round=0.9, seeds=(30, 31))


@pytest.mark.slow
def test_a_run_is_the_products_own_to_the_smallest_density() -> None:
    row = run(QUICK, 30, 0.5)
    assert (row["augment"], row["seed"]) == (0.5, 30)
    assert [density for density, _ in row["history"]] == pytest.approx([1.0, 0.1, SMALLEST], abs=1e-3)


def test_the_table_is_of_means_over_seeds() -> None:
    rows = [
        {"network": "zoo:resnet8", "data": "digits", "epochs": 1, "seed": seed, "augment": share}
        | {"history": [[1.0, 90.0], [0.5, 80.0 + seed - 30]]}
        for seed, share in ((30, 1.0), (31, 1.0), (31, 0.5))
    ]
    assert table(QUICK, rows).splitlines()[-2:] == ["| 100% | 2 | 90.00 | 80.50 |", "| 50% | 1 | 90.00 | 81.00 |"]
