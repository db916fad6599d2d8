"""AMC (He et al. 2018): an agent chooses how much of each layer survives, before the usual rounds of pruning."""
