"""Which strategy deserves its rank: curves, statistics, verdicts; compare, confirm and replay."""
