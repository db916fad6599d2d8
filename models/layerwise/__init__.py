"""A network layer by layer: which layers are matrix products, what they are shown and give for samples, and the weights
that least squares finds for that. `dwindle.compress.calibrate` prunes by it, `dwindle.export.rounding` rounds."""
