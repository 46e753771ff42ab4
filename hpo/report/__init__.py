"""report.html and its figures: the results of a study or of a comparison on one page."""
