"""Proof before training: shapes, sizes, memory, time, and what is to blame for what is impossible."""
