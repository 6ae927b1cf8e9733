"""The dump: a teacher runs once over a corpus and fills a cache; a cache is compared with its teacher.

This room may import the teacher and what is below it. Its settings load no torch.
"""

from kdcache.dump.dump_config import Distributions, DumpConfig, VerifyConfig

__all__ = ["Distributions", "DumpConfig", "VerifyConfig"]
