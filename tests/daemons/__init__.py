"""Real daemons for tests: found or started, with test images made from Debian packages.

images     what the test images are, and what the daemons call them: `reference("debian")`
roots      making their root file systems, cached
packages   installing what is missing, where that is possible
endpoints  where docker and podman answer
virtual    a libvirt daemon
guests     the disk that its virtual machines boot from
standing   a virtual machine that is there while a command runs
commands   running such a command
loading    bringing the images into a daemon
own        starting daemons of our own, by way of `holder`
provide    all of that before a command, and the end of it afterwards: scripts/with-daemons
needs      what tests ask for: `needs_daemon`, the mark `daemon`
objects    everything a daemon has, counted
private    a daemon that one test has to itself, to freeze and to kill
"""
