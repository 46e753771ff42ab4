"""Which strategy is actually better: learning curves, statistics, verdicts as values, and their wording."""
