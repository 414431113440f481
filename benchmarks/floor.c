/*
 * The floor: what the kernel alone costs, with nothing around it.
 *
 * Reads one request a line on standard input and answers each with a line: a JSON list of numbers,
 * the elapsed seconds where nothing else is said.
 *
 *   up N      N nodes on one bridge
 *   down      all of them gone
 *   exec N    `true` in the first node, N times one after the other: the seconds of each
 *   burst N   `true` in the first node, N at once
 *   pid       the process id of the first node's init
 *   settle    waits until the kernel has freed the network namespaces of everything before
 *
 * A node is clone(2) with its own pid, mount, net, uts and ipc namespace, an overlay on / with its
 * layer in memory, /proc, a host name, and one veth pair whose other end is a port of the bridge.
 * The bridge lives in a network namespace of its own. Needs root. Everything dies with this process.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

unsigned int if_nametoindex(const char *name); /* <net/if.h> clashes with <linux/if.h> */

enum { MAX_NODES = 4096, BRIDGE = 10, ETH0 = 10, LO = 1, SETTLE_DEADLINE_S = 60 };
enum { NODE = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC };

static pid_t nodes[MAX_NODES];
static int node_count, home_net, home_pid, first_node;
static const char *base; /* an empty directory: where the layers are mounted */

static void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void check(long result, const char *what)
{
	if (result < 0)
		fail(what);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* ---- rtnetlink: messages are gathered in a buffer and go to the kernel in one send ---- */

static struct { char bytes[4096]; size_t length; struct nlmsghdr *last; } out;

static void append(const void *data, size_t length)
{
	memcpy(out.bytes + out.length, data, length);
	out.length += NLMSG_ALIGN(length);
	if (out.last)
		out.last->nlmsg_len = out.bytes + out.length - (char *)out.last;
}

static void message(int type, int flags, const void *body, size_t length)
{
	struct nlmsghdr head = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags};
	out.last = (struct nlmsghdr *)(out.bytes + out.length);
	append(&head, sizeof head);
	append(body, length);
}

static struct rtattr *attribute(int type, const void *data, size_t length)
{
	struct rtattr *start = (struct rtattr *)(out.bytes + out.length);
	struct rtattr head = {.rta_type = type, .rta_len = RTA_LENGTH(length)};
	append(&head, sizeof head);
	if (length)
		append(data, length);
	return start;
}

static void close_nest(struct rtattr *nest)
{
	nest->rta_len = out.bytes + out.length - (char *)nest;
}

static void link_message(int type, int flags, int index, unsigned int up)
{
	struct ifinfomsg body = {.ifi_index = index, .ifi_flags = up, .ifi_change = up};
	message(type, flags, &body, sizeof body);
}

static int netlink_open(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	check(fd, "netlink socket");
	return fd;
}

/* Sends what was gathered; only the last message asks for an answer, errors come unasked. */
static void netlink_send(int fd, const char *what)
{
	static char answer[16384];
	out.last->nlmsg_flags |= NLM_F_ACK;
	check(send(fd, out.bytes, out.length, 0), what);
	out.length = 0;
	out.last = NULL;
	check(recv(fd, answer, sizeof answer, 0), what);
	errno = -((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)answer))->error;
	if (errno)
		fail(what);
}

static void add_bridge(int fd)
{
	link_message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, BRIDGE, 0);
	attribute(IFLA_IFNAME, "br0", 4);
	struct rtattr *info = attribute(IFLA_LINKINFO, NULL, 0);
	attribute(IFLA_INFO_KIND, "bridge", 6);
	close_nest(info);
	link_message(RTM_NEWLINK, 0, BRIDGE, IFF_UP);
	netlink_send(fd, "bridge");
}

/* One message: the pair, its peer's name, index and namespace, and the bridge that it belongs to. */
static void add_veth(int fd, const char *name, int index, int master, pid_t peer)
{
	struct ifinfomsg peer_body = {.ifi_index = ETH0};
	link_message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, index, 0);
	attribute(IFLA_IFNAME, name, strlen(name) + 1);
	if (master)
		attribute(IFLA_MASTER, &master, sizeof master);
	struct rtattr *info = attribute(IFLA_LINKINFO, NULL, 0);
	attribute(IFLA_INFO_KIND, "veth", 4);
	struct rtattr *data = attribute(IFLA_INFO_DATA, NULL, 0);
	struct rtattr *other = attribute(VETH_INFO_PEER, &peer_body, sizeof peer_body);
	attribute(IFLA_IFNAME, "eth0", 5);
	attribute(IFLA_NET_NS_PID, &peer, sizeof peer);
	close_nest(other);
	close_nest(data);
	close_nest(info);
	link_message(RTM_NEWLINK, 0, index, IFF_UP); /* a veth that is created up is refused */
	netlink_send(fd, "veth");
}

static void configure_eth0(int number)
{
	int fd = netlink_open();
	struct in_addr address = {htonl(0x0a640000 + 2 + number)}; /* 10.100.0.2 and on */
	struct ifaddrmsg body = {.ifa_family = AF_INET, .ifa_prefixlen = 16, .ifa_index = ETH0};
	link_message(RTM_NEWLINK, 0, LO, IFF_UP);
	message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body, sizeof body);
	attribute(IFA_LOCAL, &address, sizeof address);
	attribute(IFA_ADDRESS, &address, sizeof address);
	link_message(RTM_NEWLINK, 0, ETH0, IFF_UP);
	netlink_send(fd, "address");
	close(fd);
}

/* ---- nodes ---- */

static pid_t clone_process(int flags)
{
	pid_t pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
	check(pid, "clone");
	return pid;
}

static void format(char *text, size_t size, const char *pattern, ...)
{
	va_list arguments;
	va_start(arguments, pattern);
	vsnprintf(text, size, pattern, arguments);
	va_end(arguments);
}

static void enter_overlay(int number)
{
	char path[64], options[256], dir[3][80];
	static const char *const parts[] = {"upper", "work", "root"};
	format(path, sizeof path, "%s/%d", base, number);
	check(mkdir(path, 0755), path);
	for (int i = 0; i < 3; i++) {
		format(dir[i], sizeof dir[i], "%s/%s", path, parts[i]);
		check(mkdir(dir[i], 0755), dir[i]);
	}
	format(options, sizeof options, "lowerdir=/,upperdir=%s,workdir=%s", dir[0], dir[1]);
	check(mount("overlay", dir[2], "overlay", 0, options), "overlay");
	check(chdir(dir[2]), "chdir");
	check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	check(umount2(".", MNT_DETACH), "umount");
	check(mount("proc", "/proc", "proc", 0, NULL), "/proc");
}

/* A node's init: gets ready while its link is made, says so, and reaps until it is killed. */
static void node_main(int number, int go, int ready)
{
	char name[32], byte;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	enter_overlay(number);
	format(name, sizeof name, "node%d", number);
	check(sethostname(name, strlen(name)), "sethostname");
	if (read(go, &byte, 1) != 1)
		exit(1);
	configure_eth0(number);
	signal(SIGCHLD, SIG_IGN);
	check(write(ready, "", 1), "ready");
	for (;;)
		pause();
}

static void up(int count)
{
	int go[MAX_NODES], ready[2], pair[2];
	char name[32], byte;
	check(mount("layers", base, "tmpfs", 0, NULL), "tmpfs");
	check(unshare(CLONE_NEWNET), "unshare");
	int fd = netlink_open();
	add_bridge(fd);
	check(pipe2(ready, O_CLOEXEC), "pipe");
	for (int i = 0; i < count; i++) {
		check(pipe2(pair, O_CLOEXEC), "pipe");
		nodes[i] = clone_process(NODE);
		if (nodes[i] == 0)
			node_main(i, pair[0], ready[1]);
		close(pair[0]);
		go[i] = pair[1];
		format(name, sizeof name, "veth%d", i);
		add_veth(fd, name, BRIDGE + 1 + i, BRIDGE, nodes[i]);
		check(write(go[i], "", 1), "go");
		close(go[i]);
	}
	close(ready[1]);
	for (int i = 0; i < count; i++)
		if (read(ready[0], &byte, 1) != 1)
			fail("a node died");
	close(ready[0]);
	close(fd);
	node_count = count;
	first_node = syscall(SYS_pidfd_open, nodes[0], 0);
	check(first_node, "pidfd_open");
}

static void down(void)
{
	for (int i = 0; i < node_count; i++)
		kill(nodes[i], SIGKILL);
	for (int i = 0; i < node_count; i++)
		waitpid(nodes[i], NULL, 0);
	node_count = 0;
	close(first_node);
	check(setns(home_net, CLONE_NEWNET), "setns");
	check(umount2(base, MNT_DETACH), "umount");
}

/* ---- commands ---- */

static void run_true(int count)
{
	pid_t children[MAX_NODES];
	char *const argv[] = {"true", NULL}, *const envp[] = {NULL};
	check(setns(first_node, CLONE_NEWPID), "setns"); /* for what is forked from here on */
	for (int i = 0; i < count; i++) {
		children[i] = vfork();
		if (children[i] == 0) {
			if (setns(first_node, NODE & ~CLONE_NEWPID) == 0)
				execve("/bin/true", argv, envp);
			_exit(127);
		}
	}
	for (int i = 0; i < count; i++) {
		int status;
		waitpid(children[i], &status, 0);
		if (status != 0)
			fail("true");
	}
	check(setns(home_pid, CLONE_NEWPID), "setns");
}

/*
 * Network namespaces are freed by one kernel thread, in order: once it has freed one that is thrown
 * away now, seen by the loss of a veth's other end, it has freed all those before.
 */
static void settle(void)
{
	pid_t pid = clone_process(CLONE_NEWNET);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	int fd = netlink_open();
	add_veth(fd, "sentinel", BRIDGE + 1 + MAX_NODES, 0, pid); /* no node has this index */
	close(fd);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	double deadline = now() + SETTLE_DEADLINE_S;
	while (if_nametoindex("sentinel") && now() < deadline)
		usleep(5000);
}

static void answer(const double *seconds, int count)
{
	for (int i = 0; i < count; i++)
		printf("%s%.9f", i ? ", " : "[", seconds[i]);
	printf("]\n");
}

static void serve(const char *verb, int number)
{
	static double seconds[MAX_NODES];
	int count = 1;
	double start = now();
	if (strcmp(verb, "up") == 0) {
		up(number);
	} else if (strcmp(verb, "down") == 0) {
		down();
	} else if (strcmp(verb, "burst") == 0) {
		run_true(number);
	} else if (strcmp(verb, "settle") == 0) {
		settle();
	} else if (strcmp(verb, "exec") == 0) {
		for (count = 0; count < number; count++) {
			start = now();
			run_true(1);
			seconds[count] = now() - start;
		}
		answer(seconds, count);
		return;
	} else if (strcmp(verb, "pid") == 0) {
		printf("[%d]\n", nodes[0]);
		return;
	} else {
		errno = EINVAL;
		fail(verb);
	}
	seconds[0] = now() - start;
	answer(seconds, count);
}

int main(int argc, char **argv)
{
	char line[64], verb[16];
	if (argc != 2) {
		fprintf(stderr, "usage: floor EMPTY-DIRECTORY\n");
		return 2;
	}
	base = argv[1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	check(unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare (root is needed)");
	check(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private mounts");
	home_net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	home_pid = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	check(home_net, "/proc/self/ns/net");
	check(home_pid, "/proc/self/ns/pid");
	while (fgets(line, sizeof line, stdin)) {
		int number = 0;
		if (sscanf(line, "%15s %d", verb, &number) < 1 || number < 0 || number > MAX_NODES)
			break;
		serve(verb, number);
	}
	if (node_count)
		down();
	return 0;
}
