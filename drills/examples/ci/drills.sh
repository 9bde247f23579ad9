#!/usr/bin/env bash
# Drills in CI, for any server that runs a shell and reads JUnit XML. Files to keep are in $ARTIFACTS.
#
#     bash drills.sh --quick                        # on each change: the quick set, against the embedded runtime
#     bash drills.sh --all --target staging         # every night: the catalogue, against a live target of targets.toml
#
# It takes the options of `stormgate drill run`, and exits with its code:
# 0 go, 1 no-go, 2 inconclusive, 3 usage or configuration, 4 the measurement itself failed. Only 0 is green.
set -uo pipefail
artifacts=${ARTIFACTS:-artifacts}
mkdir -p "$artifacts" || exit 4
read -ra stormgate <<< "${STORMGATE:-stormgate}" # such as: .venv/bin/stormgate

"${stormgate[@]}" drill run "$@" --out "$artifacts/results" --junit "$artifacts/drills.xml" --json > "$artifacts/summary.json"
code=$?
run=$(sed -n 's/.*"run_id": *"\([A-Za-z0-9._-]*\)".*/\1/p' "$artifacts/summary.json" | head -n 1)
[ -z "$run" ] || cp "$artifacts/results/$run/SUMMARY.md" "$artifacts/" || exit 4
echo "stormgate drill run: exit code $code; the evidence is in $artifacts/results"
exit "$code"
