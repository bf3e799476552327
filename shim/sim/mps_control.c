/* A stand-in for nvidia-cuda-mps-control on the simulated GPU: -d starts the daemon, -f keeps it in
 * the foreground; without a flag, the commands on standard input go to the running one. It leaves
 * in its pipe directory what the real one does: a socket, a lock, its pid. The daemon is its own
 * server: sharing itself is done by the cards' timeline (sim_time.c). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "sim.h"

static char percentage[20] = "100.0";
static bool quitting;
static uint64_t quit_at = UINT64_MAX; /* when clients are ended by force */
static volatile sig_atomic_t told_to_end;

static void on_signal(int signal) {
    (void)signal;
    told_to_end = 1;
}

static bool address_of(struct sockaddr_un *address) {
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    return sim_mps_path("control", address->sun_path, sizeof address->sun_path);
}

/* --- the daemon --- */

static void log_line(const char *format, ...) {
    const char *directory = getenv("CUDA_MPS_LOG_DIRECTORY");
    char path[300];
    if (directory && *directory) snprintf(path, sizeof path, "%s/control.log", directory);
    else if (!sim_mps_path("control.log", path, sizeof path)) return;
    FILE *file = fopen(path, "ae");
    if (!file) return;
    va_list words;
    va_start(words, format);
    vfprintf(file, format, words);
    va_end(words);
    fclose(file);
}

/* The clients' pids; the number of them. */
static int clients(int pids[SIM_MAX_PROCS]) {
    struct sim_machine *machine = sim_machine();
    int count = 0;
    if (!machine) return 0;
    sim_lock(machine);
    sim_reap(machine);
    for (int i = 0; i < machine->proc_end; i++)
        if (machine->proc[i].pid && machine->proc[i].server == getpid())
            pids[count++] = machine->proc[i].pid;
    sim_unlock(machine);
    return count;
}

static void end_clients(void) {
    struct sim_machine *machine = sim_machine();
    if (!machine) return;
    sim_lock(machine);
    for (int i = 0; i < machine->proc_end; i++)
        if (machine->proc[i].pid && machine->proc[i].server == getpid())
            for (int card = 0; card < SIM_MAX_CARDS; card++)
                sim_fault(machine, i, card, 810); /* CUDA_ERROR_MPS_CLIENT_TERMINATED */
    sim_unlock(machine);
}

static void list_processes(FILE *out) {
    int pids[SIM_MAX_PROCS], count = clients(pids);
    fprintf(out, "PID       ID    SERVER    DEVICE     COMMAND\n");
    for (int i = 0; i < count; i++) {
        char path[40], name[40] = "?";
        snprintf(path, sizeof path, "/proc/%d/comm", pids[i]);
        FILE *file = fopen(path, "re");
        if (file && fgets(name, sizeof name, file)) name[strcspn(name, "\n")] = 0;
        if (file) fclose(file);
        fprintf(out, "%-9d %-5d %-9d %-10d %s\n", pids[i], i, (int)getpid(), 0, name);
    }
}

static void answer(const char *line, FILE *out) {
    int pids[SIM_MAX_PROCS];
    double number;
    if (!strcmp(line, "get_server_list")) {
        if (clients(pids)) fprintf(out, "%d\n", (int)getpid());
    } else if (!strncmp(line, "get_client_list", 15)) {
        int count = clients(pids);
        for (int i = 0; i < count; i++) fprintf(out, "%d\n", pids[i]);
    } else if (!strcmp(line, "get_default_active_thread_percentage")) {
        fprintf(out, "%s\n", percentage);
    } else if (sscanf(line, "set_default_active_thread_percentage %lf", &number) == 1) {
        snprintf(percentage, sizeof percentage, "%.1f", number);
        fprintf(out, "%s\n", percentage);
    } else if (!strcmp(line, "ps")) {
        list_processes(out);
    } else if (!strcmp(line, "quit")) {
        quitting = true;
    } else if (sscanf(line, "quit -t %lf", &number) == 1) {
        quitting = true;
        quit_at = sim_now() + (uint64_t)(number * 1e9);
    } else if (*line) {
        fprintf(out, "Unknown command: %s\n", line);
    }
}

static void serve(int listener) {
    int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    FILE *in = connection < 0 ? NULL : fdopen(connection, "r+");
    char line[200];
    if (!in) {
        if (connection >= 0) close(connection);
        return;
    }
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 5},
               sizeof(struct timeval)); /* a client that says nothing must not hold us up */
    if (fgets(line, sizeof line, in)) {
        line[strcspn(line, "\n")] = 0;
        log_line("command: %s\n", line);
        fseek(in, 0, SEEK_CUR);
        answer(line, in);
    }
    fclose(in);
}

static void run(int listener) {
    int pids[SIM_MAX_PROCS];
    char path[300];
    while (!told_to_end && !(quitting && !clients(pids))) {
        struct pollfd ready = {.fd = listener, .events = POLLIN};
        if (poll(&ready, 1, quitting ? 10 : 1000) > 0) serve(listener);
        if (quitting && sim_mps_path("nvidia-cuda-mps-control.pid", path, sizeof path))
            unlink(path); /* nobody new */
        if (quitting && sim_now() >= quit_at) break;
    }
    end_clients();
    const char *left[] = {"nvidia-cuda-mps-control.pid", "control", "control_lock"};
    for (int i = 0; i < 3; i++)
        if (sim_mps_path(left[i], path, sizeof path)) unlink(path);
    log_line("ended\n");
}

static void write_pid(pid_t pid) {
    char path[300];
    if (!sim_mps_path("nvidia-cuda-mps-control.pid", path, sizeof path)) return;
    FILE *file = fopen(path, "we");
    if (!file) return;
    fprintf(file, "%d\n", (int)pid);
    fclose(file);
}

static int start(bool foreground) {
    char path[300];
    struct sockaddr_un address;
    if (!address_of(&address) || !sim_mps_path("", path, sizeof path)) {
        fputs("The name of the pipe directory is too long\n", stderr);
        return 1;
    }
    if (mkdir(path, 0700) && errno != EEXIST) {
        perror(path);
        return 1;
    }
    sim_mps_path("control_lock", path, sizeof path);
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0 || fcntl(lock, F_OFD_SETLK, &(struct flock){.l_type = F_WRLCK})) {
        if (lock < 0) perror(path);
        else fputs("An instance of this daemon is already running\n", stderr);
        return 1;
    }
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(address.sun_path);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) ||
        listen(listener, 16)) {
        perror(address.sun_path);
        return 1;
    }
    /* All is in place when this process returns: the child has inherited the socket and the lock.
     */
    pid_t child = foreground ? 0 : fork();
    if (child > 0) write_pid(child);
    if (child) return child < 0;
    if (foreground) write_pid(getpid());
    if (!foreground) {
        setsid();
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        for (int i = 0; i < 3 && null >= 0; i++) dup2(null, i);
    }
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_signal}, NULL);
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_signal}, NULL);
    signal(SIGPIPE, SIG_IGN);
    log_line("started as %d\n", (int)getpid());
    run(listener);
    return 0;
}

/* --- the command line --- */

static int ask(const char *line) {
    struct sockaddr_un address;
    char text[1000];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || !address_of(&address) ||
        connect(fd, (struct sockaddr *)&address, sizeof address)) {
        fputs("Cannot find MPS control daemon process\n", stderr);
        return 1;
    }
    dprintf(fd, "%s\n", line);
    for (ssize_t length; (length = read(fd, text, sizeof text)) > 0;)
        fwrite(text, 1, (size_t)length, stdout);
    close(fd);
    return 0;
}

int main(int count, char **words) {
    if (count == 2 && !strcmp(words[1], "-d")) return start(false);
    if (count == 2 && !strcmp(words[1], "-f")) return start(true);
    if (count > 1) {
        fprintf(stderr, "usage: %s [-d | -f]\n", words[0]);
        return 1;
    }
    char line[200];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        int failed = ask(line);
        if (failed) return failed;
    }
    return 0;
}
