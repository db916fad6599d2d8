"""A model and a Trainer of transformers', compressed by their own training.

dwindle compress examples.hf_trainer:net --task examples.hf_trainer:task --density 10% -o net.dwindle
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments, set_seed

from dwindle.models import TrainerTask

set_seed(0)  # a run that is interrupted begins with the same weights
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
samples = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, digits.target, strict=True)]
config = ResNetConfig(
    num_channels=1, embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic", num_labels=10
)
arguments = TrainingArguments(
    output_dir=tempfile.gettempdir(),
    num_train_epochs=8,
    per_device_train_batch_size=64,
    learning_rate=0.01,
    lr_scheduler_type="cosine",
    warmup_steps=15,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
)


def accuracy(answers):
    return {"accuracy": (answers.predictions.argmax(-1) == answers.label_ids).mean()}


model = ResNetForImageClassification(config)
trainer = Trainer(
    model, arguments, train_dataset=samples[:1200], eval_dataset=samples[1200:1500], compute_metrics=accuracy
)

# What dwindle needs beyond your own code:
loop = TrainerTask(trainer, test=samples[1500:])


def net():
    return loop.network


def task():
    return loop
