"""Text: corpora, tokenizers, GLUE."""
