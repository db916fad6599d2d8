"""AMC (He et al. 2018): an agent chooses the share of each layer, before the same rounds as ever."""
