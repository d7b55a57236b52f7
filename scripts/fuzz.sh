#!/usr/bin/env bash
# Runs every fuzz target for so many seconds (default 60): parsers and whole frames of the pipeline, captures, the session
# table against its model. Each is also a property test of `make test`, where it runs for about a second.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
export BOLERO_RANDOM_TEST_TIME_MS=$((seconds * 1000))

targets() { # package, target flags, names
    # shellcheck disable=SC2086
    cargo test --locked --release -p "$1" $2 -- --list | sed -n 's/: test$//p' | grep -E "$3" || true
}

fuzz() { # package, target flags, names
    local names name
    names=$(targets "$1" "$2" "$3")
    [ -n "$names" ] || { echo "fuzz: no target in $1 $2 matches $3" >&2; exit 1; }
    for name in $names; do
        echo "fuzz: $1 $name, ${seconds} s"
        # shellcheck disable=SC2086
        cargo test --locked --release -p "$1" $2 -- --exact "$name" --test-threads=1
    done
}

fuzz pipeline --lib '^fuzz::'
fuzz pipeline '--test fuzz' .
fuzz gateway --lib 'capture::.*arbitrary'
fuzz conntrack '--test model' .
