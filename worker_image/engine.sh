# Sets $engine to the container engine to use: the one in $ENGINE, else the first that answers. Read by the other scripts.

answers() {
    case $1 in
    docker) docker version ;;
    podman) podman info ;;
    *) "$1" version ;;
    esac >/dev/null 2>&1
}

engine=
for name in ${ENGINE:-docker podman buildah}; do
    if command -v "$name" >/dev/null && answers "$name"; then
        engine=$name
        break
    fi
done
if [ -z "$engine" ]; then
    echo "no container engine answers: looked for ${ENGINE:-docker, podman and buildah}" >&2
    exit 77 # as test programs say "skipped"
fi
