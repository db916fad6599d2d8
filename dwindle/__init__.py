"""dwindle: shrink a trained network to a budget, ship it packed, prove and measure what ships."""

__version__ = "0.1.0"
