"""Pictures into films: mp4 (H.264) through ffmpeg, or gif, one frame at a time."""

from __future__ import annotations

import errno
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from steersman.errors import UsageError
from steersman.nets.layers.conv import channels_last
from steersman.run.disk.files import replacing

SUFFIXES = (".mp4", ".gif")
_CAPTION = 28  # pixels


def write_video(frames: Iterable[np.ndarray], path: str | Path, fps: float = 30) -> Path:
    """Write frames, uint8 [H, W, 3] (grey [H, W] and RGBA will do), as .mp4 or .gif, one at a time; -> the path.

    An mp4 is H.264 in yuv420p, which every player shows; odd sizes are padded by one pixel. A failure leaves what was
    at ``path`` before.

    Raises:
        UsageError: an unknown suffix, no frames, frames of different sizes, a full disk, or ffmpeg fails.
    """
    path = checked_film(path)
    if not 0 < fps <= 1000:
        raise UsageError(f"fps is {fps}; give frames per second, more than 0 and at most 1000.")
    pictures = _same_size(map(rgb, frames))
    first = next(pictures, None)
    if first is None:
        raise UsageError(f"There is no frame to write to {path}. Film at least one step.")
    write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
    with replacing(path) as temporary:
        write(chain([first], pictures), first.shape, temporary, fps)
    return path


def checked_film(path: str | Path) -> Path:
    """The path, if its suffix is one that a film can have, its folder made; else a UsageError."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} has the suffix {path.suffix!r}; a film is one of {', '.join(SUFFIXES)}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder of {path} cannot be made: {error.strerror}. Choose another place.") from None
    return path


def rgb(frame: Any) -> np.ndarray:
    """A frame as contiguous uint8 [H, W, 3]: grey is repeated, an alpha channel dropped. UsageError for the rest."""
    frame = np.asarray(frame)
    if frame.ndim == 2:
        frame = np.repeat(frame[..., None], 3, -1)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in (3, 4) or 0 in frame.shape:
        raise UsageError(f"A frame is {frame.dtype} {list(frame.shape)}; it has to be uint8 [height, width, 3].")
    return np.ascontiguousarray(frame[..., :3])


_SMALL = 320  # pixels: smaller pictures are enlarged, by a whole factor, to at least this
_BACKGROUND = (24, 24, 28)
_PALETTE = np.array(  # sky blue, orange, green, yellow, vermilion, purple, blue, grey, white, brown
    [
        [86, 180, 233],
        [230, 159, 0],
        [0, 158, 115],
        [240, 228, 66],
        [213, 94, 0],
        [204, 121, 167],
        [0, 114, 178],
        [160, 160, 160],
        [255, 255, 255],
        [140, 86, 75],
    ],
    np.uint8,
)


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether the channels of an image of rank 3 come first, as the encoders see it."""
    return not channels_last(shape)


def picture_of(obs: np.ndarray) -> np.ndarray:
    """What an agent sees, as uint8 ``[H, W, 3]``, enlarged: an image or a grid of planes, rank 2 or 3, either order.

    uint8: three channels are colours, of a stack the newest is shown. Others: each plane in a colour of its own, the
    last one on top, as MinAtar draws its games.
    """
    obs = np.asarray(obs)
    planes = obs[..., None] if obs.ndim == 2 else np.moveaxis(obs, 0, -1) if channels_first(obs.shape) else obs
    count = planes.shape[-1]
    if planes.dtype == np.uint8:
        picture = planes[..., -3:] if count % 3 == 0 else np.repeat(planes[..., -1:], 3, -1)
    else:
        top = (planes > 0) * np.arange(1, count + 1)
        colours = np.concatenate([np.array([_BACKGROUND], np.uint8), _PALETTE[np.arange(count) % len(_PALETTE)]])
        picture = colours[top.max(-1)]
    return enlarged(picture)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture ``[H, W, ...]`` with every pixel repeated so that no side is below 320."""
    factor = max(1, -(-_SMALL // min(picture.shape[:2])))
    return np.repeat(np.repeat(picture, factor, 0), factor, 1)


def _same_size(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    shape = None
    for frame in frames:
        shape = shape or frame.shape
        if frame.shape != shape:
            raise UsageError(f"A frame is {list(frame.shape)}, the first was {list(shape)}; a film has one size.")
        yield frame


def _write_mp4(frames: Iterator[np.ndarray], shape: tuple[int, ...], path: Path, fps: float) -> None:
    from imageio_ffmpeg import get_ffmpeg_exe

    height, width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
    command = [
        *(
            get_ffmpeg_exe(),
            "-y",
            "-loglevel",
            "error",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            f"{width}x{height}",
        ),
        *(
            "-r",
            f"{fps:g}",
            "-i",
            "-",
            "-an",
            "-c:v",
            "libx264",
            "-crf",
            "20",
            "-preset",
            "fast",
            "-pix_fmt",
            "yuv420p",
        ),
        *("-movflags", "+faststart", "-threads", "2", str(path)),
    ]
    pad = ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0))
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
        assert process.stdin is not None
        try:
            for frame in frames:
                process.stdin.write(np.pad(frame, pad, mode="edge").data if any(map(sum, pad)) else frame.data)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it ended early: what it said tells why
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
            with suppress(OSError):
                process.stdin.close()
        if process.returncode:
            said.seek(0)
            _raise_for(path, said.read().decode(errors="replace"))


def _raise_for(path: Path, said: str) -> None:
    if "No space left" in said:
        raise OSError(errno.ENOSPC, "No space left on device")
    if "Permission denied" in said:
        raise OSError(errno.EACCES, "Permission denied")
    raise UsageError(f"ffmpeg could not write {path.suffix}: {said.strip()[-500:]}. Try a .gif.")


def _write_gif(frames: Iterator[np.ndarray], shape: tuple[int, ...], path: Path, fps: float) -> None:
    from PIL import Image

    images = map(Image.fromarray, frames)
    centiseconds = max(2, round(100 / fps))  # players show shorter ones slowly
    next(images).save(path, save_all=True, append_images=images, duration=10 * centiseconds, loop=0)


def captioned(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with a line of text below it."""
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (picture.shape[1], _CAPTION), "#eeeeee")
    ImageDraw.Draw(strip).text((8, 5), text, fill="black", font=ImageFont.load_default(14))
    return np.concatenate([picture, np.asarray(strip)])
