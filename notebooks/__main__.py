"""Builds the notebooks: `python -m notebooks [NAME …]` executes all of them, or those named, into `.ipynb` files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

SCRIPTS = sorted(Path(__file__).parent.glob("0*.py"))
INLINE = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # figures go into the notebook, whatever is set
PYTHON = {"name": "python3", "display_name": "Python 3", "language": "python"}


def build(script: Path) -> Path:
    """The executed notebook, beside its percent script; its runs are left in `runs/` there.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised; no notebook is written.
    """
    import jupytext
    from nbclient import NotebookClient

    notebook: Any = jupytext.read(script)
    notebook.metadata["kernelspec"] = PYTHON
    client = NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(script.parent)}})
    client.execute(env=os.environ | INLINE)
    built = script.with_suffix(".ipynb")
    jupytext.write(notebook, built)
    return built


def main(names: list[str]) -> None:
    """Builds the notebooks of these names, all where there are none."""
    known = {script.stem: script for script in SCRIPTS}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"there is no notebook {unknown[0]!r}; there are {', '.join(known)}")
    for name in names or known:
        print(build(known[name]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
