"""The teacher: a BERT as a conditional masked language model."""
