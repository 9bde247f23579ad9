#!/usr/bin/env bash
# One stage of a rollout in CI, for any server that runs a shell and reads JUnit XML.
#
#     bash stage.sh 0 staging november              # the preflight
#     bash stage.sh 1 staging november              # the internal canary: held for an hour; an interrupted hold resumes
#
# Stage, target and rollout, then further options of `stormgate stage run` or `stage hold`. The rollout's folder must live from one
# job to the next, so $RESULTS is a volume or a cache; the report goes to $ARTIFACTS. People sign, never a job.
# It exits with the stage's code: 0 go, 1 no-go, 2 inconclusive, 3 usage or configuration, 4 the tool or the evidence failed.
set -uo pipefail
[ $# -ge 3 ] || { echo "usage: stage.sh STAGE TARGET ROLLOUT [OPTION...]" >&2; exit 3; }
stage=$1 target=$2 rollout=$3
shift 3
results=${RESULTS:-results} artifacts=${ARTIFACTS:-artifacts}
mkdir -p "$artifacts" || exit 4
read -ra stormgate <<< "${STORMGATE:-stormgate}" # such as: .venv/bin/stormgate
verb=hold
[ "$stage" = 0 ] && verb=run

"${stormgate[@]}" stage "$verb" "$stage" --target "$target" --rollout "$rollout" --out "$results" "$@" --json > "$artifacts/stage.json"
code=$?
run=$(sed -n 's/.*"run_id": *"\([A-Za-z0-9._-]*\)".*/\1/p' "$artifacts/stage.json" | head -n 1)
if [ -z "$run" ]; then
    echo "stormgate stage $verb: exit code $code, and no report" >&2
    [ "$code" -ne 0 ] && exit "$code"
    exit 4
fi
folder=$results/rollouts/$rollout/runs/$run
for name in STAGE_REPORT.html STAGE_REPORT.md stage-report.json gate-results.jsonl blockers.json junit.xml; do
    [ ! -e "$folder/$name" ] || cp "$folder/$name" "$artifacts/" || exit 4
done
"${stormgate[@]}" stage verify "$folder" || exit 4
echo "stormgate stage $verb: exit code $code; the evidence is in $folder"
exit "$code"
