# Sourced: `gateway` and `floor` are the programs to measure, GATEWAY's and FLOOR's, or else built here: the gateway as a release is
# (deploy/build.sh), where the toolchain has what that needs.
gateway=${GATEWAY:-} floor=${FLOOR:-}
build() { # what there is none of
  local built="${CARGO_TARGET_DIR:-target}/release"
  if [ -z "$gateway" ] && deploy/build.sh --can; then
    gateway=$(deploy/build.sh)
  elif [ -z "$gateway" ]; then
    echo "building, not as a release is" >&2
    cargo build --release --locked --quiet
    gateway="$built/alipay-notify-gateway"
  fi
  if [ -z "$floor" ]; then
    # An example, so that no gateway with the tests' features is built beside it.
    cargo build --release --locked --quiet --example floor
    floor="$built/examples/floor"
  fi
}
