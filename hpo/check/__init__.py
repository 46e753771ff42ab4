"""Proof before training: shapes, sizes, memory, time, and why some configurations are impossible."""
