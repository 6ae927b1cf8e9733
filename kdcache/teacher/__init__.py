"""The teacher: a BERT as a conditional masked language model, trained and run over masked views.

This room may import training and what is below it, never the student. Its settings load no torch.
"""

from kdcache.teacher.teacher_config import TeacherConfig

__all__ = ["TeacherConfig"]
