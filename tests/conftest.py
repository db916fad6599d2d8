"""One thread for everything: more threads than free cores makes OpenMP's busy wait dominate."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
