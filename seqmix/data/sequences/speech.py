"""Speech Commands: spoken words as raw waveforms of one second at 16 kHz."""

import hashlib
import io
import re
import tarfile
import wave
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from seqmix.data.files import data_folder, read_file
from seqmix.data.sequences.samples import LabeledSamples, SampledData
from seqmix.data.served import Split, check_positive
from seqmix.data.tensor_file import fingerprinted, open_tensors, write_tensors
from seqmix.errors import ConfigError, DataError

_RATE = 16_000
_URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
_TEN = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_ALL = (
    *("backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four", "go", "happy"),
    *("house", "learn", "left", "marvin", "nine", "no", "off", "on", "one", "right", "seven", "sheila", "six", "stop"),
    *("three", "tree", "two", "up", "visual", "wow", "yes", "zero"),
)
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
# of the publisher's rule, in which a speaker is never in two splits
_BUCKETS = 2**27 - 1


class SpeechCommands(SampledData):
    """Spoken words as raw waveforms: 16,000 steps of one value, 35 words (SC35) or ten of them (SC10).

    Read from a folder of the publisher's version 2, ``<word>/<speaker>_nohash_<k>.wav`` in 16 bits at 16 kHz, or from
    its archive ``speech_commands_v0.02.tar.gz``. Recordings shorter than a second are filled with zeros at the end. The
    splits are those of the publisher's rule: the hash of the speaker's name puts a tenth each into validation and test.
    The waveforms are kept as 16-bit integers in one mapped file, which is made when the data is first needed, and
    standardized by the training samples. Batches are ``{"x": (B, 16000 / step, 1), "labels": (B,)}``.

    Args:
        n_classes: 35 for all words, 10 for yes, no, up, down, left, right, on, off, stop and go.
        path: folder of the words, or the archive. Default: ``speech_commands`` below the data folder, or the archive.
        step: keep every such sample; 2 is the test of models at half the rate they were trained at.
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.
        cache: folder of the mapped file. Default: ``./data/speech``.

    Raises:
        ConfigError: if an option is out of range.
        DataError: if a word has no recording, or one is not a wav file of 16 bits, 16 kHz and one channel; raised when
            the data is first needed.

    Source: Warden, 2018, arXiv:1804.03209, sec. 6 and 7; as raw waveforms in Gu et al., 2021, arXiv:2111.00396, sec.
    4.3. Differs from the original code in: there SC10 is divided by a random draw of 70, 15 and 15 %, here by the rule.
    """

    def __init__(
        self,
        n_classes: Literal[10, 35] = 35,
        batch_size: int = 20,
        *,
        path: str | None = None,
        step: int = 1,
        root: str | None = None,
        cache: str | None = None,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        if n_classes not in (10, 35):
            raise ConfigError(f"n_classes = {n_classes} is no published choice of words; use 10 or 35")
        check_positive(step=step)
        words = _ALL if n_classes == 35 else _TEN
        name, length = f"SpeechCommands{n_classes}", -(-_RATE // step)
        super().__init__(name, words, 1, length, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self.path, self.step, self.root, self.cache = path, step, root, cache

    def _make(self) -> Mapping[Split, LabeledSamples]:
        found = self._find()
        # the archive may be replaced, a folder may grow: both are another recipe
        recipe = f"{self.name} {found} {_stamp(found)}"
        file = fingerprinted(Path(self.cache or "data/speech").resolve(), self.name, recipe)
        if not file.exists():
            self._write(file, found, recipe)
        kept = open_tensors(file, ("samples", "labels", "splits", "sums"))
        labels, splits = kept["labels"], kept["splits"]
        count, total, squares = (int(value) for value in kept["sums"])
        mean = total / count
        # digital silence alone has no deviation
        std = max(squares / count - mean**2, 1.0) ** 0.5
        samples = kept["samples"][: len(labels) * _RATE].view(len(labels), _RATE, 1)
        every = LabeledSamples(samples, labels, torch.tensor([mean]), torch.tensor([std]), step=self.step)
        return {split: every.take((splits == k).nonzero().squeeze(1)) for k, split in enumerate(_SPLITS)}

    def _find(self) -> Path:
        folder = data_folder(self.root)
        archive = "speech_commands_v0.02.tar.gz"
        places = [Path(self.path)] if self.path else [folder / "speech_commands", folder / archive]
        for path in places:
            if path.exists():
                return path.resolve()
        raise DataError(
            f"Speech Commands not found at {' or '.join(map(str, places))}; download {_URL} into {folder}, or set "
            "data.path"
        )

    def _write(self, file: Path, found: Path, recipe: str) -> None:
        labels: list[int] = []
        splits: list[int] = []
        sums = [0, 0, 0]

        def waveforms() -> Iterator[np.ndarray]:
            for word, name, content in _recordings(found, self.class_names):
                waveform = _waveform(content, f"{word}/{name}")
                labels.append(self.class_names.index(word))
                splits.append(_SPLITS.index(published_split(name)))
                if splits[-1] == 0:
                    wide = waveform.astype(np.int64)
                    for k, value in enumerate((len(wide), int(wide.sum()), int((wide * wide).sum()))):
                        sums[k] += value
                yield waveform
            self._check(found, labels, splits)

        def others() -> dict[str, np.ndarray]:
            return {"labels": np.array(labels), "splits": np.array(splits), "sums": np.array(sums)}

        write_tensors(file, "samples", np.int16, waveforms(), others, recipe, "free it, or set data.cache")

    def _check(self, found: Path, labels: list[int], splits: list[int]) -> None:
        missing = [word for k, word in enumerate(self.class_names) if k not in set(labels)]
        if missing:
            raise DataError(
                f"{found} has no recording of {', '.join(map(repr, missing))}; get a whole copy from {_URL}"
            )
        empty = [split for k, split in enumerate(_SPLITS) if k not in set(splits)]
        if empty:
            raise DataError(
                f"{found} has {len(labels)} recordings, none of them in the split {empty[0]!r}; get a whole copy from "
                f"{_URL}"
            )


def published_split(name: str) -> Split:
    """The split of a file by the publisher's rule: the hash of the name before ``_nohash_``."""
    speaker = re.sub(r"_nohash_.*$", "", name)
    share = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (_BUCKETS + 1) * (100 / _BUCKETS)
    return "val" if share < 10 else "test" if share < 20 else "train"


def _stamp(found: Path) -> str:
    """Stamp that changes when recordings are added: size and time of an archive, number of files of a folder."""
    if found.is_file():
        return f"{found.stat().st_size} {found.stat().st_mtime_ns}"
    return str(sum(1 for _ in found.glob("*/*.wav")))


def _recordings(found: Path, words: tuple[str, ...]) -> Iterator[tuple[str, str, bytes]]:
    """Word, file name and content of every recording of ``words``."""
    if found.is_dir():
        for word in words:
            for path in sorted((found / word).glob("*.wav")):
                yield word, path.name, read_file(path)
        return
    try:
        with tarfile.open(found) as tar:
            for member in tar:
                word, name = Path(member.name).parent.name, Path(member.name).name
                content = tar.extractfile(member) if word in words and name.endswith(".wav") else None
                if content is not None:
                    yield word, name, content.read()
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{found} is truncated or no archive ({error}); get a whole copy from {_URL}") from error


def _waveform(content: bytes, where: str) -> np.ndarray:
    """Samples of one second ``(16000,)`` int16, zeros after the end of a shorter recording."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            facts = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
            frames = file.readframes(_RATE)
    except (wave.Error, EOFError) as error:
        raise DataError(f"{where}: no wav file ({error}); get a whole copy of it, or leave it out") from error
    if facts != (1, 16, _RATE):
        raise DataError(
            f"{where}: {facts[0]} channels of {facts[1]} bits at {facts[2]} Hz; convert it to 1 channel of 16 bits at "
            f"{_RATE} Hz"
        )
    samples = np.frombuffer(frames, dtype="<i2")
    if not len(samples):
        raise DataError(f"{where}: no samples; leave it out")
    return np.pad(samples, (0, _RATE - len(samples)))
