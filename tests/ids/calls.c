/* Calls about users, groups, owners and devices, made without a C library, as a 64-bit and as a 32-bit program.
   Says what each returned. `calls all`: in an empty working directory, as root, with itself set-id at /setid. `calls ids`: who it
   is. `calls storm`: many calls while signals come. */

#ifdef __x86_64__
#define PICK(wide, narrow) wide
static long call(long n, long a, long b, long c, long d, long e) {
  long r;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
  return r;
}
#else
#define PICK(wide, narrow) narrow
static long call(long n, long a, long b, long c, long d, long e) {
  long r;
  __asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
  return r;
}
#endif

enum {
  WRITE = PICK(1, 4), EXIT = PICK(60, 1), OPEN = PICK(2, 5), CLOSE = PICK(3, 6), CREAT = PICK(85, 8), MKDIR = PICK(83, 39),
  SYMLINK = PICK(88, 83), MKNOD = PICK(133, 14), CHOWN = PICK(92, 212), LCHOWN = PICK(94, 198), FCHOWN = PICK(93, 207),
  FCHOWNAT = PICK(260, 298), OPENAT = PICK(257, 295), MKDIRAT = PICK(258, 296), MKNODAT = PICK(259, 297),
  SYMLINKAT = PICK(266, 304), OPENAT2 = 437, SETUID = PICK(105, 213), SETGID = PICK(106, 214), SETREUID = PICK(113, 203),
  SETREGID = PICK(114, 204), SETRESUID = PICK(117, 208), SETRESGID = PICK(119, 210), SETGROUPS = PICK(116, 206),
  GETGROUPS = PICK(115, 205), GETUID = PICK(102, 199), GETEUID = PICK(107, 201), GETGID = PICK(104, 200),
  GETEGID = PICK(108, 202), GETRESUID = PICK(118, 209), GETRESGID = PICK(120, 211), SETFSUID = PICK(122, 215),
  SETFSGID = PICK(123, 216), EXECVE = PICK(59, 11), EXECVEAT = PICK(322, 358), SETXATTR = PICK(188, 226),
  LSETXATTR = PICK(189, 227), FSETXATTR = PICK(190, 228), FORK = PICK(57, 2), WAIT4 = PICK(61, 114), STAT = PICK(4, 195),
  LSTAT = PICK(6, 196), FSTAT = PICK(5, 197), FSTATAT = PICK(262, 300), STATX = PICK(332, 383), UMASK = PICK(95, 60),
  CHMOD = PICK(90, 15), SETITIMER = PICK(38, 104), SIGACTION = PICK(13, 174), SIGRETURN = 15,
  HERE = -100, MADE = 0101 /* O_CREAT|O_WRONLY */, NOFOLLOW = 0x100
};

#define C5(n, a, b, c, d, e) call(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))
#define C4(n, a, b, c, d) C5(n, a, b, c, d, 0)
#define C3(n, a, b, c) C4(n, a, b, c, 0)
#define C2(n, a, b) C3(n, a, b, 0)
#define C1(n, a) C2(n, a, 0)

static char buffer[128];
static int used;
static void flush(void) { C3(WRITE, 1, buffer, used); used = 0; }
static void text(const char *s) { while (*s) { buffer[used++] = *s++; if (used == 127) flush(); } }
static void number(long n) {
  char digits[24];
  int at = 23;
  unsigned long rest = n < 0 ? -(unsigned long)n : (unsigned long)n;
  digits[at] = 0;
  do digits[--at] = '0' + rest % 10; while (rest /= 10);
  if (n < 0) digits[--at] = '-';
  text(digits + at);
}
static long say(const char *what, long n) { text(what); text(" "); number(n); text("\n"); flush(); return n; }

static void seen(const char *how, long result, const unsigned *fields, int uid, int gid, int mode) {
  text(how); text(": ");
  number(result);
  if (result == 0) {
    text(" owner "); number(fields[uid]); text(":"); number(fields[gid]); text(" mode "); number(fields[mode] & 07777);
  }
  text("\n");
  flush();
}

static void look(const char *path) {
  static unsigned st[64];
  enum { UID = PICK(7, 6), GID = PICK(8, 7), MODE = PICK(6, 4) };
  text(path); text("\n");
  seen("stat", C2(STAT, path, st), st, UID, GID, MODE);
  seen("lstat", C2(LSTAT, path, st), st, UID, GID, MODE);
  seen("fstatat", C4(FSTATAT, HERE, path, st, NOFOLLOW), st, UID, GID, MODE);
  seen("statx", C5(STATX, HERE, path, NOFOLLOW, 0x7ff, st), st, 5, 6, 7);
  long fd = C3(OPEN, path, 04000 /* O_NONBLOCK */, 0);
  if (fd >= 0) { seen("fstat", C2(FSTAT, fd, st), st, UID, GID, MODE); C1(CLOSE, fd); }
}

static void ids(void) {
  unsigned three[3], groups[8];
  say("uid", C1(GETUID, 0)); say("euid", C1(GETEUID, 0)); say("gid", C1(GETGID, 0)); say("egid", C1(GETEGID, 0));
  C3(GETRESUID, &three[0], &three[1], &three[2]);
  for (int i = 0; i < 3; i++) say("resuid", three[i]);
  C3(GETRESGID, &three[0], &three[1], &three[2]);
  for (int i = 0; i < 3; i++) say("resgid", three[i]);
  long n = say("groups", C2(GETGROUPS, 8, groups));
  for (int i = 0; i < n; i++) say("group", groups[i]);
#ifndef __x86_64__
  unsigned short few[8];
  say("uid16", C1(24, 0)); say("euid16", C1(49, 0)); say("gid16", C1(47, 0)); say("egid16", C1(50, 0));
  n = C2(80, 8, few);
  for (int i = 0; i < n; i++) say("group16", few[i]);
#endif
}

/* What somebody makes. */
static void make(const char *dir) {
  static const unsigned long long how[3] = { MADE, 0640, 0 };
  char path[8];
  path[0] = dir[0]; path[1] = '/'; path[3] = 0;
#define AT(letter) (path[2] = letter, path)
  say("creat", C2(CREAT, AT('a'), 0666) >= 0);
  say("open", C3(OPEN, AT('b'), MADE, 0666) >= 0);
  say("openat", C4(OPENAT, HERE, AT('c'), MADE, 0604) >= 0);
  say("openat2", C4(OPENAT2, HERE, AT('d'), how, sizeof how) >= 0);
  say("mkdir", C2(MKDIR, AT('e'), 0777));
  say("mkdirat", C3(MKDIRAT, HERE, AT('f'), 0700));
  say("symlink", C2(SYMLINK, "to", AT('g')));
  say("symlinkat", C3(SYMLINKAT, "to", HERE, AT('h')));
  say("fifo", C3(MKNOD, AT('i'), 010644, 0));
  say("fifoat", C4(MKNODAT, HERE, AT('j'), 010600, 0));
  say("device", C3(MKNOD, AT('k'), 020600, 0x501));
  say("again", C2(MKDIR, AT('e'), 0777));
}

static const char list[] = {
  2, 0, 0, 0,
  1, 0, 7, 0, -1, -1, -1, -1, 2, 0, 6, 0, (char)0xe8, 3, 0, 0, 4, 0, 5, 0, -1, -1, -1, -1,
  16, 0, 7, 0, -1, -1, -1, -1, 32, 0, 4, 0, -1, -1, -1, -1
};

static void wait_for(long pid) {
  int status = 0;
  C4(WAIT4, pid, &status, 0, 0);
  say("ended", status);
}

static void all(char **env) {
  static const unsigned groups[3] = { 7, 8, 300 };
  static const char attribute[] = "system.posix_acl_access", inherited[] = "system.posix_acl_default";
  char *who[] = { "/setid", "ids", 0 };
  C1(UMASK, 022);
  ids();
  long fd = C2(CREAT, "f", 0640);
  say("chown", C3(CHOWN, "f", 33, 44)); look("f");
  say("fchown", C3(FCHOWN, fd, 34, -1)); look("f");
  say("fchownat", C5(FCHOWNAT, HERE, "f", 35, 46, 0)); look("f");
  say("symlink", C2(SYMLINK, "f", "l"));
  say("lchown", C3(LCHOWN, "l", 5, 6)); look("l");
  C1(CLOSE, C2(CREAT, "set", 0755)); C2(CHMOD, "set", 06755);
  say("chown clears", C3(CHOWN, "set", 1, 1)); look("set");
#ifndef __x86_64__
  C1(CLOSE, C2(CREAT, "n", 0600));
  say("chown16", C3(182, "n", 65000, 0xffff)); look("n");
  say("lchown16", C3(16, "n", 0xffff, 12)); look("n");
  fd = C3(OPEN, "n", 0, 0);
  say("fchown16", C3(95, fd, 13, 14)); look("n");
#endif
  C1(CLOSE, C2(CREAT, "acl", 0600));
  say("setxattr", C5(SETXATTR, "acl", attribute, list, sizeof list, 0)); look("acl");
  C1(CLOSE, C2(CREAT, "acl2", 0600));
  fd = C3(OPEN, "acl2", 2, 0);
  say("fsetxattr", C5(FSETXATTR, fd, attribute, list, sizeof list, 0)); look("acl2");
  C1(CLOSE, C2(CREAT, "acl3", 0600));
  say("lsetxattr", C5(LSETXATTR, "acl3", attribute, list, sizeof list, 0)); look("acl3");
  C2(MKDIR, "dl", 0750);
  say("default list", C5(SETXATTR, "dl", inherited, list, sizeof list, 0)); look("dl");
  C1(CLOSE, C2(CREAT, "dl/f", 0666)); look("dl/f");
  C2(MKDIR, "dl/d", 0777); look("dl/d");
  C1(CLOSE, C2(CREAT, "dl/d/f", 0777)); look("dl/d/f");
  say("no list", C5(SETXATTR, "dl", attribute, "none", 4, 0)); look("dl");
  say("mknod", C3(MKNOD, "c", 020604, 0x501));
  say("mknodat", C4(MKNODAT, HERE, "b", 060600, 0x800));
  say("fifo", C3(MKNOD, "p", 010666, 0));
  C2(MKDIR, "w", 0777); C2(CHMOD, "w", 0777);
  C2(MKDIR, "s", 0777); C3(CHOWN, "s", 0, 50); C2(CHMOD, "s", 02777);
  make("s");
  say("setgroups", C2(SETGROUPS, 3, groups));
  ids();
#ifndef __x86_64__
  static const unsigned short few[2] = { 9, 10 };
  say("setgroups16", C2(81, 2, few));
  ids();
#endif
  long pid = C1(FORK, 0);
  if (pid == 0) {
    say("setresgid", C3(SETRESGID, 20, 21, 22));
    say("setresuid", C3(SETRESUID, 1000, 1001, 1002));
    ids();
    say("setuid", C1(SETUID, 5)); say("setgid", C1(SETGID, 5)); say("setgroups", C2(SETGROUPS, 3, groups));
    say("setresuid", C3(SETRESUID, 0, -1, -1));
    say("setreuid", C2(SETREUID, -1, 1002)); say("setregid", C2(SETREGID, 22, -1));
    ids();
    say("setfsuid", C1(SETFSUID, 1002)); say("setfsgid", C1(SETFSGID, 21));
    make("w");
    C2(MKDIR, "s/x", 0777); look("s/x");
    say("chown away", C3(CHOWN, "w/a", 1, -1)); say("chown others'", C3(CHOWN, "f", -1, 21));
    say("chgrp", C3(CHOWN, "w/a", -1, 22)); look("w/a");
    say("setuid to saved", C1(SETUID, 1000));
    ids();
    C3(EXECVE, who[0], who, env);
    C1(EXIT, 99);
  }
  wait_for(pid);
  pid = C1(FORK, 0);
  if (pid == 0) {
    C1(SETGID, 60); C1(SETUID, 61);
    C5(EXECVEAT, HERE, who[0], who, env, 0);
    C1(EXIT, 99);
  }
  wait_for(pid);
  ids();
}

#ifdef __x86_64__
static void nothing(int signal) { (void)signal; }
__asm__("give_back: mov $15, %eax\n syscall");
extern void give_back(void);

static void storm(void) {
  struct { void (*handler)(int); unsigned long flags; void (*restorer)(void); unsigned long mask; } action =
    { nothing, 0x14000000 /* SA_RESTORER|SA_RESTART */, give_back, 0 };
  long times[4] = { 0, 100, 0, 100 };
  int failed = 0;
  C2(MKDIR, "many", 0777); C2(CHMOD, "many", 0777);
  C1(SETUID, 1000);
  C4(SIGACTION, 14, &action, 0, 8);
  C3(SETITIMER, 0, times, 0);
  for (int i = 0; i < 500; i++) {
    char path[] = "many/000";
    path[5] = '0' + i / 100; path[6] = '0' + i / 10 % 10; path[7] = '0' + i % 10;
    failed += C2(MKDIR, path, 0755) != 0;
  }
  say("failed", failed);
}
#else
static void storm(void) {}
#endif

__attribute__((used)) static void begin(long *stack) {
  char **argv = (char **)(stack + 1), **env = argv + stack[0] + 1;
  char what = stack[0] > 1 ? argv[1][0] : 0;
  if (what == 'a') all(env);
  else if (what == 's') storm();
  else ids();
  C1(EXIT, 0);
}

#ifdef __x86_64__
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n hlt");
#else
__asm__(".globl _start\n_start: mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call begin\n hlt");
#endif
