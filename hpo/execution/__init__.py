"""Carrying jobs out: inline, local worker processes, simulated, Ray."""
