"""Commands of ``seqmix``: one module each, imported when it is asked for."""
