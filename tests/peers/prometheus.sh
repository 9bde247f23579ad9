#!/usr/bin/env bash
# A real Prometheus for the tests, in .peers/prometheus: a copy of the one on the PATH, or else of the one in Debian's package.
# Nothing is installed: it goes with its folder, and no service of it begins.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .peers
exec 9> .peers/lock
flock 9  # several test processes may ask at once
[ -x .peers/prometheus ] && exit 0
fresh=$(mktemp -d .peers/fresh.XXXXXX)
trap 'rm -rf "$fresh"' EXIT
needed() { echo "The tests need Prometheus, $1; install it so that 'prometheus' is on the PATH." >&2; exit 1; }
fetch() { (cd "$fresh" && apt-get -qq download prometheus) >> "$fresh/said" 2>&1; }

if found=$(command -v prometheus); then
    cp -L "$found" "$fresh/prometheus"
else
    command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || needed "and there is no apt-get to fetch it with"
    # Only root may update apt's package lists; the present ones may be good enough for other users.
    if ! fetch && ! { [ "$(id -u)" = 0 ] && apt-get -qq update >> "$fresh/said" 2>&1 && fetch; }; then
        cat "$fresh/said" >&2
        needed "and apt-get could not fetch it (as root it would have run 'apt-get update' first)"
    fi
    dpkg-deb --fsys-tarfile "$fresh"/prometheus_*.deb | tar -xO ./usr/bin/prometheus > "$fresh/prometheus"
    chmod +x "$fresh/prometheus"
fi
"$fresh/prometheus" --version > /dev/null 2>&1 || needed "and the one that was found does not run here"
mv "$fresh/prometheus" .peers/prometheus
