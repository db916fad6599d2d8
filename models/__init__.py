"""Models: what comes into a compression — networks by name, data sets, and tasks that train and judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

if __name__ != "dwindle.models":  # found from the repository's root, where this folder lies
    raise ImportError("this folder is the package `dwindle.models`: write `import dwindle.models`")

from dwindle.lazy import lazy_attributes

if TYPE_CHECKING:
    from dwindle.models.adapters.lightning import LightningTask
    from dwindle.models.adapters.trainer import TrainerTask
    from dwindle.models.adapters.ultralytics import UltralyticsTask
    from dwindle.models.build import ModelSpec
    from dwindle.models.classify import ImageClassification
    from dwindle.models.spec import TaskSpec
    from dwindle.models.supervised import Supervised
    from dwindle.models.tasks import make_task

__all__ = [
    "ImageClassification",
    "LightningTask",
    "ModelSpec",
    "Supervised",
    "TaskSpec",
    "TrainerTask",
    "UltralyticsTask",
    "make_task",
]
__getattr__ = lazy_attributes(
    __name__,
    {
        "ImageClassification": "dwindle.models.classify",
        "LightningTask": "dwindle.models.adapters.lightning",
        "ModelSpec": "dwindle.models.build",
        "Supervised": "dwindle.models.supervised",
        "TaskSpec": "dwindle.models.spec",
        "TrainerTask": "dwindle.models.adapters.trainer",
        "UltralyticsTask": "dwindle.models.adapters.ultralytics",
        "make_task": "dwindle.models.tasks",
    },
)
