"""The system calls that a program may make: their numbers, and what they may be given.

An allow-list: what a newer kernel adds is closed until it is named here. Left out are
new processes and programs, sockets but for pairs, other processes' limits, signals and
memory, owners, modes and times of files (Landlock does not cover them), System V IPC,
mounts, namespaces, keys, tracing, io_uring, bpf and all that only root needs.
"""

# Name, number on x86_64, number on aarch64. Blocks: open files, names of files, pipes
# and events, signals and timers, time and threads, itself.
TABLE = """
read 0 63; write 1 64; open 2 -; openat 257 56; creat 85 -; close 3 57;
close_range 436 436; stat 4 -; fstat 5 80; lstat 6 -; newfstatat 262 79;
statx 332 291; lseek 8 62; mmap 9 222; mprotect 10 226; munmap 11 215; mremap 25 216;
msync 26 227; madvise 28 233; brk 12 214;

readv 19 65; writev 20 66; preadv 295 69; pwritev 296 70; preadv2 327 286;
pwritev2 328 287; pread64 17 67; pwrite64 18 68; access 21 -; faccessat 269 48;
faccessat2 439 439; readlink 89 -; readlinkat 267 78; getdents 78 -;
getdents64 217 61; getcwd 79 17; chdir 80 49; fchdir 81 50;

rename 82 -; renameat 264 38; renameat2 316 276; mkdir 83 -; mkdirat 258 34;
rmdir 84 -; unlink 87 -; unlinkat 263 35; link 86 -; linkat 265 37; symlink 88 -;
symlinkat 266 36; ftruncate 77 46; fallocate 285 47; fsync 74 82; fdatasync 75 83;
flock 73 32; umask 95 166; statfs 137 43; fstatfs 138 44; sendfile 40 71;
copy_file_range 326 285;

pipe 22 -; pipe2 293 59; dup 32 23; dup2 33 -; dup3 292 24; fcntl 72 25; ioctl 16 29;
poll 7 -; ppoll 271 73; select 23 -; pselect6 270 72; epoll_create 213 -;
epoll_create1 291 20; epoll_ctl 233 21; epoll_wait 232 -; epoll_pwait 281 22;
epoll_pwait2 441 441; eventfd 284 -; eventfd2 290 19; timerfd_create 283 85;
timerfd_settime 286 86; timerfd_gettime 287 87; signalfd 282 -; signalfd4 289 74;

rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139;
rt_sigpending 127 136; rt_sigtimedwait 128 137; rt_sigsuspend 130 133;
sigaltstack 131 132; pause 34 -; alarm 37 -; getitimer 36 102; setitimer 38 103;
timer_create 222 107; timer_settime 223 110; timer_gettime 224 108;
timer_getoverrun 225 109; timer_delete 226 111;

nanosleep 35 101; clock_gettime 228 113; clock_getres 229 114;
clock_nanosleep 230 115; gettimeofday 96 169; time 201 -; times 100 153;
sched_yield 24 124; sched_getaffinity 204 123; getcpu 309 168; futex 202 98;
futex_waitv 449 449; set_robust_list 273 99; set_tid_address 218 96; rseq 334 293;
restart_syscall 219 128;

clone 56 220; kill 62 129; tgkill 234 131; gettid 186 178; getpid 39 172;
getppid 110 173; getpgrp 111 -; getpgid 121 155; getsid 124 156; getuid 102 174;
geteuid 107 175; getgid 104 176; getegid 108 177; getresuid 118 148;
getresgid 120 150; getgroups 115 158; getpriority 140 141; capget 125 90;

uname 63 160; sysinfo 99 179; getrlimit 97 163; setrlimit 160 164; prlimit64 302 261;
getrusage 98 165; prctl 157 167; exit 60 93; exit_group 231 94; wait4 61 260;
waitid 247 95; getrandom 318 278; socketpair 53 199; recvfrom 45 207; sendto 44 206;
recvmsg 47 212; shutdown 48 210; getsockname 51 204; getpeername 52 205;
getsockopt 55 209; setsockopt 54 208;
"""

THREAD = 0x00010000  # CLONE_THREAD
NAMESPACES = 0x7E020080  # every CLONE_NEW... flag
UNIX = 1  # AF_UNIX
PRCTL = (
    3,
    15,
    16,
    39,
    0x53564D41,
)  # dumpable? name, name? no_new_privs? name of memory
# Duplicates, flags, locks; not F_SETOWN, F_SETSIG: they send signals to others.
FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 9, 36, 37, 38, 1030, 1032)
IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, sizes, FIO...


def numbers(machine: str) -> dict[str, int]:
    """Name -> number on `x86_64` or `aarch64`."""
    column = {"x86_64": 1, "aarch64": 2}[machine]
    rows = [row.split() for row in TABLE.replace("\n", " ").split(";")]
    return {row[0]: int(row[column]) for row in rows if row and row[column] != "-"}


def conditions(process: int) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Calls of which one argument, counted from 0, has to be one of some values.

    All are ints to the kernel, which looks at their low 32 bits only.
    """
    return {
        "kill": (0, (process,)),
        "tgkill": (0, (process,)),
        "prlimit64": (0, (0, process)),
        "prctl": (0, PRCTL),
        "fcntl": (1, FCNTL),
        "ioctl": (1, IOCTL),
        "socketpair": (0, (UNIX,)),
    }
