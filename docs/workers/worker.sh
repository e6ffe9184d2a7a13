#!/bin/sh
# A worker for Ledger in shell; it needs curl and a POSIX system.
#
#     SERVER=http://localhost:3000 ./worker.sh TYPE COMMAND [ARGUMENT...]
#
# It runs jobs of TYPE, one at a time.  COMMAND receives the JSON of the job on standard input.
# Its standard output is the result, each line of its standard error is added to the log of the
# job, and an exit code other than 0 fails the attempt.  The variables JOB, ATTEMPT, SERVER and
# WORKER are in its environment, so that it can send requests:
#
#     curl -H 'Content-Type: application/json' -d "{\"attempt\":$ATTEMPT,\"progress\":40}" \
#         "$SERVER/job/$JOB/progress"
#
# docs/workers.md describes the protocol.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: $0 TYPE COMMAND [ARGUMENT...]" >&2
    exit 2
fi
type=$1
shift

SERVER=${SERVER:-http://localhost:3000}
# The name is part of a path: letters, digits, - and _.
WORKER=${WORKER:-$(uname -n | tr -c 'A-Za-z0-9_\n' -)-$$}
export SERVER WORKER
wait_s=20
folder=$(mktemp -d)
child=
heartbeat_process=
# Handle bytes, so that text that is not ASCII passes unchanged.
export LC_ALL=C

# Messages of the worker itself go to standard error.
print() {
    echo "$WORKER: $*" >&2
}

# --- requests

# Replace this process by curl.  Write the status of the answer to standard output, 000 if there
# is none, and its body to the file $1.answer.
request() {
    rm -f "$folder/$1.answer"
    exec curl --silent --max-time $((wait_s + 40)) --output "$folder/$1.answer" \
        --write-out '%{http_code}' --request "$2" "$SERVER$3" \
        --header 'Content-Type: application/json' --data-binary "@${4:-/dev/null}"
}

status_of() {
    (request "$@") || true
}

# Escape standard input for JSON strings; drop control characters other than \t, \n and \r.
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

# Report on the attempt, with further fields from standard input; repeat the request until the
# server answers, and fail if it refuses the fields.  Do not call this in a pipe: its shell would
# not receive signals.
report() {
    { printf '{"attempt":%s,"worker":"%s"' "$ATTEMPT" "$WORKER"; cat; printf '}'; } >"$folder/report"
    while :; do
        status=$(status_of report POST "/job/$JOB/$1" "$folder/report")
        case $status in
        200) return 0 ;;
        000 | 429 | 5??) pause 1 ;;
        404 | 409)
            print "job $JOB: $(cat "$folder/report.answer")"
            return 0
            ;;
        *) return 1 ;;
        esac
    done
}

# The shell handles a signal at once while it waits for a background command, but only at the end
# of a command in the foreground.
pause() {
    sleep "$1" &
    child=$!
    wait "$child"
    child=
}

# --- heartbeats

heartbeats() {
    sleeper=
    trap 'kill $sleeper 2>/dev/null || true; exit' TERM
    # Stop if the worker was killed, so that the server considers it lost.
    while kill -0 $$ 2>/dev/null; do
        status_of heartbeat POST "/workers/$WORKER/heartbeat" >/dev/null
        lease_ms=$(sed -n 's/.*"lease_ms":\([0-9]*\).*/\1/p' "$folder/heartbeat.answer" 2>/dev/null) || true
        rest_s=$((${lease_ms:-3000} / 3000))
        [ "$rest_s" -gt 0 ] || rest_s=1
        sleep "$rest_s" &
        sleeper=$!
        wait "$sleeper" || true
    done
}

stop() {
    trap '' EXIT INT TERM
    for each in $child $heartbeat_process; do
        kill "$each" 2>/dev/null || true
    done
    # This returns the job, if there is one.
    if [ "$(status_of leave DELETE "/workers/$WORKER")" = 200 ]; then
        print "stopped; it holds no jobs"
    else
        print "stopped; $SERVER did not answer, so a job that it holds is lost when the lease ends"
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
    child=$!
    wait "$child" || true
    child=
    if [ "$(cat "$folder/status")" != 200 ]; then
        print "cannot claim from $SERVER: $(cat "$folder/status" "$folder/claim.answer" 2>/dev/null)"
        # No job runs now, so a job that the worker holds was in an answer that was lost.
        until [ "$(status_of leave DELETE "/workers/$WORKER")" = 200 ]; do
            pause 1
        done
        return 1
    fi
    if [ "$(cat "$folder/claim.answer")" = '[]' ]; then
        # A server limits how many claims wait, and answers the others at once.
        [ $(($(date +%s) - before_s)) -gt 0 ] || pause 1
        return 1
    fi
}

# The id is the first field of a job, and the attempt the last.  Between them is the data that
# users posted, which may have several lines.
work() {
    JOB=$(sed -n '1s/^\[{"id":"\([0-9]*\)".*/\1/p' "$folder/claim.answer")
    ATTEMPT=$(sed -n '$s/.*"attempt":\([0-9]*\)}\]$/\1/p' "$folder/claim.answer")
    export JOB ATTEMPT
    print "job $JOB ($type): attempt $ATTEMPT begins"
    sed -e '1s/^\[//' -e '$s/\]$//' "$folder/claim.answer" >"$folder/job"
    "$@" <"$folder/job" >"$folder/out" 2>"$folder/err" &
    child=$!
    code=0
    wait "$child" || code=$?
    child=
    if [ -s "$folder/err" ]; then
        { printf ',"lines":'; lines <"$folder/err"; } >"$folder/fields"
        report log <"$folder/fields" || true
    fi
    if [ "$code" = 0 ]; then
        { printf ',"result":'; quoted <"$folder/out"; } >"$folder/fields"
        if report complete <"$folder/fields"; then
            [ "$status" != 200 ] || print "job $JOB: complete"
        else
            fail "its result is too large or not text"
        fi
    else
        fail "$1 ended with $code"
    fi
}

fail() {
    print "job $JOB: failed: $1"
    { printf ',"error":'; printf '%s' "$1" | quoted; } >"$folder/fields"
    report fail <"$folder/fields" || true
}

print "claims $type from $SERVER, one at a time; press Ctrl-C to stop"
trap 'stop $?' EXIT
trap 'stop 0' INT TERM
heartbeats &
heartbeat_process=$!
while :; do
    if claim; then
        work "$@"
    fi
done
