#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# huggingface_hub 0.36.0 goes on with a file where a killed process has stopped; 2.4.0 does not.
#
# Newer versions write each download to BLOB.RANDOM.incomplete and remove that file when they fail, so
# that two processes on a file system without locks cannot mix their bytes. The price: the next start
# asks for the whole file, and after a SIGKILL (out of memory, end of a job) the part that came stays in
# the cache too, under a name that nothing will look for, once for each try. Only connections that break
# within one process are resumed. With 5 GB shards, eight side by side, that is up to 40 GB fetched
# twice, and a disk that fills.
#
# megacpt fetches weights into the same cache itself: megacpt/hub/large_files.py, and in
# tests/hub/test_large_files.py test_a_killed_process_has_not_lost_what_came.
#
# Seen (Python 3.11):
#   0.36.0: second start asked for bytes=10485760-, left over: nothing
#   2.4.0: second start asked for everything, left over: one file of 10485760 bytes
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/server.py" <<'PYTHON'
"""A hub with one file of 20 MiB, half of which it sends to whoever comes first, and then waits."""
import hashlib, http.server, os, signal, subprocess, sys, threading, time
from pathlib import Path

CONTENT = bytes(range(256)) * 81920
DIGEST, COMMIT = hashlib.sha256(CONTENT).hexdigest(), "a" * 40
asked, held = [], threading.Event()


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        start = 0
        if "/resolve/" in self.path and self.command == "GET":
            asked.append(self.headers.get("Range"))
            start = int((asked[-1] or "bytes=0-")[6:-1])
        if "/resolve/" not in self.path:
            return self.send_error(404)
        self.send_response(206 if start else 200)
        for name, value in {
            "ETag": f'"{DIGEST}"', "X-Repo-Commit": COMMIT, "Content-Length": len(CONTENT) - start
        }.items():
            self.send_header(name, str(value))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        if self.command == "GET" and len(asked) == 1:
            self.wfile.write(CONTENT[: 15 << 20])
            held.wait(60)
        elif self.command == "GET":
            self.wfile.write(CONTENT[start:])


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
home = Path(sys.argv[1])
environment = os.environ | {
    "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
    "HF_HOME": str(home),
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
client = [sys.executable, "-c", "from huggingface_hub import hf_hub_download as d; d('a/b', 'f.bin')"]
first = subprocess.Popen(client, env=environment)
while not any(p.stat().st_size for p in home.rglob("*.incomplete")):
    time.sleep(0.05)
first.send_signal(signal.SIGKILL)
first.wait()
held.set()
subprocess.run(client, env=environment, check=True)
left = [str(p.stat().st_size) for p in home.rglob("*.incomplete")]
what = f"one file of {left[0]} bytes" if left else "nothing"
print(f"second start asked for {asked[-1] or 'everything'}, left over: {what}")
PYTHON
for version in 0.36.0 2.4.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet "huggingface_hub==$version" 2> /dev/null
  echo "$version: $("$folder/$version/bin/python" "$folder/server.py" "$folder/home-$version")"
done | tee "$folder/seen"
grep -qx '0.36.0: second start asked for bytes=10485760-, left over: nothing' "$folder/seen"
grep -qx '2.4.0: second start asked for everything, left over: one file of 10485760 bytes' "$folder/seen"
