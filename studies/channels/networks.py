"""The 23 networks of this study: torchvision's, with random weights and batch norm statistics that fit them."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

NAMES = (
    "resnet18",
    "resnet50",
    "wide_resnet50_2",
    "resnext50_32x4d",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "mnasnet1_0",
    "regnet_y_400mf",
    "shufflenet_v2_x1_0",
    "densenet121",
    "googlenet",
    "inception_v3",
    "squeezenet1_1",
    "vgg16_bn",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
    "maxvit_t",
    "lraspp_mobilenet_v3_large",
    "ssdlite320",
)


class BeforeNms(nn.Module):
    """The part of a detector that computes: non-maximum suppression depends on the data and comes after."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.get_submodule("backbone"), detector.get_submodule("head")

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, 320, 320] to class logits and box regressions, [batch, anchors, classes + 4]."""
        out = self.head(list(self.backbone(images).values()))
        return torch.cat([out["cls_logits"], out["bbox_regression"]], 2)


class Segmentation(nn.Module):
    """torchvision's answer with a dictionary; its logits are the only entry."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, 224, 224] to logits, [batch, classes, 224, 224]."""
        logits: Tensor = self.network(images)["out"]
        return logits


def build(name: str, size: int | None = None) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network in eval mode, and a batch of one, by default at the size it was made for."""
    torch.manual_seed(0)
    size = size or {"inception_v3": 299, "ssdlite320": 320}.get(name, 224)
    model: nn.Module
    if name == "ssdlite320":
        detection = torchvision.models.detection
        model = BeforeNms(detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None))
    elif name.startswith("lraspp"):
        segmentation = torchvision.models.segmentation
        model = Segmentation(segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None))
    elif name in ("googlenet", "inception_v3"):
        model = torchvision.models.get_model(name, aux_logits=False, init_weights=False)
    else:
        model = torchvision.models.get_model(name)
    _randomise(model, size)
    return model.eval(), (torch.randn(1, 3, size, size),)


def _randomise(model: nn.Module, size: int) -> None:
    """Biases and scales start as zeros and ones, behind which a mistake could hide."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        elif isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            if not module.weight.any():
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the average of all batches, here of one
    with torch.no_grad():
        model.train()(torch.randn(4, 3, size, size))
