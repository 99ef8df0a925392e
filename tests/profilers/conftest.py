from __future__ import annotations

import sys
from pathlib import Path

# test modules are imported one by one, without a package: helpers beside them need a path
sys.path.insert(0, str(Path(__file__).parent))
