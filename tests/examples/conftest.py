import sys
from pathlib import Path

# The examples are scripts, not a package: found by their folder, as Python finds them when they run.
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
