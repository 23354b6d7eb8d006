#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Python 3.11, 3.12 and 3.13 (seen with 3.11.7, 3.12.1, 3.13.0; no packages are needed), Linux.
#
# A program blocks SIGINT (pthread_sigmask) and then starts processes of multiprocessing's "spawn", so that
# Ctrl-C in a terminal reaches none of them. The first is born with SIGINT let in, the second is not, and the
# program itself has lost its mask on the way: with the first one multiprocessing starts its resource
# tracker, and then "unblocks" the signals instead of putting the caller's mask back.
#
# Seen (whether SIGINT is blocked):
#   parent after the first start: False
#   first child: False
#   second child: True     (blocked again before it was started)
#
# megacpt starts the tracker before it blocks: tests/shards/tokenize/test_processes.py,
# test_ctrl_c_while_they_start_is_one_interrupt.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cd "$folder"

cat > seen.py <<'END'
import multiprocessing, signal, sys

def blocked():
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

def tell(connection):
    connection.send(blocked())

def start():
    """(blocked in a child, in the parent after its start)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = context.Process(target=tell, args=(theirs,))
    child.start()
    here = blocked()
    there = ours.recv()
    child.join()
    return there, here

if __name__ == "__main__":
    first, parent = start()
    second, _ = start()
    print("parent after the first start:", parent)
    print("first child:", first)
    print("second child:", second)
    sys.exit((parent, first, second) != (False, False, True))
END
venv/bin/python seen.py
