"""Tar files of images, as the webdataset library writes them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dwindle.errors import UsageError
from dwindle.models.kinds.webdataset import pictures
from dwindle.models.photos.rule import photographs_in
from dwindle.models.tasks import make_task

LEVELS = (60, 190)


def png(level: int, across: int = 12) -> bytes:
    noise = np.random.RandomState(level).randint(-40, 40, (across, across, 3))
    file = io.BytesIO()
    Image.fromarray((level + noise).clip(0, 255).astype(np.uint8)).save(file, "png")
    return file.getvalue()


def tar(at: Path, parts: dict[str, bytes]) -> Path:
    at.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(at, "w") as archive:
        for name, content in parts.items():
            head = tarfile.TarInfo(name)
            head.size = len(content)
            archive.addfile(head, io.BytesIO(content))
    return at


def shard(count: int, first: int = 0, across: int = 12) -> dict[str, bytes]:
    parts = {}
    for index in range(first, first + count):
        label = index % 2
        parts[f"{index:06}.png"] = png(LEVELS[label] + index, across)
        parts[f"{index:06}.cls"] = str(label).encode()
    return parts


@pytest.mark.slow
def test_splits_by_name_train_and_resume_alike_with_any_number_of_workers(tmp_path: Path) -> None:
    for number in range(3):
        tar(tmp_path / f"train-{number:03}.tar", shard(16, 16 * number))
    tar(tmp_path / "val-000.tar", shard(10, 48))
    (tmp_path / "classnames.txt").write_text("dark\nlight\n")
    options: dict[str, Any] = {"data": f"webdataset:{tmp_path}", "epochs": 12, "batch_size": 8, "photographs": True}
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    losses: dict[int, list[float]] = {}
    for workers in (0, 2):
        made = make_task({**options, "workers": workers})
        torch.nn.init.zeros_(network[2].weight)
        torch.nn.init.zeros_(network[2].bias)
        losses[workers] = []
        made.fit(network, start=0.0, on_step=losses[workers].append)
    assert losses[0] == losses[2]
    assert (made.class_names, len(made.labels("validation"))) == (("dark", "light"), 10)  # type: ignore[arg-type]
    assert made.evaluate(network, "validation") == 100


def test_labels_in_json_folders_and_large_images(tmp_path: Path) -> None:
    parts = {f"deep/{index}.jpg": png(LEVELS[index % 2] + index, 64) for index in range(8)}
    labels = {f"deep/{index}.json": json.dumps({"label": index % 2}).encode() for index in range(8)}
    for split in ("train", "valid"):
        tar(tmp_path / split / "0.tar", {**parts, **labels, "deep/readme": b"not read"})
    listed = pictures(str(tmp_path))
    assert [label for _, label in listed.splits["validation"]] == [0, 1] * 4
    assert listed.classes == ("0", "1")
    picture = listed.splits["train"][3][0]
    assert not isinstance(picture, str)
    assert picture.read() == parts["deep/3.jpg"]
    assert photographs_in(f"webdataset:{tmp_path}") == 16
    assert photographs_in(f"webdataset:{tar(tmp_path / 'small.tar', shard(4))}") == 0


def test_a_mapped_file_is_made_anew_where_the_tar_file_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1))
    file = tar(tmp_path / "a.tar", shard(20))
    before = make_task({"data": f"webdataset:{file}"}).inputs("train")[0]
    assert torch.equal(make_task({"data": f"webdataset:{file}"}).inputs("train")[0], before)
    tar(file, shard(20, first=20))
    assert not torch.equal(make_task({"data": f"webdataset:{file}"}).inputs("train")[0], before)


def test_broken_images_are_left_out_where_that_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tar(tmp_path / "a.tar", {**shard(20), "000004.png": png(70)[:200]})
    with pytest.raises(UsageError) as caught:
        make_task({"data": f"webdataset:{file}"})
    assert (caught.value.code, caught.value.path) == ("unreadable", Path(f"{file}:000004.png"))
    tar(file, {**shard(20), "000004.png": png(70)[:200], "000007.png": b""})
    made = make_task({"data": f"webdataset:{file}", "skip_broken": True})
    assert "2 of 20 images" in " ".join(record.getMessage() for record in caplog.records)
    assert sum(len(made.inputs(split)[0]) for split in ("train", "validation", "test")) == 18


@pytest.mark.parametrize("size", [600, 10_240 - 512, -1024, -1])
def test_a_tar_file_that_was_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    """Where a file is cut between two members, Python's own reader takes what is left for the whole."""
    file = tar(tmp_path / "a.tar", shard(8))
    whole = file.read_bytes()
    with tarfile.open(file) as archive:
        last = archive.getmembers()[-1]
        end = last.offset_data + (last.size + 511) // 512 * 512
    file.write_bytes(whole[: size if size > 0 else end if size == -1024 else last.offset])
    with pytest.raises(UsageError) as caught:
        pictures(str(file))
    assert (caught.value.code, caught.value.path) == ("unreadable", file)


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({**shard(4), "000009.png": png(60)}, "no-labels"),
        ({**shard(4), "000009.cls": b"1"}, "no-images"),
        ({**shard(4), "000001.cls": b"cat"}, "no-labels"),
        ({**shard(4), "000001.cls": b"-1"}, "no-labels"),
        ({"readme.txt": b"a"}, "no-images"),
    ],
)
def test_samples_without_their_image_or_label_are_refused(tmp_path: Path, parts: dict[str, bytes], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_task({"data": f"webdataset:{tar(tmp_path / 'a.tar', parts)}"})
    assert (caught.value.code, caught.value.option) == (code, "data")


def test_compressed_files_links_and_folders_without_any_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.cls"))
    for where in (tmp_path / "a.tar", tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UsageError) as caught:
            make_task({"data": f"webdataset:{where}"})
        assert caught.value.option == "data"
    outside = tmp_path / "secret.png"
    outside.write_bytes(png(60))
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
    with pytest.raises(UsageError) as caught:
        pictures(str(tmp_path / "link.tar"))
    assert caught.value.code == "no-images"
