import numpy as np
import pytest
import soundfile
import torch

from avscenes.media.audio import load_wave
from avscenes.media.spectrogram import published_spectrogram


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


def test_silence_is_a_sound(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(44_100), 44_100)
    spectrogram = published_spectrogram(load_wave(tmp_path / "silence.wav"), 16_000)
    assert spectrogram.shape == (257, 200)
    assert spectrogram.unique().tolist() == pytest.approx([-1.34318], abs=1e-4)


def test_an_empty_sound_is_refused(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    with pytest.raises(ValueError, match="no samples"):
        load_wave(tmp_path / "empty.wav")


def test_a_sound_that_cannot_be_decoded_to_its_end_is_refused(tmp_path):
    path = tmp_path / "sound.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 32_000), 16_000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises((ValueError, soundfile.LibsndfileError)):
        load_wave(path)


def test_a_header_does_not_ask_for_gigabytes(tmp_path):
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.zeros(100), 16_000)
    content = bytearray(path.read_bytes())
    content[24:28] = (2_000_000_000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="1 channels at 2000000000 Hz"):
        load_wave(path)
