#!/usr/bin/env bash
# Drills in CI, for any server that runs a shell and reads JUnit XML. What it leaves to be kept lies in $ARTIFACTS.
#
#     bash drills.sh --quick                        # on each change: the quick set, against the embedded runtime
#     bash drills.sh --all --target staging         # each night: the catalogue, against a live target of targets.toml
#
# It takes the options of `stormgate drill run`, and leaves with its exit code:
# 0 go, 1 no-go, 2 cannot tell, 3 usage or configuration, 4 the measurement itself failed. Only 0 is green.
set -uo pipefail
artifacts=${ARTIFACTS:-artifacts}
mkdir -p "$artifacts" || exit 4
read -ra stormgate <<< "${STORMGATE:-stormgate}" # such as: .venv/bin/stormgate

"${stormgate[@]}" drill run "$@" --out "$artifacts/results" --junit "$artifacts/drills.xml" --json > "$artifacts/summary.json"
code=$?
echo "stormgate drill run: exit code $code; the evidence is in $artifacts/results"
exit "$code"
