"""Kinds of data, each by the prefix of `data`: `segmentation:FOLDER`, `hf:DATASET`."""
