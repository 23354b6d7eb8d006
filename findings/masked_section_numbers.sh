#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Versions: datatrove 0.10.1, licensedcode-data 32.1.0 (2,310 texts of licences), Python 3.11.
#
# datatrove's PIIFormatter, which made FineWeb, replaces public IP addresses by six fixed ones in turn.
# Its pattern has no bounds on either side and each four numbers below 256 count. In legal text those
# are sections: of the 40 places that it changes in the licences of licensedcode-data, none is an
# address. "section 3.1.2.1" becomes "section 22.214.171.124", another one for each mention, so that
# a reference no longer names the heading it refers to; the object identifier 1.3.6.1.4.1.311 becomes
# 22.214.171.124.4.1.311.
#
# And since the replacements go round over all documents, what becomes of a document depends on those
# that the same task has read before it: the same corpus in two tasks is another corpus.
#
# Seen:
#   section 3.1.2.1 -> section 22.214.171.124; see 3.1.2.1 -> see 126.96.36.199
#   1.3.6.1.4.1.311 -> 22.214.171.124.4.1.311
#   2310 licences: 40 places in 10 texts, 0 near a word for one
#   the same document, first or second of its task: not equal
#
# megacpt masks an IPv4 address only where no digit, dot or letter adjoins it and the number without its
# last part is no number of a section of the text (tests/curate/filters/test_personal.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datatrove==0.10.1 regex==2026.11.15 \
  licensedcode-data==32.1.0
cat > "$folder/show.py" <<'PY'
import re
from importlib.util import find_spec
from pathlib import Path

from datatrove.pipeline.formatters.pii import PIIFormatter

mask = PIIFormatter().format
section = mask("section 3.1.2.1; see 3.1.2.1")
identifier = PIIFormatter().format("1.3.6.1.4.1.311")
print("section 3.1.2.1; see 3.1.2.1 ->", section)
print("1.3.6.1.4.1.311 ->", identifier)

formatter = PIIFormatter(remove_emails=False)
replacer = formatter.ip_replacer
folder = Path(next(iter(find_spec("licensedcode").submodule_search_locations)))
paths = sorted((folder / "data/licenses").glob("*.LICENSE"))
# Without what the collection says of each at its top.
texts = [path.read_text(errors="replace").split("\n---\n", 1)[-1] for path in paths]
places = [
    text[max(0, match.start() - 30) : match.end()]
    for text in texts
    for match in replacer.regex.finditer(text)
    if replacer.validator(match.group())
]
changed = sum(formatter.format(text) != text for text in texts)
addresses = [place for place in places if re.search(r"\b(ip|address|host|server|ping)\b", place, re.I)]
print(f"{len(texts)} licences: {len(places)} places in {changed} texts, {len(addresses)} near a word for one")
for place in places[:8]:
    print("  ", " ".join(place.split()))

one, other = "at 8.8.8.8", "at 9.9.9.9"
together = PIIFormatter()
second = [together.format(text) for text in (other, one)][1]
first = PIIFormatter().format(one)
print("the same document first in its task:", first, "- second:", second)
assert section == "section 22.214.171.124; see 126.96.36.199", section
assert identifier == "22.214.171.124.4.1.311", identifier
assert len(places) > 20 and not addresses, (len(places), addresses)
assert first != second
PY
"$folder/venv/bin/python" "$folder/show.py"
