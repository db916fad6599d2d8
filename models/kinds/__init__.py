"""Data of other kinds than images with a class, each by the prefix of `data`: `segmentation:FOLDER`."""
