"""Where a run's figures go besides the screen: `history.jsonl` always, and whatever tracker is given.

The horizontal axis counts thousandths of a round, so that it goes on where a resumed run does and lies alike
under every method: the dense training is 0 to 1000, the first retraining 1000 to 2000.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from dwindle.errors import DwindleError, UsageError, one_line
from dwindle.record import flattened
from dwindle.registry import unknown_name


class Tracker(Protocol):
    """Receives the figures of a run. One that raises once training runs is noted, and isn't called again."""

    def begin(self, name: str, origin: Mapping[str, Any]) -> None:
        """Called when a run begins or resumes; the rounds so far are then logged again. origin: the run's options."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Receives figures by name: `loss` while training, and at a round's end what the checkpoint records of it."""

    def end(self) -> None:
        """Called when the run has ended, well or not."""


def tracker(spec: str) -> Tracker:
    """Makes the tracker of a spec: `tensorboard:DIR`, `mlflow:URI` or `trackio:PROJECT`.

    Raises UsageError for another kind, a spec without its place, or a kind whose extra isn't installed.
    """
    kind, _, place = spec.partition(":")
    if kind not in TRACKERS:
        raise unknown_name("tracker", kind, list(TRACKERS), option="track")
    if not place:
        raise UsageError(f"`track` {kind} needs to know where: write {kind}:{TRACKERS[kind].PLACE}", option="track")
    try:
        return TRACKERS[kind](place)
    except ImportError as error:
        raise UsageError(
            f"`track` {kind} needs its extra: pip install 'dwindle[{kind}]'", code="not-installed", option="track"
        ) from error
    except Exception as error:  # whatever it thinks of the place
        raise UsageError(
            f"`track` {spec} can't be opened ({one_line(error)}): name another place", option="track"
        ) from error


class JsonLines:
    """Appends a line per entry to a file. What follows a `begin` is complete: read from the last one on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, name: str, origin: Mapping[str, Any]) -> None:
        """Raises DwindleError where the file can't be written, which is no fault of a tracker that was asked for."""
        try:
            self._mend()
            self._append({"event": "begin", "name": name, "origin": origin})
        except OSError as error:
            raise DwindleError(
                f"cannot write {self.path}: {error.strerror}", code="unwritable", path=self.path
            ) from error

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._append({"event": "figures", "step": step, **figures})

    def end(self) -> None:
        self._append({"event": "end"})

    def _append(self, entry: Mapping[str, Any]) -> None:
        """Appends a line in one write: it is there whole, or what a full disk left of it is removed later."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def _mend(self) -> None:
        """Cuts off a last line that never got its end."""
        if self.path.exists() and (content := self.path.read_bytes()) and not content.endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)


class TensorBoard:
    """Writes TensorBoard's event files to a folder named like the run."""

    PLACE = "DIR"

    def __init__(self, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self._writer = Path(folder), SummaryWriter

    def begin(self, name: str, origin: Mapping[str, Any]) -> None:
        self.writer = self._writer(str(self.folder / name))
        self.writer.add_text("origin", "\n".join(f"- {key}: `{value}`" for key, value in flattened(origin).items()))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self) -> None:
        self.writer.close()


class MLflow:
    """Logs to MLflow: a run in the experiment `dwindle` of a server or folder; a resumed run is another one there."""

    PLACE = "URI"

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)

    def begin(self, name: str, origin: Mapping[str, Any]) -> None:
        experiment = self.client.get_experiment_by_name("dwindle")
        number = experiment.experiment_id if experiment else self.client.create_experiment("dwindle")
        self.run: str = self.client.create_run(number, run_name=name).info.run_id
        for key, value in flattened(origin).items():
            self.client.log_param(self.run, key, str(value)[:500])

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self.client.log_metric(self.run, name, value, step=step)

    def end(self) -> None:
        self.client.set_terminated(self.run)


class Trackio:
    """Logs to a run in a project of Trackio, Hugging Face's local tracker."""

    PLACE = "PROJECT"

    def __init__(self, project: str) -> None:
        import trackio

        self.trackio, self.project = trackio, project

    def begin(self, name: str, origin: Mapping[str, Any]) -> None:
        with redirect_stdout(sys.stderr):  # it greets, and stdout is for one JSON document
            self.trackio.init(
                project=self.project,
                name=name,
                config={key: str(value) for key, value in flattened(origin).items()},
                resume="allow",
            )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.trackio.log(dict(figures), step=step)

    def end(self) -> None:
        with redirect_stdout(sys.stderr):
            self.trackio.finish()


TRACKERS: dict[str, type[TensorBoard] | type[MLflow] | type[Trackio]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "trackio": Trackio,
}
