from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dwindle.models.layerwise import least_squares
from dwindle.models.layerwise.least_squares import solve
from dwindle.models.layerwise.moments import Moments


def moments_of(inputs: Tensor, outputs: Tensor) -> Moments:
    found = Moments.zeros(len(inputs), inputs.shape[2], outputs.shape[2])
    for x, y in zip(inputs.split(50, 1), outputs.split(50, 1), strict=True):
        found.add(x, y)
    return found


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, outputs, weights and a mask of one layer, in float64."""
    groups, outputs, inputs = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    given, weight = normal(groups, 120, inputs), normal(groups, outputs, inputs)
    density = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    mask = torch.rand(weight.shape, generator=random) < density
    wanted = given @ weight.transpose(1, 2) + 0.3 * normal(groups, 120, outputs) + normal(groups, 1, outputs)
    return given, wanted, weight, mask


@given(problems())
@settings(deadline=None)
def test_survivors_are_what_numpy_finds(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    inputs, outputs, weight, mask = problem
    found = solve(moments_of(inputs, outputs), weight, mask, damping=0.0).rows
    assert not found[~mask].any()
    for group, row in np.ndindex(*weight.shape[:2]):
        kept = mask[group, row]
        best = np.linalg.lstsq(inputs[group][:, kept].numpy(), outputs[group, :, row].numpy())[0]
        np.testing.assert_allclose(found[group, row, kept].numpy(), best, rtol=1e-6, atol=1e-8)


@given(problems())
@settings(deadline=None)
def test_the_errors_are_those_of_the_outputs_and_no_row_gets_worse(
    problem: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    inputs, outputs, weight, mask = problem
    moments = moments_of(inputs, outputs)
    solution = solve(moments, weight, mask)
    for rows, share in ((weight * mask, solution.before), (solution.rows, solution.after)):
        error = (inputs @ rows.transpose(1, 2) - outputs).square()
        torch.testing.assert_close(moments.error(rows), error.sum(1), rtol=1e-6, atol=1e-6)
        assert abs(share - float(error.sum() / outputs.square().sum())) < 1e-9
    assert bool((moments.error(solution.rows) <= moments.error(weight * mask) + 1e-9).all())


@given(problems())
@settings(deadline=None)
def test_a_whole_mask_leaves_a_layer_whose_inputs_have_not_changed(
    problem: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    inputs, _, weight, _ = problem
    everything = torch.ones_like(weight, dtype=torch.bool)
    found = solve(moments_of(inputs, inputs @ weight.transpose(1, 2)), weight, everything).rows
    torch.testing.assert_close(found, weight)


@given(problems())
@settings(deadline=None)
def test_a_bias_makes_up_for_the_means(problem: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    inputs, outputs, weight, mask = problem
    moments = moments_of(inputs, outputs)
    centred = moments_of(inputs - inputs.mean(1, keepdim=True), outputs - outputs.mean(1, keepdim=True))
    torch.testing.assert_close(moments.centred().error(weight), centred.error(weight))
    rows = solve(moments.centred(), weight, mask).rows
    fitted = inputs @ rows.transpose(1, 2) + moments.bias(rows)[:, None]
    torch.testing.assert_close(fitted.mean(1), outputs.mean(1))


def test_what_inputs_say_nothing_of_stays_as_it_was() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(1, 40, 4)
    inputs[..., 2] = 0
    weight, mask = torch.randn(1, 3, 4), torch.tensor([True, False, True, True]).expand(1, 3, 4)
    found = solve(moments_of(inputs, torch.randn(1, 40, 3)), weight, mask).rows
    torch.testing.assert_close(found[..., 2].float(), weight[..., 2])
    dead = solve(moments_of(torch.zeros(1, 40, 4), torch.randn(1, 40, 3)), weight, mask).rows
    torch.testing.assert_close(dead.float(), weight * mask)


def test_fewer_positions_than_inputs_are_damped() -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(1, 5, 50), torch.randn(1, 2, 50)
    everything = torch.ones_like(weight, dtype=torch.bool)
    found = solve(moments_of(inputs, torch.randn(1, 5, 2)), weight, everything)
    assert found.after < 0.1 * found.before
    assert float((found.rows - weight).norm()) < 2 * float(weight.norm())


@pytest.mark.parametrize("density", [0.6, 0.9])
def test_masks_that_leave_most_inputs_are_solved_by_what_they_remove(
    density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 200, 40, generator=random) @ torch.randn(40, 40, generator=random)
    wanted, weight = torch.randn(2, 200, 60, generator=random), torch.randn(2, 60, 40, generator=random)
    mask = torch.rand(weight.shape, generator=random) < density
    mask[:, :3] = mask[:, 3:4]
    moments = moments_of(inputs, wanted)
    found = solve(moments, weight, mask).rows
    monkeypatch.setattr("dwindle.models.layerwise.least_squares.WHOLE", 0)
    torch.testing.assert_close(found, solve(moments, weight, mask).rows, rtol=1e-8, atol=1e-10)
    assert not found[~mask].any()


@given(
    st.integers(1, 40), st.integers(1, 12), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.0, 1.0]),
    st.integers(0, 2**31),
)  # fmt: skip
@settings(deadline=None)
def test_conjugate_gradients_find_what_a_factorisation_finds(
    inputs: int, outputs: int, density: float, steep: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, inputs + 1).double().pow(-steep)
    mixing = spectrum[:, None] * torch.randn(inputs, inputs, generator=random, dtype=torch.float64)
    given = torch.randn(1, 200, inputs, generator=random, dtype=torch.float64) @ mixing
    weight = torch.randn(1, outputs, inputs, generator=random, dtype=torch.float64)
    mask = torch.rand(weight.shape, generator=random) < density
    moments = moments_of(given, given @ weight.transpose(1, 2))
    exact = solve(moments, weight, mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(least_squares, "STEP_WORTH", 0)
        patch.setattr(least_squares, "WHOLE", 0)
        found = solve(moments, weight, mask)
    assert not found.rows[~mask].any()
    assert found.after <= exact.after + 1e-4 * abs(exact.before) + 1e-12
    torch.testing.assert_close(found.rows, exact.rows, rtol=0, atol=2e-2 * float(exact.rows.abs().max()))


def test_rows_that_conjugate_gradients_do_not_finish_are_factored(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(1, 300, 30), torch.randn(1, 8, 30)
    mask = torch.rand(weight.shape) < 0.5
    moments = moments_of(inputs, torch.randn(1, 300, 8))
    exact = solve(moments, weight, mask).rows
    monkeypatch.setattr(least_squares, "STEP_WORTH", 0)
    monkeypatch.setattr(least_squares, "MOST", 1)
    torch.testing.assert_close(solve(moments, weight, mask).rows, exact, rtol=1e-8, atol=1e-10)


def test_what_is_too_large_to_factor_row_by_row_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(1, 1200, 900)
    weight = torch.randn(1, 20, 900)
    mask = torch.rand(weight.shape) < 0.5
    moments = moments_of(inputs, inputs @ weight.transpose(1, 2))
    sizes: list[int] = []
    monkeypatch.setattr("torch.linalg.cholesky_ex", lambda square: sizes.append(len(square)))
    found = solve(moments, weight, mask)
    assert not sizes, "nothing is factored: all rows go down together"
    assert found.after < found.before
    assert not found.rows[~mask].any()


def test_rows_of_one_mask_share_a_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs, weight = torch.randn(1, 60, 5), torch.randn(1, 6, 5)
    mask = torch.tensor([[True, True, False, True, False]]).expand(6, 5)[None]
    factor, sizes = torch.linalg.cholesky_ex, []

    def counted(square: Tensor) -> Any:
        sizes.append(tuple(square.shape))
        return factor(square)

    monkeypatch.setattr("torch.linalg.cholesky_ex", counted)
    solve(moments_of(inputs, torch.randn(1, 60, 6)), weight, mask)
    assert sizes == [(3, 3)]
