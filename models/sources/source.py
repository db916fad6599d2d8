"""The contract of a source of networks, and where sources are looked up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from dwindle.errors import DwindleError, UsageError
from dwindle.preprocessing import Preprocessing
from dwindle.registry import names, resolve_class

if TYPE_CHECKING:
    from torch import Tensor, nn

GROUP = "dwindle.models"


@dataclass(frozen=True)
class Found:
    """What a source knows of a network before it is built."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """What the network is built from beside its name, as JSON holds it. The checkpoint records it, so that the network
    can be built where its repository or folder is gone."""
    preprocessing: Preprocessing | None = None
    """How the network's weights want images; None where the source doesn't know."""
    revision: str | None = None
    """Which version of the weights there are: a commit, a tag."""


class ModelSource(ABC):
    """Makes networks by name: a subclass registered as PREFIX in the entry-point group `dwindle.models` makes those of
    `PREFIX:NAME`.

        class Ours(ModelSource):
            usage = "ours:NAME"

            def build(self, name, config, classes, shape):
                return our_networks.make(name, outputs=classes)

    A source imports its library within its methods. It reads weights without running code that a file holds.
    """

    usage: ClassVar[str]
    """How a model of this source is written: `timm:NAME`."""
    packages: ClassVar[tuple[str, ...]] = ()
    """The import names of the packages that it needs and that the extra of the source's name installs."""
    is_code: ClassVar[bool] = False
    """Whether names lead to code that isn't the library's own. A checkpoint that names such code needs trust."""
    repeatable: ClassVar[bool] = True
    """Whether one name always makes one architecture, which else is checked by making the network twice."""

    def find(self, name: str, *, pretrained: bool) -> Found:
        """Looks up a network, and its weights where `pretrained`.

        Raises UsageError for a name that leads nowhere, and where what it takes can't be fetched: the sentence says
        what to put where.
        """
        return Found()

    @abstractmethod
    def build(self, name: str, config: Mapping[str, Any], classes: int | None, shape: tuple[int, ...]) -> nn.Module:
        """Builds the network with fresh weights, drawn from torch's global generator.

        config: of `find`, or what a checkpoint recorded of it, which may be anybody's. classes: how many logits; None
        for the network's own number. shape: of one sample, without its batch dimension.
        Raises UsageError for a name that leads nowhere.
        """

    def weights(self, name: str, found: Found, classes: int | None = None) -> Mapping[str, Tensor]:
        """The trained weights that `find` looked up, under the names that `build`'s network has for them.

        classes: as of `build`: None for a network without a head of classes, where the source has such. A head is the
        one that they were trained with. Raises UsageError where the network has none.
        """
        raise UsageError(
            f"{self.usage} has no trained weights: leave out `pretrained`, or give a file as `weights`",
            code="no-weights",
            option="pretrained",
        )


def registered(spec: str) -> tuple[ModelSource, str] | None:
    """The source that a spec `PREFIX:NAME` names, and the NAME; None where no source has that prefix.

    Raises UsageError where the source can't be imported, or its packages aren't installed, and DwindleError where no
    source is registered at all.
    """
    prefix, colon, name = spec.partition(":")
    known = names(GROUP)
    if not known:
        raise DwindleError(
            "this installation of dwindle is older than its code and knows no source of models: run "
            "`pip install --no-deps --editable .` in the repository again",
            code="stale-installation",
        )
    if not colon or prefix not in known:
        return None
    source = resolve_class(GROUP, prefix, "source of models", ModelSource)  # type: ignore[type-abstract]
    if missing := [package for package in source.packages if not find_spec(package)]:
        raise UsageError(
            f"the `model` {spec} needs {missing[0]}: pip install 'dwindle[{prefix}]'",
            code="not-installed",
            option="model",
            name=missing[0],
        )
    return source(), name


def classifier_needs_classes(spec: str) -> UsageError:
    """The error for a classifier that is to be built for a task that doesn't say how many classes there are."""
    return UsageError(
        f"{spec} is a classifier and the task has no `classes`: add that, or give a `model` of your own",
        code="missing-member",
        option="model",
        name="classes",
    )
