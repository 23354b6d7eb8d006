#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Python 3.11, 3.12 and 3.13 (seen with 3.11.7, 3.12.1, 3.13.0; no packages are needed), Linux.
#
# A program that is started with `python -m` catches KeyboardInterrupt, goes on and ends with an exit code
# of its own, here 3. If the interrupt came anywhere below exec() or eval() of a *text*, the process ends by
# SIGINT all the same, after all of its own code and its exit handlers have run: a parent sees -2, a shell
# 130. Of a compiled text, or with `python FILE`, it is 3.
# A careful reader expects that an exception that is caught is over. (CPython notes it as "unhandled" where
# the text's frame ends, and looks at the note when `-m` has returned.)
#
# Seen:
#   python -m program  text      caught  -2
#   python -m program  compiled  caught  3
#   python program.py  text      caught  3
#
# megacpt leaves by os._exit after Ctrl-C: tests/test_cli.py, test_ctrl_c_ends_with_130_wherever_it_comes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cd "$folder"

cat > program.py <<'END'
import os, signal, sys, time

def work():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)

text = "work()"
try:
    exec(compile(text, "text", "exec") if sys.argv[1] == "compiled" else text)
except KeyboardInterrupt:
    print("caught", end="  ", flush=True)
sys.exit(3)
END

cat > seen.py <<'END'
import subprocess, sys

def code(*words):
    print("python", *words, end="  ", flush=True)
    found = subprocess.run([sys.executable, *words]).returncode
    print(found)
    return found

ways = [("-m", "program", "text"), ("-m", "program", "compiled"), ("program.py", "text")]
sys.exit([code(*way) for way in ways] != [-2, 3, 3])
END
venv/bin/python seen.py
