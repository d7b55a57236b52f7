#!/bin/bash
# Runs the flow table's tests under memcheck: threads at full speed, the public interface, the model.
set -euo pipefail
cd "$(dirname "$0")/.."
export CONNTRACK_STRESS_ROUNDS=${CONNTRACK_STRESS_ROUNDS:-20}

# Executables of conntrack's integration tests, as cargo reports them.
tests() {
    "${CARGO:-cargo}" test --locked -p conntrack "${@/#/--test=}" --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}

executables=$(tests stress table model)
for test in $executables; do
    echo "valgrind $(basename "$test")"
    # Filling to capacity is the table's largest test, and the same code as the others.
    valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
        --fair-sched=yes "$test" --test-threads=1 --skip fills_to_exactly_capacity
done
echo "valgrind: no errors"
