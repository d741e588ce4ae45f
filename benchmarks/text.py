"""Tokens per second of preparing text, by bytes and by WordPiece, and of the batches that training asks for.

python benchmarks/text.py --train tinyshakespeare/input.txt --vocabulary wordpiece/bert-base-uncased-vocab.txt
"""

import argparse
import tempfile
import time

from seqmix.data import TextFiles

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--train", required=True, help="text file, also below SEQMIX_DATA")
parser.add_argument("--vocabulary", required=True, help="WordPiece vocabulary, also below SEQMIX_DATA")
options = parser.parse_args()

print(f"{'tokens':10} {'objective':10} {'M tokens':>9} {'prepared, M/s':>14} {'served, M/s':>12}")
for tokens, vocabulary in (("bytes", None), ("wordpiece", options.vocabulary)):
    for objective in ("causal", "masked"):
        with tempfile.TemporaryDirectory() as cache:
            data = TextFiles(
                options.train, tokens=tokens, vocabulary=vocabulary, objective=objective, cache=cache, batch_size=64
            )
            started = time.perf_counter()
            data.setup()
            prepared = time.perf_counter() - started
            count = sum(int(data.documents(split).bounds[-1]) for split in ("train", "val", "test"))
            started = time.perf_counter()
            served = sum(batch["tokens"].numel() for batch in data.train_dataloader())
            seconds = time.perf_counter() - started
        figures = f"{count / 1e6:9.2f} {count / prepared / 1e6:14.2f} {served / seconds / 1e6:12.2f}"
        print(f"{tokens:10} {objective:10} {figures}")
