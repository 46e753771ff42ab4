"""MLflow, fed from the journal by one thread that nobody waits for; and the process that publishes a model."""
