"""What a user asks of compress: every option, checked before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dwindle.compress.allowance import Allowance
from dwindle.compress.amc import allocate
from dwindle.compress.amc.search import Settings
from dwindle.compress.budget import Budget
from dwindle.compress.channels import Counted
from dwindle.compress.granularity import granularity
from dwindle.compress.layers import Layers
from dwindle.compress.methods import Method, method
from dwindle.compress.network import Granularity
from dwindle.compress.pays import choose
from dwindle.compress.recipes import Recipe, recipe
from dwindle.compress.scores import load as load_score
from dwindle.errors import UsageError
from dwindle.export import target as targets
from dwindle.files import sha256
from dwindle.quantities import parse_bytes, parse_macs


@dataclass(frozen=True)
class Request:
    """Options of `compress` and `plan`. Raises UsageError for what makes no sense."""

    model: str
    """`zoo:NAME`, `torchvision:NAME` or `package.module:factory`."""
    task: Mapping[str, Any] | str
    """A data set for the built-in image classification, or options for `dwindle.models.tasks`:
    `{"data": "digits", "epochs": 20}`, `{"task": "package.module:factory"}`."""
    size: int | str | None = None
    """Budget: bytes (or `"500KB"`) of the file that `target` will ship, counted by its own packer."""
    density: float | None = None
    """Budget: surviving share of what the granularity can prune."""
    macs: float | str | None = None
    """Budget: multiply-accumulates of one inference, as a share of the dense network's (`"50%"`, 0.5) or a number
    (`"150M"`)."""
    max_drop: float | None = None
    """Instead of a budget: shrink as far as validation stays within so many points of the dense network's."""
    target: str = "onnx"
    """The export that `size` is counted on."""
    precision: str | None = None
    """What that export stores weights in, for the count: one of the target's `precisions`; None: its default."""
    granularity: str = "auto"
    """`channel`, `unstructured`, `4x1` (blocks of 4 output by 1 input channels), `2:4`; `channel+unstructured`
    removes channels down to `macs` and then prunes weights down to `size` or `density`. `auto` takes what pays for
    this budget on this target."""
    align: int = 8
    """Channels: kept widths are multiples of it. 16 suits onnxruntime on x86; 1 is any width."""
    layer_floor: float = 0.0
    """Channels: the share of its channels that every layer keeps."""
    recipe: str | None = None
    """`paper` or `best` (`dwindle.compress.recipes`); None: the data set's own schedule, by magnitude."""
    score: str | None = None
    """`magnitude`, `layerwise`, `lamp`, or one from the entry-point group `dwindle.scores`; None: the recipe's."""
    include: tuple[str, ...] = ("*",)
    """Shell patterns of the layers that may be pruned."""
    exclude: tuple[str, ...] = ()
    """Shell patterns of the layers that may not."""
    method: str = "lr-rewind"
    """`lr-rewind`, `weight-rewind`, `lottery-ticket`, `finetune` or `amc`: see `dwindle.compress.methods`."""
    episodes: int | None = None
    """How many allocations AMC's agent tries; None: `dwindle.compress.amc.search.Settings` says."""
    rewind_to: float | None = None
    """Where retraining restarts, as a fraction of the schedule; None: the method's own."""
    prune_per_round: float = 0.2
    """Share of the surviving weights that a round removes (Renda et al. 2020 use 20%)."""
    recalibrate: bool | None = None
    """Whether each training ends with batch norm's statistics taken anew, of inputs as training shows them
    (`dwindle.compress.recalibrate`); None: the recipe's."""
    gradual: float = 0.0
    """The share of a retraining over which its round's weights go (`dwindle.compress.gradual`); 0: before it, all at
    once."""
    rounds: int | None = None
    """Instead, a fixed number of rounds; 1 is one-shot."""
    weights: str | None = None
    """A file of trained weights (`dwindle.models.pretrained`): the dense network, which is then judged, not trained."""
    seed: int = 0
    save_every: float = 5.0
    """Minutes between saves within a round. A resumed run may have another."""
    phases: tuple[tuple[Granularity, Budget], ...] = field(init=False)
    retraining: Method = field(init=False)
    followed: Recipe = field(init=False)
    search: Settings | None = field(init=False)
    """AMC's, where the method is that."""
    choice: str = field(init=False)
    """The granularity, and why `auto` took it."""

    def __post_init__(self) -> None:
        if not 0 < self.prune_per_round < 1:
            raise UsageError(f"--prune-per-round {self.prune_per_round} is outside (0, 1): the paper's is 0.2")
        if self.rounds is not None and self.rounds < 1:
            raise UsageError(f"--rounds {self.rounds} prunes nothing: give 1 (one-shot) or more")
        if self.max_drop is not None and (self.max_drop < 0 or self.rounds is not None):
            raise UsageError(
                f"--max-drop {self.max_drop:g}: give 0 points or more, and no --rounds, which it finds by itself"
            )
        if self.max_drop is not None and not math.isfinite(self.max_drop):
            raise UsageError(f"--max-drop {self.max_drop:g} is no number of points: give for example 1.0")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed {self.seed} is outside [0, 2**63): any small number will do")
        if not 0 <= self.layer_floor < 1:
            raise UsageError(f"--layer-floor {self.layer_floor:g} is outside [0, 1): 0 is no floor")
        if not self.save_every >= 0:
            raise UsageError(f"--save-every {self.save_every:g}: give minutes, 0 to save after every step")
        if self.align < 1:
            raise UsageError(f"--align {self.align} is no width: 8 suits most kernels, 1 allows any")
        target = targets.load(self.target, self.precision)
        name, why = self.granularity, "as asked"
        if name == "auto":
            name, why = choose(self.target, target.packs_zeros, macs=self.macs is not None)
        retraining = method(self.method, self.rewind_to)
        followed = recipe(self.recipe) if self.recipe is not None else Recipe("magnitude")
        if self.score is None:  # an agent's shares are of the largest weights
            object.__setattr__(self, "score", "magnitude" if retraining.search else followed.score)
        if self.recalibrate is None:
            object.__setattr__(self, "recalibrate", followed.recalibrate)
        if not 0 <= self.gradual <= 1:
            raise UsageError(f"--gradual {self.gradual:g} is outside [0, 1]: 0.5 prunes over half of each retraining")
        at_once = retraining.search or retraining.restore or retraining.last_lr
        if self.gradual and at_once:
            raise UsageError(
                f"--method {self.method} prunes before it retrains: leave out --gradual, or use --method lr-rewind"
            )
        if self.episodes is not None and not retraining.search:
            raise UsageError(f"--episodes are AMC's, and --method {self.method} has none: leave them out")
        if self.weights is not None and retraining.restore:
            raise UsageError(
                f"--method {self.method} goes back to an earlier state of the dense training, and --weights come "
                "without one: use lr-rewind or finetune, or train the dense network here"
            )
        phases = self._phases(name)
        object.__setattr__(self, "followed", followed)
        object.__setattr__(self, "retraining", retraining)
        if retraining.last_lr and self.task_options.get("schedule") == "cosine":
            raise UsageError(
                f"--method {self.method} holds the schedule's last learning rate, and a cosine's, such as --recipe "
                "best has, is 0: give --schedule step"
            )
        if self.gradual and phases[-1][0].kind != "weights":
            raise UsageError(f"--granularity {name} prunes before it retrains: leave out --gradual")
        for key, value in (
            ("phases", phases),
            ("precision", target.precision),
            ("choice", f"granularity {name}: {why}"),
        ):
            object.__setattr__(self, key, value)
        object.__setattr__(self, "search", self._search() if retraining.search else None)

    def _search(self) -> Settings:
        if self.max_drop is not None:
            raise UsageError("--method amc allocates a given budget: give --size, --density or --macs, not --max-drop")
        if len(self.phases) > 1 or self.score != "magnitude":
            raise UsageError(
                "--method amc chooses every layer's share itself, of one granularity: leave out --score, and give "
                "unstructured or channel"
            )
        allocate.check(self.phases[0][0])
        return Settings.of(self.episodes, self.seed)

    def _phases(self, name: str) -> tuple[tuple[Granularity, Budget], ...]:
        """What prunes, in order, and how far."""
        layers = Layers(tuple(self.include), tuple(self.exclude))
        score = load_score("magnitude" if self.score is None else self.score)
        counts: Counted = "parameters" if self.macs is None else "MACs"
        steps = [granularity(part, score, layers, self.align, counts, self.layer_floor) for part in name.split("+")]
        size = parse_bytes(self.size) if isinstance(self.size, str) else self.size
        macs = parse_macs(self.macs) if isinstance(self.macs, str) else self.macs
        if len(steps) == 1:
            density = self.density
            if size is macs is density is self.max_drop is None:
                density = steps[0].floor  # a pattern such as 2:4 says itself how far to go
            if macs is not None and steps[0].kind != "channel":
                raise UsageError(f"--macs cannot be met by {name} pruning, which computes with zeros: use channel")
            allowance = Allowance(self.max_drop) if self.max_drop is not None else None
            if allowance and steps[0].floor is not None:
                raise UsageError(f"--granularity {name} says itself how far to go: leave out --max-drop")
            return ((steps[0], Budget(size, density, macs, allowance)),)
        if [step.kind for step in steps[:-1]] != ["channel"] or steps[-1].kind == "channel":
            raise UsageError(f"--granularity {name}: only channel+SOMETHING can be combined, channels first")
        if macs is None or (size is None and self.density is None) or self.rounds or self.max_drop is not None:
            raise UsageError(
                f"--granularity {name} needs --macs for the channels, --size or --density for the rest, and neither "
                "--rounds nor --max-drop"
            )
        return (steps[0], Budget(macs=macs)), (steps[1], Budget(size, self.density))

    @property
    def task_options(self) -> dict[str, Any]:
        options = {"data": self.task} if isinstance(self.task, str) else dict(self.task)
        # Data sets' own schedules are cosines mostly, which leave nothing to fine-tune with.
        needed = {"schedule": "step"} if self.retraining.last_lr else {}
        own = {} if "task" in options else {**needed, **self.followed.task}
        return {**own, **options, "seed": self.seed}

    @property
    def origin(self) -> dict[str, Any]:
        """What a checkpoint records, and a resumed run must repeat; model and task are added once built."""
        return {
            "target": self.target,
            "precision": self.precision,
            "size": self.phases[-1][1].size,
            "density": self.phases[-1][1].density,
            "macs": self.phases[0][1].macs,
            "max_drop": self.max_drop,
            "granularity": self.granularity,
            "align": self.align,
            "layer_floor": self.layer_floor,
            "recipe": self.recipe,
            "score": self.score,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "method": self.method,
            "rewind_to": self.retraining.start,
            "recalibrate": self.recalibrate or None,  # runs begun before there was this option go on
            "gradual": self.gradual,
            "prune_per_round": self.prune_per_round if self.rounds is None else None,
            "rounds": self.rounds,
            "episodes": self.search.episodes if self.search else None,
            # Its content, not its path: the same weights may lie elsewhere when the run is resumed.
            "weights": sha256(Path(self.weights)) if self.weights is not None else None,
            "seed": self.seed,
        }
