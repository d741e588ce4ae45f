"""Print the lowest version of each direct dependency that pyproject.toml allows, as pip constraints.

torch is left out: the package index has its old releases with CUDA only, gigabytes that this check does not need.
"""

import re
from pathlib import Path

text = Path("pyproject.toml").read_text()
block = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
for name, version in re.findall(r'"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)', block[1]):
    if name != "torch":
        print(f"{name}=={version}")
