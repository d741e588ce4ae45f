"""``python -m seqmix`` is ``seqmix``."""

from seqmix.cli import main

main()
