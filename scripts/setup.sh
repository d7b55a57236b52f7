#!/usr/bin/env bash
# Installs the packages that building and testing need, and Python clients in the target directory; reserves 2 MiB
# hugepages. Says what it does, asks nothing, and does nothing where nothing is missing. `setup.sh bench`: also what the
# benchmarks compare with; `setup.sh bench --full`: and hugepages for a table of 16 million sessions.
set -euo pipefail

packages=(libdpdk-dev dpdk pkg-config libclang1-14 gcc libc6-dev make clang-14 libbpf-dev linux-libc-dev
          iproute2 nftables ethtool conntrack procps util-linux iputils-ping
          iperf3 tcpdump dnsmasq-base bind9-dnsutils socat valgrind openssl python3-venv)
hugepages=512   # 1 GiB
share=4         # of the free memory at most a quarter
if [[ " $* " == *" --full "* ]]; then
    hugepages=2944   # 5.75 GiB
    share=2
fi
if [ "${1:-}" = bench ]; then
    packages+=(dpdk-dev openvswitch-switch-dpdk)
    # The benchmarks start a switch of their own; the system's stays off.
    export RUNLEVEL=1
fi

root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    root apt-get -o DPkg::Lock::Timeout=300 update -qq
    root env DEBIAN_FRONTEND=noninteractive ${RUNLEVEL:+RUNLEVEL=$RUNLEVEL} apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# gRPC clients that are not ours.
python=${CARGO_TARGET_DIR:-target}/python
requirements=control/tests/interop/requirements.txt
if ! cmp -s "$requirements" "$python/requirements.txt"; then
    echo "setup: installing Python clients in $python"
    if python3 -m venv --clear "$python" && "$python/bin/pip" install -q --disable-pip-version-check -r "$requirements"; then
        cp "$requirements" "$python/"
    else
        echo "setup: no Python clients; the tests with them will be skipped"
    fi
fi

# Hugepages make the gateway faster; everything works without them.
if [ -e /proc/sys/vm/nr_hugepages ]; then
    have=$(cat /proc/sys/vm/nr_hugepages)
    free_kib=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
    most=$(( free_kib / share / 2048 ))
    want=$(( most < hugepages ? most : hugepages ))
    if [ "$have" -lt "$want" ]; then
        echo "setup: reserving $want hugepages of 2 MiB (had $have)"
        echo "$want" | root tee /proc/sys/vm/nr_hugepages >/dev/null || true
        have=$(cat /proc/sys/vm/nr_hugepages)
        [ "$have" -ge "$want" ] || echo "setup: only $have hugepages could be reserved; going on"
    fi
    if [ "$share" = 2 ] && [ "$have" -lt "$hugepages" ]; then
        echo "setup: the benchmarks with 16 million sessions want $hugepages hugepages, $have are there: what does not fit is measured on ordinary pages, or not at all"
    fi
fi
