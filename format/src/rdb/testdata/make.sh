#!/usr/bin/env bash
# Writes the RDB files beside this script with real servers: the same data, in different encodings.
#   make.sh valkey-server valkey-cli     ->  valkey-packed.rdb (RDB 11, compressed), valkey-plain.rdb (nothing packed)
#   make.sh redis-server redis-cli       ->  redis-packed.rdb, redis-plain.rdb (RDB 10 with Redis 7.0)
set -euo pipefail
server=$1 cli=$2 here=$(cd "$(dirname "$0")" && pwd)
name=$(basename "$server" | cut -d- -f1)
dir=$(mktemp -d); port=$((20000 + RANDOM % 20000))
"$server" --port $port --bind 127.0.0.1 --dir "$dir" --save '' --daemonize no --enable-debug-command yes \
    --logfile "$dir/log" >/dev/null &
pid=$!
trap 'kill $pid; wait $pid 2>/dev/null || true; rm -rf "$dir"' EXIT
c() { "$cli" -p $port "$@" >/dev/null; }
until c PING 2>/dev/null; do sleep 0.1; done

fill() {
    c SET string:raw 'a string'
    c SET string:int8 12; c SET string:int16 -1234; c SET string:int32 123456789; c SET string:int64 -1234567890123
    c SET string:digits 007
    c SET string:repeats "$(printf 'abcabcabd%.0s' {1..200})"
    c SET string:empty ''
    c SET prexor:v1:lease:scheduler 'c1|7' PXAT 4102444800123
    c SET prexor:v1:lease-token:scheduler 7
    c SET prexor:v1:platform:shop:cart:1 x PXAT 4102444800999
    c RPUSH list:small a b 3 -4 70000 5000000000 "$(printf 'z%.0s' {1..100})"
    for i in {1..300}; do echo "RPUSH list:long element-$i $i"; done | "$cli" -p $port >/dev/null
    c RPUSH list:big "$(printf 'y%.0s' {1..20000})" "$(head -c 9000 /dev/zero | tr '\0' q)x" last
    c SADD set:ints 1 2 3 -70000 5000000000
    c SADD set:mixed a b 3 "$(printf 'm%.0s' {1..70})"
    c HSET hash:small field value n 1 m -300 "$(printf 'f%.0s' {1..40})" "$(printf 'v%.0s' {1..60})"
    for i in {1..200}; do echo "HSET hash:long field-$i value-$i"; done | "$cli" -p $port >/dev/null
    c ZADD zset:small 1 a 2.5 b -inf c +inf d 3.14159265358979 e 0 f -0 g 1e300 h -17 i
    for i in {1..200}; do echo "ZADD zset:long $i.25 member-$i"; done | "$cli" -p $port >/dev/null
    for i in {1..150}; do echo "XADD stream $i-1 name value-$i other $i"; done | "$cli" -p $port >/dev/null
    c XADD stream 200-0 different fields here 1
    c XDEL stream 3-1 150-1
    c XGROUP CREATE stream workers 10-1
    c XGROUP CREATE stream idle 0
    c XREADGROUP GROUP workers alice COUNT 3 STREAMS stream '>'
    c XREADGROUP GROUP workers bob COUNT 2 STREAMS stream '>'
    c XACK stream workers 11-1
    c XADD stream:emptied 1-1 a b; c XDEL stream:emptied 1-1
    c -n 3 SET other:db 1
    c -n 9 HSET prexor:v1:node:n1 state up
    c FUNCTION LOAD "#!lua name=library
redis.register_function('f', function() return 1 end)"
}
save() { c CONFIG SET rdbcompression "$2"; c SAVE; cp "$dir/dump.rdb" "$here/$1"; }

fill
save "$name-packed.rdb" yes
for setting in hash-max-listpack-entries zset-max-listpack-entries set-max-intset-entries stream-node-max-entries; do
    c CONFIG SET $setting 1
done
c CONFIG SET set-max-listpack-entries 0 || true
c CONFIG SET list-max-listpack-size 1
c DEBUG RELOAD
save "$name-plain.rdb" no
