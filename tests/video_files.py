import av
import numpy as np


def brightness(image):
    """Return how bright the right half of an image is, which has no bar."""
    return np.asarray(image)[:, image.width // 2 :].mean()


def turn_upright(path):
    """Set the matrix of the video that a phone writes which is held upright."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # of the first track, the video
    one, minus_one = (65_536).to_bytes(4, "big"), (-65_536).to_bytes(4, "big", signed=True)
    content[matrix : matrix + 32] = b"".join([bytes(4), one, bytes(4), minus_one, *[bytes(4)] * 4])
    path.write_bytes(content)
    return path


def write_video(
    path,
    *,
    seconds=2.0,
    fps=10,
    rate=44_100,
    layout="stereo",
    vcodec="mpeg4",
    acodec="aac",
    size=64,
    stamps=None,
):
    """Encode frames that get brighter, and 1 kHz that sets in half way; no codec, no stream.

    With stamps, frames are shown at these multiples of 1 / fps.
    """
    frames = round(seconds * fps) if stamps is None else len(stamps)
    samples = round(seconds * rate)
    time = np.arange(samples) / rate
    wave = 0.5 * np.sin(2 * np.pi * 1_000 * time) * (time >= seconds / 2)
    channels = np.stack([wave] * (2 if layout == "stereo" else 1)).astype(np.float32)
    with av.open(str(path), "w") as container:
        video = container.add_stream(vcodec, rate=fps) if vcodec else None
        audio = container.add_stream(acodec, rate=rate, layout=layout) if acodec else None
        if video:
            video.width, video.height, video.pix_fmt = size, size // 2, "yuv420p"
        # Frame by frame, so that pictures and sounds of the same time lie side by side in the file.
        for number in range(frames):
            if video:
                pixels = np.full((size // 2, size, 3), round(250 * number / frames), np.uint8)
                pixels[:, : size // 4] = 255
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts = number if stamps is None else stamps[number]
                container.mux(video.encode(frame))
            if audio:
                part = slice(number * samples // frames, (number + 1) * samples // frames)
                piece = np.ascontiguousarray(channels[:, part])
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
                frame.sample_rate, frame.pts = rate, part.start
                container.mux(audio.encode(frame))
        for stream in filter(None, (video, audio)):
            container.mux(stream.encode(None))
    return path
