#!/usr/bin/env bash
# Changes one member of a running cluster between etcd and Kvorum, and makes sure before and after that the cluster is
# whole: docs/operating/migration.md says when to use which command. Endpoints, certificates and user are taken from
# etcdctl's variables (ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY, ETCDCTL_USER, ETCDCTL_PASSWORD).
#
#   migrate.sh check                      wait until the cluster is whole
#   migrate.sh in-place STOP START        stop a member, start the other program on its data
#   migrate.sh add NAME PEER_URL START    add a member, start it, make it a voter
#   migrate.sh remove NAME STOP           hand leadership on if NAME has it, stop it, remove it from the cluster
#
# STOP and START are shell commands, e.g. "ssh m1 systemctl stop etcd". START of `add` finds NAME and INITIAL_CLUSTER in
# its environment. MIGRATE_CTL is the tool to ask with (kvorumctl; etcdctl 3.5 or later does as well), MIGRATE_PATIENCE the
# seconds that anything may take (120).
set -euo pipefail

ctl=${MIGRATE_CTL:-kvorumctl}
patience=${MIGRATE_PATIENCE:-120}

usage() {
    sed -n '6,9s/^#   //p' "$0" >&2
    exit 2
}

# The values of one field, as `-w fields` prints them, one a line and each once.
values() {
    sed -n "s/^\"$1\" : //p" <<<"$2" | sort -u
}

# Asks these endpoints.
ask() {
    local endpoints=$1
    shift
    env -u ETCDCTL_ENDPOINTS -u KVORUMCTL_ENDPOINTS "$ctl" --endpoints="$endpoints" "$@"
}

# The client URLs of the members in a list, but for the one called $2.
endpoints() {
    awk -F', ' -v name="$2" '$3 != name { printf "%s%s", comma, $5; comma = "," }' <<<"$1"
}

# Fails and says what is wrong, unless the cluster is whole: every member started, votes, is healthy and without an alarm, all
# follow one leader, and at the newest revision that any of them knows all of them hold the same. The one called $1 may be
# stopped.
whole() {
    local members others statuses revision hashes
    members=$("$ctl" member list 2>&1) || { echo "no list of members: $members"; return 1; }
    others=$(endpoints "$members" "${1:-}")
    if grep -q ', unstarted, ' <<<"$members"; then echo "a member was never started: $members"; return 1; fi
    if grep -q ', true$' <<<"$members"; then echo "a member is a learner: $members"; return 1; fi
    statuses=$(ask "$others" endpoint status -w fields 2>&1) || { echo "a member has no status: $statuses"; return 1; }
    case $(values Leader "$statuses") in
    0 | *$'\n'*) echo "the members do not follow one leader: $statuses"; return 1 ;;
    esac
    [[ $(values Errors "$statuses") == "[]" ]] || { echo "a member reports $(values Errors "$statuses")"; return 1; }
    ask "$others" endpoint health >/dev/null 2>&1 || { echo "a member is not healthy"; return 1; }
    revision=$(values Revision "$statuses" | sort -n | tail -1)
    hashes=$(ask "$others" endpoint hashkv --rev "$revision" -w fields 2>&1) || { echo "no hash: $hashes"; return 1; }
    case $(values Hash "$hashes") in
    *$'\n'*) echo "the members hold different data at revision $revision: $hashes"; return 1 ;;
    esac
}

# Runs a command until it succeeds.
await() {
    local began=$SECONDS said
    until said=$("$@" 2>&1); do
        if ((SECONDS - began > patience)); then
            echo "migrate.sh: not within $patience s: $said" >&2
            exit 1
        fi
        sleep 0.2
    done
}

check() {
    await whole
    echo "the cluster is whole"
}

# Runs what the operator gave.
operate() {
    echo "$1"
    bash -c "$2" || { echo "migrate.sh: failed: $2" >&2; exit 1; }
}

# Column $2 of the member called $1.
member() {
    "$ctl" member list | awk -F', ' -v name="$1" -v column="$2" '$3 == name { print $column }'
}

in_place() {
    check
    operate "stopping" "$1"
    operate "starting" "$2"
    check
}

# A cluster that just changed takes no further change for some seconds. One whose answer got lost must not be asked for twice.
add_learner() {
    "$ctl" member list | grep -qF ", $1," || "$ctl" member add "$2" --learner --peer-urls="$1"
}

add() {
    local name=$1 peer_url=$2 id
    check
    await add_learner "$peer_url" "$name"
    id=$("$ctl" member list | awk -F', ' -v url="$peer_url" '$4 == url { print $1 }')
    # The name of the new member is not known to the others yet.
    INITIAL_CLUSTER=$("$ctl" member list | awk -F', ' -v url="$peer_url" -v name="$name" '
        { n = split($4, urls, ","); if ($4 == url) $3 = name
          for (i = 1; i <= n; i++) { printf "%s%s=%s", comma, $3, urls[i]; comma = "," } }')
    export NAME=$name INITIAL_CLUSTER
    operate "starting $name" "$3"
    await promote "$id"
    check
}

# Refused until the member has what the leader has. One whose answer got lost is a voter already.
promote() {
    ! "$ctl" member list | grep -q "^$1,.*, true$" || "$ctl" member promote "$1"
}

remove() {
    local name=$1 stop=$2 id members leader
    # It may have been stopped before.
    await whole "$name"
    members=$("$ctl" member list)
    id=$(member "$name" 1)
    [[ -n $id ]] || { echo "migrate.sh: no member is called $name" >&2; exit 1; }
    leader=$(printf '%x' "$(values Leader "$(ask "$(endpoints "$members" "$name")" endpoint status -w fields)")")
    if [[ $leader == "$id" ]]; then
        ask "$(member "$name" 5)" move-leader "$(awk -F', ' -v id="$id" '$1 != id { print $1; exit }' <<<"$members")"
    fi
    # A member that stops answers first what it was asked; one that is removed breaks off. But of two, one alone could not
    # remove the other.
    if (($(wc -l <<<"$members") > 2)); then
        operate "stopping $name" "$stop"
        await remove_member "$id"
    else
        await remove_member "$id"
        operate "stopping $name" "$stop"
    fi
    check
}

remove_member() {
    ! "$ctl" member list | grep -q "^$1," || "$ctl" member remove "$1"
}

case "${1:-} $#" in
"check 1") check ;;
"in-place 3") in_place "$2" "$3" ;;
"add 4") add "$2" "$3" "$4" ;;
"remove 3") remove "$2" "$3" ;;
*) usage ;;
esac
