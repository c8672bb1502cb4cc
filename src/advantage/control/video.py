"""One episode as an animated picture."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advantage.control.agent import Agent
from advantage.control.environments import make_envs
from advantage.errors import UserError

LONGEST = 2000  # frames; an episode that goes on is cut there


def record(agent: Agent, path: Path, seed: int) -> None:
    """Renders one deterministic episode of an agent into a .gif or .webp file.

    Raises:
        UserError: another suffix, a directory that does not exist, an environment that renders no pictures, Pillow is
            missing, or a path that cannot be written.
    """
    check(path)
    with headless():
        frames, fps = _frames(agent, seed)
    write(frames, fps, path)


def check(path: Path) -> None:
    """Refuses what cannot become a video, before anything is played.

    Raises:
        UserError: another suffix, a directory that does not exist, or Pillow is missing.
    """
    if path.suffix not in (".gif", ".webp"):
        raise UserError(f"--video is {str(path)!r}; it must end in .gif or .webp")
    check_folder(path)
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise UserError('a video needs Pillow: pip install "advantage[plots]"') from None


def check_folder(path: Path) -> None:
    """Refuses a picture or a video whose directory does not exist: its name may be misspelt.

    Raises:
        UserError: there is none.
    """
    if not path.parent.is_dir():
        raise UserError(f"{path}: the directory {path.parent} does not exist; make it, or give another path")


@contextmanager
def headless() -> Iterator[None]:
    """SDL, by which pygame draws, without a display: looking for one that is not there it complains on stderr.

    What draws to arrays needs none, and draws the same. A driver that is set, or a display, stays in use.
    """
    named = ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY")
    if not sys.platform.startswith("linux") or any(os.environ.get(name) for name in named):
        yield
        return
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        yield
    finally:
        del os.environ["SDL_VIDEODRIVER"]


def write(frames: Sequence[Any], fps: float, path: Path) -> None:
    """Writes frames, (height, width, 3) bytes each, as a clip that begins anew at its end.

    Raises:
        UserError: a path that cannot be written.
    """
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    try:
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
    except OSError as error:
        raise UserError(f"--video is {str(path)!r}; it cannot be written: {error.strerror or error}") from error


def _frames(agent: Agent, seed: int) -> tuple[list[Any], float]:
    if not isinstance(agent.target, str):
        raise UserError("a video needs an environment with an id; this run was given a Python object")
    envs = make_envs(agent.target, 1, vectorization="sync", env_args=agent.settings.env_args, render_mode="rgb_array")
    vector: Any = envs.vector.unwrapped
    env = vector.envs[0]
    envs.start(seed)
    frames: list[Any] = []
    while len(frames) < LONGEST:
        frame = env.render()
        if frame is None:
            raise UserError(f"{agent.target} renders no pictures")
        frames.append(frame)
        envs.step(agent.choose(envs.context))
        if envs.finished_episodes():
            break
    envs.close()
    return frames, float(env.metadata.get("render_fps") or 30)
