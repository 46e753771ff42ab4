"""MLflow, brought up to date from the journal by one thread that training never waits for."""
