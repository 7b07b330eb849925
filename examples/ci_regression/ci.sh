#!/bin/sh
# What CI runs for each commit, on GitHub, GitLab or a laptop. A study of one name exists once in the store: a job that was cancelled goes on
# with the trials that have no outcome yet, in the next job of the same commit.
set -eu
commit=${COMMIT:-$(git rev-parse --short HEAD)}
starburst study run bench.yaml --name "bench-$commit"
starburst study check "bench-$commit" --baseline baseline.json --tolerance seconds=2% --junit check.xml
