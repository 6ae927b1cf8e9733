"""kdcache: distil a BERT into a small text generator through a cache of its top-k predictions.

The names here are public: the calls that the commands make, and their settings. Each is loaded when it is asked for, so
that importing kdcache loads no torch.
"""

from typing import TYPE_CHECKING

from kdcache.lazy import lazy_names

if TYPE_CHECKING:
    from kdcache.cache.labelled_pairs import CachedPairs, LabelledPair
    from kdcache.cache.labelled_pairs import open_pairs as open_cache
    from kdcache.dump.dump_config import Distributions, DumpConfig
    from kdcache.dump.dump_shards import dump as dump_logits
    from kdcache.errors import KDCacheError
    from kdcache.losses.objective_config import ObjectiveConfig
    from kdcache.scoring.score_corpus import Difference, Score, compare
    from kdcache.scoring.score_corpus import score_corpus as score
    from kdcache.student.generation import WritingStudent as Student
    from kdcache.student.student_config import StudentConfig
    from kdcache.student.train_student import train_student
    from kdcache.teacher.teacher_config import TeacherConfig
    from kdcache.teacher.train_teacher import train_teacher
    from kdcache.text.corpus import TextFiles
    from kdcache.training.training_config import TrainingConfig

__version__ = "0.1.0"
_MODULES = {
    "CachedPairs": "cache.labelled_pairs",
    "Difference": "scoring.score_corpus",
    "Distributions": "dump.dump_config",
    "DumpConfig": "dump.dump_config",
    "KDCacheError": "errors",
    "LabelledPair": "cache.labelled_pairs",
    "ObjectiveConfig": "losses.objective_config",
    "Score": "scoring.score_corpus",
    "Student": "student.generation:WritingStudent",
    "StudentConfig": "student.student_config",
    "TeacherConfig": "teacher.teacher_config",
    "TextFiles": "text.corpus",
    "TrainingConfig": "training.training_config",
    "compare": "scoring.score_corpus",
    "dump_logits": "dump.dump_shards:dump",
    "open_cache": "cache.labelled_pairs:open_pairs",
    "score": "scoring.score_corpus:score_corpus",
    "train_student": "student.train_student",
    "train_teacher": "teacher.train_teacher",
}
__all__ = [
    "CachedPairs",
    "Difference",
    "Distributions",
    "DumpConfig",
    "KDCacheError",
    "LabelledPair",
    "ObjectiveConfig",
    "Score",
    "Student",
    "StudentConfig",
    "TeacherConfig",
    "TextFiles",
    "TrainingConfig",
    "compare",
    "dump_logits",
    "open_cache",
    "score",
    "train_student",
    "train_teacher",
]
__getattr__ = lazy_names(__name__, _MODULES)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
