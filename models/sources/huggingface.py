"""`hf:REPOSITORY`, `hf:REPOSITORY@REVISION` or `hf:FOLDER`: networks of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dwindle.errors import UsageError, one_line
from dwindle.models.sources import hub
from dwindle.models.sources.source import Found, ModelSource
from dwindle.preprocessing import Preprocessing, Resize
from dwindle.quiet import quiet

CLASSIFIERS = {
    "pixel_values": "ForImageClassification",
    "input_ids": "ForSequenceClassification",
    "input_values": "ForAudioClassification",
    "input_features": "ForAudioClassification",
}
"""The end of the name of transformers' classifiers, by the name of their main input."""
TASKS = {
    *CLASSIFIERS.values(),
    "ForTokenClassification",
    "ForSemanticSegmentation",
    "ForMaskedLM",
    "ForCausalLM",
    "ForQuestionAnswering",
    "ForObjectDetection",
    "ForDepthEstimation",
    "ForCTC",
}
"""The ends of names of transformers' classes that are made as the configuration says."""
_NEVER = {
    "auto_map",  # names code of the repository
    "attn_implementation",  # these three may name kernels, which are fetched and run
    "_attn_implementation",
    "experts_implementation",
    "quantization_config",
    "use_pretrained_backbone",
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
}
"""What is left out of a configuration, at any depth: what could lead to code or downloads, or says nothing here."""
_LABELS = {"id2label", "label2id"}
_INTERPOLATION = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""The names of Pillow's numbers of resampling filters."""


class HuggingFace(ModelSource):
    """Networks of transformers by the configuration in a repository on the Hub, or in a folder that `save_pretrained`
    wrote. The class is the one that the configuration names where it is of TASKS; else a classifier of its input where
    there are classes to tell apart, or the network without a head, such as one that embeds sentences. Only classes of
    transformers itself are used, and only weights in safetensors."""

    usage = "hf:REPOSITORY"
    packages = ("transformers",)

    def find(self, name: str, *, pretrained: bool) -> Found:
        folder, revision = _folder(name)
        read = _json(folder / "config.json", name)
        settings = _settings(read, name)
        labels = tuple(text for _, text in sorted(settings.id2label.items()))
        named = labels if "id2label" in read else None
        config = _plain({**settings.to_diff_dict(), "num_labels": len(labels)})
        return Found(config, _preprocessing(folder, named), revision)

    def build(self, name: str, config: Mapping[str, Any], classes: int | None, shape: tuple[int, ...]) -> nn.Module:
        settings = _settings(config, name)  # never fetched here: a checkpoint may name anybody's repository
        if classes is not None:
            settings.num_labels = classes
        if len(shape) == 3 and "num_channels" in settings.to_dict():
            settings.num_channels = shape[0]
        settings.use_cache = False  # what a decoder keeps for its next token is no tensor
        try:
            with quiet():  # what transformers imports warns of its own
                network = _class(settings, classes, name).from_config(settings)
        except (RuntimeError, TypeError, ValueError, AttributeError, ImportError) as error:
            raise UsageError(
                f"hf:{name} can't be made of its configuration ({one_line(error)})",
                code="bad-model",
                option="model",
                name=name,
            ) from error
        return network  # type: ignore[no-any-return]

    def weights(self, name: str, found: Found, classes: int | None = None) -> Mapping[str, Tensor]:
        folder, _ = _folder(name)
        if not any(folder.glob("*.safetensors")) or (folder / "adapter_config.json").exists():
            raise UsageError(
                f"{folder} has no weights in safetensors of a whole network (pickles, and adapters without their "
                "network, are not read): where you trust it, load it with transformers and `save_pretrained` it into "
                "a folder, and give hf:FOLDER",
                code="no-weights",
                option="pretrained",
                path=folder,
            )
        settings = _settings(found.config, name)
        made = _class(settings, classes, name)
        try:
            with quiet():  # its progress bar, and what it imports of quantisation
                network = made.from_pretrained(
                    folder,
                    config=settings,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    dtype="float32",
                )
        except Exception as error:  # a foreign file can fail anywhere
            raise UsageError(
                f"the weights in {folder} can't be loaded ({one_line(error)})",
                code="bad-weights",
                option="pretrained",
                path=folder,
            ) from error
        return network.state_dict()  # type: ignore[no-any-return]


def _folder(name: str) -> tuple[Path, str | None]:
    """The folder that a name leads to, and the commit where it is of a repository."""
    if Path(name).is_dir():
        return Path(name), None
    repository, _, revision = name.partition("@")
    found = hub.snapshot(repository, revision or None, f"hf:{name}")
    return found, found.name


def _json(file: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _no_configuration(name, f"{file} can't be read ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise _no_configuration(name, f"{file} holds no object")
    return content


def _plain(value: Any, without: frozenset[str] = frozenset(_NEVER | _LABELS)) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, without) for key, inner in value.items() if key not in without}
    return [_plain(inner, without) for inner in value] if isinstance(value, list | tuple) else value


def _settings(config: Mapping[str, Any], name: str) -> Any:
    """transformers' configuration of plain values, which may be anybody's: no code of theirs, and no other's, runs."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        how = "brings code of its own, which is not run" if "auto_map" in config else "is of no network of transformers"
        raise _no_configuration(name, f"its model_type {kind!r:.60} {how}")
    plain = _plain(config, frozenset(_NEVER))
    del plain["model_type"]
    try:
        return AutoConfig.for_model(kind, **plain)
    except Exception as error:  # transformers checks the values, with errors of many kinds
        raise _no_configuration(name, one_line(error)) from error


def _class(settings: Any, classes: int | None, name: str) -> Any:
    """transformers' Auto class: that of the architecture that the configuration names, else a classifier of `classes`,
    or where these are None the network without a head."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    named = next(iter(settings.architectures or ()), "").replace("LMHeadModel", "ForCausalLM")  # GPT-2's own way
    task = next((task for task in TASKS if named.endswith(task)), None)
    if task is None and type(settings) in MODEL_MAPPING:
        headless = MODEL_MAPPING[type(settings)]
        if classes is not None:
            task = CLASSIFIERS.get(headless.main_input_name)
        elif named == headless.__name__:
            task = ""
    if task is None:
        raise _no_configuration(name, f"its architecture {named or 'has no name and'} is none that dwindle makes")
    return getattr(transformers, f"AutoModel{task}")


def _preprocessing(folder: Path, classes: tuple[str, ...] | None) -> Preprocessing | None:
    """What the repository says of images; None where it says nothing."""
    files = [folder / name for name in ("preprocessor_config.json", "processor_config.json")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    content = _json(file, folder.name)
    content = content.get("image_processor") or content
    if not {"image_mean", "size", "crop_size"} & content.keys():
        return None
    scale = 255 * content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 255
    normalized = content.get("do_normalize", True)
    mean = content.get("image_mean", [0.5] * 3) if normalized else [0.0] * 3
    std = content.get("image_std", [0.5] * 3) if normalized else [1.0] * 3
    whole, edge = _sides(content.get("size"))
    crop, _ = _sides(content.get("crop_size")) if content.get("do_center_crop") else (None, None)
    size = crop or whole
    scaled = edge or (whole[0] if whole else None)
    share = content.get("crop_pct") or (crop[0] / scaled if crop and scaled else 1.0)
    resize: Resize = "shorter" if edge else "stretch"
    return Preprocessing(
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
        size=size,
        resize=resize,
        crop_share=min(share, 1.0),
        interpolation=_INTERPOLATION.get(content.get("resample", 2), "bilinear"),
        colours="BGR" if content.get("do_flip_channel_order") else "RGB" if len(mean) == 3 else "L",
        classes=classes,
    )


def _sides(size: Any) -> tuple[tuple[int, int] | None, int | None]:
    """(height, width), and the shorter side where only that is given, of one of the forms that transformers writes."""
    if isinstance(size, int):
        return (size, size), None
    if not isinstance(size, Mapping):
        return None, None
    if "shortest_edge" in size:
        return (size["shortest_edge"], size["shortest_edge"]), size["shortest_edge"]
    return ((size["height"], size["width"]), None) if "height" in size else (None, None)


def _no_configuration(name: str, why: str) -> UsageError:
    return UsageError(
        f"hf:{name} can't be used, {why}: give a repository or folder with the config.json of a network that "
        "transformers itself has",
        code="bad-configuration",
        option="model",
        name=name,
    )
