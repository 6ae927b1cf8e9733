"""Running a teacher once over a corpus: text in, cache out."""
