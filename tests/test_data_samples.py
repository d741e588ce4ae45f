"""Raw speech and colors of pixels: samples as they are, the publisher's splits, one clear error for bad files."""

import io
import pickle
import tarfile
import wave

import numpy as np
import pytest
import torch

from seqmix.data import SequentialCIFAR10, SpeechCommands
from seqmix.data.sequences.speech import _TEN, published_split
from seqmix.errors import ConfigError, DataError
from seqmix.testing import check_data

# speakers of the publisher's lists, and one of neither
VAL, TEST, TRAIN = "026290a7", "0c40e715", "004ae714"


def _wav(samples, *, rate=16000, width=2, channels=1):
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2" if width == 2 else np.uint8).tobytes())
    return content.getvalue()


def _words(root, words=_TEN, length=120):
    """A recording of three speakers of each word; the samples of word k of speaker s begin with k, s."""
    for k, word in enumerate(words):
        (root / word).mkdir(parents=True)
        for s, speaker in enumerate((TRAIN, VAL, TEST)):
            samples = np.arange(length)
            samples[:2] = k, s
            (root / word / f"{speaker}_nohash_0.wav").write_bytes(_wav(samples))
    (root / "_background_noise_").mkdir()
    (root / "_background_noise_" / "noise.wav").write_bytes(_wav(np.arange(9)))
    return root


def _data(root, **options):
    return SpeechCommands(10, 4, root=str(root), cache=str(root / "cache"), **options)


def _raw(data, split):
    """All samples of a split before they are standardized, ``(n, L)``."""
    part = data._splits[split]
    return part.samples[part.rows][:, :: part.step, 0], part.labels[part.rows]


@pytest.mark.parametrize("archived", [False, True])
def test_waveforms_of_the_publisher(archived, tmp_path):
    folder = _words(tmp_path / "speech_commands")
    if archived:
        with tarfile.open(tmp_path / "speech_commands_v0.02.tar.gz", "w:gz") as tar:
            tar.add(folder, ".")
        folder.rename(tmp_path / "elsewhere")
    data = _data(tmp_path)
    assert (data.name, data.n_classes, data.n_channels, data.max_len) == ("SpeechCommands10", 10, 1, 16000)
    data.setup()
    for s, split in enumerate(("train", "val", "test")):
        samples, labels = _raw(data, split)
        assert sorted(labels.tolist()) == list(range(10)) and torch.equal(samples[:, 0].long(), labels)
        assert (samples[:, 1] == s).all() and (samples[:, 119] == 119).all() and not samples[:, 120:].any()
        assert data.label_counts(split).tolist() == [1] * 10
    # standardized by the training samples: 10 recordings of a second
    want = _raw(data, "train")[0].double()
    batch = data._splits["val"].gather(torch.arange(10))
    x = (_raw(data, "val")[0].double() - want.mean()) / want.std(correction=0)
    assert (
        batch["x"].shape == (10, 16000, 1)
        and batch["x"].dtype == torch.float32
        and batch["labels"].dtype == torch.int64
    )
    torch.testing.assert_close(batch["x"][..., 0], x.float())
    check_data(data)


def test_the_file_is_made_once_and_half_the_rate_is_every_second_sample(tmp_path):
    folder = _words(tmp_path / "speech_commands")
    whole = _data(tmp_path)
    whole.setup()
    (file,) = (tmp_path / "cache").iterdir()
    before = file.stat().st_mtime_ns
    half = _data(tmp_path, step=2)
    half.setup()
    assert half.max_len == 8000 and file.stat().st_mtime_ns == before
    for split in ("train", "val", "test"):
        x, y = (data._splits[split].gather(torch.tensor([3]))["x"] for data in (half, whole))
        assert torch.equal(x, y[:, ::2])
    # a folder that has grown is read again
    (folder / "yes" / "ffffffff_nohash_0.wav").write_bytes(_wav(np.arange(5)))
    grown = _data(tmp_path)
    grown.setup()
    assert sum(len(part) for part in grown._splits.values()) == 31


def test_the_split_is_the_publishers():
    # speakers in testing_list.txt and validation_list.txt of version 2
    for speaker in ("0c40e715", "0ea0e2f4", "42beb5eb", "44260689", "44715c1c", "022cd682", "096456f9", "bb05582b"):
        assert published_split(f"{speaker}_nohash_0.wav") == published_split(f"{speaker}_nohash_7.wav") == "test"
    assert published_split("026290a7_nohash_0.wav") == "val"
    found = [published_split(f"{i:08x}_nohash_0.wav") for i in range(4000)]
    assert 0.085 < found.count("val") / 4000 < 0.115 and 0.085 < found.count("test") / 4000 < 0.115


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"no wave", r"yes/004ae714_nohash_0.wav: no wav file \(.*\); get a whole copy of it, or leave it out"),
        (_wav([1, 2])[:20], r"no wav file"),
        (_wav([1, 2], rate=8000), r"1 channels of 16 bits at 8000 Hz; convert it to 1 channel of 16 bits at 16000 Hz"),
        (_wav([1, 2], channels=2), r"2 channels of 16 bits at 16000 Hz"),
        (_wav([1, 2], width=1), r"1 channels of 8 bits"),
        (_wav([]), r"no samples; leave it out"),
    ],
)
def test_bad_recordings_are_named(content, error, tmp_path):
    folder = _words(tmp_path / "speech_commands")
    (folder / "yes" / f"{TRAIN}_nohash_0.wav").write_bytes(content)
    with pytest.raises(DataError, match=error):
        _data(tmp_path).setup()
    # nothing half-written stays
    assert not any((tmp_path / "cache").iterdir())


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"^Speech Commands not found at .*speech_commands or .*tar.gz; download http"):
        _data(tmp_path).setup()
    with pytest.raises(ConfigError, match=r"^n_classes = 12"):
        SpeechCommands(12)
    _words(tmp_path / "speech_commands", _TEN[:9])
    with pytest.raises(DataError, match=r"has no recording of 'go'; get a whole copy"):
        _data(tmp_path).setup()
    (tmp_path / "speech_commands_v0.02.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"is truncated or no archive"):
        _data(tmp_path, path=str(tmp_path / "speech_commands_v0.02.tar.gz")).setup()


def test_colors_in_a_row(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images, labels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8), np.arange(20) % 10
    for i in range(1, 7):
        part = slice(4 * i - 4, 4 * i) if i < 6 else slice(0, 3)
        content = {b"data": images[part].transpose(0, 3, 1, 2).reshape(-1, 3072), b"labels": labels[part].tolist()}
        (folder / (f"data_batch_{i}" if i < 6 else "test_batch")).write_bytes(pickle.dumps(content, protocol=2))
    data = SequentialCIFAR10(3, root=str(tmp_path))
    assert (data.n_classes, data.n_channels, data.max_len, data.class_names[9]) == (10, 3, 1024, "truck")
    batch = next(iter(data.test_dataloader()))
    want = (images[:3].reshape(3, 1024, 3) - np.array([125.3, 123.0, 113.9])) / np.array([63.0, 62.1, 66.7])
    np.testing.assert_allclose(batch["x"].numpy(), want, rtol=1e-5, atol=1e-5)
    assert batch["labels"].tolist() == [0, 1, 2] and [len(data._splits[s]) for s in ("train", "val", "test")] == [
        18,
        2,
        3,
    ]
    check_data(data)


@pytest.mark.slow
def test_the_real_colors(real_data):
    data = SequentialCIFAR10(root=str(real_data("cifar10_jpeg").parent))
    x = data._read("test").gather(torch.arange(10000))["x"]
    assert x.mean((0, 1)).abs().max() < 0.03 and (x.std((0, 1)) - 1).abs().max() < 0.03
