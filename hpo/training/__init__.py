"""Training: data, model families and the loop; knows no strategy, no process and no MLflow."""
