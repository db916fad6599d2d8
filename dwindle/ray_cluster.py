"""Functions run as tasks of a Ray cluster, which places them, and starts one anew where its machine is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from dwindle.errors import DwindleError, UsageError, one_line

T = TypeVar("T")
R = TypeVar("R")


def as_finished(run: Callable[[T], R], over: Sequence[T], address: str, cpus: int) -> Iterator[tuple[int, R | str]]:
    """Calls `run` with each of `over` in a task of its own; yields the place in `over` and what was returned, as each
    finishes, or one line that says why a task was lost.

    run: a function of a module that every machine of the cluster can import. address: `local` for this machine alone,
    `auto` for the cluster that it belongs to, or that of another. cpus: how many cores each task takes; where the
    cluster has GPUs, each takes one as well.
    Raises UsageError where the cluster can't be reached, or no machine of it has so many cores.
    """
    import ray

    began = not ray.is_initialized()
    try:
        lean: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, ignore_reinit_error=True, **lean)
    except Exception as error:  # no such host, no cluster there, another version of Ray, a machine too busy to start
        raise UsageError(
            f"there is no Ray cluster at {address} ({one_line(error)}): give `ray` auto, local or the address that "
            "`ray start --head` printed",
            code="unreachable",
            option="ray",
            name=address,
        ) from error
    try:
        resources: Any = ray.cluster_resources()
        if cpus > max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]):
            raise UsageError(
                f"a trial takes {cpus} cores, and no machine of the cluster has so many: give more `jobs`, which share "
                "a machine's cores",
                code="out-of-range",
                option="jobs",
            )
        task = ray.remote(num_cpus=cpus, num_gpus=1 if resources.get("GPU") else 0)(lambda each: run(each))
        places = {task.remote(each): place for place, each in enumerate(over)}
        waiting = list(places)
        while waiting:
            [done], waiting = ray.wait(waiting)
            try:
                yield places[done], ray.get(done)
            except DwindleError:
                raise
            except Exception as error:  # its machine was lost, again and again
                yield places[done], one_line(error)
    finally:
        if began:
            ray.shutdown()
