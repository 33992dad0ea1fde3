"""Wireless channels, simulated: their generation, their estimation and their prediction."""
