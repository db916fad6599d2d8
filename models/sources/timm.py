"""`timm:NAME` or `timm:NAME.TAG`: networks of pytorch-image-models, with their trained weights where asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dwindle.errors import UsageError, one_line
from dwindle.models.sources import hub
from dwindle.models.sources.source import Found, ModelSource, classifier_needs_classes
from dwindle.preprocessing import Preprocessing, Resize
from dwindle.registry import unknown_name

_WEIGHTS = "model.safetensors"
_RESIZE: dict[str, Resize] = {"squash": "stretch"}
"""timm's crop modes, where they aren't a crop of the centre."""


class Timm(ModelSource):
    """Classifiers of timm. A tag, as in `mobilenetv3_small_100.lamb_in1k`, says which trained weights are meant."""

    usage = "timm:NAME"
    packages = ("timm",)

    def find(self, name: str, *, pretrained: bool) -> Found:
        known = _config(name)
        repository = known.hf_hub_id
        if pretrained and not repository:
            raise UsageError(
                f"timm has no trained weights of {name}: leave out `pretrained`, or give a file as `weights`",
                code="no-weights",
                option="pretrained",
                name=name,
            )
        made = Preprocessing(
            mean=tuple(known.mean),
            std=tuple(known.std),
            size=(known.input_size[1], known.input_size[2]),
            resize=_RESIZE.get(known.crop_mode, "shorter"),
            crop_share=known.crop_pct,
            interpolation=known.interpolation,
            colours="RGB" if known.input_size[0] == 3 else "L",
            classes=_classes(known),
        )
        folder = hub.snapshot(repository, None, f"timm:{name}") if pretrained else None
        return Found({}, made, folder.name if folder else None)

    def build(self, name: str, config: Mapping[str, Any], classes: int | None, shape: tuple[int, ...]) -> nn.Module:
        if classes is None:
            raise classifier_needs_classes(f"timm:{name}")
        return _create(name, num_classes=classes, in_chans=shape[0])

    def weights(self, name: str, found: Found, classes: int | None = None) -> Mapping[str, Tensor]:
        folder = hub.snapshot(_config(name).hf_hub_id, found.revision, f"timm:{name}")
        if not (folder / _WEIGHTS).is_file():
            raise UsageError(
                f"{folder} has no {_WEIGHTS}, and pickled weights are not read: give a file as `weights`",
                code="no-weights",
                option="pretrained",
                path=folder,
            )
        # timm renames tensors of older files as it loads them.
        network = _create(name, pretrained=True, pretrained_cfg_overlay={"file": str(Path(folder, _WEIGHTS))})
        return network.state_dict()


def _config(name: str) -> Any:
    """What timm knows of a network's trained weights; of one without any, how it is meant to be trained."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_name("timm model", name, timm.list_models(), option="model")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise unknown_name(f"tag of timm's {architecture}", tag, tags or ["none"], option="model")
    return timm.get_pretrained_cfg(name)


def _create(name: str, **options: Any) -> nn.Module:
    import timm

    _config(name)  # says what is near, of a name that leads nowhere
    try:
        network: nn.Module = timm.create_model(name, **options)
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            f"timm:{name} can't be made ({one_line(error)})", code="bad-model", option="model", name=name
        ) from error
    return network


def _classes(known: Any) -> tuple[str, ...] | None:
    """The names of ImageNet's folders, for weights that were trained on one of its subsets; None for any other."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": known.num_classes}) if known.hf_hub_id else None
    return tuple(ImageNetInfo(subset).label_names()) if subset else None
