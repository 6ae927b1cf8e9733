"""Files that survive a crash: atomic writing, strict JSON, run records, and the places that users name.

This room may import errors.
"""

from kdcache.files.atomic import file_sha256, publish_file, replace_file, sha256, storage_errors
from kdcache.files.locations import StoreConfig, check_local, is_remote, redacted
from kdcache.files.run_records import Run, file_run, folder_run
from kdcache.files.strict_json import canonical_json, from_json, read_json, readable_json

__all__ = [
    "Run",
    "StoreConfig",
    "canonical_json",
    "check_local",
    "file_run",
    "file_sha256",
    "folder_run",
    "from_json",
    "is_remote",
    "publish_file",
    "read_json",
    "readable_json",
    "redacted",
    "replace_file",
    "sha256",
    "storage_errors",
]
