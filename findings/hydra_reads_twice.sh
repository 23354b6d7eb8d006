#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# hydra-core 1.3.8, omegaconf 2.3.1, PyYAML 6.0.3.
#
# The same text is one value on Hydra's command line and another in the YAML file that Hydra itself
# composes: the command line has a grammar of its own, the file is YAML 1.1 with OmegaConf's floats.
# Both readings are silent, and where the field is a typed text (str) the file's value is turned
# back into other text than was written. `time: 24:00:00`, as Slurm takes it, becomes 86400, which
# Slurm reads as 60 days in minutes; a run that is named 010 is named 8.
#
# Seen:
#   spelling    command line        file                typed text, from the file
#   24:00:00    str '24:00:00'      int 86400           '86400'
#   1:30        str '1:30'          int 90              '90'
#   010         str '010'           int 8               '8'
#   0x10        str '0x10'          int 16              '16'
#   no          str 'no'            bool False          'False'
#   1_000       int 1000            int 1000            '1000'
#   1e3         float 1000.0        float 1000.0        '1000.0'
#
# megacpt reads both as they are written and asks the setting what it wants; tests/config/test_yaml_file.py
# says so.

set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet hydra-core==1.3.8 omegaconf==2.3.1 pyyaml==6.0.3

cat > "$work/show.py" <<'PY'
import sys
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf


@dataclass
class Typed:
    value: str = ""


folder = Path(sys.argv[1])
EXPECTED = {
    "24:00:00": ("24:00:00", 86400, "86400"),
    "1:30": ("1:30", 90, "90"),
    "010": ("010", 8, "8"),
    "0x10": ("0x10", 16, "16"),
    "no": ("no", False, "False"),
    "1_000": (1000, 1000, "1000"),
    "1e3": (1000.0, 1000.0, "1000.0"),
}
print(f"{'spelling':<12}{'command line':<20}{'file':<20}typed text, from the file")
for spelling, expected in EXPECTED.items():
    (folder / "base.yaml").write_text("value: null\n")
    (folder / "file.yaml").write_text(f"value: {spelling}\n")
    with initialize_config_dir(config_dir=str(folder), version_base="1.3"):
        line = compose("base", overrides=[f"value={spelling}"]).value
        file = compose("file").value
    typed = OmegaConf.merge(OmegaConf.structured(Typed), {"value": file}).value
    shown = [f"{type(value).__name__} {value!r}" for value in (line, file)]
    print(f"{spelling:<12}{shown[0]:<20}{shown[1]:<20}{typed!r}")
    seen = (line, file, typed)
    if seen != expected or [type(v) for v in seen] != [type(v) for v in expected]:
        sys.exit(f"changed: {spelling} is {seen}")
PY
mkdir "$work/configs"
"$work/venv/bin/python" "$work/show.py" "$work/configs"
