#!/bin/sh
# The lab: a podbus cluster under docker compose. Called by `make lab` and `make lab-down`, as root.
#   lab.sh up PODBUS IMAGE_ARCHIVE NODES
#   lab.sh down
set -eu

here=$(cd "$(dirname "$0")" && pwd)
state=/run/podbus-lab
# Of a dockerd that the lab started itself: its images go with it.
data=/var/lib/podbus-lab
port=${PODBUS_LAB_PORT:-4322}
project=podbus-lab

say() { echo "==> $*"; }
fail() { echo "error: $1" >&2; [ $# -lt 2 ] || echo "hint: $2" >&2; exit 1; }

compose() {
  if docker compose version >/dev/null 2>&1; then docker compose -p "$project" -f "$here/compose.yaml" -f "$state/optional.yaml" "$@"
  elif command -v docker-compose >/dev/null 2>&1; then docker-compose -p "$project" -f "$here/compose.yaml" -f "$state/optional.yaml" "$@"
  else fail "docker has no compose here" "apt-get install docker-compose"; fi
}

# A capability that this machine itself lacks (a container, a small VM) cannot be given on: runc would refuse to start.
optional() {
  bounding=$(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status)
  echo 'version: "3.7"'
  # CAP_SYS_RESOURCE is bit 24.
  if [ $((0x$bounding >> 24 & 1)) = 1 ]; then
    printf 'services:\n  node:\n    cap_add:\n      - SYS_RESOURCE\n'
  else
    say "this machine has no CAP_SYS_RESOURCE: the nodes do without" >&2
  fi
}

token() {
  mkdir -p "$state" && chmod 0700 "$state"
  [ -s "$state/token" ] || (umask 077; head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$state/token")
  cat "$state/token"
}

# A daemon that we started is ended by `down`; one that was there is not ours.
ensure_docker() {
  command -v docker >/dev/null || { say "installing docker.io and docker-compose with apt-get"; apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io docker-compose >/dev/null; }
  docker info >/dev/null 2>&1 && return
  command -v dockerd >/dev/null || { say "installing docker.io and docker-compose with apt-get"; apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io docker-compose >/dev/null; }
  docker info >/dev/null 2>&1 && return
  say "starting dockerd (its log: $state/dockerd.log)"
  mkdir -p "$state"
  # Which of Docker's chains are there already is not ours to remove.
  iptables -nL DOCKER >/dev/null 2>&1 || touch "$state/chains"
  setsid dockerd --data-root "$data" --exec-root "$state/exec" --bridge none >"$state/dockerd.log" 2>&1 </dev/null &
  echo $! > "$state/dockerd.pid"
  for _ in $(seq 100); do docker info >/dev/null 2>&1 && return; sleep 0.2; done
  tail -n 5 "$state/dockerd.log" >&2
  fail "dockerd did not start" "read $state/dockerd.log"
}

# FROM scratch: the static podbus, and the host's nats-server with the libraries it needs, so that no registry is asked.
build_image() {
  podbus=$1
  nats=$(PATH="$PATH:/usr/sbin" command -v "${NATS_SERVER:-nats-server}") || fail "nats-server is not installed" "apt-get install nats-server"
  # An image that is made anew makes every container anew, and nodes with other names: the same parts, the same image.
  content=$(cat "$podbus" "$nats" "$here/nats.conf" | sha256sum | cut -c1-32)
  [ "$(docker image inspect -f '{{.Config.Labels.content}}' podbus/lab:latest 2>/dev/null)" != "$content" ] || return 0
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  cp "$podbus" "$root/podbus"
  cp "$nats" "$root/nats-server"
  for library in $(ldd "$nats" 2>/dev/null | grep -o '/[^ ]*' || true); do
    mkdir -p "$root$(dirname "$library")" && cp -L "$library" "$root$library"
  done
  mkdir -p "$root/etc/podbus" "$root/data" "$root/var/lib/podbus" "$root/run" "$root/tmp" "$root/proc" "$root/sys" "$root/dev"
  cp "$here/nats.conf" "$root/etc/podbus/nats.conf"
  for file in /etc/ssl/certs/ca-certificates.crt; do [ ! -f "$file" ] || { mkdir -p "$root$(dirname "$file")" && cp -L "$file" "$root$file"; }; done
  tar -C "$root" -c . | docker import --change 'WORKDIR /' --change "LABEL content=$content" - podbus/lab:latest >/dev/null
}

up() {
  podbus=$1 archive=$2 nodes=$3
  ensure_docker
  say "building the image podbus/lab from $podbus and the host's nats-server"
  build_image "$podbus"
  PODBUS_LAB_TOKEN=$(token); export PODBUS_LAB_TOKEN PODBUS_LAB_PORT="$port"
  optional > "$state/optional.yaml"
  # Each node offers its share of the machine.
  PODBUS_LAB_CPU=$(($(nproc) * 1000 / nodes))m; export PODBUS_LAB_CPU
  PODBUS_LAB_MEMORY=$(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / nodes))Ki; export PODBUS_LAB_MEMORY
  say "starting nats, scheduler and $nodes nodes"
  compose up -d --scale node="$nodes"
  PODBUS_NATS_URL="nats://$PODBUS_LAB_TOKEN@127.0.0.1:$port"; export PODBUS_NATS_URL
  say "waiting for $nodes nodes to be Ready"
  for _ in $(seq 150); do
    ready=$("$podbus" get nodes --no-headers 2>/dev/null | grep -c ' Ready ' || true)
    [ "$ready" -ge "$nodes" ] && break
    sleep 0.2
  done
  [ "$ready" -ge "$nodes" ] || { compose logs --tail 20; fail "only $ready of $nodes nodes are Ready"; }
  say "loading the image on every node and applying examples/two-containers.yaml"
  "$podbus" image load "$archive"
  "$podbus" apply -f "$here/../examples/two-containers.yaml"
  "$podbus" wait pod web --for=condition=Ready --timeout=60s
  "$podbus" get nodes
  "$podbus" get pods -o wide
  echo
  echo "Try:  export PODBUS_NATS_URL=$PODBUS_NATS_URL"
  echo "      $podbus exec web -c sidecar -- wget -qO- localhost:8080"
  echo "      make lab-down"
}

# dockerd leaves its chains behind when it ends.
remove_chains() {
  for jump in DOCKER-USER DOCKER-ISOLATION-STAGE-1; do iptables -D FORWARD -j "$jump" 2>/dev/null || true; done
  for chain in DOCKER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2 DOCKER-USER; do
    iptables -F "$chain" 2>/dev/null && iptables -X "$chain" 2>/dev/null || true
  done
  for parent in PREROUTING OUTPUT; do
    iptables -t nat -S "$parent" | sed -n 's/^-A \(.* -j DOCKER\)$/\1/p' | while read -r rule; do
      # shellcheck disable=SC2086 # words of a rule
      iptables -t nat -D $rule || true
    done
  done
  iptables -t nat -F DOCKER 2>/dev/null && iptables -t nat -X DOCKER 2>/dev/null || true
}

down() {
  PODBUS_LAB_TOKEN=$(token); export PODBUS_LAB_TOKEN
  [ -f "$state/optional.yaml" ] || echo 'version: "3.7"' > "$state/optional.yaml"
  if docker info >/dev/null 2>&1; then
    say "ending the lab and removing its volumes"
    compose down --volumes --timeout 5
    docker image rm podbus/lab:latest >/dev/null 2>&1 || true
  fi
  if [ -f "$state/dockerd.pid" ]; then
    say "ending the dockerd that the lab started"
    pid=$(cat "$state/dockerd.pid")
    kill "$pid" 2>/dev/null || true
    # Nobody may have reaped it yet; what has ended has no program any more.
    for _ in $(seq 100); do readlink "/proc/$pid/exe" >/dev/null 2>&1 || break; sleep 0.2; done
    # A dockerd that failed left this directory mounted on itself.
    while umount "$data" 2>/dev/null; do :; done
    rm -rf "$data"
    [ ! -f "$state/chains" ] || remove_chains
  fi
  rm -rf "$state"
}

case ${1:-} in
  up) [ $# -eq 4 ] || fail "usage: lab.sh up PODBUS IMAGE_ARCHIVE NODES"; up "$2" "$3" "$4" ;;
  down) down ;;
  *) fail "usage: lab.sh up PODBUS IMAGE_ARCHIVE NODES | down" ;;
esac
