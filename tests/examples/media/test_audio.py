import av
import numpy as np
import pytest
import soundfile
import torch
from small_sets import truncate

from avscenes.media.audio import load_wave


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_becomes_three_seconds_at_16_khz(tmp_path, rate, channels):
    time = np.arange(5 * rate) / rate
    wave = 0.5 * np.sin(2 * np.pi * 1_000 * time)
    soundfile.write(tmp_path / "tone.wav", np.stack([wave] * channels, axis=1), rate)
    result = load_wave(tmp_path / "tone.wav")
    assert result.shape == (48_000,)
    spectrum = torch.fft.rfft(result).abs()
    assert spectrum.argmax().item() == 3_000
    assert result[4_000:-4_000].square().mean().sqrt().item() == pytest.approx(0.3536, abs=0.01)


def test_the_window_is_the_middle_of_the_clip(tmp_path):
    wave = np.zeros(10 * 16_000)
    wave[5 * 16_000] = 0.5
    soundfile.write(tmp_path / "click.wav", wave, 16_000)
    result = load_wave(tmp_path / "click.wav")
    assert result.argmax().item() == int(1.5 * 16_000)


def test_the_window_may_lie_anywhere_in_the_clip(tmp_path):
    wave = np.arange(10 * 16_000) / 160_000
    soundfile.write(tmp_path / "ramp.wav", wave, 16_000, subtype="DOUBLE")
    for place, second in ((0, 0), (0.5, 3.5), (0.9, 6.3), (1, 7)):
        result = load_wave(tmp_path / "ramp.wav", place=place)
        assert result.shape == (48_000,)
        assert result[0].item() == pytest.approx(second / 10)
    soundfile.write(tmp_path / "short.wav", wave[:16_000], 16_000, subtype="DOUBLE")
    assert load_wave(tmp_path / "short.wav", place=0.9)[0].item() == 0


def test_a_short_clip_is_repeated(tmp_path):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    soundfile.write(tmp_path / "short.wav", wave, 16_000, subtype="DOUBLE")
    result = load_wave(tmp_path / "short.wav")
    np.testing.assert_allclose(result.numpy(), np.tile(wave, 3))


def test_channels_are_averaged_and_values_clipped(tmp_path):
    wave = np.stack([np.full(48_000, 0.5), np.full(48_000, -0.1)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", wave, 16_000, subtype="FLOAT")
    assert load_wave(tmp_path / "stereo.wav").unique().tolist() == pytest.approx([0.2])
    soundfile.write(tmp_path / "loud.wav", np.full(48_000, 3.0), 16_000, subtype="FLOAT")
    assert load_wave(tmp_path / "loud.wav").unique().tolist() == [1.0]


@pytest.mark.parametrize("kind", [("wav", "PCM_U8"), ("wav", "PCM_24"), ("flac", "PCM_16")])
def test_kinds_of_files_hold_the_same_sound(tmp_path, kind):
    suffix, subtype = kind
    wave = np.sin(np.arange(48_000) / 10) / 2
    soundfile.write(tmp_path / f"sound.{suffix}", wave, 16_000, subtype=subtype)
    np.testing.assert_allclose(load_wave(tmp_path / f"sound.{suffix}").numpy(), wave, atol=0.01)


def test_the_window_may_be_longer(tmp_path):
    soundfile.write(tmp_path / "sound.wav", np.full(12 * 8_000, 0.25), 8_000)
    assert load_wave(tmp_path / "sound.wav", seconds=10).shape == (160_000,)


def test_a_sound_that_cannot_be_decoded_to_its_end_is_refused(tmp_path):
    path = tmp_path / "sound.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 32_000), 16_000)
    with pytest.raises((ValueError, soundfile.LibsndfileError)):
        load_wave(truncate(path))


def test_a_header_does_not_ask_for_gigabytes(tmp_path):
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.zeros(100), 16_000)
    content = bytearray(path.read_bytes())
    content[24:28] = (2_000_000_000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="1 channels at 2000000000 Hz"):
        load_wave(path)


@pytest.mark.parametrize(
    ("kind", "subtype", "endian"),
    [
        *[("WAV", subtype, "FILE") for subtype in ("PCM_16", "PCM_24", "FLOAT", "IMA_ADPCM")],
        ("WAV", "PCM_16", "BIG"),
        *[(kind, "PCM_16", "FILE") for kind in ("WAVEX", "RF64", "W64", "AIFF", "AU")],
    ],
)
@pytest.mark.parametrize("share", [1 / 3, 0.98])
def test_a_sound_that_is_cut_short_is_refused(tmp_path, kind, subtype, endian, share):
    path = tmp_path / "sound.wav"
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 160_000)
    soundfile.write(path, wave, 16_000, format=kind, subtype=subtype, endian=endian)
    assert load_wave(path).shape == (48_000,)
    with pytest.raises(ValueError, match=r"cut short: \d+ bytes of its samples are missing"):
        load_wave(truncate(path, share))


@pytest.mark.parametrize(
    ("size", "file_size"),
    [(0, 8), (0x7FFF_F000, 0x7FFF_F024), (0x8000_0000, 0x8000_0024), (0xFFFF_FFFF, 0xFFFF_FFFF)],
)
def test_a_size_that_is_not_known_in_a_pipe_is_none(tmp_path, size, file_size):
    path = tmp_path / "pipe.wav"
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 80_000)
    soundfile.write(path, wave, 16_000)
    whole, content = load_wave(path), bytearray(path.read_bytes())
    content[4:8], content[40:44] = file_size.to_bytes(4, "little"), size.to_bytes(4, "little")
    path.write_bytes(content)
    assert torch.equal(load_wave(path), whole)


def test_what_stands_before_the_samples_does_not_hide_that_they_are_cut(tmp_path):
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.full(80_000, 0.25), 16_000)
    content = path.read_bytes()
    comment = b"LIST" + (5_001).to_bytes(4, "little") + b"INFOICMT" + bytes(4_994)
    path.write_bytes(content[:36] + comment + content[36:])
    assert load_wave(path).min() > 0.2
    with pytest.raises(ValueError, match="cut short"):
        load_wave(truncate(path, 0.9))


def mp3_in_wav(path, seconds, rate):
    time = np.arange(round(seconds * rate)) / rate
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=rate, layout="mono")
        wave = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("seconds", [0.3, 1.82, 2.95])
def test_an_estimated_number_of_samples_may_be_too_high(tmp_path, rate, seconds):
    wave = load_wave(mp3_in_wav(tmp_path / "sound.wav", seconds, rate))
    assert wave.shape == (48_000,)
    assert wave.square().mean().sqrt().item() == pytest.approx(0.31, abs=0.06)


def test_an_estimate_does_not_excuse_a_file_that_is_cut(tmp_path):
    with pytest.raises(ValueError, match="cut short"):
        load_wave(truncate(mp3_in_wav(tmp_path / "sound.wav", 10, 16_000), 1 / 3))
    path = mp3_in_wav(tmp_path / "sound.mp3", 10, 16_000)
    with pytest.raises((ValueError, soundfile.LibsndfileError)):
        load_wave(truncate(path, 1 / 3))
