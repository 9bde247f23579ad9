#!/usr/bin/env bash
# Prints the path of a Chromium for the tests that look at reports: the one on the PATH, or else Debian's, which it installs.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .peers
exec 9> .peers/chromium.lock
flock 9  # several test processes may ask at once
found() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
needed() { echo "The tests need Chromium, $1; install it so that 'chromium' is on the PATH." >&2; exit 1; }

if ! found; then
    command -v apt-get > /dev/null || needed "and there is no apt-get to install it with"
    [ "$(id -u)" = 0 ] || needed "and only root may install it"
    said=$(mktemp .peers/said.XXXXXX)
    trap 'rm -f "$said"' EXIT
    install() { DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core >> "$said" 2>&1; }
    if ! install && ! { apt-get -qq update >> "$said" 2>&1 && install; }; then
        cat "$said" >&2
        needed "and apt-get could not install it"
    fi
    found || needed "and apt-get installed none"
fi
