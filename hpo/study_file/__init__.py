"""study.yaml to a frozen StudySpec, every mistake at once, each with file:line:column; `reader.load` is the way in."""
