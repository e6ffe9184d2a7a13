#!/bin/sh
# A worker for Ledger in shell: it needs curl, and of POSIX sed, awk, tr and uname.
#
#     SERVER=http://localhost:3000 ./worker.sh TYPE COMMAND [ARGUMENT...]
#
# It does jobs of TYPE, one at a time.  COMMAND gets the job's JSON on its standard input.
# What it writes to standard output is the result; each line of standard error goes to the
# job's log; an exit code other than 0 is a failed attempt.  JOB, ATTEMPT, SERVER and
# WORKER are in its environment, for a curl of its own:
#
#     curl -H 'Content-Type: application/json' -d "{\"attempt\":$ATTEMPT,\"progress\":40}" \
#         "$SERVER/job/$JOB/progress"
#
# docs/workers.md explains the protocol.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: $0 TYPE COMMAND [ARGUMENT...]" >&2
    exit 2
fi
type=$1
shift

SERVER=${SERVER:-http://localhost:3000}
# A part of a path: letters, digits, - and _.
WORKER=${WORKER:-$(uname -n | tr -c 'A-Za-z0-9_\n' -)-$$}
export SERVER WORKER
wait_s=20
folder=$(mktemp -d)
working=
beating=
# Bytes are bytes: what is not ASCII goes through as it is.
export LC_ALL=C

# Standard error, as all that is no job's business.
tell() {
    echo "$WORKER: $*" >&2
}

# --- asking

# Become curl: write the answer's status to standard output, 000 if there was none.  Its
# body goes to the file $1.answer.
request() {
    rm -f "$folder/$1.answer"
    exec curl --silent --max-time $((wait_s + 40)) --output "$folder/$1.answer" \
        --write-out '%{http_code}' --request "$2" "$SERVER$3" \
        --header 'Content-Type: application/json' --data-binary "@${4:-/dev/null}"
}

ask() {
    (request "$@") || true
}

# Escape standard input for JSON strings, without the control characters that have no name.
escaped() {
    tr -d '\000-\010\013\014\016-\037' | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' \
        -e "s/$(printf '\t')/\\\\t/g" -e "s/$(printf '\r')/\\\\r/g"
}

# Write standard input as a JSON string.
quoted() {
    printf '"'
    escaped | awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }'
    printf '"'
}

# Write the lines of standard input, the last 1,000 of them, as an array of JSON strings.
lines() {
    printf '['
    tail -n 1000 | escaped | awk 'NR > 1 { printf "," } { printf "\"%s\"", $0 }'
    printf ']'
}

# Say a word about the attempt, its other fields from standard input, until the server has
# heard it; fail if it does not take them.  Never in a pipe: no signal would get through.
say() {
    { printf '{"attempt":%s,"worker":"%s"' "$ATTEMPT" "$WORKER"; cat; printf '}'; } >"$folder/word"
    while :; do
        status=$(ask word POST "/job/$JOB/$1" "$folder/word")
        case $status in
        200) return 0 ;;
        000 | 429 | 5??) pause 1 ;;
        404 | 409)
            tell "job $JOB: $(cat "$folder/word.answer")"
            return 0
            ;;
        *) return 1 ;;
        esac
    done
}

# Unlike a command that is waited for, one in the background lets signals through.
pause() {
    sleep "$1" &
    working=$!
    wait "$working"
    working=
}

# --- signs of life

beat() {
    resting=
    trap 'kill $resting 2>/dev/null || true; exit' TERM
    # Not for a worker that was killed: its job is to be found lost.
    while kill -0 $$ 2>/dev/null; do
        ask beat POST "/workers/$WORKER/heartbeat" >/dev/null
        lease_ms=$(sed -n 's/.*"lease_ms":\([0-9]*\).*/\1/p' "$folder/beat.answer" 2>/dev/null) || true
        rest_s=$((${lease_ms:-3000} / 3000))
        [ "$rest_s" -gt 0 ] || rest_s=1
        sleep "$rest_s" &
        resting=$!
        wait "$resting" || true
    done
}

stop() {
    trap '' EXIT INT TERM
    for each in $working $beating; do
        kill "$each" 2>/dev/null || true
    done
    # Gives back the job, if there is one.
    if [ "$(ask leave DELETE "/workers/$WORKER")" = 200 ]; then
        tell "ended, and holds nothing"
    else
        tell "ended; $SERVER did not hear it: what it held is lost when its lease is over"
    fi
    rm -rf "$folder"
    exit "$1"
}

# --- the loop

# Claim a job into the file "claim.answer"; succeed if there is one.
claim() {
    printf '{"types":[%s],"worker":"%s","wait":%s}' \
        "$(printf '%s' "$type" | quoted)" "$WORKER" "$wait_s" >"$folder/claim"
    before_s=$(date +%s)
    request claim POST /jobs/claim "$folder/claim" >"$folder/status" &
    working=$!
    wait "$working" || true
    working=
    if [ "$(cat "$folder/status")" != 200 ]; then
        tell "no jobs from $SERVER: $(cat "$folder/status" "$folder/claim.answer" 2>/dev/null)"
        # We do nothing now: a job that we hold was in an answer that got lost.
        until [ "$(ask leave DELETE "/workers/$WORKER")" = 200 ]; do
            pause 1
        done
        return 1
    fi
    if [ "$(cat "$folder/claim.answer")" = '[]' ]; then
        # A server lets only so many wait, and answers the others at once.
        [ $(($(date +%s) - before_s)) -gt 0 ] || pause 1
        return 1
    fi
}

# The id is the first field of a job, the attempt its last; between them is what users
# posted, which may have many lines.
work() {
    JOB=$(sed -n '1s/^\[{"id":"\([0-9]*\)".*/\1/p' "$folder/claim.answer")
    ATTEMPT=$(sed -n '$s/.*"attempt":\([0-9]*\)}\]$/\1/p' "$folder/claim.answer")
    export JOB ATTEMPT
    tell "job $JOB ($type): attempt $ATTEMPT begins"
    sed -e '1s/^\[//' -e '$s/\]$//' "$folder/claim.answer" >"$folder/job"
    "$@" <"$folder/job" >"$folder/out" 2>"$folder/err" &
    working=$!
    code=0
    wait "$working" || code=$?
    working=
    if [ -s "$folder/err" ]; then
        { printf ',"lines":'; lines <"$folder/err"; } >"$folder/fields"
        say log <"$folder/fields" || true
    fi
    if [ "$code" = 0 ]; then
        { printf ',"result":'; quoted <"$folder/out"; } >"$folder/fields"
        if say complete <"$folder/fields"; then
            [ "$status" != 200 ] || tell "job $JOB: complete"
        else
            fail "its result is too large, or no text"
        fi
    else
        fail "$1 ended with $code"
    fi
}

fail() {
    tell "job $JOB: failed: $1"
    { printf ',"error":'; printf '%s' "$1" | quoted; } >"$folder/fields"
    say fail <"$folder/fields" || true
}

tell "asks $SERVER for $type, one at a time; Ctrl-C stops it"
trap 'stop $?' EXIT
trap 'stop 0' INT TERM
beat &
beating=$!
while :; do
    if claim; then
        work "$@"
    fi
done
