"""Words that say nothing about whose machine it is: `redact.py` keeps them readable.

Names of standard folders, of widely used programs, of Redis settings and of kernel files. A name that is missing here
is hashed, which costs readability and no secrecy.
"""

from __future__ import annotations

from typing import Final

_FOLDERS = """
    bin boot dev etc home init lib lib32 lib64 local media mnt opt proc root run sbin share srv sys tmp usr var
    cache data db log logs spool tasks self task fd net cgroup unified memory cpu cpuacct cpuset blkio pids
    system slice user scope service session socket mount docker containerd kubepods lxc libpod podman machine
    site packages dist python node modules java jvm app src overlay overlay2 merged diff upper work volumes
"""
_PROGRAMS = """
    redis server cli sentinel valkey keydb memcached python python2 python3 pypy3 node nodejs java ruby perl php fpm
    nginx apache2 httpd haproxy envoy traefik caddy gunicorn uwsgi uvicorn celery puma unicorn postgres postgresql
    mysqld mariadbd mysql mongod mongo sqlite3 rabbitmq kafka elasticsearch etcd consul dockerd shim runc systemd
    journald rsyslogd cron sshd sh bash dash zsh curl wget dd fio stress cp mv rm tar gzip cat sleep find grep awk sed
    culpa kworker jbd2 ksoftirqd kswapd0 flush
"""
_EXTENSIONS = """
    py pyc js ts rb pl php go rs c cc cpp h so jar class conf cnf ini json yaml yml toml txt log gz db sqlite wal shm
    ibd frm myd myi aof rdb incr base manifest temp rewriteaof bg tmp pid sock lock part img
"""
_REDIS = """
    appendonly appendonlydir appendfsync appendfilename appenddirname dump always everysec no yes standalone cluster
    master slave replica sentinel ok err up down none noeviction allkeys volatile lru lfu random ttl jemalloc libc
    tcmalloc epoll connected connecting wait bgsave ip port state online offset lag keys expires avg type disk
    diskless load linux x86 aarch64 amd64 gcc normal pubsub hard soft
"""
_KERNEL = """
    kernel btf vmlinux stat status statm diskstats vmstat meminfo loadavg pressure io schedstat netstat snmp sockstat
    tcp tcp6 udp udp6 unix block queue scheduler bdi fs vm debug tracing events current max high low swap limit usage
    throttle device full some statvfs CAP BPF BTF PERFMON SYS ADMIN PTRACE eBPF libbpf perf event paranoid yama ptrace
    scope trace py spy numa maps numa_maps node devices system
"""
_TARGETS = "http https redis rediss unix localhost this host"

PUBLIC_WORDS: Final = frozenset(" ".join((_FOLDERS, _PROGRAMS, _EXTENSIONS, _REDIS, _KERNEL, _TARGETS)).split())
