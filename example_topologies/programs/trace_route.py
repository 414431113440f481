#!/usr/bin/env python3
"""Print the address of every hop on the way to a host; fail when the host is not reached.

A packet that may make N hops is answered by the router where they are used up (ICMP "time
exceeded"), and by the host itself once it arrives (ICMP "port unreachable"). Linux puts these
answers into the error queue of the socket, where they can be read without privileges: ip(7),
IP_RECVERR.
"""

import select
import socket
import sys

IP_RECVERR = 11  # linux/in.h
PORT = 33434  # where traceroute begins; nobody listens there
PATIENCE = 0.5  # seconds
ICMP_TYPE = 5  # where it is in a struct sock_extended_err, linux/errqueue.h
OFFENDER = 20  # where the address is that follows it: 16 bytes, then 4 of a struct sockaddr_in
DESTINATION_UNREACHABLE, TIME_EXCEEDED = 3, 11  # RFC 792


def answer_to(host: str, hops: int) -> tuple[int, str] | None:
    """Send a packet that may make so many hops; return type and sender of the ICMP answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
        probe.sendto(b"", (host, PORT))
        poll = select.poll()
        poll.register(probe, select.POLLERR)
        if not poll.poll(PATIENCE * 1000):
            return None
        _, ancillary, _, _ = probe.recvmsg(0, 512, socket.MSG_ERRQUEUE)
        error = ancillary[0][2]
        return error[ICMP_TYPE], socket.inet_ntoa(error[OFFENDER : OFFENDER + 4])


for distance in range(1, 5):
    answer = answer_to(sys.argv[1], distance)
    if answer is None:
        sys.exit(f"no answer from hop {distance}")
    kind, sender = answer
    print(sender)
    if kind == DESTINATION_UNREACHABLE:
        sys.exit()
sys.exit("too far away")
