#!/bin/sh
# A runtime handler for podbus in shell: containers made with unshare(1), nsenter(1) and chroot, no daemon, no library.
# It speaks the command line of OCI runtimes: create, start, state, kill, delete, exec. Needs jq and util-linux.
# docs/HANDLERS.md explains each command. It trusts its images more than a real runtime should.
set -eu
root=/run/chroot-handler log=/dev/stderr bundle=. pid_file=/dev/null process= force=
self=$(realpath "$0")
fail() { jq -cn --arg msg "$*" '{level: "error", msg: $msg}' >>"$log"; exit 1; }

command=
while [ $# -gt 0 ]; do
  case $1 in
    --root) root=$2; shift ;;
    --log) log=$2; shift ;;
    --log-format) shift ;;
    --bundle) bundle=$2; shift ;;
    --pid-file) pid_file=$2; shift ;;
    --process) process=$2; shift ;;
    --console-socket) fail "this handler has no terminals" ;;
    --force) force=yes ;;
    -*) ;;
    *) [ ! "$command" ] || break; command=$1 ;;
  esac
  shift
done
id=$1 signal=${2:-TERM} dir=$root/$id

# What runs the process on standard input beneath root $1: a clean environment, its capabilities at most, its user.
words() {
  jq -r --arg root "$1" '
    ["env", "-i"] + .env
    + ["/usr/bin/setpriv", "--bounding-set", "-all" + ([.capabilities.bounding[]? | ascii_downcase | ",+" + .[4:]] | join(""))]
    + (if .noNewPrivileges then ["--no-new-privs"] else [] end)
    + ["/usr/bin/unshare", "--root", $root, "--wd", .cwd, "--setgid", "\(.user.gid)", "--setuid", "\(.user.uid)", "--"]
    + .args | map(@sh) | join(" ")'
}

mount_all() {
  jq -r '.mounts[] | select(.type != "cgroup") | [.type, .source, .destination, (.options | join(","))] | @tsv' config.json |
    while IFS="$(printf '\t')" read -r type source target options; do
      place=$PWD/rootfs$target
      case $(realpath -m "$place") in "$PWD"/rootfs/*) ;; *) fail "$target leads out of the root" ;; esac
      if [ -d "$source" ] || [ "$type" != bind ]; then mkdir -p "$place"; else mkdir -p "${place%/*}"; [ -e "$place" ] || : >"$place"; fi
      if [ "$type" = bind ]; then mount --rbind "$source" "$place"; else mount -t "$type" -o "$options" "$source" "$place"; fi
      [ "$target" != /dev ] || for name in null zero full random urandom tty; do : >"$place/$name"; mount --bind "/dev/$name" "$place/$name"; done
    done
}

case $command in
create) # all but the program; it waits for `start`
  mkdir -p "$dir" && mkfifo "$dir/go" "$dir/up" && exec 3<&0
  setsid "$self" --root "$root" --log "$log" --bundle "$bundle" wait "$id" <&3 3<&- &
  echo $! >"$dir/pid" && cp "$dir/pid" "$pid_file" ;;
wait) # the process of `create`, until it becomes the container's
  read -r _ <"$dir/go" && exec 4>"$dir/up" # which tells `start` how it went
  namespaces=$(jq -r '.linux.namespaces[] | select(.path) | "--\({network: "net"}[.type] // .type)=\(.path)"' "$bundle/config.json")
  own=$(jq -r 'if any(.linux.namespaces[]; .type == "pid" and (.path | not)) then "unshare --pid --fork --kill-child" else "" end' "$bundle/config.json")
  exec nsenter $namespaces $own "$self" --root "$root" --log "$log" --bundle "$bundle" enter "$id" ;;
enter) # inside the namespaces: mounts, then the program. The mounts are the container's own already.
  read -r pid _ </proc/self/stat && echo "$pid" >"$dir/init"
  cd "$bundle" && mount_all
  program=$(jq .process config.json | words "$PWD/rootfs")
  echo >&4
  eval "exec $program 4>&-" ;;
start) echo >"$dir/go" && read -r _ <"$dir/up" || fail "cannot set up the container: its log says why" ;;
exec)
  init=$(cat "$dir/init")
  program=$(words "/proc/$init/root" <"$process")
  go=$dir/go-$$ # a shell takes the exit of its child, and that is the shim's to have: the child waits until this is none
  mkfifo "$go" && exec 3<&0
  { read -r _ <"$go" || rm "$go"; eval "exec setsid nsenter --target $init --net --ipc --uts --pid $program <&3 3<&-"; } &
  exec printf '%s\n' $! >"$pid_file" 4>"$go" ;;
state)
  if kill -0 "$(cat "$dir/pid")" 2>/dev/null; then status=running; else status=stopped; fi
  jq -n --arg id "$id" --arg status "$status" '{ociVersion: "1.0.2", id: $id, status: $status}' ;;
kill) # SIGKILL goes to unshare, and its child dies with it: had only the child been killed, unshare would end with 1
  case $signal in 9 | KILL) first=$dir/pid ;; *) first=$dir/init ;; esac
  kill -s "$signal" "$(cat "$first" "$dir/pid" 2>/dev/null | head -n 1)" 2>/dev/null || fail "$id does not run" ;;
delete) [ ! "$force" ] || kill -s KILL $(cat "$dir/pid" "$dir/init" 2>/dev/null) 2>/dev/null || true; rm -rf "$dir" ;;
*) fail "unknown command $command" ;;
esac
