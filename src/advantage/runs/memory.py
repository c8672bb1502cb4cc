"""Out of memory: how it shows, and what needs less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advantage.errors import typed

FREE = ("micro_tokens", "micro_batch")  # change no result: a run that has begun may go on with another
SIZES = (
    "batch_size",
    "num_generations",
    "max_completion_length",
    "minibatch_size",
    "num_envs",
    "num_steps",
    "buffer_size",
)


def available() -> int | None:
    """Bytes that this process could still have, by the kernel's own reckoning; None where no one says."""
    limits = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")  # of a container, which may have less than its machine; caches of files give way
        held = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        limits += [int((group / "memory.max").read_text(encoding="ascii")) - int(held["anon"])]
    except (OSError, ValueError, KeyError):  # no such file, or "max"
        pass
    return max(0, min(limits)) if limits else None


def is_too_little(error: Exception) -> bool:
    """Whether an error says that memory is at its end: torch and Python say so in several ways."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def ways_to_less(settings: Any, path: Path) -> str:
    """Which settings need less, in one line: those that a run may change and go on, and those of a new one.

    Args:
        settings: of the run; what it does not have is not named.
        path: of the run.
    """

    def lower(*names: str) -> list[str]:
        known = {name: getattr(settings, name) for name in names if hasattr(settings, name)}
        return [f"{name} ({value})" if value else name for name, value in known.items()]

    def on(**switches: str) -> list[str]:
        return [f"{name}={value}" for name, value in switches.items() if not getattr(settings, name, True)]

    now = [*lower(*FREE)[:1], *on(gradient_checkpointing="true")]
    anew = [*on(lora_rank="8"), f"less of {', '.join(lower(*SIZES))}"]
    return (
        f"out of memory; lower {', or set '.join(now)} in {path}/config.toml and `advantage resume {typed(path)}`;"
        f" or begin anew with {' or '.join(anew)}"
    )
