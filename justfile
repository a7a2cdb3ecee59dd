# Commands for users and developers of bitfusiond. `just` alone lists them.

set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments := true # "$@" in a recipe: nothing of what is given is read by the shell again

python := env("PYTHON", "python3")
venv := env("VENV", ".venv")
bin := venv / "bin"
install := quote(bin / "python") + " -m pip install --quiet --disable-pip-version-check"

# What the images are called, and how they are made. Each can be a variable of the environment, or `just NAME=value RECIPE`.
# Empty: the default, and for deploy what runs.
IMAGE_REPO := env("IMAGE_REPO", "")
IMAGE_TAG := env("IMAGE_TAG", "")
repo := if IMAGE_REPO == "" { "docker.io/bitfusiondeviceplugin" } else { IMAGE_REPO }
tag := if IMAGE_TAG == "" { `sed -n 's/^__version__ = "\(.*\)"$/\1/p' bitfusiond/__init__.py` } else { IMAGE_TAG }
images := "env IMAGE_REPO=" + quote(repo) + " IMAGE_TAG=" + quote(tag) + " image/images"
export PACKAGES := env("PACKAGES", "")
export BASE := env("BASE", "")
export BUILD_BASE := env("BUILD_BASE", "")
export PLATFORMS := env("PLATFORMS", "")
export CONTAINER_ENGINE := env("CONTAINER_ENGINE", "")
export COSIGN_KEY := env("COSIGN_KEY", "")

_list:
    @just --list --unsorted

# Make the virtual environment, or bring it up to date when pyproject.toml, its lock or its Python changed.
[private]
[no-exit-message]
setup:
    #!/usr/bin/env bash
    set -euo pipefail
    stamp="{{ venv }}/.installed"
    [ -e "{{ venv }}/pyvenv.cfg" ] || {{ python }} -m venv "{{ venv }}"
    minor='import sys; print("{}.{}".format(*sys.version_info))'
    has=$("{{ bin }}/python" -IS -c "$minor" 2>/dev/null) || has=none
    # `python3 -m venv` over an environment of another Python notes the new one there and leaves the old one in it.
    wanted=$(sed -nE 's/^version(_info)? *= *([0-9]+\.[0-9]+).*/\2/p' "{{ venv }}/pyvenv.cfg" | tail -n 1)
    [ "{{ python }}" = python3 ] || wanted=$({{ python }} -IS -c "$minor")
    read -r least below < <(sed -nE 's/^requires-python = ">=3\.([0-9]+),<3\.([0-9]+)"$/\1 \2/p' pyproject.toml)
    if [ "$has" = none ]; then wrong="its Python is gone"
    elif [ "$has" != "${wanted:-$has}" ]; then wrong="it holds Python $has, not $wanted"
    # pip would look for versions that fit an older Python for many minutes.
    elif [ "${has#3.}" -lt "$least" ] || [ "${has#3.}" -ge "$below" ]; then
        wrong="it holds Python $has; bitfusiond needs 3.$least to 3.$((below - 1))"
    else wrong=
    fi
    if [ -n "$wrong" ]; then
        echo "{{ venv }}: $wrong. Remove it (rm -rf {{ venv }}) and make it anew, or let VENV name another" >&2
        exit 1
    fi
    if [ pyproject.toml -nt "$stamp" ] || [ requirements-dev.txt -nt "$stamp" ] || [ "$(cat "$stamp")" != "$has" ]; then
        echo "setting up {{ venv }} (once), with Python $has" >&2
        {{ install }} --require-hashes --requirement requirements-dev.txt
        PYTHONWARNINGS=ignore {{ install }} --no-index --no-deps --no-build-isolation --editable .
        echo "$has" >"$stamp"
    fi

# Show the main job end to end on this machine: no cluster, no root, no container engine.
demo *ARGS: setup
    @{{ bin }}/python -m tests.tools.demo "$@"

# Make docs/demo.md anew, the demo as it ran.
record: setup
    @{{ bin }}/python -m tests.tools.demo.record

# Run the tests. ARGS go to pytest.
test *ARGS: setup
    {{ bin }}/python -m pytest "$@"

# Run the tests that are quick, about 50 s on two cores: no cluster, few processes and sockets.
test-fast *ARGS: setup
    {{ bin }}/python -m pytest -m 'not (slow or apiserver or faults or node or cluster or images or registry or helm)' "$@"

# Lint, types, import layers, manifests against the Kubernetes schemas.
check: setup
    {{ bin }}/ruff check .
    {{ bin }}/ruff format --check .
    {{ bin }}/mypy
    {{ bin }}/lint-imports --no-cache
    for minor in {25..37}; do {{ bin }}/kubernetes-validate --quiet --strict --kubernetes-version 1.$minor $(ls manifests/{base,examples,autoscaling,image-lookup,overlays/legacy}/*.yaml manifests/pool/permissions.yaml $([ $minor -lt 28 ] || ls manifests/overlays/community/*.yaml) $([ $minor -lt 30 ] || ls manifests/guard/*.yaml) | grep -v kustomization); done

# Measure; prints a table.
bench *ARGS: setup
    @{{ bin }}/python -m tests.tools.bench "$@"

# Look for inputs that break something, SECONDS for each target or one TARGET: just fuzz [TARGET] [SECONDS] [--keep].
fuzz *ARGS: setup
    @{{ bin }}/python -c 'import atheris' 2>/dev/null || {{ install }} --require-hashes --requirement requirements-fuzz.txt
    @{{ bin }}/python -m tests.tools.fuzz "$@"

# Make the pictures of docs/pictures anew, of the sources beside them; wants graphviz.
pictures: setup
    {{ bin }}/python -m tests.tools.pictures

# Make the gRPC code of proto/ anew.
proto: setup
    {{ bin }}/python -m tests.tools.protoc .

# Lock what is installed, with hashes, after a change of pyproject.toml; `just lock --upgrade` takes the newest of all.
lock *ARGS: setup
    #!/usr/bin/env bash
    set -euo pipefail
    # Bounds of an older version of Python hold for those above it; --universal is for every platform.
    least=$(sed -nE 's/^requires-python = ">=([0-9.]+),.*/\1/p' pyproject.toml)
    lock() {
        local file=$1
        shift
        "{{ bin }}/uv" pip compile --quiet --universal --python-version "$least" --generate-hashes --no-annotate \
            --no-emit-index-url --custom-compile-command "just lock" --output-file "$file" "$@"
    }
    lock image/requirements.txt pyproject.toml "$@"
    lock image/build-requirements.txt --group image "$@"
    lock requirements-fuzz.txt --group fuzz "$@"
    # The tests run with what the image has.
    lock requirements-dev.txt pyproject.toml --extra dev --group image \
        --constraint image/requirements.txt --constraint image/build-requirements.txt "$@"

# Make dist/bitfusiond, and dist/kubectl-bitfusion: executable files that need only Python, of the minor version that made them.
build: setup
    #!/usr/bin/env bash
    set -euo pipefail
    # The file carries compiled modules: another minor version of Python could not load them.
    interpreter=$("{{ bin }}/python" -c 'import sys; print("python{}.{}".format(*sys.version_info))')
    rm -rf build dist/bitfusiond dist/kubectl-bitfusion # what an earlier build left in build/ would go into the package
    mkdir -p dist
    site=$(mktemp -d)
    trap 'rm -rf build "$site"' EXIT
    {{ install }} --target "$site" --no-compile --require-hashes --requirement image/requirements.txt
    for program in bitfusiond kubectl-bitfusion; do
        "{{ bin }}/shiv" -qq --reproducible --compressed --python "/usr/bin/env $interpreter" \
            --site-packages "$site" --console-script $program --output-file dist/$program \
            --no-index --no-deps --no-build-isolation .
        rm -rf build
        echo "dist/$program: $(du -h --apparent-size dist/$program | cut -f1), for $interpreter"
    done
    ln -sf kubectl-bitfusion dist/kubectl_complete-bitfusion

# Unpack the client packages (.deb, .rpm) in DIR into OUT, and write the catalogue that matches.
distros DIR OUT="distros": setup
    @{{ bin }}/python -m bitfusiond.operate.distros {{ quote(DIR) }} {{ quote(OUT) }}

# Build the container images; PACKAGES=DIR, a directory of client packages, for bitfusion-client. ARGS go to the engine.
build-image *ARGS:
    @{{ images }} build "$@"

# Push the container images that are built, and keep their digests for deploy; COSIGN_KEY=KEY signs them.
push-image:
    @{{ images }} push

# Print BASE, or the default, by the digest that its tag has now: BASE=$(just base-digest) just build-image.
base-digest:
    @{{ images }} base

# What deploy, verify and uninstall can be told. Empty: what the cluster has stays, else the default. Not exported: some
# are names of the daemons' own variables, and of nobody else's business. After the recipe's name they are taken too.
K8S_PLATFORM := env("K8S_PLATFORM", "")
TOTAL_GPU_MEMORY := env("TOTAL_GPU_MEMORY", "")
RESOURCE_NUMS := env("RESOURCE_NUMS", "")
CLIENTS := env("CLIENTS", "")
IMAGE_DIGESTS := env("IMAGE_DIGESTS", "")
ALLOW_NAMESPACES := env("ALLOW_NAMESPACES", "")
TOKEN_NAMESPACE := env("TOKEN_NAMESPACE", "")
CLIENT_CA := env("CLIENT_CA", "")
API_SERVER_ONLY := env("API_SERVER_ONLY", "")
POOL := env("POOL", "")
DELIVERY := env("DELIVERY", "")
IMAGE_LOOKUP := env("IMAGE_LOOKUP", "")
IMAGE_REGISTRIES := env("IMAGE_REGISTRIES", "")
INSECURE_REGISTRIES := env("INSECURE_REGISTRIES", "")
REGISTRY_CA := env("REGISTRY_CA", "")
ADOPT := env("ADOPT", "")
NAMESPACE := env("NAMESPACE", "")
FORCE := env("FORCE", "")
TIMEOUT := env("TIMEOUT", "")
operate := "env IMAGE_REPO=" + quote(IMAGE_REPO) + " IMAGE_TAG=" + quote(IMAGE_TAG) + \
    " IMAGE_DIGESTS=" + quote(IMAGE_DIGESTS) + \
    " K8S_PLATFORM=" + quote(K8S_PLATFORM) + " TOTAL_GPU_MEMORY=" + quote(TOTAL_GPU_MEMORY) + \
    " RESOURCE_NUMS=" + quote(RESOURCE_NUMS) + " POOL=" + quote(POOL) + " DELIVERY=" + quote(DELIVERY) + " CLIENTS=" + quote(CLIENTS) + \
    " ALLOW_NAMESPACES=" + quote(ALLOW_NAMESPACES) + " TOKEN_NAMESPACE=" + quote(TOKEN_NAMESPACE) + \
    " CLIENT_CA=" + quote(CLIENT_CA) + " API_SERVER_ONLY=" + quote(API_SERVER_ONLY) + \
    " IMAGE_LOOKUP=" + quote(IMAGE_LOOKUP) + " IMAGE_REGISTRIES=" + quote(IMAGE_REGISTRIES) + \
    " INSECURE_REGISTRIES=" + quote(INSECURE_REGISTRIES) + " REGISTRY_CA=" + quote(REGISTRY_CA) + \
    " ADOPT=" + quote(ADOPT) + \
    " NAMESPACE=" + quote(NAMESPACE) + " FORCE=" + quote(FORCE) + " TIMEOUT=" + quote(TIMEOUT) + " " + quote(bin / "python") + \
    " -m bitfusiond.operate"

# Install into the cluster of kubectl's context, or bring it up to date: checks, applies, waits, proves.
[no-exit-message]
deploy *VARIABLES: setup
    @{{ operate }} deploy "$@"

# Print what deploy would apply to an empty cluster; asks none, so that K8S_PLATFORM and all else must be given.
[no-exit-message]
manifests *VARIABLES: setup
    @{{ operate }} manifests "$@"

# Make the Helm chart of this version, which installs what deploy does: OUT/bitfusiond/ and OUT/bitfusiond-VERSION.tgz.
[no-exit-message]
chart OUT="dist": setup
    @{{ operate }} chart {{ quote(OUT) }}

# Look at every part of the installation; --namespace NAME looks at the pods and tokens of one namespace.
[no-exit-message]
verify *ARGS: setup
    @{{ operate }} verify "$@"

# Take all but your token Secrets out of the cluster; NAMESPACE=yes: bwki too, FORCE=yes: while pods hold GPUs of a pool.
[no-exit-message]
uninstall *VARIABLES: setup
    @{{ operate }} uninstall "$@"

# Make the token Secrets from the directory of an unpacked token, or bring them up to date.
[no-exit-message]
tokens DIR: setup
    @{{ operate }} tokens {{ quote(DIR) }}

# Write a first inventory of the pool from a servers.conf, for you to complete; then POOL=pool.yaml just deploy.
[no-exit-message]
pool SERVERS_CONF OUT="pool.yaml": setup
    @{{ operate }} pool {{ quote(SERVERS_CONF) }} {{ quote(OUT) }}
