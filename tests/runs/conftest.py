import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # stateful_loop, which other processes run too
