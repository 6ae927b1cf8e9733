"""The teacher: a BERT as a conditional masked language model, trained and run over masked views.

This room may import training and what is below it, never the student.
"""
