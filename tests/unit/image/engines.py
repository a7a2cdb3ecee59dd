"""A stand-in for docker, podman and buildah, and one for cosign: they print what they were asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

# $BUILT: the images that it has, $DIGEST: what it tells of one in a registry, $LIST: of a list there. Its first word is
# its own name, so that the lines tell who was asked.
ENGINE = """\
#!/bin/sh
asked=$*
case $1 in
    version) exit {version} ;;
    images) case " $BUILT " in *" $3 "*) echo 0123abcd ;; esac; exit ;;
    create) echo "container$([ $# = 2 ] || echo " $2")"; exit ;;
    cp) echo "contents of $2" >"$3"; exit ;;
    rm) exit ;;
    rmi) echo "{name}: $asked" >&2; exit ;;
    inspect) echo "$DIGEST"; exit ;;
    image) echo "elsewhere/any@$OTHER"; echo "r/any@$DIGEST"; exit ;;
    pull) case $3 in *@$OTHER) exit 1 ;; *) exit ;; esac ;;
    push) [ {name} = docker ] && echo "7: digest: $DIGEST size: 1234" || {{ echo "$DIGEST" >"$3"; asked="push $4"; }} ;;
    manifest) case $2 in
        rm) exit 1 ;;
        push) [ {name} = docker ] && echo "$LIST" || {{ echo "$LIST" >"$8"; asked="manifest push $9 ${{10}}"; }} ;;
    esac ;;
    build) case $asked in *--output*)
        case $3 in --platform=*) platform=$3; shift ;; esac
        {{ cat "$4"; echo "$platform"; }} >"${{6#type=local,dest=}}/sbom.cdx.json"; exit ;;
    esac ;;
esac
echo "{name}: $asked"
"""
COSIGN = """\
#!/bin/sh
echo "cosign: $*"
"""
DIGEST = f"sha256:{'0123456789abcdef' * 4}"
LIST = f"sha256:{'fedcba9876543210' * 4}"
Images = Callable[..., tuple[int, list[str]]]
REPO = "docker.io/bitfusiondeviceplugin"
BOTH = [f"{REPO}/{name}:7" for name in ("bitfusiond", "bitfusion-client")]


def put(programs: Path, name: str, text: str) -> None:
    program = programs / name
    program.write_text(text)
    program.chmod(0o755)


def engine(programs: Path, name: str, *, works: bool = True) -> None:
    put(programs, name, ENGINE.format(name=name, version=0 if works else 1))
