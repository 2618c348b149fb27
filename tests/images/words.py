"""Words that belong in no message about images."""

import re

# File names may be anything.
_NAMES = re.compile(r"'[^']*'|\S*/\S*")
_FOREIGN = re.compile(
    r"0x[0-9a-f]{5}|<class|<\S+ object|NoneType|Traceback|Errno|Error\b|\b(?<!\.)[a-z]+_[a-z]+\(|"
    r"object has no|has no attribute|subscriptable|to unpack|unpack requires|list index|"
    r"invalid literal|can't decode|\b(dtype|struct|tuple|dict|ndarray)\b"
)


def foreign(message):
    """Return what Python and other libraries say, which means nothing to a person with a file."""
    found = _FOREIGN.search(_NAMES.sub("", str(message)))
    return found and found.group()
