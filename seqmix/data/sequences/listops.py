"""ListOps of Long Range Arena: nested operations on digits, generated or from the official files."""

import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from seqmix.data.files import read_file
from seqmix.data.sequences._generated import generated
from seqmix.data.sequences.labeled import LabeledBytes, LabeledData, join
from seqmix.data.served import Split, check_positive, parts
from seqmix.errors import ConfigError, DataError

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
#: what the bytes of an expression stand for; a batch holds them plus 1, and 0 for padding
SYMBOLS = (*map(str, range(10)), *OPERATORS, "]")
_END = SYMBOLS.index("]")


class ListOps(LabeledData):
    """Value of a nested expression such as ``[MAX 2 9 [MIN 4 7 ] 0 ]``: ten classes, tokens of 15 kinds.

    Below the root an argument is a digit with probability 0.75, else another operation, and always a digit at
    ``max_depth``; an operation has 2 to ``max_args`` arguments. MED is the median, rounded down, SM the sum modulo 10.
    Expressions of other lengths are drawn again, and none occurs twice. Labels are not uniform: always to answer the
    commonest is right about 17 % of the time. Expression i depends on ``data_seed`` and i alone. The full set takes
    about a minute of two cores, then 100 MB in ``root``.

    With ``max_length`` up to 128, less depth and fewer arguments it is a short variant, named after its length, for a
    CPU: ``configs/*_listops_small.yaml`` have ``max_depth=3`` and ``max_args=2``, 4 to 10 tokens, of
    which there are 672,400.

    Args:
        min_length: fewest tokens of an expression, 501 in the benchmark.
        max_length: maximum number of tokens of an expression, 1999 in the benchmark.
        max_depth: operations within one another, plus one for the digits.
        max_args: maximum number of arguments of an operation.
        n_train: training expressions.
        n_val: validation expressions.
        n_test: test expressions.
        path: folder of the official ``basic_train.tsv``, ``basic_val.tsv`` and ``basic_test.tsv``, plain or ``.gz``, to
            be read instead: every row of theirs counts, and of the options above only the lengths are looked at.
        root: folder where the generated file is kept. Default: ``./data``.
        workers: processes that generate. Default: as many as there are cores.
        data_seed: seed of the generator.

    Raises:
        ConfigError: if a number is out of range.

    Source: Tay et al., 2020, arXiv:2011.04006, sec. 2.2.1, and google-research/long-range-arena; Nangia and Bowman,
    2018, arXiv:1804.06028. Differs from the original code in: seeded, in the order drawn, without the brackets that
    make trees binary, which its readers drop.
    """

    def __init__(
        self,
        batch_size: int = 32,
        *,
        min_length: int = 501,
        max_length: int = 1999,
        max_depth: int = 10,
        max_args: int = 10,
        n_train: int = 96000,
        n_val: int = 2000,
        n_test: int = 2000,
        path: str | None = None,
        root: str | None = None,
        workers: int | None = None,
        data_seed: int = 0,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        name = "ListOps" if max_length > 128 else f"ListOps-{max_length}"
        size = len(SYMBOLS) + 1
        super().__init__(name, size, 10, max_length, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        check_positive(n_train=n_train, n_val=n_val, n_test=n_test, workers=1 if workers is None else workers)
        if max_depth < 2 or max_args < 2:
            raise ConfigError(
                f"max_depth = {max_depth} and max_args = {max_args} leave no operation; set both to 2 or more"
            )
        if not 4 <= min_length <= max_length or min_length > _longest(max_depth, max_args):
            raise ConfigError(
                f"no expression of max_depth = {max_depth} and max_args = {max_args} has min_length = {min_length} to "
                f"max_length = {max_length} tokens; the shortest has 4, the longest {_longest(max_depth, max_args):,}"
            )
        if (mean := _mean_length(max_depth, max_args)) > 100 * max_length:
            raise ConfigError(
                f"expressions of max_depth = {max_depth} and max_args = {max_args} have {mean:.0e} tokens on average, "
                f"hardly one has max_length = {max_length} or fewer; lower max_depth or max_args"
            )
        if data_seed < 0:
            raise ConfigError(f"data_seed must not be negative, got {data_seed}; set data.data_seed to 0 or more")
        self.min_length, self.max_depth, self.max_args = min_length, max_depth, max_args
        self.n_train, self.n_val, self.n_test = n_train, n_val, n_test
        self.path, self.root, self.workers, self.data_seed = path, root, workers, data_seed

    def _make(self) -> Mapping[Split, LabeledBytes]:
        if self.path is not None:
            return {split: self._read(Path(self.path), split) for split in ("train", "val", "test")}
        recipe = {
            "seed": self.data_seed,
            "min_length": self.min_length,
            "max_length": self.max_len,
            "max_depth": self.max_depth,
            "max_args": self.max_args,
        }
        sizes: dict[Split, int] = {"train": self.n_train, "val": self.n_val, "test": self.n_test}
        total = sum(sizes.values())
        draw = partial(draw_expression, **recipe)
        every = LabeledBytes(*generated("listops", recipe, draw, total, root=self.root, workers=self.workers))
        return {split: every.take(rows) for split, rows in parts(total, sizes).items()}

    def _read(self, folder: Path, split: Split) -> LabeledBytes:
        path = folder / f"basic_{split}.tsv"
        path = path if path.exists() else path.with_name(f"{path.name}.gz")
        expressions, values = [], []
        # the binary trees of the files have round brackets around every pair
        for number, line in enumerate(read_file(path).translate(None, b"()\r").split(b"\n")[1:], 2):
            if line:
                source, _, target = line.decode(errors="replace").partition("\t")
                expressions.append(self._encode(source, f"{path.name}, line {number}"))
                if target not in SYMBOLS[:10]:
                    raise DataError(f"{path.name}, line {number}: the target is {target!r}; it has to be 0 to 9")
                values.append(int(target))
        if not values:
            raise DataError(f"{path} holds no expression; get a whole copy")
        return LabeledBytes(*join(expressions, values))

    def _encode(self, source: str, where: str) -> bytes:
        try:
            expression = bytes(map(_NUMBER.__getitem__, source.split()))
        except KeyError as error:
            raise DataError(f"{where}: {error.args[0]!r} is not a symbol of ListOps; give its basic_*.tsv") from error
        if not 1 <= len(expression) <= self.max_len:
            raise DataError(
                f"{where}: the expression has {len(expression)} tokens; 1 to max_length = {self.max_len} are allowed"
            )
        return expression


# number of draws until an expression has the wanted length
_TRIES = 100_000
_NUMBER = {symbol: i for i, symbol in enumerate(SYMBOLS)}


def draw_expression(
    number: int, *, seed: int, min_length: int, max_length: int, max_depth: int, max_args: int
) -> tuple[bytes, int]:
    """Expression ``number`` of a stream: its symbols and its value.

    Args:
        number: which one.
        seed: which stream, below 2**32.
        min_length: fewest tokens.
        max_length: maximum number of tokens.
        max_depth: operations within one another, plus one.
        max_args: maximum number of arguments of an operation.
    """
    # the only method of Random whose stream is guaranteed across versions
    uniform = random.Random((seed << 64) + number).random

    def operation(depth: int) -> int:
        """Append one operation to ``tokens``; its value, or -1 if there are too many by now."""
        operator = int(4 * uniform())
        tokens.append(10 + operator)
        values = []
        for _ in range(2 + int((max_args - 1) * uniform())):
            if depth + 1 < max_depth and uniform() <= 0.25:
                value = operation(depth + 1)
                if value < 0:
                    return -1
            else:
                value = int(10 * uniform())
                tokens.append(value)
            values.append(value)
        tokens.append(_END)
        return evaluate(operator, values) if len(tokens) <= max_length else -1

    for _ in range(_TRIES):
        tokens = bytearray()
        # a digit alone is never long enough: the root is an operation
        value = operation(1)
        if value >= 0 and len(tokens) >= min_length:
            return bytes(tokens), value
    raise ConfigError(
        f"none of {_TRIES:,} expressions of max_depth = {max_depth} and max_args = {max_args} has {min_length} to "
        f"{max_length} tokens; allow other lengths, or raise max_depth or max_args"
    )


def evaluate(operator: int, values: list[int]) -> int:
    """Value of MIN, MAX, MED or SM, by its number in ``OPERATORS``, on digits."""
    if operator == 0:
        return min(values)
    if operator == 1:
        return max(values)
    if operator == 2:
        middle = sorted(values)
        return (middle[(len(values) - 1) // 2] + middle[len(values) // 2]) // 2
    return sum(values) % 10


def _longest(max_depth: int, max_args: int) -> int:
    length = 1
    for _ in range(max_depth - 1):
        length = 2 + max_args * length
    return length


def _mean_length(max_depth: int, max_args: int) -> float:
    """Mean number of tokens, as far as it is below 1e12."""
    length, arguments = 1.0, (2 + max_args) / 2
    for _ in range(max_depth - 1):
        length = min(2 + arguments * (0.75 + 0.25 * length), 1e12)
    return length
