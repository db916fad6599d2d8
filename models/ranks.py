"""Several processes that torchrun started, training one network: every rank holds all of it.

Each global batch is split between the ranks. What a step needs of the whole batch is summed over them: the
gradients, in buckets while the backward pass runs, by torch's DistributedDataParallel; and batch norm's statistics in
both directions (Ioffe & Szegedy 2015, algorithm 1, over the global batch), by torch's SyncBatchNorm on GPUs, and on a
CPU, where that doesn't run, by our own. So it is the step one process would take with that batch, up to the rounding of
sums. Dropout alone differs: each rank draws its own.

With one process nothing here communicates, and nothing changes.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from dwindle.errors import DwindleError, UsageError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a rank waits for another. What the first rank does alone may take hours (AMC's search), and torchrun ends
the others when one dies."""
_alone = False
"""Whether the first rank is doing something alone, the result of which the others will receive."""


@contextmanager
def joined() -> Iterator[None]:
    """Connects the ranks for the block, if torchrun started several and they are not connected yet.

    On a GPU tensors travel by nccl, on a CPU by gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()
        # Autograd's record of a collective refers to the group: one left in a cycle would keep the group's threads
        # until the interpreter ends, which aborts on them (pytorch/pytorch issue 190489).
        gc.collect()


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """The number of ranks that work together: 1 within what the first rank does alone (`broadcast_from_first`)."""
    return distributed.get_world_size() if distributed.is_initialized() and not _alone else 1


def broadcast_from_first(make: Callable[[], T]) -> T:
    """Returns, on every rank, what `make` returns on the first rank; what it raises there is raised on all of them.

    The other ranks don't call `make`, but wait: the first alone reads and writes files. While it runs, `world()` is 1
    on the first rank, as the others would not answer a collective.
    """
    if world() == 1:
        return make()
    message: list[Any] = [None, None]
    if rank() == 0:
        try:
            with _by_itself():
                message[0] = make()
        except DwindleError as error:
            message[1] = error
    with _others_alive():
        distributed.broadcast_object_list(message)
    if message[1] is not None:
        raise message[1]
    made: T = message[0]
    return made


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors and their names: equal where all of them are bit-equal."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_agree(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises DwindleError on every rank where these tensors aren't bit-equal on all of them."""
    if world() == 1:
        return
    digests: list[Any] = [None] * world()
    with _others_alive():
        distributed.all_gather_object(digests, tensor_digest(tensors))
    if others := [str(r) for r, other in enumerate(digests) if other != digests[0]]:
        raise DwindleError(
            f"ranks disagree: {what} on rank {', '.join(others)} are not those of rank 0: the task's `fit` must "
            "leave the same weights on every rank; the rounds before are saved",
            code="ranks-disagree",
        )


def check_same_task(origin: Mapping[str, Any]) -> None:
    """Raises UsageError on every rank where what a task records, data and options, isn't the same on all of them."""
    if world() == 1:
        return
    origins: list[Any] = [None] * world()
    with _others_alive():
        distributed.all_gather_object(origins, origin)
    for other, found in enumerate(origins):
        if found != origins[0]:
            first = origins[0]
            names = sorted(name for name in found.keys() | first.keys() if found.get(name) != first.get(name))
            what = "data" if names == ["fingerprint"] else ", ".join(names)
            raise UsageError(
                f"ranks disagree before training: rank {other} has another {what} than rank 0: start all of them with "
                "one command and the same data",
                code="ranks-disagree",
                option="data" if what == "data" else None,
                name=what,
            )


def shard(batch: Tensor) -> Tensor:
    """Returns this rank's part of a batch that is split along its first dimension."""
    return batch.tensor_split(world())[rank()]


def summed(values: Tensor) -> Tensor:
    """Returns the sum over the ranks of a tensor on the CPU, which each rank has its own values in."""
    return _summed(values.clone()) if world() > 1 else values


def together(model: nn.Module) -> nn.Module:
    """The network as the ranks train it: a backward pass leaves the sum of all ranks' gradients in its parameters.

    It is `model` itself where there is one process, else torch's DistributedDataParallel around it. Parameters that no
    rank's forward pass used keep no gradient. That these are looked for also keeps the buckets as they were made, so
    that a training that was resumed sums in the same order.
    """
    if world() == 1:
        return model
    joint = DistributedDataParallel(
        _Spare(model), init_sync=False, forward_sync_buffers=False, find_unused_parameters=True
    )
    joint.register_comm_hook(None, lambda state, bucket: _sum(bucket))
    return joint


class _Spare(nn.Module):
    """A network beside a parameter that is never used: where all are, DistributedDataParallel warns that it looked for
    unused ones in vain."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.spare = nn.Parameter(torch.zeros((), device=next(model.parameters()).device))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.model(*inputs, **named)


def _sum(bucket: Any) -> torch.futures.Future[Tensor]:
    """Sums, where DistributedDataParallel itself would take the mean: the parts of a loss add up to it."""
    arriving: torch.futures.Future[list[Tensor]] = distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
    return arriving.then(lambda arrived: arrived.value()[0])


def backward(loss: Tensor) -> Tensor:
    """Runs the backward pass of this rank's part of a loss, which came from a network of `together`, and returns the
    sum of all parts."""
    if world() == 1:
        loss.backward()
        return loss
    total = loss.detach().clone()
    with _others_alive():
        arriving = distributed.all_reduce(total, async_op=True)
        loss.backward()
        arriving.wait()
    return total


@contextmanager
def global_batch_norm(model: nn.Module) -> Iterator[None]:
    """Makes batch norm in training mode take its statistics over the batches of all ranks, for the block."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)] if world() > 1 else []
    for norm in norms:
        # It shares the parameters and statistics; the network itself keeps its modules.
        on_gpu = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        norm.forward = partial(_batch_norm, norm, on_gpu)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _batch_norm(norm: _BatchNorm, on_gpu: nn.Module, x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    if x.is_cuda:
        normed: Tensor = on_gpu.train()(x)
        return normed
    dims = [dim for dim in range(x.dim()) if dim != 1]
    exact = torch.promote_types(x.dtype, torch.float32)
    variance, mean = torch.var_mean(x.to(exact), dims, correction=0)
    # Each rank fills its own row, so that one sum gathers them all, gradients included.
    rows = torch.zeros(world(), 3, x.shape[1], device=x.device, dtype=exact)
    rows[rank()] = torch.stack([torch.full_like(mean, x.numel() / x.shape[1]), mean, variance])
    counts, means, variances = _Summed.apply(rows).unbind(1)
    share = counts / counts.sum(0)
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    _track(norm, mean.detach(), variance.detach(), counts[:, 0].detach().sum().item())
    shape = (1, -1, *[1] * (x.dim() - 2))
    scale = (variance + norm.eps).rsqrt()
    y: Tensor = (x - mean.view(shape)) * (scale if norm.weight is None else scale * norm.weight).view(shape)
    return (y if norm.bias is None else y + norm.bias.view(shape)).to(x.dtype)


def _track(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: float) -> None:
    """Updates the running statistics as torch's own batch norm does: variance unbiased, momentum None a plain mean."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    factor = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    unbiased = variance * (count / max(1.0, count - 1))
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), factor)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), factor)


class _Summed(torch.autograd.Function):
    """Sums a tensor over the ranks. Each rank's loss depends on the sum, so its gradient is summed over the ranks
    too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _summed(tensor.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient.contiguous().clone())


def _summed(tensor: Tensor) -> Tensor:
    with _others_alive():
        distributed.all_reduce(tensor)
    return tensor


@contextmanager
def _by_itself() -> Iterator[None]:
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


@contextmanager
def _others_alive() -> Iterator[None]:
    """Replaces the error of gloo or nccl by one sentence where another rank has ended, which closes the connections to
    it."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or "gloo" in str(error) or "onnection" in str(error)):
            raise
        raise DwindleError(
            f"rank {rank()} lost the connection to another rank: that rank's own message says why", code="rank-lost"
        ) from error
