"""Compression without training: the weights that survive pruning are solved by least squares, layer after layer, so
that each layer gives the dense network's outputs from the pruned network's inputs. A few hundred unlabelled samples
are enough. `dwindle.models.layerwise` has the mathematics."""
