#!/usr/bin/env bash
# Prints the path of a Chromium for the tests that look at reports. It and jq, which operators' scripts call, are those on the
# PATH, or else Debian's, which are installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .peers
exec 9> .peers/programs.lock
flock 9  # several test processes may ask at once
browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
needed() { echo "The tests need Chromium and jq, $1; install them so that 'chromium' and 'jq' are on the PATH." >&2; exit 1; }

packages=()
browser > /dev/null || packages+=(chromium fonts-dejavu-core)
command -v jq > /dev/null || packages+=(jq)
if [ ${#packages[@]} -gt 0 ]; then
    command -v apt-get > /dev/null || needed "and there is no apt-get to install them with"
    [ "$(id -u)" = 0 ] || needed "and only root may install them"
    said=$(mktemp .peers/said.XXXXXX)
    trap 'rm -f "$said"' EXIT
    install() { DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" >> "$said" 2>&1; }
    if ! install && ! { apt-get -qq update >> "$said" 2>&1 && install; }; then
        cat "$said" >&2
        needed "and apt-get could not install them"
    fi
fi
browser || needed "and apt-get installed none"
