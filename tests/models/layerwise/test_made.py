from __future__ import annotations

import torch

from dwindle.models.layerwise.made import Made


def test_what_was_made_counts_until_it_is_gone() -> None:
    made = Made()
    with made:
        kept = torch.ones(10)
        gone = torch.ones(100)
        assert made.alive() == 440
        del gone
        assert made.alive() == 40
    assert kept.sum() == 10


def test_views_and_changes_in_place_are_not_counted_twice_and_what_was_there_not_at_all() -> None:
    before = torch.ones(50)
    made = Made()
    with made:
        before.add_(1)
        part = before[:5]
        kept = torch.zeros(10)
        view = kept.view(2, 5).relu_()
        del kept
        assert made.alive() == 40
        del view
        assert made.alive() == 0
    assert part.sum() == 10
