"""`sound:FOLDER`: short recordings in a folder for each class, such as keywords, seen as log-mel spectrograms."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dwindle.errors import UsageError, one_line
from dwindle.models.folder import VALIDATION
from dwindle.models.kinds.kind import Loaded, folders, with_all_splits
from dwindle.models.spec import TaskSpec

RATE = 16_000
"""Samples in a second, to which other recordings are resampled."""
SECONDS = 1.0
"""The length of an input; longer recordings are cut, shorter ones end in silence."""
WINDOW, HOP, BANDS = 400, 160, 40
"""25 ms, 10 ms, and the number of mel bands, as is usual for keywords (Sainath & Parada 2015)."""
SHIFT = 0.1
"""The most seconds by which a training sample is moved."""
NOISE = 0.02
"""The most noise in a training sample, as a share of the loudest that there can be."""
Sample = tuple[str, int]


def sound(where: str, spec: TaskSpec) -> Loaded:
    """The folder `where`, or its `train`, `val` and `test`, with a folder of .wav files for each class.

    An input is (1, 40, 101): the log of 40 mel bands every 10 ms of one second. Training samples are moved by up to
    0.1 seconds, with a little noise. A split that isn't there is carved from train: a fifth of each class for test, a
    tenth for validation.
    Raises UsageError where there are no recordings, or one can't be read.
    """
    found = {split: _listed(folder) for split, folder in folders(where, VALIDATION).items()}
    classes = found["train"][0]
    for split, (names, _) in found.items():
        if names != classes:
            odd = sorted(set(names) ^ set(classes))
            raise UsageError(
                f"the {split} and train splits of {where} differ in class folders ({', '.join(odd)})",
                code="classes-differ",
                option="data",
                name=odd[0],
            )
    samples = with_all_splits({split: listed for split, (_, listed) in found.items()}, lambda sample: sample[1])
    splits = {split: Recordings(every, augmented=split == "train") for split, every in samples.items()}
    return Loaded(splits, classes)


class Recordings(Dataset[tuple[Tensor, int]]):
    """Log-mel spectrograms, (1, 40, 101) float32, and their classes."""

    def __init__(self, samples: list[Sample], *, augmented: bool = False) -> None:
        self.samples, self.augmented = samples, augmented

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        wave = read_wave(path)
        if self.augmented:
            most = round(SHIFT * RATE)
            wave = torch.roll(wave, int(torch.randint(-most, most + 1, ())))
            wave = wave + NOISE * torch.rand(()) * torch.randn(len(wave))
        return log_mel(wave)[None], label


def log_mel(wave: Tensor) -> Tensor:
    """The log of the energy in each mel band: of (samples,) float32 in [-1, 1], (40, 1 + samples // 160).

    An app computes the same: a Hann window of 400 samples every 160, centred, with zeros beyond the ends; the squared
    absolute values of the transform of 400; the bands of `mel_bands`; the natural logarithm, of 1e-6 at least.
    """
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(wave, WINDOW, HOP, WINDOW, window, center=True, pad_mode="constant", return_complex=True)
    return (mel_bands() @ spectrum.abs().square()).clamp(min=1e-6).log()


@cache
def mel_bands() -> Tensor:
    """Triangles of equal width in mel, by HTK's formula, from 20 Hz to half of RATE: (40, 201)."""

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = 700 * (10 ** (torch.linspace(mel(20), mel(RATE / 2), BANDS + 2).double() / 2595) - 1)
    hertz = torch.linspace(0, RATE / 2, WINDOW // 2 + 1).double()
    rise = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp(min=0).float()


def read_wave(path: str) -> Tensor:
    """One second of a .wav file, (16000,) float32 in [-1, 1]; raises UsageError where it can't be read."""
    from scipy.io import wavfile
    from scipy.signal import resample_poly

    try:
        rate, read = wavfile.read(path)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"{path} can't be read as a .wav file ({one_line(error)}): mend or remove it",
            code="unreadable",
            option="data",
            path=path,
        ) from error
    wave = np.asarray(read, np.float64)
    if read.dtype == np.uint8:
        wave = (wave - 128) / 128
    elif np.issubdtype(read.dtype, np.integer):
        wave = wave / -float(np.iinfo(read.dtype).min)
    if wave.ndim > 1:
        wave = wave.mean(1)
    if rate != RATE:
        common = math.gcd(rate, RATE)
        wave = resample_poly(wave, RATE // common, rate // common)
    length = round(SECONDS * RATE)
    return torch.from_numpy(np.pad(wave[:length], (0, max(0, length - len(wave)))).astype(np.float32))


def _listed(folder: Path) -> tuple[tuple[str, ...], list[Sample]]:
    classes = sorted(each.name for each in folder.iterdir() if each.is_dir() and each.name[0] not in "._")
    samples = [
        (str(path), label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() == ".wav"
    ]
    if len({label for _, label in samples}) < max(2, len(classes)):
        raise UsageError(
            f"{folder} needs two or more folders, each with .wav files of one class",
            code="no-sound",
            option="data",
            path=folder,
        )
    return tuple(classes), samples
