"""An ordinary training loop as a dwindle task: what it takes is `on_step` after `optimizer.step()`.

dwindle compress examples.plain_loop:net --task examples.plain_loop:Loop --density 5% -o plain.dwindle
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


class Loop:
    def __init__(self):
        digits = load_digits()
        x, y = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
        cuts = {"train": slice(0, 1200), "validation": slice(1200, 1500), "test": slice(1500, None)}
        self.data = {split: (x[cut], y[cut]) for split, cut in cuts.items()}

    def fit(self, model, *, start, on_step):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        x, y = self.data["train"]
        steps = 300
        for step in range(int(start * steps), steps):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
            batch = torch.randint(len(x), (64,))
            loss = functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            on_step(loss.item())  # re-applies the masks

    def evaluate(self, model, split):
        x, y = self.data[split]
        with torch.no_grad():
            return 100 * (model(x).argmax(1) == y).float().mean().item()

    def labels(self, split):  # optional: what top-5 and the samples that changed class are counted by
        return self.data[split][1]

    def example_inputs(self):
        return (self.data["train"][0][:1],)
