"""Names under which people appear in results and files: annotators and participants of studies."""

from __future__ import annotations

import re

from carm_env.system.errors import shortened

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def check_person_name(what: str, name: str) -> str:
    """Returns `name` if a person may appear under it; it is safe as a part of a file name.

    Args:
        what: what the name is of, for the message, such as ``"annotator"``.
        name: the name.

    Raises:
        ValueError: it has other characters than letters, digits, hyphens and underscores, or more than 40.

    >>> check_person_name("annotator", "reader-1")
    'reader-1'
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"the {what}'s name is {shortened(name)}, expected 1 to 40 letters (A-Z), digits, '-' and '_', beginning "
            "with a letter or digit: choose a pseudonym, such as reader-1."
        )
    return name
