"""The student: a sequence-to-sequence model that learns from a cache alone, and the text it generates.

This room may import training and what is below it, never teacher or dump. Its settings load no torch.
"""

from kdcache.student.generate_config import GenerateConfig
from kdcache.student.student_config import StudentConfig

__all__ = ["GenerateConfig", "StudentConfig"]
