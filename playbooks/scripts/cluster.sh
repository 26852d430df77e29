#!/bin/sh
# The tutorial's cluster computer with plain commands: a shared provider network, a private network,
# a head node on both, compute nodes on the private one.
#
#   cluster.sh up      make it; what is there is used
#   cluster.sh down    delete the servers and the private network
#
# Change it by the environment, for instance: USER_NAME=worf COUNT=8 IMAGE=debian cluster.sh up
set -eu

USER_NAME=${USER_NAME:-worf}
COUNT=${COUNT:-4}
IMAGE=${IMAGE:-guest}
FLAVOR=${FLAVOR:-m1.small}
HEAD_FLAVOR=${HEAD_FLAVOR:-medium}
KEY=${KEY:-$USER_NAME}
KEY_FILE=${KEY_FILE:-$HOME/.ssh/$KEY.pem}
PROVIDER=${PROVIDER:-Enterprise}
PHYSICAL_NETWORK=${PHYSICAL_NETWORK:-provider}
VLAN=${VLAN:-101}
PROVIDER_CIDR=${PROVIDER_CIDR:-10.1.0.0/24}
CIDR=${CIDR:-192.168.1.0/24}

local_net=${USER_NAME}_local
head=${USER_NAME}_head_node
node=${USER_NAME}_compute_node_

# Whether `stackctl show NAME` (net-show, keypair-show ...) finds it: 3 is "there is none".
there() {
    status=0
    stackctl "$@" >/dev/null 2>&1 || status=$?
    case $status in
    0) return 0 ;;
    3) return 1 ;;
    *) stackctl "$@" >/dev/null; exit "$status" ;;
    esac
}

up() {
    there net-show "$PROVIDER" || stackctl net-create "$PROVIDER" --shared --type vlan \
        --physical-network "$PHYSICAL_NETWORK" --segmentation-id "$VLAN" --subnet "$PROVIDER_CIDR"
    there net-show "$local_net" || stackctl net-create "$local_net" --subnet "$CIDR"
    there keypair-show "$KEY" || stackctl keypair-add "$KEY" --private-key "$KEY_FILE"

    there show "$head" || stackctl boot "$head" --image "$IMAGE" --flavor "$HEAD_FLAVOR" \
        --key "$KEY" --nic net="$PROVIDER" --nic net="$local_net"
    there show "${node}-1" || stackctl boot "$node" --count "$COUNT" --image "$IMAGE" \
        --flavor "$FLAVOR" --key "$KEY" --nic net="$local_net" --wait ssh

    stackctl list
    # From the head every node answers by its name.
    for name in $(stackctl list -f json -c Hostname | sed -n 's/.*: "\(.*-compute-node-[0-9]*\)".*/\1/p'); do
        stackctl ssh -i "$KEY_FILE" "$head" ping -q -c 3 "$name"
    done
}

down() {
    for name in "$head" $(seq -f "${node}-%g" 1 "$COUNT"); do
        if there show "$name"; then stackctl delete "$name"; fi
    done
    if there net-show "$local_net"; then stackctl net-delete "$local_net"; fi
}

case ${1:-} in
up | down) "$1" ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
