"""What to try next: bayesian, random, grid, and early stopping around any of them."""
