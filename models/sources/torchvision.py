"""`torchvision:NAME`: torchvision's classifiers and segmenters, with their trained weights where asked for."""

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
    """Classifiers and segmentation networks of `torchvision.models`, whose input has three channels. Weights are
    torchvision's `DEFAULT`. A segmentation network answers with its `out`, (N, classes, height, width), alone."""

    usage = "torchvision:NAME"

    def find(self, name: str, *, pretrained: bool) -> Found:
        from torchvision import models

        _check_known(name)
        weights = models.get_model_weights(name).DEFAULT
        made = weights.transforms()
        if name in _segmenters():
            segmented = Preprocessing(tuple(made.mean), tuple(made.std), resize="stretch", interpolation="bilinear")
            return Found({}, segmented, weights.name if pretrained else None)
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
        if name in _segmenters():
            # Unless told not to, these fetch the weights of their backbones.
            whole = models.get_model(name, weights=None, weights_backbone=None, num_classes=classes)
            return Segmenter(whole.backbone, whole.classifier)
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


class Segmenter(nn.Module):
    """A segmentation network of torchvision's without its auxiliary head, which answers with one tensor: its classes
    over the image, (N, classes, height, width), where torchvision's answers with a dictionary."""

    def __init__(self, backbone: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        # LRASPP's head reads two levels of features, by their names, and the other networks' heads the last.
        classes = self.classifier(features if "high" in features else features["out"])
        return nn.functional.interpolate(classes, images.shape[-2:], mode="bilinear", align_corners=False)


def _segmenters() -> list[str]:
    from torchvision import models

    known: list[str] = models.list_models(module=models.segmentation)
    return known


def _is_auxiliary(name: str, key: str) -> bool:
    return name in (*_WITH_AUXILIARY, *_segmenters()) and key.lower().startswith("aux")


def _check_known(name: str) -> None:
    from torchvision import models

    known = [*models.list_models(module=models), *_segmenters()]
    if name not in known:
        raise unknown_name("torchvision model", name, known, option="model")
