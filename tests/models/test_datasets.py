from __future__ import annotations

import gzip
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets

from dwindle.errors import UsageError
from dwindle.models import datasets
from dwindle.models.datasets import load

RANDOM = np.random.RandomState(0)


def test_digits() -> None:
    splits = load("digits")
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [1079, 359, 359]
    assert splits.shape == (1, 8, 8)
    assert splits.classes == tuple("0123456789")
    assert int(splits.train.images.max()) == 255
    for name in ("train", "validation", "test"):
        shares = torch.bincount(splits[name].labels) / len(splits[name])
        assert (shares - 0.1).abs().max() < 0.005
    assert splits.fingerprint == load("digits").fingerprint


def _write_idx(folder: Path, name: str, array: np.ndarray, *, zipped: bool = True) -> None:
    content = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / (f"{name}.gz" if zipped else name)
    file.write_bytes(gzip.compress(content) if zipped else content)


def _write_fashion(folder: Path, *, zipped: bool = True) -> np.ndarray:
    """A small Fashion-MNIST in its own format; gives its test images."""
    for stem, count in (("train", 100), ("t10k", 20)):
        images = RANDOM.randint(0, 256, (count, 28, 28)).astype(np.uint8)
        _write_idx(folder, f"{stem}-images-idx3-ubyte", images, zipped=zipped)
        _write_idx(folder, f"{stem}-labels-idx1-ubyte", np.arange(count).astype(np.uint8) % 10, zipped=zipped)
    return images


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with neither Debian's data nor a network."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(datasets, "DEBIAN", tmp_path / "not-installed")
    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("inside", ["", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist_in_a_data_root(tmp_path: Path, inside: str, zipped: bool) -> None:
    expected = _write_fashion(tmp_path / "root" / inside, zipped=zipped)
    splits = load("fashion-mnist", root=str(tmp_path / "root"))
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [90, 10, 20]
    assert torch.equal(splits.test.images[:, 0], torch.from_numpy(expected))
    assert splits.classes[9] == "Ankle boot"


@pytest.mark.usefixtures("bare")
def test_roots_are_tried_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written = {name: _write_fashion(tmp_path / name) for name in ("argument", "environment", "debian")}
    monkeypatch.setattr(datasets, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("DWINDLE_DATA", str(tmp_path / "environment"))

    def taken(root: str | None) -> torch.Tensor:
        return load("fashion-mnist", root=root).test.images[:, 0]

    assert torch.equal(taken(str(tmp_path / "argument")), torch.from_numpy(written["argument"]))
    (tmp_path / "empty").mkdir()
    assert torch.equal(taken(str(tmp_path / "empty")), torch.from_numpy(written["environment"]))
    monkeypatch.delenv("DWINDLE_DATA")
    assert torch.equal(taken(None), torch.from_numpy(written["debian"]))


@pytest.mark.needs("fashion-mnist")
def test_fashion_mnist_of_debian() -> None:
    splits = load("fashion-mnist")
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [54_000, 6_000, 10_000]
    assert torch.bincount(splits.validation.labels).tolist() == [600] * 10
    # Mean and deviation of the 60,000 training images are published as 0.2860 and 0.3530 (of 1).
    assert abs(float(splits.mean) / 255 - 0.2860) < 0.001
    assert abs(float(splits.std) / 255 - 0.3530) < 0.001


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_nothing_found_says_where_it_looked(tmp_path: Path, name: str) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(UsageError, match="couldn't download it") as caught:
        load(name, root=str(tmp_path / "root"))
    message = str(caught.value)
    assert str(tmp_path / "root") in message
    assert str(tmp_path / "cache/dwindle/data") in message
    assert "DWINDLE_DATA" in message
    assert ("dataset-fashion-mnist" in message) == (name == "fashion-mnist")
    assert "\n" not in message


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("spoil", ["cut", "cut unzipped", "header", "type", "missing"])
def test_a_spoilt_idx_file_is_named(tmp_path: Path, spoil: str) -> None:
    _write_fashion(tmp_path, zipped=spoil != "cut unzipped")
    file = tmp_path / ("t10k-images-idx3-ubyte" + ("" if spoil == "cut unzipped" else ".gz"))
    whole = file.read_bytes()
    if spoil.startswith("cut"):
        file.write_bytes(whole[:-100])
    elif spoil == "header":
        file.write_bytes(gzip.compress(b"\0\0"))
    elif spoil == "type":
        file.write_bytes(gzip.compress(b"\0\0\x0d" + gzip.decompress(whole)[3:]))
    else:
        file.unlink()
    with pytest.raises(UsageError, match=r"t10k-images-idx3-ubyte\S* .*: fetch it again"):
        load("fashion-mnist", root=str(tmp_path))


def _write_cifar(folder: Path, source: type[torchvision.datasets.CIFAR10], classes: int) -> np.ndarray:
    """A small CIFAR in its authors' format, a pickled dict per file; gives the test images' rows."""
    place = folder / source.base_folder
    place.mkdir(parents=True)
    key = "labels" if classes == 10 else "fine_labels"
    for name, _ in [*source.train_list, *source.test_list]:
        rows = RANDOM.randint(0, 256, (2 * classes, 3072)).astype(np.uint8)
        entry = {"data": rows, key: [index % classes for index in range(2 * classes)]}
        (place / name).write_bytes(pickle.dumps(entry))
    names = {source.meta["key"]: [f"class {index}" for index in range(classes)]}
    (place / source.meta["filename"]).write_bytes(pickle.dumps(names))
    return rows


def _publish(monkeypatch: pytest.MonkeyPatch, folder: Path, source: type[torchvision.datasets.CIFAR10]) -> None:
    """Makes the MD5 of the files in `folder` the ones that torchvision expects."""

    def md5(name: str) -> str:
        return hashlib.md5((folder / source.base_folder / name).read_bytes()).hexdigest()

    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(source, attribute, [[name, md5(name)] for name, _ in getattr(source, attribute)])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": md5(source.meta["filename"])})


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_in_its_own_format(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, classes: int) -> None:
    source = {10: torchvision.datasets.CIFAR10, 100: torchvision.datasets.CIFAR100}[classes]
    rows = _write_cifar(tmp_path, source, classes)
    _publish(monkeypatch, tmp_path, source)
    splits = load(f"cifar{classes}", root=str(tmp_path))
    train = 2 * classes * len(source.train_list)
    held = classes if classes == 10 else 100  # a tenth, and at least one of each class
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [train - held, held, 2 * classes]
    assert torch.equal(splits.test.images, torch.from_numpy(rows).reshape(-1, 3, 32, 32))
    assert splits.test.labels.tolist() == [index % classes for index in range(2 * classes)]
    assert splits.classes[-1] == f"class {classes - 1}"


@pytest.mark.usefixtures("bare")
def test_a_cifar_that_its_authors_did_not_make_is_never_unpickled(tmp_path: Path) -> None:
    _write_cifar(tmp_path, torchvision.datasets.CIFAR10, 10)

    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return Path.touch, (tmp_path / "exploded",)  # type: ignore[return-value]

    (tmp_path / "cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UsageError, match="cifar-10-batches-py is incomplete or altered"):
        load("cifar10", root=str(tmp_path))
    assert not (tmp_path / "exploded").exists()


def test_a_users_factory(users_module: Callable[[str], str]) -> None:
    name = users_module(
        "import torch\n"
        "from dwindle.models.data import Splits, Subset\n"
        "def data(root):\n"
        "    part = Subset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2)\n"
        "    return Splits(part, part, part, (root, 'b'))\n"
        "def empty():\n"
        "    part = Subset(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.arange(0))\n"
        "    return Splits(part, part, part, ('a',))\n"
        "def other(): return 3\n"
    )
    assert load(f"{name}:data", root="here").classes == ("here", "b")
    with pytest.raises(UsageError, match="made a int, not dwindle"):
        load(f"{name}:other")
    with pytest.raises(UsageError, match="the train split is empty"):
        load(f"{name}:empty")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("digit", "unknown data set 'digit': did you mean 'digits'"),
        ("imagenet", "unknown data set 'imagenet': there are cifar10, cifar100, digits, fashion-mnist"),
        ("./no/such/folder", "there is no folder ./no/such/folder"),
        ("no_module_of_that_name:data", "can't be imported: ModuleNotFoundError"),
    ],
)
def test_unknown_data(data: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load(data)


def test_an_image_size_for_data_that_has_its_own() -> None:
    with pytest.raises(UsageError, match="an image size is for a folder of images"):
        load("digits", image_size=32)
    with pytest.raises(UsageError, match="there is no folder /no/such/folder"):
        load("/no/such/folder", image_size=32)
    with pytest.raises(UsageError, match="nor is there a folder of that name"):
        load("nowhere", image_size=32)
