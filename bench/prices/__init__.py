"""Prices of layers: counted instructions, and milliseconds by a device's profile."""
