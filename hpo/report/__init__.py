"""report.html, its figures and trials.csv: what a person looks at after a study."""
