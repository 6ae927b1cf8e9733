"""The student: a sequence-to-sequence model that learns from a cache alone."""
