"""A task whose training and validation are Ultralytics': a detector of theirs, and a data set as they describe one."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dwindle.errors import UsageError, one_line
from dwindle.models.adapters.position import Position
from dwindle.models.adapters.replay import Replay, generators_kept
from dwindle.models.adapters.ultralytics_parts import Answers, Held, Loader, check, quiet

if TYPE_CHECKING:
    from torch import Tensor
    from ultralytics import YOLO  # pyright: ignore[reportMissingImports]

    from dwindle.task import Split

SAMPLES = 64
"""How many real inputs `inputs` returns."""
AVERAGE, UPDATES = "average/", "updates"
QUIET: dict[str, Any] = {"val": False, "plots": False, "save": False, "verbose": False, "rect": False, "amp": False}
"""Options of the training where the user gives none: dwindle judges, saves and shows what a training does."""
METRIC = "mAP50-95"


class UltralyticsTask(Position):
    """A `dwindle.task.Task` that trains and judges a detector by Ultralytics' own trainer and validator.

        task = UltralyticsTask(YOLO("yolo11n.pt"), "coco8.yaml", epochs=20, imgsz=320, batch=16)
        net = compress(task.network, "net.dwindle", task=task, density=0.3)

    Every training is one `train()` of a fresh trainer: masks are put back on after every step of the optimizer, before
    the step enters the average of the weights (EMA) that a training ends on; LR rewinding sets the trainer's own
    schedule, warmup included, to where it starts; and what was interrupted goes on from the batch it had come to, with
    the batches it would have had. The network that ships answers images from 0 to 1, letterboxed to `imgsz`, with boxes
    and scores, without non-maximum suppression. It is judged by mAP50-95, in points.

    model: a detector. data: the YAML of a data set; where that has no `test`, the test split is `val`. options: those
    of Ultralytics' training. Every batch is one step of the optimizer (`nbs` is `batch`).

    Raises UsageError for a model of another task, and for options that a training that is pruned can't have.
    """

    metric = METRIC

    def __init__(self, model: YOLO, data: str, **options: Any) -> None:
        check(model, options)
        self._kinds = model.task_map[model.task]
        self._data = data
        self._options = {**QUIET, "batch": 16, **options, "data": data, "model": "yolo.yaml", "exist_ok": True}
        self._options["nbs"] = self._options["batch"]
        own: Any = model.model
        self.network: nn.Module = own.float()
        """The detector itself, which `compress` prunes."""
        for head in self._heads(own):
            head.export = True  # its answer are the boxes, without what a loss is made of
        with self._trainer() as trainer:
            if trainer.data["nc"] != own.model[-1].nc:
                own = trainer.get_model(weights=own, cfg=own.yaml, verbose=False)
                self.network = own
                for head in self._heads(own):
                    head.export = True
            own.names = trainer.data["names"]
            self._size = int(trainer.args.imgsz)
            found = trainer.get_dataset()
            trainer.model = own
            samples = len(trainer.build_dataset(found["train"], "train", trainer.args.batch))
            self._seed = int(trainer.args.seed)
            self._per_epoch, self._epochs = -(-samples // trainer.args.batch), int(trainer.epochs)
        self.steps = self._per_epoch * self._epochs
        self._average: dict[str, Tensor] = {}
        self._updates = 0

    @property
    def normalization(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel, of values from 0 to 255: inputs are from 0 to 1."""
        return torch.zeros(3), torch.full((3,), 255.0)

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        """Trains `model`, of the class of `network`, from `start` to the schedule's end; see `dwindle.task.Task`."""
        first = self._first(start, self.steps)
        if not isinstance(model, type(self.network)):
            raise UsageError(
                f"an UltralyticsTask trains what its `network` is, and was given a {type(model).__name__}: give "
                "`task.network` as the model",
                code="bad-member",
                name="fit",
            )
        home = next(model.parameters()).device
        trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        resumed = self._done >= 0
        with generators_kept(), self._trainer() as trainer:
            trainer.model = model
            own_loader = trainer.get_dataloader

            def loader(path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
                made = own_loader(path, batch_size=batch_size, rank=rank, mode=mode)
                if mode != "train":
                    return made
                ordered = Loader(
                    made.dataset,
                    batch_size=batch_size,
                    shuffle=True,
                    num_workers=trainer.args.workers,
                    collate_fn=made.dataset.collate_fn,
                )
                return Replay(ordered, (self._seed, self._fits), first, self._per_epoch)

            trainer.get_dataloader = loader
            trainer.validate = lambda: ({}, None)
            trainer.save_metrics = trainer.final_eval = lambda *_, **__: None
            trainer.save_model = lambda: False
            held = Held(self, model, first, on_step, resumed)
            trainer.add_callback("on_pretrain_routine_end", held.begin)
            try:
                trainer.train()
                model.load_state_dict(trainer.ema.ema.state_dict())
            finally:
                self._done, self._average = -1, {}
                trainer.model.criterion = None
                model.to(home).zero_grad()
                for name, parameter in model.named_parameters():
                    parameter.requires_grad_(trainable[name])
        self._fits += 1

    def evaluate(self, model: nn.Module, split: Split) -> float:
        """Returns mAP50-95 on a split, in points. `model` may be anything that answers images as `network` does."""
        own: Any = copy.deepcopy(model) if isinstance(model, type(self.network)) else Answers(model, self.network)
        name = {"train": "train", "validation": "val", "test": "test"}[split]
        with generators_kept(), quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
            kept = ("imgsz", "batch", "device", "workers", "conf", "iou", "max_det", "single_cls", "classes")
            args = {key: self._options[key] for key in kept if key in self._options}
            args |= {"data": self._data, "plots": False, "verbose": False, "rect": False, "mode": "val"}
            args |= {"task": "detect", "save_dir": scratch, "split": self._known(name)}
            validator = self._kinds["validator"](args=args)
            found: Mapping[str, float] = validator(model=own.eval())
        return 100 * float(found[f"metrics/{METRIC}(B)"])

    def inputs(self, split: Split) -> tuple[Tensor, ...]:
        """Returns up to 64 letterboxed images of a split: ((N, 3, imgsz, imgsz) float32 from 0 to 1,)."""
        name = {"train": "train", "validation": "val", "test": "test"}[split]
        with generators_kept(), self._trainer() as trainer:
            from ultralytics.data import build_yolo_dataset  # pyright: ignore[reportMissingImports]

            path = trainer.get_dataset()[self._known(name)]
            data = build_yolo_dataset(trainer.args, path, 1, trainer.data, mode="val", rect=False, stride=32)
            chosen = torch.linspace(0, len(data) - 1, min(SAMPLES, len(data))).long().tolist()
            return (torch.stack([data[index]["img"] for index in chosen]).float() / 255,)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Returns the first validation image, as a batch of one."""
        return (self.inputs("validation")[0][:1],)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns a copy of the optimizer's state, of the average of a training under way, and how far it has come."""
        state = super().state_dict()
        if self._average:
            state |= {AVERAGE + name: tensor.detach().clone() for name, tensor in self._average.items()}
            state[UPDATES] = torch.tensor(self._updates)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        """Takes up a state of `state_dict`; the next `fit` goes on from there."""
        self._average = {name.removeprefix(AVERAGE): state[name] for name in state if name.startswith(AVERAGE)}
        self._updates = int(state.get(UPDATES, torch.tensor(0)))
        own = {name: tensor for name, tensor in state.items() if not name.startswith(AVERAGE) and name != UPDATES}
        super().load_state_dict(own, model)

    def _made(self, options: dict[str, Any]) -> Any:
        try:
            return self._kinds["trainer"](overrides=options)
        except (RuntimeError, OSError, SyntaxError) as error:  # SyntaxError: an option that doesn't exist
            option = None if isinstance(error, SyntaxError) else "data"
            raise UsageError(
                f"Ultralytics can't train on {self._data} ({one_line(error)})",
                code="unreadable" if option else "unknown-name",
                option=option,
                name=self._data,
            ) from error

    def _known(self, split: str) -> str:
        with self._trainer() as trainer:
            return split if trainer.data.get(split) else "val"

    @staticmethod
    def _heads(network: nn.Module) -> Iterator[Any]:
        from ultralytics.nn.modules import Detect  # pyright: ignore[reportMissingImports]

        return (module for module in network.modules() if isinstance(module, Detect))

    @contextmanager
    def _trainer(self) -> Iterator[Any]:
        """A fresh trainer, whose files are thrown away, and torch's settings as they were at the end of the block."""
        environment, threads = dict(os.environ), torch.get_num_threads()
        with quiet(), generators_kept(), tempfile.TemporaryDirectory() as scratch:
            try:
                yield self._made({**self._options, "save_dir": scratch})
            finally:
                torch.use_deterministic_algorithms(False)
                torch.set_num_threads(threads)
                os.environ.clear()
                os.environ.update(environment)
