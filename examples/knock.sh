#!/bin/sh
# One silent knock (KNK-1) where there is no Python: a router, a rescue system, a phone's terminal.
#
#   KNOCK_KEY=kn_... ./knock.sh HOST PORT [TTL] [REALM]
#
# HOST is the gate's name or address, PORT its udp.port, TTL the seconds asked for (0 or none: the key's own),
# REALM its udp.realm. It opens the address that the packet comes from; a gate never answers, so success here says
# only that the packet was sent. Needs a POSIX shell, od, nc, and openssl 1.1 or later.
#
# Others on this machine: openssl takes its keys as arguments, so for a moment every process here can read them in
# the process list (ps). The API key itself is not among them, but what is, is enough to knock by packet in its name.
# Where you share a machine with people you would not let in, use `knocker knock --udp`.
# Keep the key in a file of yours alone, out of your shell's history: KNOCK_KEY=$(cat ~/.knock-key) ./knock.sh ...
#
# KNOCK_NC names another nc: that of many a busybox knows no -u.
# KNOCK_TS (Unix seconds) and KNOCK_NONCE (32 hex digits) take the place of the clock and of chance, for tests only:
# two packets with one nonce give away what they say.
set -eu
LC_ALL=C
export LC_ALL

fail() {
    printf 'knock.sh: %s\n' "$1" >&2
    exit 2
}

if [ $# -lt 2 ] || [ $# -gt 4 ]; then
    fail 'use: KNOCK_KEY=... knock.sh HOST PORT [TTL] [REALM]'
fi
[ -n "${KNOCK_KEY:-}" ] || fail 'put the key into the variable KNOCK_KEY'
nc=${KNOCK_NC:-nc}
for tool in openssl od "$nc"; do
    command -v "$tool" >/dev/null || fail "$tool is not installed"
done

# printf and arithmetic take a leading zero for octal.
number() {
    case $1 in
    '' | *[!0-9]* | 0?* | ????????????*) fail "not a number: $1" ;;
    esac
}

host=$1 port=$2 ttl=${3:-0} realm=${4:-}
now=${KNOCK_TS:-$(date +%s)}
nonce=${KNOCK_NONCE:-$(openssl rand -hex 16)}
number "$port"
number "$ttl"
number "$now"
[ "$ttl" -le 4294967295 ] || fail "a packet has no room for so many seconds: $ttl"

hex() { od -An -v -tx1 | tr -d ' \n'; }

octal() {
    rest=$1
    while [ -n "$rest" ]; do
        more=${rest#??}
        printf '\\%03o' "0x${rest%"$more"}"
        rest=$more
    done
}

# A shell's variables hold no zero bytes, so everything is kept in hex until it is used.
# shellcheck disable=SC2059
bytes() { printf "$(octal "$1")"; }

hmac() { bytes "$2" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$1" -binary | hex; }

text() { printf %s "$1" | hex; }

secret=$(hmac "$(text knocker-udp-v1)" "$(text "$KNOCK_KEY")")
tail=00$(text "$realm")01
k_hint=$(hmac "$secret" "$(text hint)$tail")
k_enc=$(hmac "$secret" "$(text enc)$tail")
k_mac=$(hmac "$secret" "$(text mac)$tail")

# A pipe does not tell when one of its commands failed; the length of what comes out does.
whole() { [ "${#1}" -eq "$2" ] || fail 'openssl did not do as it was told'; }
for key in "$k_hint" "$k_enc" "$k_mac"; do
    whole "$key" 64
done

hint=$(hmac "$k_hint" "$(printf %016x "$((now / 120))")" | cut -c1-16)
zero=0000000000000000
body=01000000$(printf %08x "$ttl")$(printf %016x "$((now * 1000))")$zero$zero$zero
sealed=$(bytes "$body" | openssl enc -aes-256-ctr -K "$k_enc" -iv "$nonce" -nosalt | hex)
tag=$(hmac "$k_mac" "$hint$nonce$sealed" | cut -c1-32)
packet=$hint$nonce$sealed$tag
whole "$packet" 160

# Datagrams get lost, so it goes out three times; the gate takes the first copy that arrives.
pause() { sleep "$1" 2>/dev/null || sleep 1; }
{
    bytes "$packet"
    pause 0.15
    bytes "$packet"
    pause 0.45
    bytes "$packet"
} | "$nc" -u -w 1 "$host" "$port"
