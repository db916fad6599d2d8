"""A LightningModule and its data, compressed by their own training.

dwindle compress examples.lightning_module:net --task examples.lightning_module:task --density 10% -o net.dwindle
"""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from dwindle.models import LightningTask


class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10))

    def forward(self, x):
        return self.body(x)

    def training_step(self, batch, index):
        x, y = batch
        return functional.cross_entropy(self(x), y)

    def validation_step(self, batch, index):
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean())

    def test_step(self, batch, index):
        x, y = batch
        self.log("test_acc", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.003)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.003, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Digits(LightningDataModule):
    def setup(self, stage=None):
        digits = load_digits()
        x, y = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
        self.train, self.held_out, self.unseen = (
            TensorDataset(x[part], y[part]) for part in (slice(0, 1200), slice(1200, 1500), slice(1500, None))
        )

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=64, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.held_out, batch_size=100)

    def test_dataloader(self):
        return DataLoader(self.unseen, batch_size=100)


# What dwindle needs beyond your own code:


def net():
    return Classifier()


def task():
    return LightningTask(Classifier(), Digits(), metric="acc", max_epochs=12, accelerator="cpu")
