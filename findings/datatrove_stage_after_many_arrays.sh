#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# datatrove 0.10.1, Python 3.11.
#
# A stage of more tasks than max_array_size (1001 unless set) is several Slurm arrays, and a stage that
# depends= on it waits for the last of them alone. The arrays follow one another by "afterany", so where
# a task of an earlier one fails, the rest still runs, the last array ends well, and the next stage
# begins on what is not complete. With max_array_launch_parallel=True the arrays wait for nothing, and
# the next stage may begin while all but the last still run. (`sbatch` here only notes what it is asked.)
#
# Seen, for a stage of 5 tasks in arrays of 2 and one of 1 task after it:
#   one after another
#     job 1 --array=0-1
#     job 2 --array=0-1 --dependency=afterany:1
#     job 3 --array=0-1 --dependency=afterany:2
#     next stage --array=0-0 --dependency=afterok:3
#   max_array_launch_parallel=True
#     job 1 --array=0-1
#     job 2 --array=0-1
#     job 3 --array=0-1
#     next stage --array=0-0 --dependency=afterok:3
#
# megacpt submits each stage as one array (tests/curate/distributed/test_submit.py).

set -euo pipefail
cd "$(mktemp -d)"
python3 -m venv venv && venv/bin/pip install -q datatrove==0.10.1
mkdir bin
cat > bin/sbatch <<'SH'
#!/usr/bin/env bash
number=$(($(cat number 2> /dev/null || echo 0) + 1))
script=${!#}
# A job for each stage also adds up its counts; it is left out here, and takes no number.
if grep -q merge_stats "$script"; then echo "Submitted batch job 0"; exit; fi
echo $number > number
name=$(sed -n 's/^#SBATCH --job-name=//p' "$script")
[ "$name" = first ] && name="job $number"
echo "  $name $(grep -o -e '--array=.*' "$script") $(grep -o -e '--dependency=[^ ]*' <<< "$*")" >> asked.txt
echo "Submitted batch job $number"
SH
chmod +x bin/sbatch
cat > run.py <<'PY'
import sys
from datatrove.executor.slurm import SlurmPipelineExecutor

common = {"time": "1:00:00", "partition": "cpu", "pipeline": []}
first = SlurmPipelineExecutor(
    tasks=5, max_array_size=2, max_array_launch_parallel=sys.argv[1] == "parallel",
    job_name="first", logging_dir=f"logs/{sys.argv[1]}/first", **common
)
SlurmPipelineExecutor(
    tasks=1, depends=first, job_name="next stage", logging_dir=f"logs/{sys.argv[1]}/next", **common
).run()
PY
export PATH=$PWD/bin:$PATH
echo "one after another" > asked.txt
venv/bin/python run.py sequential 2> /dev/null
rm number
echo "max_array_launch_parallel=True" >> asked.txt
venv/bin/python run.py parallel 2> /dev/null
sed 's/ *$//' asked.txt | tee seen.txt
cat > expected.txt <<'TXT'
one after another
  job 1 --array=0-1
  job 2 --array=0-1 --dependency=afterany:1
  job 3 --array=0-1 --dependency=afterany:2
  next stage --array=0-0 --dependency=afterok:3
max_array_launch_parallel=True
  job 1 --array=0-1
  job 2 --array=0-1
  job 3 --array=0-1
  next stage --array=0-0 --dependency=afterok:3
TXT
cmp seen.txt expected.txt
