"""`torchvision:NAME`: torchvision's classifiers, with their trained weights where asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dwindle.errors import UsageError, one_line
from dwindle.models.sources.source import Found, ModelSource, classifier_needs_classes
from dwindle.preprocessing import Preprocessing
from dwindle.registry import unknown_name

_WITH_AUXILIARY = ("googlenet", "inception_v3")
"""These return a tuple while training unless told not to, and their trained weights want inputs of another range."""


class Torchvision(ModelSource):
    """Classifiers of `torchvision.models`, whose input has three channels. Weights are torchvision's `DEFAULT`."""

    usage = "torchvision:NAME"

    def find(self, name: str, *, pretrained: bool) -> Found:
        from torchvision import models

        _check_known(name)
        weights = models.get_model_weights(name).DEFAULT
        made = weights.transforms()
        found = Preprocessing(
            mean=tuple(made.mean),
            std=tuple(made.std),
            size=(made.crop_size[0], made.crop_size[0]),
            crop_share=made.crop_size[0] / made.resize_size[0],
            interpolation=made.interpolation.value,
            classes=tuple(weights.meta["categories"]),
        )
        config = {"transform_input": True} if pretrained and name in _WITH_AUXILIARY else {}
        return Found(config, found, weights.name if pretrained else None)

    def build(self, name: str, config: Mapping[str, Any], classes: int | None, shape: tuple[int, ...]) -> nn.Module:
        from torchvision import models

        _check_known(name)
        if classes is None:
            raise classifier_needs_classes(f"torchvision:{name}")
        special = {}
        if name in _WITH_AUXILIARY:
            special = {"aux_logits": False, "transform_input": bool(config.get("transform_input"))}
        network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **special)
        return network

    def weights(self, name: str, found: Found, classes: int | None = None) -> Mapping[str, Tensor]:
        from torch import hub
        from torchvision import models

        weights = models.get_model_weights(name)[found.revision]
        try:
            state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # whatever the network, the disk and a mirror can do
            raise UsageError(
                f"the weights of torchvision:{name} can't be fetched ({one_line(error)}): put {weights.url} into "
                f"{hub.get_dir()}/checkpoints",
                code="unreachable",
                option="pretrained",
                name=weights.url,
            ) from error
        return {key: tensor for key, tensor in state.items() if not _is_auxiliary(name, key)}


def _is_auxiliary(name: str, key: str) -> bool:
    return name in _WITH_AUXILIARY and key.lower().startswith("aux")


def _check_known(name: str) -> None:
    from torchvision import models

    classifiers = models.list_models(module=models)
    if name not in classifiers:
        raise unknown_name("torchvision model", name, classifiers, option="model")
