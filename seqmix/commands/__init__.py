"""Commands of ``seqmix``, one module each, imported when needed."""
