"""``python -m seqmix`` is ``seqmix``."""

import sys

# `-m` puts the current folder first, where a file may have the name of a module of Python
if not getattr(sys.flags, "safe_path", False):
    sys.path.pop(0)

from seqmix.cli import main

main()
