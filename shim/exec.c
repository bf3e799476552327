/* vgpu-exec: the last step before the target. Bun starts it; it puts back everything that Bun (or
 * the launcher) had to change and becomes the target.
 *
 *     vgpu-exec --parent PID [--nofile N] [--sigign HEX] [--sigblk HEX] [--keep 0.1.2.63]
 *               [--suffix NAME=FILE] [--prefix NAME=DIR] [--set NAME=VALUE] [--unset NAME]…
 *               (--words N | --argv WORD…)
 *
 * Bun hands on text as UTF-8 only. So the target's words are the last N of the parent's own command
 * line and its environment is the parent's, both taken as raw bytes from /proc. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEEP_PREFIX "VGPU_KEEP_" /* the launcher hides BUN_X from Bun as VGPU_KEEP_BUN_X */
#define LAUNCHER "VGPU_LAUNCHER="
#define BUNS_OWN "BUN_RUNTIME_TRANSPILER_CACHE_PATH=" /* the launcher's word to our Bun */
#define MAX_KEEP 1024

extern char **environ;

static void fail(int status, const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("vgpu: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    _exit(status);
}

static void *allocate(size_t bytes) {
    void *memory = calloc(1, bytes);
    if (!memory) fail(125, "out of memory");
    return memory;
}

/* The whole file with a NUL after it. */
static char *read_whole(const char *path, size_t *length) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(125, "cannot read %s: %s", path, strerror(errno));
    size_t room = 1 << 16;
    char *text = allocate(room);
    *length = 0;
    for (;;) {
        ssize_t got = read(fd, text + *length, room - *length - 1);
        if (got < 0) fail(125, "cannot read %s: %s", path, strerror(errno));
        if (got == 0) break;
        *length += (size_t)got;
        if (room - *length > 1) continue;
        room *= 2;
        text = realloc(text, room);
        if (!text) fail(125, "out of memory");
    }
    close(fd);
    text[*length] = '\0';
    return text;
}

/* Splits NUL-terminated strings; `spare` empty places are left before the closing NULL. */
static char **split(char *text, size_t length, size_t spare, size_t *count) {
    *count = 0;
    for (size_t i = 0; i < length; i++) *count += text[i] == '\0';
    if (length > 0 && text[length - 1] != '\0') ++*count;
    char **words = allocate((*count + spare + 1) * sizeof *words);
    for (size_t i = 0; i < *count; i++, text += strlen(text) + 1) words[i] = text;
    return words;
}

/* --- environment --- */

static size_t environ_count;

static size_t name_length(const char *entry) { return strcspn(entry, "="); }

static bool starts(const char *entry, const char *with) {
    return strncmp(entry, with, strlen(with)) == 0;
}

static char **find_entry(const char *entry) {
    size_t length = name_length(entry);
    for (char **at = environ; *at; at++)
        if (name_length(*at) == length && memcmp(*at, entry, length) == 0) return at;
    return NULL;
}

static void set_entry(char *entry) {
    char **at = find_entry(entry);
    if (at) {
        *at = entry;
        return;
    }
    environ[environ_count++] = entry;
    environ[environ_count] = NULL; /* there may be entries behind it that were left out */
}

static void unset_entry(const char *name) {
    char **at = find_entry(name);
    if (!at) return;
    for (; *at; at++) at[0] = at[1];
    environ_count--;
}

/* Joins with ':' unless the old value is missing or empty. */
static void join_entry(const char *entry, bool before) {
    char **at = find_entry(entry);
    size_t length = name_length(entry);
    const char *old = at && (*at)[length] ? *at + length + 1 : "", *added = entry + length + 1;
    char *joined = allocate(strlen(entry) + strlen(old) + 2);
    const char *first = before ? added : old, *second = before ? old : added;
    sprintf(joined, "%.*s=%s%s%s", (int)length, entry, first, *old ? ":" : "", second);
    set_entry(joined);
}

/* The caller's environment: the parent's, with the launcher's changes undone. */
static void restore_environment(char *text, size_t length, size_t spare) {
    size_t count, kept = 0;
    bool is_launched = false;
    environ = split(text, length, spare, &count);
    for (size_t i = 0; i < count; i++) is_launched = is_launched || starts(environ[i], LAUNCHER);
    for (size_t i = 0; i < count; i++) {
        char *entry = environ[i];
        if (starts(entry, LAUNCHER) || (is_launched && starts(entry, BUNS_OWN))) continue;
        if (starts(entry, KEEP_PREFIX)) entry += strlen(KEEP_PREFIX);
        environ[kept++] = entry;
    }
    environ[kept] = NULL;
    environ_count = kept;
}

/* --- descriptors, signals, limits --- */

/* Descriptor i of ours is the i-th of the launcher's, in rising order, but 0, 1 and 2 are always
 * there. Moved from the highest down, so that none is overwritten before it has moved. */
static void restore_descriptors(const char *list) {
    int wanted[MAX_KEEP], count = 0, extra = 3;
    bool open_std[3] = {false, false, false};
    for (const char *at = list; *at && count < MAX_KEEP;) {
        char *end;
        long fd = strtol(at, &end, 10);
        if (end == at) break;
        if (fd < 3) open_std[fd] = true;
        else wanted[count++] = (int)fd;
        at = *end ? end + 1 : end;
    }
    for (int i = count - 1; i >= 0; i--)
        if (wanted[i] != extra + i && dup2(extra + i, wanted[i]) < 0)
            fail(125, "cannot hand on descriptor %d: %s", wanted[i], strerror(errno));
    for (int fd = extra; fd < extra + count; fd++) {
        bool is_wanted = false;
        for (int i = 0; i < count; i++) is_wanted = is_wanted || wanted[i] == fd;
        if (!is_wanted) close(fd);
    }
    for (int fd = 0; fd < 3; fd++)
        if (!open_std[fd]) close(fd);
}

static void restore_signals(const char *ignored_hex, const char *blocked_hex) {
    unsigned long long ignored = strtoull(ignored_hex, NULL, 16);
    unsigned long long blocked = strtoull(blocked_hex, NULL, 16);
    sigset_t mask;
    sigemptyset(&mask);
    for (int number = 1; number <= 64; number++) {
        unsigned long long bit = 1ULL << (number - 1);
        signal(number, ignored & bit ? SIG_IGN : SIG_DFL); /* KILL, STOP, 32, 33 refuse: fine */
        if (blocked & bit) sigaddset(&mask, number);
    }
    sigprocmask(SIG_SETMASK, &mask, NULL);
}

static void restore_nofile(const char *soft) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = strcmp(soft, "unlimited") == 0 ? RLIM_INFINITY : strtoull(soft, NULL, 10);
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* --- the target --- */

/* The name as an error shows it, like quote() in src/errors.ts: cut, and in quotes where blanks or
 * unprintable characters would mislead. */
static const char *shown(const char *name) {
    enum { CUT = 197, MOST = 200 };
    size_t length = strlen(name), used = 0, left = length > MOST ? CUT : length;
    while (left < length && left > 0 && (name[left] & 0xc0) == 0x80) left--; /* UTF-8 stays whole */
    char *text = allocate(4 * MOST + 6);
    bool is_plain = length > 0;
    for (size_t i = 0; i < left; i++)
        is_plain = is_plain && name[i] != 0x7f && !(name[i] > 0 && name[i] <= ' ');
    if (!is_plain) text[used++] = '\'';
    for (size_t i = 0; i < left; i++) {
        bool is_control = name[i] == 0x7f || (name[i] > 0 && name[i] < ' ');
        used += (size_t)sprintf(text + used, is_control ? "\\x%02x" : "%c", name[i]);
    }
    if (length > MOST) used += (size_t)sprintf(text + used, "...");
    if (!is_plain) text[used++] = '\'';
    return text;
}

/* strerror's words in small letters, as the rest of our lines. */
static const char *reason(int error) {
    char *text = strdup(strerror(error));
    if (!text) return strerror(error);
    bool is_word = text[0] >= 'A' && text[0] <= 'Z' && text[1] >= 'a' && text[1] <= 'z';
    if (is_word) text[0] = (char)(text[0] - 'A' + 'a');
    return text;
}

/* Where the command is: as it stands with a slash in it, else the first file of that name in PATH.
 * False: nowhere. */
static bool locate(const char *name, char path[PATH_MAX], struct stat *info) {
    if (strchr(name, '/'))
        return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX && stat(path, info) == 0;
    const char *folder = getenv("PATH");
    while (*name && folder) {
        size_t length = strcspn(folder, ":");
        int bytes =
            snprintf(path, PATH_MAX, "%.*s%s%s", (int)length, folder, length ? "/" : "", name);
        if (bytes < PATH_MAX && stat(path, info) == 0 && S_ISREG(info->st_mode)) return true;
        folder = folder[length] ? folder + length + 1 : NULL;
    }
    return false;
}

/* The file is there, and exec did not find what is to run it. */
static void blame_interpreter(const char *name, const char *path) {
    char line[256] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, line, sizeof line - 1) < 0) line[0] = '\0';
    if (strncmp(line, "\177ELF", 4) == 0)
        fail(127, "%s: its loader (ld.so) is not there: is it a program for this machine?", name);
    if (strncmp(line, "#!", 2) != 0) return;
    char *interpreter = line + 2 + strspn(line + 2, " \t");
    interpreter[strcspn(interpreter, " \t\n")] = '\0';
    fail(127, "%s: its interpreter %s is not there", name, shown(interpreter));
}

static void become(char **words) {
    execvp(words[0], words);
    int error = errno;
    const char *name = shown(words[0]);
    char path[PATH_MAX];
    struct stat info;
    bool is_there = locate(words[0], path, &info);
    if (is_there && S_ISDIR(info.st_mode)) fail(126, "%s: is a directory", name);
    if (is_there && error == ENOENT) blame_interpreter(name, path);
    bool is_missing = error == ENOENT || error == ENAMETOOLONG;
    if (is_missing && !strchr(words[0], '/')) fail(127, "%s: command not found", name);
    if (error == ENOENT) fail(127, "%s: no such file", name);
    fail(126, "%s: %s", name, reason(error));
}

struct options {
    pid_t parent;
    const char *nofile, *sigign, *sigblk, *keep;
    size_t words;
    char **argv;
    size_t changes; /* environment changes: at most this many new entries */
};

static bool is(const char *word, const char *flag) { return strcmp(word, flag) == 0; }

static struct options parse(char **argv) {
    struct options options = {.sigblk = "0"};
    for (int i = 1; argv[i]; i += 2) {
        char *value = argv[i + 1];
        if (!value) fail(125, "vgpu-exec: %s needs a value", argv[i]);
        if (is(argv[i], "--parent")) options.parent = (pid_t)atoi(value);
        else if (is(argv[i], "--nofile")) options.nofile = value;
        else if (is(argv[i], "--sigign")) options.sigign = value;
        else if (is(argv[i], "--sigblk")) options.sigblk = value;
        else if (is(argv[i], "--keep")) options.keep = value;
        else if (is(argv[i], "--words")) options.words = strtoul(value, NULL, 10);
        else if (is(argv[i], "--argv")) options.argv = argv + i + 1;
        else options.changes++;
        if (options.argv) break;
    }
    return options;
}

static void change_environment(char **argv, char **end) {
    for (int i = 1; argv[i] && argv + i + 1 != end; i += 2) {
        char *value = argv[i + 1];
        if (is(argv[i], "--set")) set_entry(value);
        else if (is(argv[i], "--unset")) unset_entry(value);
        else if (is(argv[i], "--prefix")) join_entry(value, true);
        else if (is(argv[i], "--suffix")) join_entry(value, false);
    }
}

int main(int argc, char **argv) {
    (void)argc;
    struct options options = parse(argv);

    char path[32];
    size_t command_bytes, environ_bytes, count;
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)options.parent);
    char *command = read_whole(path, &command_bytes);
    snprintf(path, sizeof path, "/proc/%d/environ", (int)options.parent);
    char *variables = read_whole(path, &environ_bytes);
    /* Still our parent: what was read is the supervisor's, not that of a reused pid. */
    if (getppid() != options.parent) fail(125, "the supervisor died before the target started");

    char **words = split(command, command_bytes, 0, &count);
    if (!options.argv && (options.words == 0 || options.words > count))
        fail(125, "vgpu-exec: no target");
    words = options.argv ? options.argv : words + count - options.words;

    restore_environment(variables, environ_bytes, options.changes);
    change_environment(argv, options.argv);
    if (options.keep) restore_descriptors(options.keep);
    if (options.nofile) restore_nofile(options.nofile);
    if (options.sigign) restore_signals(options.sigign, options.sigblk);
    become(words);
}
