"""Images with several labels each, which a kind of data has listed: data sets of torch of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dwindle.models.kinds.columns import Marks
from dwindle.models.kinds.kind import Loaded, with_all_splits
from dwindle.models.kinds.squares import squares
from dwindle.models.listed import broken_among
from dwindle.models.photos.sample import Augmentation
from dwindle.models.pictures import Picture, pixels
from dwindle.models.spec import TaskSpec
from dwindle.preprocessing import COLOURS, Preprocessing
from dwindle.task import Split

Sample = tuple[Picture, Marks]
"""An image, and 0 or 1 for each label."""


def several(
    listed: Mapping[Split, list[Sample]], labels: Sequence[str], spec: TaskSpec, exact: Mapping[str, str]
) -> Loaded:
    """The splits as data sets of torch; those that aren't there are carved from train.

    Training samples are random parts of the images, of `area` at least, mirrored where `flip` is on; others are scaled
    and cropped as the network's source has it. exact: as in `Loaded`.
    Raises UsageError for an image that can't be read, and where no `image_size` is known.
    """
    found = dict(listed)
    if spec.skip_broken:
        broken = set(broken_among([picture for samples in found.values() for picture, _ in samples]))
        found = {split: [one for one in samples if one[0] not in broken] for split, samples in found.items()}
    samples = with_all_splits(found, lambda sample: None)
    scaled = spec.preprocessing or Preprocessing((0.0,), (1.0,))
    how = squares(spec, [picture for picture, _ in samples["train"]], scaled)
    splits = {split: Marked(every, how) for split, every in samples.items()}
    splits["train"] = Marked(samples["train"], how, spec)
    return Loaded(splits, tuple(labels), how, exact)


class Marked(Dataset[tuple[Tensor, Tensor]]):
    """Images, (channels, side, side) float32 and normalised, and 0 or 1 for each label, (labels,) float32.

    augmented: the options of training samples; None: the images as they are judged.
    """

    def __init__(self, samples: list[Sample], how: Preprocessing, augmented: TaskSpec | None = None) -> None:
        assert how.size is not None
        self.samples, self.how, self.shape = samples, how, (len(COLOURS[how.colours]), *how.size)
        self.augmentation: Augmentation | None = None
        if augmented is not None:
            self.augmentation = Augmentation(
                self.shape, how.colours, augmented.area, augmented.flip, augmented.trivial, augmented.erase
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, marks = self.samples[index]
        if self.augmentation is not None:
            image = self.augmentation.sample(picture, int(torch.randint(2**31, ())))
        else:
            image = torch.from_numpy(pixels(picture, self.shape, self.how).copy())
            image = image.flip(0) if self.how.colours == "BGR" else image
        mean, std = (torch.tensor(values)[:, None, None] for values in self.how.moments)
        return (image.float() - mean) / std, torch.tensor(marks)
