"""What a user gives as the place of something: a path on this machine, or a URL, whose secrets are never shown."""

from __future__ import annotations

import re

from kdcache.errors import UsageError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
# Whatever stands before the last @ of the authority is a name and a password; a query can be a signature.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://)([^\s/]*@)?([^\s?#'\"]*)([?#][^\s'\"]*)?")


def is_remote(location: str) -> bool:
    """Whether `location` is a URL."""
    return _SCHEME.match(location) is not None


def check_local(location: str) -> None:
    """Raise UsageError if what is to be written would go to a URL, which as a path would be a folder named `s3:`."""
    if is_remote(location):
        raise UsageError(
            f"{redacted(location)}: kdcache writes on this machine only. Give a plain path; what was written there can "
            "be copied to a URL afterwards."
        )


def redacted(text: str) -> str:
    """`text` with the user names, passwords and queries of all URLs in it taken out."""
    return _URL.sub(_without_secrets, text)


def _without_secrets(url: re.Match[str]) -> str:
    scheme, user, path, query = url.groups()
    return f"{scheme}{'…@' if user else ''}{path}{'?…' if query else ''}"
