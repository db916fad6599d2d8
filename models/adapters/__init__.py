"""Adapters: tasks whose training is that of Lightning or of transformers' Trainer."""
