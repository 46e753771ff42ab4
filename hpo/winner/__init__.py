"""What a search has found: published, written as a script, trained further, again, on all data; and its predictions."""
