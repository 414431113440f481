"""One member of a cluster that elects a leader; $MEMBERS are the names of all, this host's included.

This is the election of Raft, without its log: https://raft.github.io, section 5.2 of the paper.
Who has not heard from a leader for a while begins a new term and asks the others for their votes.
Each gives one vote in a term; more than half of all votes make a leader, whose heartbeats keep the
others quiet. A leader that hears from less than half of the cluster steps down.

The file /run/leader says whom this member takes for the leader, or is empty.
"""

from __future__ import annotations

import json
import os
import random
import socket
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

PORT = 7000
HEARTBEAT = 0.1  # seconds
PATIENCE = (0.5, 1.0)  # seconds without a leader; at random, so that seldom two run at once
LEADER = Path("/run/leader")
STATE = Path("/srv/member.json")  # term and vote outlive a crash, else one could vote twice


class Member:
    """The state of this member, and what it does about messages and silence."""

    def __init__(self, name: str, members: list[str]) -> None:
        self.name = name
        self.others = [member for member in members if member != name]
        self.majority = len(members) // 2 + 1
        self.term: int = 0
        self.vote: str | None = None  # whom I voted for in this term
        if STATE.exists():
            self.term, self.vote = json.loads(STATE.read_text())
        self.votes: set[str] = set()  # for me, in this term
        self.heard: dict[str, float] = {}  # when each follower answered last
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("", PORT))
        self.follow("")

    def run(self) -> None:
        """Live for ever."""
        while True:
            self.socket.settimeout(max(self.deadline - time.monotonic(), 0.001))
            try:
                message = json.loads(self.socket.recv(1024))
            except TimeoutError:
                self.silence()
            else:
                self.receive(message["kind"], message["term"], message["sender"])

    def silence(self) -> None:
        """The deadline has passed: a leader shows that it is there, others want to lead."""
        if self.leader != self.name:
            self.run_for_leader()
        elif self.followers() + 1 < self.majority:
            self.follow("")
        else:
            self.tell_all("heartbeat")

    def receive(self, kind: str, term: int, sender: str) -> None:
        """React to a message."""
        if term > self.term:
            self.enter(term)
            self.follow("")
        if term < self.term:
            self.tell(sender, "outdated")
        elif kind == "candidate" and self.vote in (None, sender):
            self.enter(term, vote=sender)
            self.follow("")
            self.tell(sender, "vote")
        elif kind == "vote":
            self.votes.add(sender)
            if len(self.votes) >= self.majority and self.leader != self.name:
                self.lead()
        elif kind == "heartbeat":
            self.follow(sender)
            self.tell(sender, "alive")
        elif kind == "alive":
            self.heard[sender] = time.monotonic()

    def run_for_leader(self) -> None:
        """Begin a term, vote for myself and ask for the others' votes."""
        self.enter(self.term + 1, vote=self.name)
        self.follow("")
        self.votes = {self.name}
        self.tell_all("candidate")

    def lead(self) -> None:
        """I am elected."""
        print(f"term {self.term}: elected")
        self.heard = dict.fromkeys(self.votes - {self.name}, time.monotonic())
        self.set_leader(self.name)
        self.tell_all("heartbeat")

    def follow(self, leader: str) -> None:
        """Be quiet for a while, since there is a leader or may soon be one."""
        self.votes.clear()
        self.set_leader(leader)
        self.deadline = time.monotonic() + random.uniform(*PATIENCE)

    def enter(self, term: int, vote: str | None = None) -> None:
        """Enter a term, or vote in it, and remember that."""
        self.term, self.vote = term, vote
        replace(STATE, json.dumps([term, vote]))

    def set_leader(self, leader: str) -> None:
        """Take a member, or nobody, for the leader."""
        if leader != getattr(self, "leader", None):
            self.leader = leader
            replace(LEADER, leader)

    def followers(self) -> int:
        """Return how many members answered lately."""
        now = time.monotonic()
        return sum(now - heard < PATIENCE[1] for heard in self.heard.values())

    def tell_all(self, kind: str) -> None:
        """Send a message to every other member; a leader does so again after a heartbeat."""
        for member in self.others:
            self.tell(member, kind)
        if self.leader == self.name:
            self.deadline = time.monotonic() + HEARTBEAT

    def tell(self, member: str, kind: str) -> None:
        """Send a message; nobody knows whether it arrives."""
        message = json.dumps({"kind": kind, "term": self.term, "sender": self.name})
        with suppress(OSError):  # it is not there, or not there yet
            self.socket.sendto(message.encode(), (address_of(member), PORT))


@cache
def address_of(member: str) -> str:
    """Return a member's address, which it keeps; a name that does not resolve is tried again."""
    return socket.gethostbyname(member)


def replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


print("started")
Member(socket.gethostname(), os.environ["MEMBERS"].split()).run()
