# The levers of the platform, as hooks call them: bash lever.sh ACTION. The variables are stormgate's.
set -euo pipefail

put() { curl -sSf -X PUT "$STORMGATE_CONTROL_URL/levers/$1" -d "$2"; }

api() {
    curl -sSf -X POST "$STORMGATE_RUNTIME_URL/api/$1" -d "$2" \
        -H "X-API-Key: $CENTRIFUGO_API_KEY" -H "X-Centrifugo-Error-Mode: transport"
}

case $1 in
put) put "$2" "$3" ;;
expire) api refresh '{"user": "stormgate", "expired": true}' ;;
slow_mint) put mint_delay "{\"delay_ms\": $STORMGATE_DELAY_MS, \"at_once\": $STORMGATE_CONCURRENCY}" ;;
usual_mint) put mint_delay null ;;
has_last_good) curl -sSf "http://127.0.0.1:$LAST_GOOD_PORT/health" ;;
esac
