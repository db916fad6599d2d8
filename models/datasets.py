"""Data sets by name, and where each is found."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dwindle.errors import UsageError, one_line
from dwindle.files import user_cache
from dwindle.models.data import Splits, Subset, carve
from dwindle.models.factory import call_factory
from dwindle.models.folder import load_folder
from dwindle.models.kinds.kind import kind_of
from dwindle.preprocessing import Preprocessing
from dwindle.registry import unknown

ROOT = "DWINDLE_DATA"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def load(
    data: str,
    *,
    root: str | None = None,
    image_size: int | None = None,
    how: Preprocessing | None = None,
    skip_broken: bool = False,
) -> Splits:
    """The data set `data`: a name, a folder of class folders, or `package.module:factory` returning Splits.

    `root`: a folder to look in, before the one that DWINDLE_DATA names. `image_size` in pixels: for a
    folder, whose images may differ. how: the preprocessing of a network with trained weights, for the size of a
    folder's images, the way they are scaled, and the colours. skip_broken: leave out images of a folder that can't be
    decoded, which is said. Nothing is kept on disk but what torchvision downloads.
    Raises UsageError where the data isn't found, isn't readable or isn't fit to train on.
    """
    splits = load_any(data, root=root, image_size=image_size, how=how, skip_broken=skip_broken)
    if not isinstance(splits, Splits):
        raise UsageError(f"data {data!r} made a {type(splits).__name__}, not dwindle.models.data.Splits")
    return splits


def load_any(
    data: str, *, root: str | None, image_size: int | None, how: Preprocessing | None, skip_broken: bool = False
) -> Any:
    """As `load`; what a factory returns may be something else, such as data sets of torch."""
    if root is not None and data in LOADERS and not expanded(root).is_dir():  # else another copy would be taken
        raise UsageError(
            f"`data_root` {root} is no folder: give the one that holds the data, or leave it out",
            code="missing",
            option="data_root",
            path=root,
        )
    if image_size is not None and image_size < 1:
        message = f"`image_size` is {image_size}: give 1 pixel or more"
        raise UsageError(message, code="out-of-range", option="image_size")
    splits = _load(data, root, image_size, how, skip_broken)
    return splits.in_colours(how.colours) if how and isinstance(splits, Splits) else splits


def _load(data: str, root: str | None, image_size: int | None, how: Preprocessing | None, skip_broken: bool) -> Any:
    roots = [expanded(place) for place in (root, os.environ.get(ROOT)) if place]
    if is_folder(data):
        return load_folder(expanded(data), image_size, how, skip_broken=skip_broken)
    if data not in LOADERS and ":" not in data:
        if "/" in data:
            others = ", ".join(LOADERS)
            raise UsageError(f"there is no folder {data}: give a folder of class folders, or one of {others}")
        raise UsageError(f"{unknown('data set', data, list(LOADERS))} (nor is there a folder of that name)")
    if image_size is not None:
        raise UsageError(f"an image size is for a folder of images, and data {data!r} has its own")
    if data in LOADERS:
        return LOADERS[data](roots)
    return call_factory(data, "data", root=root)


def is_folder(data: str) -> bool:
    """Whether `data` is a folder of images rather than a data set's name or a factory."""
    try:
        return data not in LOADERS and expanded(data).is_dir()
    except OSError:  # a name that is too long, or that may not be looked at
        return False


def folder_from(place: Path, data: object) -> str | None:
    """The path from the folder `place` to the folder or file that `data` names; None where it names none."""
    if not isinstance(data, str):
        return None
    kind = kind_of(data)
    if not (expanded(kind[1]).exists() if kind else is_folder(data)):
        return None
    data = kind[1] if kind else data
    try:
        return Path(os.path.relpath(expanded(data).resolve(), place.resolve())).as_posix()
    except ValueError:  # on another drive of Windows
        return None


def expanded(place: str) -> Path:
    """The path, with `~` as the home folder where there is one."""
    return Path(os.path.expanduser(place))  # noqa: PTH111  Path.expanduser raises where there is no home folder


def _digits(roots: Sequence[Path]) -> Splits:
    """1797 handwritten digits, 8x8, from scikit-learn's wheel; its 17 grey levels spread over 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    rest, test = carve(Subset(images, torch.from_numpy(bunch.target).long()), 0.2)
    train, validation = carve(rest, 0.25)
    return Splits(train, validation, test, tuple(str(name) for name in bunch.target_names))


FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def _fashion_mnist(roots: Sequence[Path]) -> Splits:
    """70,000 garments, 28x28 grey: 54,000 train, 6,000 validation (carved from train), 10,000 test."""
    inside = ("", "fashion-mnist", "FashionMNIST/raw")
    places = [root / folder for root in (*roots, _downloads()) for folder in inside]
    places.insert(len(roots) * len(inside), DEBIAN)
    found = next((place for place in places if _has_idx(place)), None)
    if found is None:
        from torchvision.datasets import FashionMNIST

        target = roots[0] if roots else _downloads()
        looked = (*roots, DEBIAN, _downloads())
        _download(lambda: FashionMNIST(str(target), download=True), "fashion-mnist", looked)
        found = target / "FashionMNIST/raw"
    train = Subset(_idx(found, "train-images-idx3-ubyte")[:, None], _idx(found, "train-labels-idx1-ubyte").long())
    test = Subset(_idx(found, "t10k-images-idx3-ubyte")[:, None], _idx(found, "t10k-labels-idx1-ubyte").long())
    return Splits(*carve(train, 0.1), test, FASHION)


def _cifar(classes: int) -> Callable[[Sequence[Path]], Splits]:
    def loader(roots: Sequence[Path]) -> Splits:
        """60,000 photographs, 32x32 colour: 45,000 train, 5,000 validation (carved from train), 10,000 test.

        torchvision reads CIFAR's own files, which are pickles; it compares their MD5 with the published one
        first, so a file that the authors didn't make is refused before it is opened. Nothing here turns
        that check off.
        """
        from torchvision.datasets import CIFAR10, CIFAR100

        source: Any = {10: CIFAR10, 100: CIFAR100}[classes]
        places = (*roots, _downloads())
        found = next((place for place in places if (place / source.base_folder).is_dir()), None)
        if found is None:
            found = places[0]
            _download(lambda: source(str(found), download=True), f"cifar{classes}", places)
        try:
            parts = [source(str(found), train=train) for train in (True, False)]
        except RuntimeError as error:
            raise UsageError(
                f"{found / source.base_folder} is incomplete or altered, its MD5 isn't the published one: "
                "move it away to have it downloaded again"
            ) from error
        train, test = (
            Subset(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
            for part in parts
        )
        return Splits(*carve(train, 0.1), test, tuple(parts[0].classes))

    return loader


LOADERS: dict[str, Callable[[Sequence[Path]], Splits]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": _cifar(10),
    "cifar100": _cifar(100),
}


def _downloads() -> Path:
    return user_cache() / "data"


def _download(fetch: Callable[[], object], name: str, looked: Sequence[Path]) -> None:
    try:
        fetch()
    except Exception as error:  # whatever the network, the disk and a mirror can do
        package = "install Debian's dataset-fashion-mnist, or " if name == "fashion-mnist" else ""
        raise UsageError(
            f"{name} is in none of {', '.join(str(place) for place in looked)}, and torchvision couldn't "
            f"download it ({one_line(error)}): {package}set {ROOT} to the folder that has it"
        ) from error


def _has_idx(folder: Path) -> bool:
    return any((folder / f"train-images-idx3-ubyte{suffix}").is_file() for suffix in ("", ".gz"))


def _idx(folder: Path, name: str) -> Tensor:
    """The uint8 array of an IDX file (http://yann.lecun.com/exdb/mnist), gzipped or not.

    Raises UsageError where it is missing, truncated or of another type.
    """
    path = next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), folder / name)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UsageError(f"{path} can't be read ({one_line(error)}): fetch it again") from error
    # Big-endian: two zero bytes, the type (8 is uint8), the number of dimensions, then each of them.
    dimensions = content[3] if len(content) > 3 else 0
    shape = [int(size) for size in np.frombuffer(content[4 : 4 + 4 * dimensions], ">u4", count=-1)]
    body = np.frombuffer(content, np.uint8, offset=min(4 + 4 * dimensions, len(content)))
    if content[:3] != b"\0\0\x08" or len(shape) != dimensions or body.size != math.prod(shape):
        raise UsageError(f"{path} is truncated, or not an IDX file of bytes: fetch it again")
    return torch.from_numpy(body.reshape(shape).copy())
