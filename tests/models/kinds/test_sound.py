"""Folders of recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from torch import nn

from dwindle.errors import UsageError
from dwindle.models.kinds.sound import BANDS, RATE, log_mel, mel_bands, read_wave
from dwindle.models.tasks import make_task

TONES = {"high": 1500.0, "low": 300.0}


def folder(at: Path, count: int = 20) -> Path:
    random = np.random.RandomState(0)
    for name, hertz in TONES.items():
        (at / name).mkdir(parents=True)
        for index in range(count):
            seconds = np.arange(round(RATE * random.uniform(0.7, 1.2))) / RATE
            wave = np.sin(2 * np.pi * hertz * random.uniform(0.9, 1.1) * seconds) * random.uniform(0.2, 0.9)
            wavfile.write(at / name / f"{index:02}.wav", RATE, (32767 * wave).astype(np.int16))
    return at


@pytest.mark.slow
def test_tones_are_told_apart(tmp_path: Path) -> None:
    made = make_task({"data": f"sound:{folder(tmp_path / 'tones')}", "epochs": 25, "batch_size": 8, "lr": 0.01})
    assert (made.classes, made.class_names, made.metric) == (2, ("high", "low"), "accuracy")
    [shown] = made.inputs("test")
    assert shown.shape == (8, 1, BANDS, 101)
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(1), nn.AdaptiveAvgPool2d((BANDS, 1)), nn.Flatten(), nn.Linear(BANDS, 2))
    made.fit(network, start=0.0, on_step=lambda loss: None)
    assert made.evaluate(network, "test") == 100
    assert made.labels("validation").tolist() == [0, 0, 1, 1]  # type: ignore[union-attr]


def test_a_tone_is_loudest_in_the_band_that_holds_it() -> None:
    seconds = torch.arange(RATE) / RATE
    bands = mel_bands()
    assert bands.shape == (BANDS, 201)
    for hertz in (200.0, 1000.0, 4000.0):
        loudest = int(log_mel(torch.sin(2 * torch.pi * hertz * seconds)).mean(1).argmax())
        assert bands[loudest, round(hertz / 40)] == bands[:, round(hertz / 40)].max()


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
def test_recordings_of_any_type_rate_and_channels_are_one_second_of_one_channel(tmp_path: Path, kind: type) -> None:
    wave = np.sin(np.arange(8000) * 2 * np.pi * 440 / 8000)
    made = wave if kind is np.float32 else wave * 127 + 128 if kind is np.uint8 else wave * np.iinfo(kind).max
    wavfile.write(tmp_path / "a.wav", 8000, np.stack([made, made], 1).astype(kind))
    read = read_wave(str(tmp_path / "a.wav"))
    expected = torch.sin(torch.arange(RATE) * 2 * torch.pi * 440 / RATE)
    assert read.shape == (RATE,)
    assert (read - expected)[500:-500].abs().max() < 0.03


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    where = folder(tmp_path / "tones", 8)
    (where / "high/00.wav").write_bytes(b"no sound")
    with pytest.raises(UsageError) as caught:
        read_wave(str(where / "high/00.wav"))
    assert (caught.value.code, str(caught.value.path)) == ("unreadable", str(where / "high/00.wav"))
    (tmp_path / "empty/one").mkdir(parents=True)
    for place in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(UsageError):
            make_task({"data": f"sound:{place}"})
