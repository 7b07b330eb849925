#!/bin/sh
# Start a worker on each of these machines by ssh, and wait for them. ^C lets them finish what they run, and leave.
#
#   export STARBURST_KEY=$(starburst key export last)
#   sh ssh.sh 's3://bucket/team/<id>?region=eu-west-1' 8 host1 host2 …
#
# On each machine: this library, the same minor version of Python, and credentials for the bucket. The key goes through ssh's
# standard input, so that no list of processes shows it.
set -eu
url=$1 slots=$2
shift 2
for host in "$@"; do
    printf '%s\n' "$STARBURST_KEY" | ssh "$host" "read -r STARBURST_KEY; export STARBURST_KEY
        exec ${PYTHON:-python3} -m starburst_executor.worker '$url' --slots $slots" &
done
trap 'kill $(jobs -p) 2>/dev/null; wait' INT TERM
wait
