#!/bin/sh
# Build the real Dockerfile and run a session inside: tasks with packages, modules of the user's own, and nothing to write to.
#
#   smoke.sh                   engine: $ENGINE, else docker, podman or buildah, the first that answers
#   BASE_IMAGE=… smoke.sh      on that image; "debian": on one made from Debian's packages (debian_base.sh)
#   PYTHON=… smoke.sh          the client's Python, with this library and its test packages; "python3" unless given
#
# Exit status 77 if no engine answers. With docker and podman the root is read-only; buildah cannot do that.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/engine.sh"

python=${PYTHON:-python3}
image=localhost/starburst-worker:smoke
PYTHONPATH=$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
work=$(mktemp -d)
container=
cleanup() {
    rm -rf "$work"
    if [ -n "$container" ]; then buildah rm "$container" >/dev/null; fi
}
trap cleanup EXIT

if [ "${BASE_IMAGE:-}" = debian ]; then
    BASE_IMAGE=localhost/starburst-debian
    if [ "$engine" = buildah ]; then have="buildah inspect --type image"; else have="$engine image inspect"; fi
    $have "$BASE_IMAGE" >/dev/null 2>&1 || "$here/debian_base.sh" "$BASE_IMAGE"
fi

mkdir "$work/project"
printf 'tqdm>=4.66\n' >"$work/project/requirements.txt"
"$python" "$here/smoke.py" context "$work/project" "$work/context" "${BASE_IMAGE:-}" >"$work/arguments"
echo "building with $engine"
build=build
[ "$engine" = buildah ] && build=bud
# shellcheck disable=SC2046 # one word a line
"$engine" "$build" $(cat "$work/arguments") --tag "$image" "$work/context" >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; exit 1; }

# What runs the image, with further words for its entry point.
if [ "$engine" = buildah ]; then
    container=$(buildah from --pull-never "$image")
    entry=$(buildah inspect --format '{{range .OCIv1.Config.Entrypoint}}{{.}} {{end}}' "$container")
    "$python" "$here/smoke.py" session -- buildah run --volume "$work:/tmp:U" '{env}' "$container" -- $entry
else
    "$python" "$here/smoke.py" session --read-only -- "$engine" run --rm --network host --read-only --tmpfs /tmp \
        --cap-drop ALL --security-opt no-new-privileges '{env}' "$image"
fi
